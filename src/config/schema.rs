//! The table of keys as JSON Schema, for editors and for the chart's values.
//!
//! It uses only what draft-07 and 2020-12 have in common, because Helm before 3.18 knows only draft-07:
//! no `$ref`, no `$defs`, no `unevaluatedProperties`. Of the rules between keys it has only those
//! about presets, and it lacks the ranges of durations; `clapometer check` knows them all.

use serde_json::{Map, Value as Json, json};

use super::key::{DefaultValue, Key, Kind, References};

/// The pattern of the name of a database or a query, as in `query::is_metric_name`.
const NAME: &str = "^[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$";

/// The pattern of a text that is not blank.
const FILLED: &str = "[^ \\t\\r\\n]";

/// Returns the schema of a file with these keys.
pub(super) fn document(keys: &[Key]) -> Json {
    let mut schema = mapping(keys, References::Refused);
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("clapometer's configuration");
    schema
}

fn mapping(keys: &[Key], references: References) -> Json {
    let properties: Map<String, Json> =
        keys.iter().map(|key| (key.name.to_owned(), property(key, references))).collect();
    let required: Vec<&str> =
        keys.iter().filter(|key| matches!(key.default, DefaultValue::Required(_))).map(|key| key.name).collect();
    let mut schema = json!({"type": "object", "additionalProperties": false, "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn property(key: &Key, references: References) -> Json {
    let value = value(key);
    let mut schema = match references {
        References::Allowed => json!({"anyOf": [value, reference("file"), reference("env")]}),
        References::Refused => value,
    };
    schema["description"] = json!(key.meaning);
    if let DefaultValue::Is(default) = key.default {
        // A number, a list or a word of JSON is one here, too.
        schema["default"] = serde_json::from_str(default).unwrap_or_else(|_| json!(default));
    }
    schema
}

/// `{file: PATH}` or `{env: NAME}`.
fn reference(kind: &str) -> Json {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": [kind],
        "properties": {kind: {"type": "string", "minLength": 1}},
    })
}

fn value(key: &Key) -> Json {
    let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
    match &key.kind {
        Kind::Address => text(r"^([0-9.]+|\[[0-9A-Fa-f:.%]+\]):[0-9]{1,5}$"),
        Kind::Boolean => json!({"type": "boolean"}),
        Kind::Column => json!({"type": "string", "maxLength": 63}),
        Kind::Duration { .. } => text("^[ \\t\\r\\n]*[0-9]+(ms|s|m|h)[ \\t\\r\\n]*$"),
        Kind::Hosts => text(r"^[^@?:]*(:[^@?/]*)*$"),
        Kind::List { .. } => json!({"type": "array", "items": text(FILLED)}),
        Kind::Mapping(keys) => mapping(keys, References::Refused),
        Kind::Named { keys, references, rules } => {
            let mut member = mapping(keys, *references);
            if let Some(rules) = rules {
                member["allOf"] = json!(rules());
            }
            json!({"type": "object", "propertyNames": {"pattern": NAME}, "additionalProperties": member})
        }
        Kind::Number { least, is_least_included: true } => json!({"type": "number", "minimum": least}),
        Kind::Number { least, is_least_included: false } => json!({"type": "number", "exclusiveMinimum": least}),
        Kind::Parameters(member) => json!({
            "type": "object",
            "propertyNames": {"pattern": "^[-_.A-Za-z0-9]{1,63}$"},
            "additionalProperties": value(member),
        }),
        Kind::Password | Kind::Path => json!({"type": "string", "minLength": 1}),
        Kind::Ports => json!({"anyOf": [
            {"type": "integer", "minimum": 1, "maximum": 65535},
            text("^ *[0-9]{1,5} *(, *[0-9]{1,5} *)*$"),
        ]}),
        Kind::Text => text(FILLED),
        Kind::Url => text("^(jdbc:)?postgres(ql)?([+][A-Za-z0-9_]+)?://|^[^:/]*="),
        Kind::Whole(range) => json!({"type": "integer", "minimum": range.start(), "maximum": range.end()}),
        Kind::Words(words, _) => json!({"enum": words}),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::KEYS;

    #[test]
    fn the_schema_beside_the_document_is_that_of_the_table() {
        let path = "docs/configuration.schema.json";
        let expected = format!("{:#}\n", document(KEYS));
        if std::env::var_os("UPDATE_EXPECTATIONS").is_some() {
            fs::write(path, &expected).expect("the schema is writable");
        }
        let found = fs::read_to_string(path).unwrap_or_default();
        assert!(found == expected, "{path} is out of date: UPDATE_EXPECTATIONS=1 writes it anew");
    }

    #[test]
    fn every_default_fits_its_own_key() {
        fn fits(schema: &Json) {
            if let Some(default) = schema.get("default") {
                let value = schema["anyOf"].get(0).unwrap_or(schema);
                let is_right = match value["type"].as_str() {
                    Some("boolean") => default.is_boolean(),
                    Some("integer") => default.is_u64(),
                    Some("number") => default.is_number(),
                    Some("array") => default.is_array(),
                    Some("string") => default.is_string(),
                    _ => value["enum"].as_array().is_none_or(|words| words.contains(default)),
                };
                assert!(is_right, "{schema:#}");
            }
            for properties in
                [schema["properties"].as_object(), schema["additionalProperties"]["properties"].as_object()]
            {
                properties.into_iter().flat_map(Map::values).for_each(fits);
            }
        }
        fits(&document(KEYS));
    }
}
