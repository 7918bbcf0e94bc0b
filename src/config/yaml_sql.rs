//! Checks for SQL that YAML has changed: YAML folds lines into one, and reads ` #` as the beginning of a comment.
//!
//! The statement that is left may well be valid, and count something else.

use ::config::ValueKind;

use super::source::Tree;
use crate::{
    diagnostics::{Diagnostics, Location},
    query::sql,
};

/// Notes each query of a file whose SQL is not what the file shows.
pub(super) fn check(text: &str, file: &Tree, diagnostics: &Diagnostics) {
    let lines: Vec<&str> = text.lines().collect();
    for (path, place) in &file.places {
        let ([queries, name, key], Location::Line(line)) = (&path[..], place) else { continue };
        if queries != "queries" || key != "sql" {
            continue;
        }
        let Some(sql) = statement(file, name) else { continue };
        let written = usize::try_from(*line).ok().and_then(|line| lines.get(line.checked_sub(1)?..));
        if let Some(message) = written.and_then(|written| told(written, &sql)) {
            diagnostics.add(place.clone(), path.join("."), message);
        }
    }
}

fn statement(file: &Tree, name: &str) -> Option<String> {
    let table = |kind: &ValueKind, key: &str| match kind {
        ValueKind::Table(table) => table.get(key).map(|value| value.kind.clone()),
        _ => None,
    };
    let query = table(&file.values.get("queries")?.kind, name)?;
    match table(&query, "sql")? {
        ValueKind::String(sql) => Some(sql),
        _ => None,
    }
}

/// Returns what is wrong with a statement. Its key is on the first of these lines.
fn told(written: &[&str], sql: &str) -> Option<&'static str> {
    if sql::line_comments(sql).any(|comment| swallows(written, comment)) {
        return Some(
            "has a -- comment that takes the lines behind it along, because YAML joins them here; write sql: | and the \
             statement below it, or /* ... */",
        );
    }
    let (_, value) = written.first()?.split_once("sql")?;
    let (kept, cut) = value.trim_start_matches(['"', '\'']).strip_prefix(':')?.split_once(" #")?;
    let (kept, sql) = (kept.trim(), sql.trim());
    let is_cut = kept == sql
        && (cut.starts_with(['>', '-'])
            || sql::is_one_statement(sql).is_err()
            || sql.ends_with(['=', '<', '>', '+', '-', '*', '/', '(', ',', '|']));
    is_cut.then_some(
        "ends at ` #`, which begins a comment in YAML; write sql: | and the statement below it, or put it in quotes",
    )
}

/// Returns whether a comment goes on beyond the line on which it is written.
fn swallows(written: &[&str], comment: &str) -> bool {
    let is_written_out = written.iter().any(|line| line.contains(comment));
    let begins = |line: &&str| {
        line.match_indices("--").any(|(at, _)| {
            let tail = line[at..].trim_end();
            tail.len() < comment.len() && comment.starts_with(tail)
        })
    };
    !is_written_out && written.iter().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;

    fn faults(text: &str) -> String {
        let diagnostics = Diagnostics::default();
        check(text, &yaml::tree(text, "", &diagnostics), &diagnostics);
        diagnostics.into_error(None).to_string()
    }

    #[test]
    fn a_comment_that_eats_the_rest_of_a_statement_is_told() {
        for folded in [
            "queries:\n  jobs:\n    sql: >\n      SELECT count(*) FROM job -- all of them\n      WHERE n < 7\n",
            "queries:\n  jobs:\n    sql: SELECT count(*) FROM job --\n      WHERE n < 7\n",
            "queries:\n  jobs: {sql: \"SELECT count(*) FROM job -- all\n    WHERE n < 7\"}\n",
        ] {
            assert!(faults(folded).contains("queries.jobs.sql: has a -- comment"), "{folded}");
        }
        for kept in [
            "queries:\n  jobs:\n    sql: |\n      SELECT count(*) FROM job -- all of them\n      WHERE n < 7\n",
            "queries:\n  jobs:\n    sql: >\n      SELECT count(*) FROM job\n      WHERE n < 7 -- the small ones\n",
            "queries:\n  jobs: {sql: \"SELECT 1 -- \\\"one\\\"\"}\n",
            "queries:\n  jobs: {sql: \"SELECT 1 -- one\\n + 2\"}\n",
            "queries:\n  jobs:\n    sql: >\n      SELECT '-- no'\n      || 'comment'\n",
        ] {
            assert_eq!(faults(kept), "", "{kept}");
        }
    }

    #[test]
    fn a_statement_that_yaml_cuts_is_told() {
        for cut in [
            "queries:\n  jobs:\n    sql: SELECT count(*) FROM job WHERE data #>> '{a}' = 'b'\n",
            "queries:\n  jobs:\n    sql: SELECT count(*) FROM job WHERE tag = ' #1'\n",
            "queries:\n  jobs:\n    sql: SELECT count(*) FROM job WHERE n = #\n",
        ] {
            assert!(faults(cut).contains("queries.jobs.sql: ends at ` #`"), "{cut}");
        }
        for whole in [
            "queries:\n  jobs:\n    sql: SELECT count(*) FROM job # all of them\n",
            "queries:\n  jobs:\n    sql: \"SELECT count(*) FROM job WHERE data #>> '{a}' = 'b'\"\n",
            "queries:\n  jobs:\n    sql: |\n      SELECT count(*) FROM job WHERE data #>> '{a}' = 'b'\n",
        ] {
            assert_eq!(faults(whole), "", "{whole}");
        }
    }
}
