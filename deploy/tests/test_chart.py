"""The Helm chart: lint, strict schemas under several sets of values, the promises of the shipped manifests, refusals."""

import pathlib
import re
import unittest

import helm_python
import yaml

import render
import strict

VALUES = sorted((render.CHART / "ci").glob("*-values.yaml"))
REFUSED = sorted((render.CHART / "ci/refused").glob("*.yaml"))


def load(path: pathlib.Path) -> dict:
    return yaml.safe_load(path.read_text())


def of_kind(documents: list[dict], kind: str) -> list[dict]:
    return [document for document in documents if document["kind"] == kind]


def minimal(**values) -> dict:
    """The least that installs, and these values."""
    return load(render.CHART / "ci/minimal-values.yaml") | values


class Chart(unittest.TestCase):
    def test_lint_finds_nothing(self):
        findings = helm_python.lint(str(render.CHART))
        self.assertEqual((findings["messages"], findings["errors"]), ([], []))

    def test_every_rendered_object_is_strictly_valid(self):
        self.assertGreaterEqual(len(VALUES), 6)
        for path in VALUES:
            for document in render.objects(render.render_chart(load(path))):
                with self.subTest(values=path.name, kind=document["kind"], name=document["metadata"]["name"]):
                    strict.check(document)

    def test_bad_values_are_refused_with_the_reason(self):
        self.assertGreaterEqual(len(REFUSED), 15)
        for path in REFUSED:
            reason = re.match(r"# refused: (.*)\n", path.read_text()).group(1)
            with self.subTest(values=path.name):
                with self.assertRaises(helm_python.HelmError) as refusal:
                    render.render_chart(load(path))
                self.assertIn(reason, str(refusal.exception))

    def test_default_values_satisfy_the_schema(self):
        with helm_python.Chart.load(str(render.CHART)) as chart:
            chart.validate_schema({})

    def test_every_value_has_a_schema_entry(self):
        schema = yaml.safe_load((render.CHART / "values.schema.json").read_text())

        def missing(values, schema, path):
            for key, value in values.items():
                known = schema.get("properties", {})
                if key not in known:
                    yield f"{path}{key}"
                elif isinstance(value, dict) and known[key].get("properties"):
                    yield from missing(value, known[key], f"{path}{key}.")

        self.assertEqual(list(missing(load(render.CHART / "values.yaml"), schema, "")), [])

    def test_versions_agree_with_the_package(self):
        cargo = (render.DEPLOY.parent / "Cargo.toml").read_text()
        version = re.search(r'^version = "(.*)"$', cargo, re.MULTILINE).group(1)
        chart = load(render.CHART / "Chart.yaml")
        self.assertEqual((chart["version"], str(chart["appVersion"])), (version, version))
        self.assertEqual(load(render.DEPLOY.parent / "artifacthub-pkg.yml")["version"], version)


class Pods(unittest.TestCase):
    """What the shipped manifests promise about the pod, under every set of values."""

    def deployments(self):
        for path in VALUES:
            documents = render.objects(render.render_chart(load(path)))
            (deployment,) = of_kind(documents, "Deployment")
            yield path.name, documents, deployment["spec"]["template"]["spec"]

    def rendered(self, file: str) -> list[dict]:
        return render.objects(render.render_chart(load(render.CHART / "ci" / file)))

    def test_pods_that_check_have_the_servers_eyes_and_none_of_its_labels(self):
        seen = 0
        for name, documents, pod in self.deployments():
            (deployment,) = of_kind(documents, "Deployment")
            selector = deployment["spec"]["selector"]["matchLabels"]
            for checker in of_kind(documents, "Pod") + [job["spec"]["template"] for job in of_kind(documents, "Job")]:
                with self.subTest(values=name):
                    seen += 1
                    self.assertFalse(selector.items() <= checker["metadata"]["labels"].items(), "the Service selects it")
                    container, server = checker["spec"]["containers"][0], pod["containers"][0]
                    self.assertEqual(container["args"][0], "check")
                    for key in ["image", "volumeMounts", "securityContext", "env", "envFrom"]:
                        self.assertEqual(container.get(key), server.get(key), key)
                    self.assertEqual(checker["spec"]["securityContext"], pod["securityContext"])
                    self.check_mounts(documents, checker["spec"])
        self.assertGreaterEqual(seen, 6)

    def test_the_check_before_an_upgrade_sees_the_new_configuration(self):
        documents = self.rendered("teams-values.yaml")
        (job,) = of_kind(documents, "Job")
        self.assertEqual(job["metadata"]["annotations"]["helm.sh/hook"], "pre-upgrade")
        (volume,) = [v for v in job["spec"]["template"]["spec"]["volumes"] if v["name"] == "config"]
        named = {d["metadata"]["name"]: d for d in of_kind(documents, "ConfigMap")}
        brought = named[volume["configMap"]["name"]]
        self.assertEqual(brought["metadata"]["annotations"]["helm.sh/hook"], "pre-upgrade")
        self.assertLess(int(brought["metadata"]["annotations"]["helm.sh/hook-weight"]), 0)
        self.assertEqual(brought["data"], named["clapometer"]["data"])

    def test_each_team_can_bring_its_own_file_only(self):
        documents = self.rendered("teams-values.yaml")
        (deployment,) = of_kind(documents, "Deployment")
        (volume,) = [v for v in deployment["spec"]["template"]["spec"]["volumes"] if v["name"] == "queries"]
        sources = [source["configMap"] for source in volume["projected"]["sources"]]
        self.assertEqual([source["items"] for source in sources], [[{"key": f, "path": f}] for f in ("billing.yaml", "letters.yaml")])
        self.assertTrue(all(source["optional"] for source in sources))
        (config_map,) = [d for d in of_kind(documents, "ConfigMap") if d["metadata"]["name"] == "clapometer"]
        self.assertEqual(yaml.safe_load(config_map["data"]["clapometer.yaml"])["queries_from"]["path"], "/queries.d")

    def test_a_configuration_of_somebody_else_replaces_the_charts(self):
        documents = self.rendered("existing-values.yaml")
        self.assertEqual(of_kind(documents, "ConfigMap"), [])
        self.assertEqual({document["metadata"]["namespace"] for document in documents}, {"scaling"})
        (deployment,) = of_kind(documents, "Deployment")
        pod = deployment["spec"]["template"]["spec"]
        (volume,) = [v for v in pod["volumes"] if v["name"] == "config"]
        self.assertEqual(volume["secret"]["secretName"], "generated-by-vault")
        variables = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
        self.assertEqual(variables["CLAPOMETER__SERVER__LISTEN"], "0.0.0.0:9090")
        self.assertEqual(variables["CLAPOMETER__SERVER__TLS__CLIENT_CA"], "/certs/ca.crt")

    def test_alerts_link_to_the_runbook_of_the_url_that_is_given(self):
        def links(file: str) -> list[str]:
            (rule,) = of_kind(self.rendered(file), "PrometheusRule")
            rules = [rule for group in rule["spec"]["groups"] for rule in group["rules"]]
            return [rule["annotations"].get("runbook_url") for rule in rules]

        groups = load(render.DEPLOY / "prometheus/alerts.yaml")["groups"]
        paths = [rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]]
        self.assertTrue(paths and all(path.startswith("docs/runbook.md#") for path in paths), paths)
        base = "https://git.example.com/clapometer/blob/v0.1.0/"
        self.assertEqual(links("full-values.yaml"), [base + path for path in paths])
        self.assertEqual(links("renamed-values.yaml"), [None] * len(paths), "a path is no URL")

    def test_the_notes_name_a_query_that_there_is_and_say_what_the_pods_are(self):
        databases = minimal()["config"]

        def notes(config=databases, **values) -> str:
            rendered = render.render_chart(minimal(config=config, **values))
            return next(text for path, text in rendered.items() if path.endswith("NOTES.txt"))

        own = databases | {"queries": {"outbox": {"sql": "SELECT 1"}, "mails": {"sql": "SELECT 1"}}}
        self.assertIn("query: outstanding-claps\n", notes(databases))
        self.assertIn("query: mails\n", notes(own))
        self.assertIn("query: mails\n", notes(own | {"built_in_queries": False}))
        self.assertIn("query: NAME\n", notes(databases | {"built_in_queries": False}))
        self.assertIn("query: NAME\n", notes({"existingConfigMap": "own"}))
        bound = {"sql": "SELECT 1", "parameters": {"size": "bigint", "queue": "text"}}
        keys = {
            "param.queue: VALUE\n          param.size: VALUE\n": bound,
            "param.kind: VALUE\n": {"sql": "SELECT 1", "group_by": "kind", "value_column": "n"},
            "param.queue: VALUE\n          targetQueryValue": {"preset": "river"},
            "query: mails\n          targetQueryValue": {"preset": "river", "queue": "mail"},
            "query: mails\n          targetQueryValue:": {"preset": "graphile-worker"},
        }
        for expected, query in keys.items():
            self.assertIn(expected, notes(databases | {"queries": {"mails": query}}))
        self.assertIn("replicaCount=0. There is no pod", notes(replicaCount=0))
        self.assertIn("replicaCount=1. While the one pod moves", notes(replicaCount=1))
        self.assertNotIn("replicaCount=", notes())

    def test_monitors_elsewhere_look_into_the_releases_namespace(self):
        documents = self.rendered("teams-values.yaml")
        (monitor,) = of_kind(documents, "PodMonitor")
        self.assertEqual(monitor["metadata"]["namespace"], "monitoring")
        self.assertEqual(monitor["spec"]["namespaceSelector"], {"matchNames": ["clapometer"]})
        (deployment,) = of_kind(documents, "Deployment")
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        self.assertEqual(labels[monitor["spec"]["jobLabel"]], "clapometer")
        self.assertLessEqual(monitor["spec"]["selector"]["matchLabels"].items(), labels.items())
        (dashboard,) = [d for d in of_kind(documents, "ConfigMap") if "clapometer.json" in d["data"]]
        self.assertEqual(dashboard["metadata"]["annotations"]["grafana_folder"], "KEDA")

    def test_the_rest_of_the_pod_can_be_said(self):
        (deployment,) = of_kind(self.rendered("teams-values.yaml"), "Deployment")
        pod = deployment["spec"]["template"]["spec"]
        self.assertEqual(pod["hostAliases"], [{"ip": "10.0.0.1", "hostnames": ["db"]}])
        self.assertEqual(deployment["metadata"]["labels"]["team"], "platform")
        self.assertEqual(deployment["metadata"]["annotations"], {"example.com/reload": "true"})

    def test_the_pod_is_restricted(self):
        for name, _, pod in self.deployments():
            with self.subTest(values=name):
                container = pod["containers"][0]
                # teams-values is for OpenShift, whose constraints choose the ids.
                user = None if name == "teams-values.yaml" else 65532
                for key in ["runAsUser", "runAsGroup", "fsGroup"]:
                    self.assertEqual(pod["securityContext"].get(key), user)
                self.assertIs(pod["securityContext"]["runAsNonRoot"], True)
                self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
                self.assertIs(container["securityContext"]["readOnlyRootFilesystem"], True)
                self.assertIs(container["securityContext"]["allowPrivilegeEscalation"], False)
                self.assertEqual(container["securityContext"]["capabilities"], {"drop": ["ALL"]})

    def test_the_pod_has_no_api_token_and_no_service_links(self):
        for name, documents, pod in self.deployments():
            with self.subTest(values=name):
                self.assertIs(pod["automountServiceAccountToken"], False)
                self.assertIs(pod["enableServiceLinks"], False)
                for kind in ["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"]:
                    self.assertEqual(of_kind(documents, kind), [])

    def test_probes_are_http_on_the_admin_port(self):
        for name, _, pod in self.deployments():
            with self.subTest(values=name):
                container = pod["containers"][0]
                self.assertEqual(container["livenessProbe"]["httpGet"], {"path": "/livez", "port": "http-metrics"})
                self.assertEqual(container["readinessProbe"]["httpGet"], {"path": "/readyz", "port": "http-metrics"})

    def test_a_drain_fits_into_the_grace_period(self):
        for name, _, pod in self.deployments():
            with self.subTest(values=name):
                sleep = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
                self.assertGreater(pod["terminationGracePeriodSeconds"], sleep + 20)

    def test_a_pod_that_does_not_sleep_needs_less_grace(self):
        documents = render.objects(render.render_chart(minimal(preStopSleepSeconds=0, terminationGracePeriodSeconds=22)))
        (deployment,) = of_kind(documents, "Deployment")
        pod = deployment["spec"]["template"]["spec"]
        self.assertEqual(pod["terminationGracePeriodSeconds"], 22)
        self.assertNotIn("lifecycle", pod["containers"][0])

    def test_the_service_leads_to_the_pods(self):
        for name, documents, pod in self.deployments():
            with self.subTest(values=name):
                (service,) = of_kind(documents, "Service")
                (deployment,) = of_kind(documents, "Deployment")
                labels = deployment["spec"]["template"]["metadata"]["labels"]
                self.assertLessEqual(service["spec"]["selector"].items(), labels.items())
                self.assertLessEqual(deployment["spec"]["selector"]["matchLabels"].items(), labels.items())
                ports = {port["name"]: port for port in service["spec"]["ports"]}
                self.assertEqual(ports["grpc"]["appProtocol"], "grpc")
                names = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
                self.assertEqual(names, {"grpc": 9090, "http-metrics": 9091})
                self.assertEqual({port["targetPort"] for port in ports.values()}, set(names))

    def test_the_job_of_prometheus_is_clapometer_whatever_the_objects_are_called(self):
        monitored = 0
        for name, documents, _ in self.deployments():
            for monitor in of_kind(documents, "ServiceMonitor"):
                with self.subTest(values=name):
                    (service,) = of_kind(documents, "Service")
                    labels = service["metadata"]["labels"]
                    self.assertEqual(labels[monitor["spec"]["jobLabel"]], "clapometer")
                    self.assertLessEqual(monitor["spec"]["selector"]["matchLabels"].items(), labels.items())
                    monitored += 1
        self.assertGreaterEqual(monitored, 2)

    def test_a_deployment_that_is_recreated_has_nothing_to_roll(self):
        for strategy in [{"type": "Recreate"}, {"type": "RollingUpdate", "rollingUpdate": None}]:
            with self.subTest(strategy=strategy["type"]):
                documents = render.objects(render.render_chart(minimal(upgradeStrategy=strategy)))
                (deployment,) = of_kind(documents, "Deployment")
                self.assertEqual(deployment["spec"]["strategy"], {"type": strategy["type"]})
                strict.check(deployment)

    def test_the_disruption_budget_is_made_unless_told_otherwise(self):
        for budget, limits in [
            ({}, {"maxUnavailable": 1}),
            ({"minAvailable": "50%", "maxUnavailable": None}, {"minAvailable": "50%"}),
            ({"enabled": False}, None),
            (None, None),
        ]:
            with self.subTest(budget=budget):
                made = of_kind(render.objects(render.render_chart(minimal(podDisruptionBudget=budget))), "PodDisruptionBudget")
                found = [{key: value for key, value in m["spec"].items() if key.startswith(("min", "max"))} for m in made]
                self.assertEqual(found, [limits] if limits else [])

    def test_a_headless_service_uses_the_container_port(self):
        documents = render.objects(render.render_chart(load(render.CHART / "ci/headless-values.yaml")))
        (service,) = of_kind(documents, "Service")
        self.assertEqual(service["spec"]["clusterIP"], "None")
        self.assertIn(9090, [port["port"] for port in service["spec"]["ports"]])

    def test_mounts_have_volumes_and_files_have_mounts(self):
        for name, documents, pod in self.deployments():
            with self.subTest(values=name):
                self.check_mounts(documents, pod)

    def test_values_in_the_documents_render_and_mount_what_they_name(self):
        pages = [render.DEPLOY.parent / "README.md", *sorted((render.DEPLOY.parent / "docs").glob("*.md"))]
        blocks = [
            (page.name, yaml.safe_load(block))
            for page in pages
            for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
            if re.search(r"^config:$", block, re.MULTILINE)
        ]
        self.assertGreaterEqual(len(blocks), 3)
        for page, values in blocks:
            with self.subTest(page=page):
                documents = render.objects(render.render_chart(values))
                for document in documents:
                    strict.check(document)
                (deployment,) = of_kind(documents, "Deployment")
                self.check_mounts(documents, deployment["spec"]["template"]["spec"])

    def check_mounts(self, documents, pod):
        config_maps = [d for d in of_kind(documents, "ConfigMap") if "clapometer.yaml" in d["data"]]
        mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
        self.assertLessEqual(set(mounts), {volume["name"] for volume in pod["volumes"]})
        self.assertEqual(len(pod["volumes"]), len({volume["name"] for volume in pod["volumes"]}))
        for config_map in config_maps:
            for file in re.findall(r"[ :](/[-./a-z]+)", config_map["data"]["clapometer.yaml"]):
                self.assertTrue(any(f"{file}/".startswith(f"{path}/") for path in mounts.values()), f"{file} is not mounted")

    def test_no_secret_reaches_the_config_map(self):
        for name, documents, _ in self.deployments():
            with self.subTest(values=name):
                self.assertEqual(of_kind(documents, "Secret"), [])

    def test_the_ports_of_the_configured_databases_are_let_out(self):
        databases = {
            "numbers": {"host": "pooler", "port": 6432, "listen_host": "server", "listen_port": 5433},
            "hosts": {"host": "a,b", "port": "5434,5435"},
            "referred": {"host": "c", "port": {"file": "/run/c/port5439"}, "password": {"env": "PGPASSWORD"}},
            "usual": {"host": "d"},
        }
        documents = render.objects(render.render_chart(minimal(config={"databases": databases})))
        (policy,) = of_kind(documents, "NetworkPolicy")
        strict.check(policy)
        _, databases_rule = policy["spec"]["egress"]
        self.assertEqual(sorted(port["port"] for port in databases_rule["ports"]), [5432, 5433, 5434, 5435, 6432])

    def test_only_the_operator_of_keda_may_ask(self):
        documents = render.objects(render.render_chart(load(render.CHART / "ci/base-values.yaml")))
        (policy,) = of_kind(documents, "NetworkPolicy")
        admitted = [rule for rule in policy["spec"]["ingress"] if {"port": "grpc", "protocol": "TCP"} in rule["ports"]]
        self.assertEqual(
            [rule["from"] for rule in admitted],
            [[{
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}},
                "podSelector": {"matchLabels": {"app": "keda-operator"}},
            }]],
        )
        self.assertEqual([sorted({p["port"] for p in rule["ports"]}) for rule in policy["spec"]["egress"]], [[53], [5432]])


class Keeper(unittest.TestCase):
    """The ScaledJob that shares its connection with the ScaledObjects: one other letter, and it shares nothing."""

    def triggers(self, values: dict) -> list[dict]:
        jobs = of_kind(render.objects(render.render_chart(values)), "ScaledJob")
        return [trigger for job in jobs for trigger in job["spec"]["triggers"]]

    def test_there_is_none_unless_asked_for(self):
        self.assertEqual(self.triggers(minimal()), [])

    def test_in_plain_text_it_says_nothing_of_tls(self):
        metadata = {"scalerAddress": "clapometer.clapometer.svc.cluster.local:9090", "query": "keeper"}
        self.assertEqual(self.triggers(minimal(keeper={"enabled": True})), [{"type": "external", "metadata": metadata}])

    def test_with_certificates_it_is_the_example_and_shares_the_connection_of_the_scaled_object(self):
        (trigger,) = self.triggers(load(render.CHART / "ci/mtls-values.yaml") | {"keeper": {"enabled": True}})
        (example,) = yaml.safe_load((render.DEPLOY / "examples/keeper.yaml").read_text())["spec"]["triggers"]
        self.assertEqual(trigger, example)
        documents = yaml.safe_load_all((render.DEPLOY / "examples/scaled-object-external-push.yaml").read_text())
        (pushed,) = of_kind(list(documents), "ScaledObject")[0]["spec"]["triggers"]
        self.assertEqual(trigger["authenticationRef"], pushed["authenticationRef"])
        for key in ["scalerAddress", "enableTLS", "unsafeSsl"]:
            self.assertEqual(trigger["metadata"].get(key), pushed["metadata"].get(key), key)

    def test_its_address_is_the_one_of_the_notes_or_the_users_own(self):
        for values in [minimal(service={"headless": True}), minimal(service={"port": 443}), minimal(clusterDomain="example.internal")]:
            (trigger,) = self.triggers(values | {"keeper": {"enabled": True}})
            rendered = render.render_chart(values)
            (notes,) = [text for path, text in rendered.items() if path.endswith("NOTES.txt")]
            self.assertIn(f"scalerAddress: {trigger['metadata']['scalerAddress']}\n", notes)
        (trigger,) = self.triggers(minimal(keeper={"enabled": True, "scalerAddress": "clapometer.clapometer:9090"}))
        self.assertEqual(trigger["metadata"]["scalerAddress"], "clapometer.clapometer:9090")

    def test_a_long_name_stays_a_name(self):
        values = minimal(fullnameOverride="a" * 63, keeper={"enabled": True})
        (job,) = of_kind(render.objects(render.render_chart(values)), "ScaledJob")
        self.assertEqual(job["metadata"]["name"], "a" * 56 + "-keeper")


if __name__ == "__main__":
    unittest.main()
