//! The `search_path` of a reading: the configured one or the role's own, with `pg_temp` at its end.
//!
//! PostgreSQL looks for tables in the session's temporary schema first, unless `search_path` says
//! otherwise. Behind a pooler another client may have left a temporary table in the session, and a
//! reading would count that one instead of the table that its name means.

use postgres_protocol::escape::{escape_identifier, escape_literal};

use crate::query::sql::is_space;

/// The schema of a session's temporary tables.
const TEMPORARY: &str = "pg_temp";

/// Returns the statement that sets this path, without an own `pg_temp` and with `pg_temp` at its end.
///
/// As SET with a list, since planning a SELECT of `set_config` takes as long as a short statement takes in all. A path
/// that PostgreSQL could not parse is passed on, for its own error.
pub(super) fn set_local(path: &str) -> String {
    match parse(path) {
        Some(schemas) => {
            let own = schemas.iter().filter(|schema| *schema != TEMPORARY).map(|schema| escape_identifier(schema));
            let list: Vec<String> = own.chain([TEMPORARY.to_owned()]).collect();
            format!("SET LOCAL search_path = {}", list.join(", "))
        }
        None => format!("SELECT set_config('search_path', {}, true)", escape_literal(path)),
    }
}

/// Reads a list of identifiers as PostgreSQL does: unquoted ones are folded to lower case.
///
/// *Source:* SplitIdentifierString in PostgreSQL's src/backend/utils/adt/varlena.c.
fn parse(path: &str) -> Option<Vec<String>> {
    let mut schemas = Vec::new();
    let mut rest = path.trim_start_matches(is_space);
    if rest.is_empty() {
        return Some(schemas);
    }
    loop {
        let (schema, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_identifier(quoted)?,
            None => {
                let end = rest.find(|c| c == ',' || is_space(c)).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                (word.to_ascii_lowercase(), after)
            }
        };
        if schema.is_empty() {
            return None;
        }
        schemas.push(schema);
        let after = after.trim_start_matches(is_space);
        if after.is_empty() {
            return Some(schemas);
        }
        rest = after.strip_prefix(',')?.trim_start_matches(is_space);
    }
}

/// Reads up to the closing quote, in which two quotes stand for one.
fn quoted_identifier(mut rest: &str) -> Option<(String, &str)> {
    let mut identifier = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        identifier.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                identifier.push('"');
                rest = after;
            }
            None => return Some((identifier, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_tables_are_looked_for_last() {
        for (path, set) in [
            ("\"$user\", public", "\"$user\", \"public\", pg_temp"),
            ("", "pg_temp"),
            ("pg_temp, app", "\"app\", pg_temp"),
            ("PG_TEMP,App,\"App\"", "\"app\", \"App\", pg_temp"),
            ("\"a, \"\"pg_temp\"\", b\" , c", "\"a, \"\"pg_temp\"\", b\", \"c\", pg_temp"),
            ("my-schema", "\"my-schema\", pg_temp"),
            // PostgreSQL folds ASCII letters only.
            ("ÄRGER", "\"Ärger\", pg_temp"),
        ] {
            assert_eq!(set_local(path), format!("SET LOCAL search_path = {set}"), "{path}");
        }
    }

    #[test]
    fn a_path_that_is_no_list_is_left_to_the_server() {
        for path in ["a,", ",a", "a b", "\"a", "a,,b", "\"\""] {
            assert!(set_local(path).starts_with("SELECT set_config"), "{path}");
        }
    }
}
