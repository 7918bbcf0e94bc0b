//! The traits of a trigger's SQL that show without a database.
//!
//! Only what decides about a migration, or about what its report has to say. PostgreSQL alone knows the rest:
//! `clapometer check` runs the statement.

use crate::query::sql::{self, Malformed, Token};

/// Functions that write, whatever they are called with.
const WRITING_FUNCTIONS: [&str; 6] =
    ["nextval", "setval", "lo_unlink", "lo_create", "pg_notify", "pg_logical_emit_message"];

/// Words whose value is the role's own.
const ROLE_WORDS: [&str; 5] = ["current_user", "session_user", "current_role", "user", "current_schema"];

/// Aggregates of no row that are NULL. `count` is 0.
const NULL_AGGREGATES: [&str; 4] = ["sum", "max", "min", "avg"];

/// The traits of a statement that KEDA and clapometer treat differently.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Traits {
    /// The words that write, as far as they show.
    pub(super) writes: Option<String>,
    /// It may return several rows.
    pub(super) several_rows: bool,
    /// It may return NULL.
    pub(super) may_be_null: bool,
    /// It subtracts, so that it may return a number below zero.
    pub(super) subtracts: bool,
    /// It reads statistics that PostgreSQL masks for most roles.
    pub(super) reads_statistics: bool,
    /// It depends on the role that runs it.
    pub(super) depends_on_role: bool,
}

/// Says why a text cannot be the SQL of a query.
///
/// # Errors
/// The reason, as a sentence without its full stop.
pub(super) fn check(text: &str) -> Result<(), String> {
    let reason = match sql::is_one_statement(text) {
        _ if text.contains('\0') => "its SQL has a zero byte, which PostgreSQL does not take",
        Err(Malformed::Unterminated) => "its SQL has a string, quoted name or comment that does not end",
        Err(Malformed::Unbalanced) => "its SQL has parentheses that do not match",
        Err(Malformed::SeveralStatements) => {
            "its SQL is more than one statement, and clapometer runs one; settings go to the role (ALTER ROLE ... SET) or \
             to search_path of the database"
        }
        Ok(()) if !sql::looks_like_sql(text) => {
            "its SQL does not begin with SELECT, WITH, VALUES, TABLE or a parenthesis, and clapometer only reads"
        }
        Ok(()) if sql::highest_placeholder(text) > 0 => {
            "its SQL has a placeholder ($1), for which KEDA has no value, so that KEDA's reading fails, too"
        }
        Ok(()) => return Ok(()),
    };
    Err(reason.to_owned())
}

/// Looks at a statement.
pub(super) fn traits(text: &str) -> Traits {
    let words = significant(text);
    let is = |at: usize, word: &str| words.get(at).is_some_and(|found| found.is_word(word));
    let calls = |at: usize| words.get(at + 1).is_some_and(|next| next.text == "(");
    let mut traits = Traits { writes: writes(&words), subtracts: subtracts(&words), ..Traits::default() };
    let (mut depth, mut grouped, mut limited, mut aggregated) = (0usize, false, false, false);
    for at in 0..words.len() {
        let word = words[at];
        match word.text {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            _ => {}
        }
        let is_one_of = |known: &[&str]| known.iter().any(|known| word.is_word(known));
        traits.depends_on_role |= is_one_of(&ROLE_WORDS) && !calls(at);
        traits.reads_statistics |= word.is_name() && word.text.trim_matches('"').to_lowercase().starts_with("pg_stat_");
        if is_one_of(&NULL_AGGREGATES) && calls(at) {
            traits.may_be_null |= !words[..at].iter().any(|before| before.is_word("coalesce"));
        }
        if depth > 0 {
            continue;
        }
        grouped |= word.is_word("group") && is(at + 1, "by");
        limited |= (word.is_word("limit") || word.is_word("fetch"))
            && (is(at + 1, "1")
                || (is(at + 2, "1") && word.is_word("fetch"))
                || is(at + 1, "first") && is(at + 2, "row"));
        aggregated |= (is_one_of(&NULL_AGGREGATES) || word.is_word("count")) && calls(at) || is_one_of(&["exists"]);
        // Around an aggregate stand functions and parentheses.
        aggregated |= calls(at) && has_aggregate(&words[at + 1..]);
        aggregated |= word.text == "(" && has_aggregate(&words[at..]);
    }
    let reads_no_table =
        !words.iter().any(|word| word.is_word("from") || word.is_word("values") || word.is_word("table"));
    traits.several_rows = !limited && !reads_no_table && (grouped || !aggregated);
    traits
}

/// One word, name, string or character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Significant<'a> {
    text: &'a str,
    is_quoted: bool,
}

impl Significant<'_> {
    fn is_word(&self, word: &str) -> bool {
        !self.is_quoted && self.text.eq_ignore_ascii_case(word)
    }

    /// Returns whether it may name something: it is no string.
    fn is_name(&self) -> bool {
        !self.is_quoted || self.text.starts_with('"')
    }
}

fn significant(text: &str) -> Vec<Significant<'_>> {
    let is_significant = |token| match token {
        Token::Space | Token::LineComment(_) | Token::BlockComment(_) => None,
        Token::Quoted(text) => Some(Significant { text, is_quoted: true }),
        Token::Word(text) | Token::Placeholder(text) | Token::Symbol(text) => {
            Some(Significant { text, is_quoted: false })
        }
    };
    sql::tokens(text).filter_map(is_significant).collect()
}

/// Returns the words by which a statement writes, if it shows.
fn writes(words: &[Significant<'_>]) -> Option<String> {
    let is = |at: usize, word: &str| words.get(at).is_some_and(|found| found.is_word(word));
    (0..words.len()).find_map(|at| {
        let found = if is(at, "insert") && is(at + 1, "into") {
            "INSERT INTO"
        } else if is(at, "delete") && is(at + 1, "from") {
            "DELETE FROM"
        } else if is(at, "merge") && is(at + 1, "into") {
            "MERGE INTO"
        } else if is(at, "update") && at > 0 && words[at - 1].text == "(" {
            "UPDATE"
        } else if is(at, "for") && (is(at + 1, "update") || is(at + 1, "share")) {
            "FOR UPDATE or FOR SHARE"
        } else if is(at, "for") && (is(at + 1, "key") || is(at + 1, "no")) && is_lock_strength(&words[at + 2..]) {
            "FOR KEY SHARE or FOR NO KEY UPDATE"
        } else {
            let calls = words.get(at + 1).is_some_and(|next| next.text == "(");
            let name = WRITING_FUNCTIONS.iter().find(|name| is(at, name) && calls)?;
            return Some(format!("{name}()"));
        };
        Some(found.to_owned())
    })
}

/// Returns whether the number itself is a difference. One of times, and one within a condition or a SELECT of its own,
/// is not.
fn subtracts(words: &[Significant<'_>]) -> bool {
    let is = |at: usize, word: &str| words.get(at).is_some_and(|found| found.is_word(word));
    // For each parenthesis that is open: whether what stands in it is passed over.
    let mut passed_over: Vec<bool> = Vec::new();
    let mut is_selected = false;
    for at in 0..words.len() {
        match words[at].text {
            "(" => {
                let outer = passed_over.last().copied().unwrap_or(false);
                passed_over.push(outer || is(at + 1, "select") || is(at + 1, "where") || is(at + 1, "with"));
            }
            ")" => _ = passed_over.pop(),
            "-" => {
                // `->` and `->>` pick a field.
                let is_minus = words.get(at + 1).is_some_and(|next| next.text != ">") && !is(at + 1, "interval");
                if is_minus && is_selected && !passed_over.last().copied().unwrap_or(false) {
                    return true;
                }
            }
            _ if is(at, "greatest") => return false,
            _ if passed_over.is_empty() && is(at, "select") => is_selected = true,
            _ if passed_over.is_empty() && is(at, "from") => is_selected = false,
            _ => {}
        }
    }
    false
}

fn is_lock_strength(words: &[Significant<'_>]) -> bool {
    words.first().is_some_and(|word| word.is_word("share") || word.is_word("key"))
}

/// Returns whether an aggregate is called within the parentheses that open here, and not within a SELECT of its own.
fn has_aggregate(words: &[Significant<'_>]) -> bool {
    let mut depth = 0usize;
    for (at, word) in words.iter().enumerate() {
        match word.text {
            "(" => depth += 1,
            ")" if depth == 1 => return false,
            ")" => depth = depth.saturating_sub(1),
            _ => {}
        }
        let calls = words.get(at + 1).is_some_and(|next| next.text == "(");
        if calls && (word.is_word("count") || NULL_AGGREGATES.iter().any(|known| word.is_word(known))) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_query_is_told_with_its_reason() {
        for good in ["SELECT 1;", "with a as (select 1) table a", "-- jobs\nSELECT count(*) FROM job"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, part) in [
            ("SET search_path = a; SELECT 1", "more than one statement"),
            ("DELETE FROM job RETURNING 1", "does not begin with SELECT"),
            ("SELECT 'a", "does not end"),
            ("SELECT (1", "do not match"),
            ("SELECT $1::int", "placeholder"),
        ] {
            assert!(check(bad).is_err_and(|reason| reason.contains(part)), "{bad}");
        }
    }

    #[test]
    fn a_statement_that_writes_shows_it() {
        for (sql, words) in [
            ("WITH gone AS (DELETE FROM job WHERE done RETURNING 1) SELECT count(*) FROM gone", "DELETE FROM"),
            ("WITH a AS (UPDATE job SET seen = true RETURNING 1) SELECT count(*) FROM a", "UPDATE"),
            ("SELECT count(*) FROM (SELECT 1 FROM job FOR UPDATE SKIP LOCKED) AS j", "FOR UPDATE or FOR SHARE"),
            ("SELECT 1 FROM job FOR NO KEY UPDATE", "FOR KEY SHARE or FOR NO KEY UPDATE"),
            ("SELECT nextval('polls')", "nextval()"),
        ] {
            assert_eq!(traits(sql).writes.as_deref(), Some(words), "{sql}");
        }
        for sql in [
            "SELECT count(*) FROM job WHERE kind = 'DELETE FROM x' AND update > now()",
            "SELECT \"insert\" FROM t LIMIT 1 -- INSERT INTO",
            "SELECT substring(a FOR 3) FROM t LIMIT 1",
        ] {
            assert_eq!(traits(sql).writes, None, "{sql}");
        }
    }

    #[test]
    fn one_row_is_told_from_several() {
        for one in [
            "SELECT count(*) FROM job",
            "SELECT COALESCE(sum(size), 0)::int / 10 FROM job",
            "SELECT (count(*) + 1) FROM job",
            "SELECT ceil(COUNT(*)::decimal / 16) FROM task WHERE state = 'queued' OR state = 'running'",
            "SELECT depth FROM queue_depth ORDER BY at DESC LIMIT 1",
            "SELECT depth FROM queue_depth FETCH FIRST 1 ROW ONLY",
            "WITH w AS (SELECT id FROM job GROUP BY id) SELECT count(*) FROM w",
            "SELECT CASE WHEN EXISTS (SELECT FROM job) THEN 1 ELSE 0 END",
            "SELECT 1",
        ] {
            assert!(!traits(one).several_rows, "{one}");
        }
        for several in [
            "SELECT count(*) FROM job GROUP BY queue",
            "SELECT depth FROM queue_depth",
            "SELECT depth FROM queue_depth LIMIT 10",
            "TABLE depth",
        ] {
            assert!(traits(several).several_rows, "{several}");
        }
    }

    #[test]
    fn the_rest_shows_in_words_outside_of_quotes() {
        let of = traits;
        assert!(of("SELECT max(age) FROM job").may_be_null);
        assert!(!of("SELECT coalesce(max(age), 0) FROM job").may_be_null);
        assert!(of("SELECT count(*) FROM pg_stat_activity").reads_statistics);
        assert!(!of("SELECT count(*) FROM job WHERE a = 'pg_stat_activity'").reads_statistics);
        assert!(of("SELECT count(*) FROM job WHERE owner = current_user").depends_on_role);
        for sql in [
            "SELECT count(*) - 5 FROM job",
            "SELECT 10 - (SELECT count(*) FROM job)",
            "SELECT (sum(a) - sum(b)) FROM job",
        ] {
            assert!(of(sql).subtracts, "{sql}");
        }
        for sql in [
            "SELECT count(*) FROM job -- all",
            "SELECT count(*) FROM job WHERE at < now() - interval '1 hour' AND n > 7 - 3",
            "SELECT count(*) FILTER (WHERE at < now() - '1 hour'::interval) FROM job",
            "SELECT sum((payload ->> 'n')::int) FROM job",
            "SELECT greatest(count(*) - 5, 0) FROM job",
        ] {
            assert!(!of(sql).subtracts, "{sql}");
        }
    }
}
