//! The table of keys as Markdown, which docs/configuration.md has to have; only the tests need it.

use std::{fmt::Write, fs};

use super::{
    KEYS, duration,
    key::{DefaultValue, Key, Kind},
};

/// The keys of one section, those of mappings within it below their own.
fn table(section: &Key) -> String {
    let mut text = String::from("| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
    if let Kind::Mapping(keys) | Kind::Named { keys, .. } = section.kind {
        rows(&mut text, "", keys);
    }
    text
}

fn rows(text: &mut String, prefix: &str, keys: &[Key]) {
    for key in keys {
        let name = format!("{prefix}{}", key.name);
        let default = match key.default {
            DefaultValue::Required(_) => "required".to_owned(),
            DefaultValue::Is(default) => format!("`{default}`"),
            DefaultValue::Derived(default) => default.to_owned(),
        };
        writeln!(text, "| `{name}` | {} | {default} | {} |", kind(&key.kind), key.meaning)
            .expect("writing to a String cannot fail");
        match key.kind {
            Kind::Mapping(keys) => rows(text, &format!("{name}."), keys),
            Kind::Named { keys, .. } => rows(text, &format!("{name}.<name>."), keys),
            _ => {}
        }
    }
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Address => "address".into(),
        Kind::Boolean => "boolean".into(),
        Kind::Column => "name".into(),
        Kind::Duration { range, zero } => {
            let zero = if zero.is_some() { "`0s` or " } else { "" };
            format!("duration, {zero}{} to {}", duration::show(*range.start()), duration::show(*range.end()))
        }
        Kind::Hosts | Kind::Password | Kind::Text | Kind::Url => "text".into(),
        Kind::List { of, .. } => format!("list of {of}"),
        Kind::Mapping(_) | Kind::Named { .. } => "mapping".into(),
        Kind::Number { least, is_least_included: true } => format!("number, at least {least}"),
        Kind::Number { least, is_least_included: false } => format!("number above {least}"),
        Kind::Parameters(_) => "mapping of name to type".into(),
        Kind::Path => "path".into(),
        Kind::Ports => "1 to 65535".into(),
        Kind::Whole(range) => format!("{} to {}", range.start(), range.end()),
        Kind::Words(words, _) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
    }
}

#[test]
fn the_document_has_every_key_once_and_as_in_the_table() {
    let path = "docs/configuration.md";
    let mut document = fs::read_to_string(path).expect("the document");
    let (sections, alone): (Vec<_>, Vec<_>) =
        KEYS.iter().partition(|key| matches!(key.kind, Kind::Mapping(_) | Kind::Named { .. }));
    for key in alone {
        assert!(document.contains(&format!("`{}: ", key.name)), "{} is not described", key.name);
    }
    for section in sections {
        let expected = table(section);
        let begin = format!("<!-- the keys of {}, from src/config -->\n\n", section.name);
        let start = document.find(&begin).expect(section.name) + begin.len();
        let mut length = document[start..].find("\n<!-- end of the keys -->").expect(section.name);
        if std::env::var_os("UPDATE_EXPECTATIONS").is_some() {
            document.replace_range(start..start + length, &expected);
            length = expected.len();
            fs::write(path, &document).expect("the document is writable");
        }
        assert_eq!(&document[start..start + length], expected, "UPDATE_EXPECTATIONS=1 writes it anew");
        let keys = expected.lines().filter_map(|row| row.strip_prefix("| `")?.split('`').next());
        let mut keys: Vec<&str> = keys.collect();
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert!(count > 0 && keys.len() == count, "a key of {} stands twice", section.name);
    }
}
