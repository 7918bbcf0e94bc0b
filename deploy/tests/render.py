"""Renders the chart into deploy/kustomize, copies its alert rules to deploy/ and the configuration's schema into the
chart; with --check only compares.

`--print VALUES [NAMESPACE]` renders the chart with a file of values to standard output instead.
"""

import difflib
import functools
import json
import operator
import pathlib
import re
import sys

import helm_python
import yaml

DEPLOY = pathlib.Path(__file__).resolve().parents[1]
CHART = DEPLOY / "helm" / "clapometer"
OBJECT_NAME = "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$"
HEADER = "# Rendered from {source} by `make manifests`; do not edit.\n"
PATHS = "# Each runbook_url is a path of this repository: put in front of it where you read the documents.\n"


def render_chart(values: dict, name: str = "clapometer", namespace: str = "clapometer") -> dict[str, str]:
    """The chart's templates by file name, rendered by Helm's own engine after its schema check."""
    with helm_python.Chart.load(str(CHART)) as chart:
        return chart.render(values, name=name, namespace=namespace)


def objects(rendered: dict[str, str]) -> list[dict]:
    """Every Kubernetes object in rendered templates, in file order, without the notes."""
    return [
        document
        for path, text in sorted(rendered.items())
        if not path.endswith("NOTES.txt")
        for document in yaml.safe_load_all(text)
        if document
    ]


def plain_yaml(values_file: pathlib.Path, namespace: str = "clapometer", only: str = ".yaml") -> str:
    rendered = render_chart(yaml.safe_load(values_file.read_text()), namespace=namespace)
    texts = [
        "\n".join(line.rstrip() for line in text.strip().removeprefix("---").strip().splitlines())
        for path, text in sorted(rendered.items())
        if path.endswith(only) and text.strip()
    ]
    source = f"deploy/helm/clapometer with ci/{values_file.name}"
    return HEADER.format(source=source) + "\n---\n".join(texts) + "\n"


def roles_config_map() -> str:
    script = (DEPLOY / "postgres" / "roles.sql").read_text()
    body = "".join(f"    {line}".rstrip() + "\n" for line in script.splitlines())
    return (
        HEADER.format(source="deploy/postgres/roles.sql")
        + "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: postgres-roles\n  namespace: keda-with-postgresql\n"
        + "data:\n  roles.sql: |\n"
        + body
    )


def values_table() -> str:
    """The chart's README: every value with the comment above it, in the order of values.yaml."""
    rows, path, comment = [], [], ""
    lines = (CHART / "values.yaml").read_text().splitlines()
    defaults = yaml.safe_load("\n".join(lines))
    for line in lines:
        entry = re.match(r"( *)([A-Za-z]+):", line)
        if described := re.match(r" *# -- (.*)", line):
            comment = described.group(1)
        elif entry:
            path = path[: len(entry.group(1)) // 2] + [entry.group(2)]
            if comment:
                value = functools.reduce(operator.getitem, path, defaults)
                rows.append(f"| `{'.'.join(path)}` | `{json.dumps(value)}` | {comment} |")
            comment = ""
    head = (CHART / "README.md.head").read_text()
    return head + "\n| value | default | meaning |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"


def values_schema() -> str:
    """The schema of the chart's values, whose `config` is clapometer's own schema."""
    values = json.loads((CHART / "values.schema.json").read_text())
    schema = json.loads((DEPLOY.parent / "docs/configuration.schema.json").read_text())
    description = "clapometer's configuration, as in docs/configuration.md; `clapometer check` knows more rules"
    schema = {key: value for key, value in schema.items() if key not in ("$schema", "title")}
    # The chart knows where it mounts the query files, and can take a configuration that somebody else makes.
    schema["properties"]["queries_from"].pop("required")
    for kind in ("ConfigMap", "Secret"):
        name = {"description": f"{kind} with clapometer.yaml, in place of all other keys", "type": "string", "pattern": OBJECT_NAME}
        schema["properties"][f"existing{kind}"] = name
    values["properties"]["config"] = {"description": description} | schema
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def outputs() -> dict[pathlib.Path, str]:
    """Every rendered file of the repository and what it must hold."""
    alerts = (CHART / "files" / "alerts.yaml").read_text()
    return {
        DEPLOY / "kustomize/base/clapometer.yaml": plain_yaml(CHART / "ci/base-values.yaml"),
        DEPLOY / "kustomize/components/mtls/configuration.patch.yaml": plain_yaml(CHART / "ci/mtls-values.yaml", only="configmap.yaml"),
        DEPLOY / "kustomize/demo/clapometer.yaml": plain_yaml(CHART / "ci/demo-values.yaml"),
        DEPLOY / "kustomize/demo/roles.yaml": roles_config_map(),
        DEPLOY / "prometheus/alerts.yaml": HEADER.format(source="deploy/helm/clapometer/files/alerts.yaml") + PATHS + alerts,
        CHART / "README.md": values_table(),
        CHART / "values.schema.json": values_schema(),
    }


def main(mode: str) -> int:
    stale = 0
    for path, text in outputs().items():
        now = path.read_text() if path.exists() else ""
        if now == text:
            continue
        if mode == "--check":
            stale += 1
            name = str(path.relative_to(DEPLOY.parent))
            sys.stderr.writelines(difflib.unified_diff(now.splitlines(True), text.splitlines(True), name, "rendered"))
        else:
            path.write_text(text)
            print(f"wrote {path.relative_to(DEPLOY.parent)}")
    if stale:
        print(f"{stale} rendered files are out of date: run `make manifests` and commit them", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--print"]:
        print(plain_yaml(pathlib.Path(sys.argv[2]), *sys.argv[3:4]))
        sys.exit()
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "--write"))
