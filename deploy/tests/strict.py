"""Strict validation of one object: Kubernetes' own schemas, and ours for the custom kinds. Unknown fields are refused."""

import pathlib

import jsonschema
import kubernetes_validate
import referencing
import referencing.jsonschema
import yaml

KUBERNETES = ["1.31", "1.37"]
SCHEMAS = pathlib.Path(__file__).resolve().parents[1] / "schemas"
CUSTOM = {
    "ScaledJob": "scaledjob.yaml",
    "ScaledObject": "scaledobject.yaml",
    "TriggerAuthentication": "triggerauthentication.yaml",
    "ClusterTriggerAuthentication": "triggerauthentication.yaml",
    "ServiceMonitor": "servicemonitor.yaml",
    "PodMonitor": "podmonitor.yaml",
    "PrometheusRule": "prometheusrule.yaml",
    "Issuer": "issuer.yaml",
    "Certificate": "certificate.yaml",
    "Kustomization": "kustomization.yaml",
    "Component": "kustomization.yaml",
}


class Refused(Exception):
    """The object breaks a schema; the text says where and how."""


def _retrieve(uri: str) -> referencing.Resource:
    contents = yaml.safe_load((SCHEMAS / uri.removeprefix("clapometer:")).read_text())
    return referencing.Resource(contents, referencing.jsonschema.DRAFT202012)


REGISTRY = referencing.Registry(retrieve=_retrieve)


def _check_custom(document: dict) -> None:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": f"clapometer:{CUSTOM[document['kind']]}"}
    errors = list(jsonschema.Draft202012Validator(schema, registry=REGISTRY).iter_errors(document))
    if errors:
        raise Refused("; ".join(f"{error.json_path}: {error.message}" for error in errors))


def _check_kubernetes(document: dict) -> None:
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except (jsonschema.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            path = ".".join(str(part) for part in getattr(error, "absolute_path", []))
            raise Refused(f"Kubernetes {version}, {path}: {error.message}") from error


def check(document: dict) -> None:
    """Raises Refused unless every field of the document is known and has the right type."""
    if document.get("kind") in CUSTOM:
        _check_custom(document)
        if document["kind"] == "ScaledJob":
            _check_kubernetes(
                {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": document["spec"]["jobTargetRef"]}
            )
    else:
        _check_kubernetes(document)
