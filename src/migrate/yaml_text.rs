//! Texts as YAML that reads back as these very texts.

/// Words that YAML, or a parser of an older one, does not take for text.
const NOT_TEXT: [&str; 10] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan"];

/// Returns a text as one line of YAML: as it is where nothing can misread it, else in double quotes.
pub(super) fn scalar(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !NOT_TEXT.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_plain { text.to_owned() } else { quoted(text) }
}

/// Returns a text in double quotes, which JSON reads, too.
pub(super) fn quoted(text: &str) -> String {
    let mut line = String::with_capacity(text.len() + 2);
    line.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            '\n' => line.push_str("\\n"),
            '\t' => line.push_str("\\t"),
            ' '..='~' => line.push(c),
            // JSON has no escape for what is beyond four digits, and YAML takes all of it.
            _ if c.is_alphanumeric() || c > '\u{ffff}' => line.push(c),
            // What one cannot see should be seen.
            _ => line.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    line.push('"');
    line
}

/// Returns a text as the value of a key that stands `indent` spaces in: as a block where that says the same, else in
/// quotes. It begins behind the key's colon and ends with a newline.
pub(super) fn block(text: &str, indent: usize) -> String {
    let is_block = !text.is_empty()
        && !text.starts_with([' ', '\t', '\n'])
        && !text.ends_with(['\n', ' ', '\t'])
        && text.chars().all(|c| matches!(c, '\n' | '\t' | ' '..='~') || c.is_alphanumeric());
    if !is_block {
        return format!(" {}\n", quoted(text));
    }
    let mut block = String::from(" |-\n");
    for line in text.split('\n') {
        if !line.is_empty() {
            block.extend(std::iter::repeat_n(' ', indent + 2));
            block.push_str(line);
        }
        block.push('\n');
    }
    block
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::manifest::Manifest;

    fn read_back(yaml: &str) -> Option<String> {
        let text = format!("apiVersion: keda.sh/v1\nkind: ScaledJob\nspec:\n  x:{yaml}\n  y: 1\n");
        let manifest = Manifest::read(&text);
        Some(manifest.objects.first()?.spec(&["x"])?.text()?.to_owned())
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

    proptest! {
        #[test]
        fn every_text_reads_back_as_itself(text in "(?s).{0,60}") {
            prop_assert_eq!(read_back(&format!(" {}", quoted(&text))), Some(text.clone()));
            prop_assert_eq!(read_back(&block(&text, 2)), Some(text.clone()));
        }

        #[test]
        fn statements_read_back_as_themselves(text in "[-A-Za-z0-9 '\":#|>\t\n(){}é,*&!%@`]{0,60}") {
            prop_assert_eq!(read_back(&block(&text, 2)), Some(text.clone()));
            prop_assert_eq!(read_back(&format!(" {}", scalar(&text))), Some(text.clone()));
        }
    }
}
