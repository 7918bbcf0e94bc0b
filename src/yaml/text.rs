//! Writes texts as YAML that reads back unchanged.

/// Words that a YAML parser, at least one of an older version, does not read as text.
const NOT_TEXT: [&str; 10] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan"];

/// Returns a text as one line of YAML: plain if no parser can misread it, else in double quotes.
pub(crate) fn scalar(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !NOT_TEXT.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_plain { text.to_owned() } else { quoted(text) }
}

/// Returns a text in double quotes. The result is also valid JSON.
pub(crate) fn quoted(text: &str) -> String {
    let mut line = String::with_capacity(text.len() + 2);
    line.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            '\n' => line.push_str("\\n"),
            '\t' => line.push_str("\\t"),
            // JSON's \u has four digits. YAML accepts these characters as they are.
            _ if is_visible(c) || c > '\u{ffff}' => line.push(c),
            _ => line.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    line.push('"');
    line
}

/// Returns a text as a block scalar (`|-`) for a key that is indented by `indent` spaces, or `None` if the block would
/// not read back as the text.
pub(crate) fn block(text: &str, indent: usize) -> Option<String> {
    let is_block = !text.is_empty()
        && !text.starts_with([' ', '\t', '\n'])
        && !text.ends_with([' ', '\t', '\n'])
        && text.chars().all(|c| matches!(c, '\n' | '\t') || is_visible(c));
    let line = |line: &str| if line.is_empty() { "\n".to_owned() } else { format!("{:indent$}  {line}\n", "") };
    is_block.then(|| text.split('\n').map(line).collect())
}

/// Returns whether a reader can see which character this is. A plain space counts as visible; other white space and
/// combining marks do not.
fn is_visible(c: char) -> bool {
    matches!(c, ' '..='~') || c.escape_debug().eq([c])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::yaml::{Yaml, document};

    fn read_back(yaml: &str) -> Option<String> {
        let Yaml::Mapping(entries) = document(&format!("x:{yaml}\ny: 1\n")).ok()?.value else { return None };
        match &entries.first()?.1.value {
            Yaml::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    fn read_back_from_block(text: &str) -> Option<String> {
        block(text, 0).map_or_else(|| Some(text.to_owned()), |lines| read_back(&format!(" |-\n{lines}")))
    }

    #[test]
    fn what_could_be_misread_is_quoted() {
        for plain in ["orders", "pg.billing.svc.cluster.local", "/var/run/postgresql"] {
            assert_eq!(scalar(plain), plain);
        }
        for (text, quoted) in
            [("", "\"\""), ("5432", "\"5432\""), ("No", "\"No\""), ("a: b", "\"a: b\""), ("a\"\\", r#""a\"\\""#)]
        {
            assert_eq!(scalar(text), quoted);
        }
    }

    #[test]
    fn what_cannot_be_seen_is_escaped_and_keeps_a_text_out_of_a_block() {
        assert_eq!(quoted("a\u{200b}b\u{a0}c\u{2028} — ü"), r#""a\u200bb\u00a0c\u2028 — ü""#);
        assert_eq!(block("a\n\nb — ü", 2).as_deref(), Some("    a\n\n    b — ü\n"));
        for text in ["", " a", "a ", "a\n", "a\u{200b}b", "a\r\nb"] {
            assert_eq!(block(text, 2), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_text_reads_back_as_itself(text in "(?s).{0,60}") {
            prop_assert_eq!(read_back(&format!(" {}", quoted(&text))), Some(text.clone()));
            prop_assert_eq!(read_back_from_block(&text), Some(text.clone()));
        }

        #[test]
        fn statements_read_back_as_themselves(text in "[-A-Za-z0-9 '\":#|>\t\n(){}é,*&!%@`]{0,60}") {
            prop_assert_eq!(read_back_from_block(&text), Some(text.clone()));
            prop_assert_eq!(read_back(&format!(" {}", scalar(&text))), Some(text.clone()));
        }
    }
}
