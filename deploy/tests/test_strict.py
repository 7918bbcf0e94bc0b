"""Everything that a user applies is strictly valid, and the validator refuses misspelt fields."""

import copy
import pathlib
import re
import subprocess
import unittest

import yaml

import render
import strict

EXAMPLES = sorted((render.DEPLOY / "examples").rglob("*.yaml"))
KUSTOMIZE = sorted((render.DEPLOY / "kustomize").rglob("*.yaml"))


def documents(path: pathlib.Path) -> list[dict]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def example(kind: str) -> dict:
    """The first document of that kind in our examples at the top of the folder."""
    ours = [path for path in EXAMPLES if path.parent.name == "examples" and not re.search("builtin|keeper", path.name)]
    return next(document for path in ours for document in documents(path) if document.get("kind") == kind)


class Files(unittest.TestCase):
    def test_examples_are_strictly_valid(self):
        seen = set()
        for path in EXAMPLES:
            for document in documents(path):
                if "kind" not in document:  # a configuration of clapometer: its own `check` reads it
                    self.assertIn("databases", document)
                    continue
                seen.add(document["kind"])
                with self.subTest(file=path.name, kind=document["kind"]):
                    strict.check(document)
        self.assertGreaterEqual(
            seen, {"Job", "ScaledJob", "ScaledObject", "Deployment", "TriggerAuthentication", "ClusterTriggerAuthentication"}
        )

    def test_kustomize_is_strictly_valid_and_complete(self):
        for path in KUSTOMIZE:
            # A patch is a part of an object; what it makes is checked below.
            if path.name.endswith(".patch.yaml"):
                continue
            for document in documents(path):
                with self.subTest(file=str(path.relative_to(render.DEPLOY)), kind=document["kind"]):
                    strict.check(document)
                    if document["kind"] in ("Kustomization", "Component"):
                        beside = {p.name for p in path.parent.glob("*.yaml")} - {"kustomization.yaml"}
                        patches = [patch["path"] for patch in document.get("patches", [])]
                        here = {name for name in document["resources"] + patches if not name.startswith("../")}
                        self.assertEqual(here, beside)

    def test_the_mtls_component_makes_of_base_what_the_chart_renders(self):
        def comparable(objects):
            for each in objects:
                if each["kind"] == "Deployment":
                    pod = each["spec"]["template"]["spec"]
                    pod["volumes"].sort(key=lambda volume: volume["name"])
                    pod["containers"][0]["volumeMounts"].sort(key=lambda mount: mount["name"])
            return {(each["kind"], each["metadata"]["name"]): each for each in objects}

        built = subprocess.run(["kubectl", "kustomize", str(render.DEPLOY / "kustomize/mtls")], check=True, capture_output=True)
        built = comparable(list(yaml.safe_load_all(built.stdout)))
        for document in built.values():
            strict.check(document)
        values = yaml.safe_load((render.CHART / "ci/mtls-values.yaml").read_text())
        rendered = comparable(render.objects(render.render_chart(values)))
        self.assertEqual({key: built.get(key) for key in rendered}, rendered)
        self.assertEqual(set(built) - set(rendered), {("Namespace", "clapometer"), ("ClusterTriggerAuthentication", "clapometer")})

    def test_scaled_jobs_of_ours_follow_the_exact_recipe(self):
        for path in EXAMPLES:
            if "builtin" in path.name:
                continue
            for document in documents(path):
                if document.get("kind") == "ScaledJob":
                    with self.subTest(file=path.name):
                        spec = document["spec"]
                        self.assertNotIn("strategy", spec.get("scalingStrategy", {}))
                        self.assertEqual(spec["rollout"]["strategy"], "gradual")
                        self.assertEqual(spec.get("minReplicaCount", 0), 0)
                        self.assertEqual([t["type"] for t in spec["triggers"]], ["external"])

    def test_the_scaled_job_is_valid_with_what_the_installation_changes_in_it(self):
        page = (render.DEPLOY.parent / "docs/install.md").read_text()
        (changes,) = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(containers:\n.*?)```", page, re.DOTALL)]
        (document,) = documents(render.DEPLOY / "examples/scaled-job.yaml")
        pod = document["spec"]["jobTargetRef"]["template"]["spec"]
        (container,) = pod["containers"]
        (changed,) = changes["containers"]
        environment = {variable["name"]: variable for variable in container["env"]}
        self.assertLessEqual({"PG_HOST", "PGSSLMODE"}, environment.keys() & {variable["name"] for variable in changed["env"]})
        environment |= {variable["name"]: variable for variable in changed["env"]}
        self.assertEqual(changed["name"], container["name"])
        container |= changed | {"env": list(environment.values())}
        pod["volumes"] = changes["volumes"]
        strict.check(document)
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        self.assertEqual(set(mounted), {volume["name"] for volume in pod["volumes"]})
        self.assertEqual(environment["PGSSLROOTCERT"]["value"], mounted["database"] + "/ca.crt")

    def test_pods_of_ours_are_restricted(self):
        for path in EXAMPLES:
            if "builtin" in path.name:  # the seed's own, word for word
                continue
            for document in documents(path):
                spec = document.get("spec", {})
                template = spec.get("jobTargetRef", spec).get("template")
                if not template:
                    continue
                with self.subTest(file=path.name, kind=document["kind"]):
                    pod = template["spec"]
                    self.assertIs(pod["automountServiceAccountToken"], False)
                    self.assertIs(pod["enableServiceLinks"], False)
                    self.assertIs(pod["securityContext"]["runAsNonRoot"], True)
                    for container in pod["containers"]:
                        self.assertIs(container["securityContext"]["readOnlyRootFilesystem"], True)
                        self.assertEqual(container["securityContext"]["capabilities"], {"drop": ["ALL"]})


class Validator(unittest.TestCase):
    """The validator decides pass or fail, so it has to fail where it must."""

    def refuses(self, document: dict, reason: str):
        with self.assertRaisesRegex(strict.Refused, reason):
            strict.check(document)

    def changed(self, kind: str, *path, **changes):
        document = copy.deepcopy(example(kind))
        at = document
        for step in path:
            at = at[step]
        for key, value in changes.items():
            at[key] = value
        return document

    def test_misspelt_fields_of_a_scaled_job(self):
        self.refuses(self.changed("ScaledJob", "spec", maxReplicas=3), "maxReplicas")
        self.refuses(self.changed("ScaledJob", "spec", "scalingStrategy", strategie="accurate"), "strategie")
        self.refuses(self.changed("ScaledJob", "spec", "scalingStrategy", strategy="default"), "default")
        self.refuses(self.changed("ScaledJob", "spec", "rollout", strategy="slow"), "slow")
        self.refuses(self.changed("ScaledJob", "spec", "jobTargetRef", backOffLimit=4), "backOffLimit")
        self.refuses(self.changed("ScaledJob", "spec", "jobTargetRef", "template", "spec", restartpolicy="Never"), "restartpolicy")
        self.refuses(self.changed("ScaledJob", "spec", "triggers", 0, metadate={}), "metadate")

    def test_what_keda_refuses_or_ignores_in_a_scaled_job(self):
        self.refuses(self.changed("ScaledJob", "spec", "triggers", 0, type="external-push"), "external-push")
        self.refuses(self.changed("ScaledJob", "spec", "triggers", 0, metricType="Value"), "metricType")
        self.refuses(self.changed("ScaledJob", "spec", "triggers", 0, "metadata", targetQueryValue=1), "1 is not of type 'string'")
        self.refuses(self.changed("ScaledJob", "spec", pollingInterval=0), "0 is less than the minimum")

    def test_misspelt_fields_of_a_scaled_object(self):
        self.refuses(self.changed("ScaledObject", "spec", coolDownPeriod=10), "coolDownPeriod")
        self.refuses(self.changed("ScaledObject", "spec", "scaleTargetRef", names="x"), "names")
        self.refuses(self.changed("ScaledObject", "spec", "fallback", replica=1), "replica")
        self.refuses(self.changed("ScaledObject", "spec", "triggers", 0, metricType="Utilization"), "Utilization")

    def test_misspelt_fields_of_an_authentication(self):
        document = self.changed("TriggerAuthentication", "spec", "secretTargetRef", 0, parameter="tlsClientCA")
        self.refuses(document, "tlsClientCA")

    def test_misspelt_fields_of_kubernetes_kinds(self):
        self.refuses(self.changed("Deployment", "spec", replica=1), "replica")


if __name__ == "__main__":
    unittest.main()
