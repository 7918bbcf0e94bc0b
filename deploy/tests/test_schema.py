"""The JSON Schema of the configuration: what the fixtures of tests/config hold, and what the chart does with it."""

import json
import re
import unittest

import helm_python
import jsonschema
import yaml

import render

SCHEMA = json.loads((render.DEPLOY.parent / "docs/configuration.schema.json").read_text())
CASES = render.DEPLOY.parent / "tests/config"
VALIDATORS = [jsonschema.Draft7Validator, jsonschema.Draft202012Validator]

# Bad configurations that satisfy the schema, by what a schema cannot know; `clapometer check` refuses them.
BEYOND = {
    "the environment": {
        "libpq-environment", "libpq-url", "variable-nonsense", "variable-of-no-database", "variables",
        "variables-replace-a-section",
    },
    "files that are referred to": {"certificate-by-reference", "certificates"},
    "rules between keys": {
        "database-ambiguous", "database-unknown", "host-missing", "listen-taken-twice", "sslmode-missing",
        "url-and-keys", "user-missing",
    },
    "texts with a grammar of their own": {
        "host-with-port", "placeholders", "sql-no-select", "sql-nul", "sql-several-statements", "sql-unterminated",
        "sql-that-is-not-what-it-looks-like", "unreplaced-placeholders",
    },
    "names that are reserved": {"keeper"},
    "keys that YAML takes for something else than text": {"syntax-null-key"},
    "a section that is empty, as the chart's is by default": {"databases-empty"},
}


class Loader(yaml.SafeLoader):
    """YAML 1.2's core schema, as clapometer reads it: `on` is text, and so is `1_000`."""

    yaml_implicit_resolvers = {}


for tag, pattern, first in [
    ("bool", "true|false", "tf"),
    ("null", "null|~|", ["n", "~", ""]),
    ("int", "[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
    ("merge", "<<", "<"),
]:
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))


def no_duplicates(loader: Loader, node: yaml.MappingNode, deep: bool = False) -> dict:
    names = [key.value for key, _ in node.value if key.value != "<<"]
    if len(names) != len(set(names)):
        raise yaml.YAMLError("a key stands twice")
    loader.flatten_mapping(node)
    return {loader.construct_object(key, deep=True): loader.construct_object(value, deep=True) for key, value in node.value}


Loader.add_constructor("tag:yaml.org,2002:map", no_duplicates)


def cases(directory: str):
    """Every case with what is in it; None for what is no YAML document."""
    for path in sorted((CASES / directory).glob("*.yaml")):
        try:
            yield path.stem, yaml.load(path.read_text(), Loader)
        except (yaml.YAMLError, UnicodeDecodeError, TypeError):
            yield path.stem, None


class Schema(unittest.TestCase):
    def test_it_is_a_schema_of_either_draft(self):
        for validator in VALIDATORS:
            validator.check_schema(SCHEMA)

    def test_every_good_configuration_satisfies_it(self):
        good = dict(cases("good"))
        self.assertGreaterEqual(len(good), 9)
        for name, configuration in good.items():
            for validator in VALIDATORS:
                with self.subTest(case=name, draft=validator.__name__):
                    validator(SCHEMA).validate(configuration)

    def test_every_bad_configuration_is_refused_or_known_to_be_beyond_it(self):
        bad = dict(cases("bad"))
        self.assertGreaterEqual(len(bad), 60)
        for validator in VALIDATORS:
            passed = {
                name
                for name, configuration in bad.items()
                if configuration is not None and validator(SCHEMA).is_valid(configuration)
            }
            self.assertEqual(passed, set().union(*BEYOND.values()), validator.__name__)


class Values(unittest.TestCase):
    """A mistake inside of `config` ends helm lint, template and upgrade with its path."""

    MISTAKES = {
        "config.server": {"server": {"reflecton": True}},
        "config.databases.claps": {"databases": {"claps": {"host": "localhost", "user": "me", "poolsize": 4}}},
        "config.databases.claps.pool_size": {"databases": {"claps": {"host": "localhost", "pool_size": 0}}},
        "config.queries.jobs": {"queries": {"jobs": {"sql": "SELECT 1", "targetQueryValue": 1}}},
        "config.queries.jobs.rounding": {"queries": {"jobs": {"sql": "SELECT 1", "rounding": "up"}}},
        "config.queries.jobs.notify": {"queries": {"jobs": {"sql": "SELECT 1", "notify": {"resync": "5s"}}}},
    }

    def test_a_mistake_is_refused_with_its_path(self):
        database = {"claps": {"host": "localhost", "user": "me", "password": {"file": "/secrets/password"}}}
        for path, config in self.MISTAKES.items():
            with self.subTest(path=path), self.assertRaises(helm_python.HelmError) as refusal:
                render.render_chart({"config": {"databases": database} | config})
            self.assertIn(f"at '/{path.replace('.', '/')}", str(refusal.exception))

    def test_the_chart_has_the_whole_schema(self):
        values = json.loads((render.CHART / "values.schema.json").read_text())
        properties = values["properties"]["config"]["properties"]
        # The chart's own keys, and the path that the chart sets.
        for key in ["existingConfigMap", "existingSecret"]:
            properties.pop(key)
        properties["queries_from"]["required"] = ["path"]
        self.assertEqual(properties, SCHEMA["properties"])


if __name__ == "__main__":
    unittest.main()
