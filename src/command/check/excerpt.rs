//! The place in a statement that the server points to.

use serde::Serialize;

/// A place in a statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "in", rename_all = "snake_case")]
pub(super) enum Excerpt {
    /// In the text that the scaler puts around the operator's SQL.
    Wrapper,
    /// In the operator's SQL: the line from 1, its text, and the column from 0.
    Sql { line: usize, text: String, column: usize },
}

impl Excerpt {
    /// Finds a position (in characters, from 1) in a statement. Its first and last lines are the scaler's own.
    pub(super) fn locate(statement: &str, position: usize) -> Option<Self> {
        let before: Vec<char> = statement.chars().take(position.checked_sub(1)?).collect();
        let line = before.iter().filter(|c| **c == '\n').count();
        let column = before.rsplit(|c| *c == '\n').next().map_or(0, <[char]>::len);
        let lines: Vec<&str> = statement.split('\n').collect();
        if line == 0 || line + 1 >= lines.len() {
            return Some(Self::Wrapper);
        }
        Some(Self::Sql { line, text: (*lines.get(line)?).to_owned(), column })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_found_in_the_operators_own_lines() {
        let text = "SELECT (SELECT q.*)::float8 FROM (\nSELECT 'é',\n  foo FROM job\n) AS q LIMIT 2";
        let at =
            |needle: &str| text.chars().count() - text[text.find(needle).expect("it is there")..].chars().count() + 1;
        assert_eq!(
            Excerpt::locate(text, at("foo")),
            Some(Excerpt::Sql { line: 2, text: "  foo FROM job".to_owned(), column: 2 })
        );
        assert_eq!(
            Excerpt::locate(text, at("',")),
            Some(Excerpt::Sql { line: 1, text: "SELECT 'é',".to_owned(), column: 9 })
        );
        assert_eq!(Excerpt::locate(text, at("q.*")), Some(Excerpt::Wrapper));
        assert_eq!(Excerpt::locate(text, at("LIMIT")), Some(Excerpt::Wrapper));
        assert_eq!(Excerpt::locate(text, 0), None);
    }
}
