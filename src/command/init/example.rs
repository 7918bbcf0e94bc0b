//! An example of the rows that wait, with columns of the very table, and of the index that serves it.

use crate::postgres::{Column, Indexing, Table};

/// Parts of the names of columns that say from when a row may be taken, in lower case and without underscores.
const TIMES: [&str; 7] = ["runa", "next", "due", "schedul", "availab", "visible", "retry"];

/// Ends of the names of columns that say how far a row is.
const STATES: [&str; 3] = ["state", "status", "stage"];

/// Labels, in lower case, of rows that nobody waits for any more.
const DONE: [&str; 7] =
    ["'done'", "'completed'", "'complete'", "'finished'", "'succeeded'", "'success'", "'processed'"];

/// The example of a table that has no such columns.
const OTHER: (&str, &str) = ("state <> 'done' AND run_after <= now()", "(run_after) WHERE state <> 'done'");

/// Says what NULL does to a comparison. Empty where no column may be NULL.
pub(super) fn of_null(table: &Table) -> String {
    let may_be_null = |column: &&Column| column.may_be_null;
    let example = match time(&table.columns).filter(may_be_null) {
        Some(column) => from_now(column),
        None => match table.columns.iter().find(may_be_null) {
            Some(column) => format!("({} IS NULL OR ...)", column.name_in_sql),
            None => return String::new(),
        },
    };
    format!(
        "A comparison with NULL leaves the row out. Where a column may be NULL, say what NULL means, as in {example}."
    )
}

/// Says for which condition the example of an index is.
pub(super) fn of_rows(table: &Table) -> String {
    match own(&table.columns) {
        Some((rows, _)) => format!("For {rows} it is:"),
        None => format!("With columns state and run_after, for {} it is:", OTHER.0),
    }
}

/// Returns the statement that makes the index.
pub(super) fn of_index(table: &Table) -> String {
    let on = own(&table.columns).map_or_else(|| OTHER.1.to_owned(), |(_, on)| on);
    let name = &table.name_in_sql;
    match table.indexing {
        Indexing::Concurrent => format!("CREATE INDEX CONCURRENTLY ON {name} {on};"),
        Indexing::Locking => format!("CREATE INDEX ON {name} {on};  -- writers wait meanwhile: it is partitioned"),
        Indexing::Elsewhere => format!("CREATE INDEX CONCURRENTLY ON ... {on};"),
    }
}

/// Returns a condition of columns that the table has, and what an index for it is on.
fn own(columns: &[Column]) -> Option<(String, String)> {
    let state = columns.iter().find_map(|column| Some((column, not_done(column)?)));
    Some(match (state, time(columns)) {
        (Some((_, not_done)), Some(time)) => {
            (format!("{not_done} AND {}", from_now(time)), format!("({}) WHERE {not_done}", time.name_in_sql))
        }
        (Some((state, not_done)), None) => {
            let on = format!("({}) WHERE {not_done}", state.name_in_sql);
            (not_done, on)
        }
        (None, Some(time)) => (from_now(time), format!("({})", time.name_in_sql)),
        (None, None) => return None,
    })
}

fn folded(column: &Column) -> String {
    column.name.to_lowercase().replace('_', "")
}

/// Finds the column that says from when a row may be taken.
fn time(columns: &[Column]) -> Option<&Column> {
    columns.iter().find(|column| {
        let name = folded(column);
        let has_zone = column.kind.starts_with("timestamp") && column.kind.ends_with(" with time zone");
        has_zone && !name.contains("last") && TIMES.iter().any(|part| name.contains(part))
    })
}

fn from_now(time: &Column) -> String {
    let name = &time.name_in_sql;
    if time.may_be_null { format!("({name} IS NULL OR {name} <= now())") } else { format!("{name} <= now()") }
}

/// Returns the condition that a row is not done, if this is the column that says so.
fn not_done(column: &Column) -> Option<String> {
    let name = folded(column);
    if !STATES.iter().any(|end| name.ends_with(end)) {
        return None;
    }
    let done = match column.kind.split_once(": ") {
        Some((_, labels)) => {
            let lower = labels.to_ascii_lowercase();
            let (start, label) = DONE.iter().find_map(|label| Some((lower.find(label)?, label)))?;
            &labels[start..start + label.len()]
        }
        None if column.kind.starts_with("text") || column.kind.starts_with("character varying") => DONE[0],
        None => return None,
    };
    let differs = if column.may_be_null { "IS DISTINCT FROM" } else { "<>" };
    Some(format!("{} {differs} {done}", column.name_in_sql))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "timestamp with time zone";

    fn table(columns: &[(&str, &str, bool)]) -> Table {
        let column = |&(name, kind, may_be_null): &(&str, &str, bool)| Column {
            name: name.trim_matches('"').to_owned(),
            name_in_sql: name.to_owned(),
            kind: kind.to_owned(),
            may_be_null,
        };
        Table {
            schema: "public".to_owned(),
            name: "jobs".to_owned(),
            schema_in_sql: "public".to_owned(),
            name_in_sql: "public.jobs".to_owned(),
            has_row_security: false,
            columns: columns.iter().map(column).collect(),
            indexing: Indexing::Concurrent,
        }
    }

    #[test]
    fn an_example_has_columns_of_the_very_table_and_minds_those_that_may_be_null() {
        let at = [("created_at", TIME, false), ("last_run_at", TIME, true)];
        for (columns, rows, on) in [
            (vec![], "With columns state and run_after, for state <> 'done' AND run_after <= now() it is:", OTHER.1),
            (
                vec![("state", "text", false), ("run_after", TIME, false)],
                "For state <> 'done' AND run_after <= now() it is:",
                OTHER.1,
            ),
            (
                vec![("\"Status\"", "job_status: 'NEW', 'DONE'", true), ("next_retry", TIME, true)],
                "For \"Status\" IS DISTINCT FROM 'DONE' AND (next_retry IS NULL OR next_retry <= now()) it is:",
                "(next_retry) WHERE \"Status\" IS DISTINCT FROM 'DONE'",
            ),
            (
                vec![("status", "character varying(9)", false)],
                "For status <> 'done' it is:",
                "(status) WHERE status <> 'done'",
            ),
            (vec![("run_at", "timestamp(3) with time zone", false)], "For run_at <= now() it is:", "(run_at)"),
            (
                vec![("state", "integer", false), ("run_at", "timestamp without time zone", false)],
                "With columns state and run_after, for state <> 'done' AND run_after <= now() it is:",
                OTHER.1,
            ),
        ] {
            let table = table(&[&at[..], &columns].concat());
            assert_eq!(of_rows(&table), rows);
            assert_eq!(of_index(&table), format!("CREATE INDEX CONCURRENTLY ON public.jobs {on};"));
        }
    }

    #[test]
    fn what_null_does_is_said_where_a_column_may_be_null() {
        let run_after = ("run_after", TIME, true);
        for (columns, example) in [
            (vec![("locked_by", "text", true), run_after], "as in (run_after IS NULL OR run_after <= now())."),
            (vec![("locked_by", "text", true)], "as in (locked_by IS NULL OR ...)."),
        ] {
            assert!(of_null(&table(&columns)).ends_with(example), "{}", of_null(&table(&columns)));
        }
        assert_eq!(of_null(&table(&[("id", "bigint", false)])), "");
    }
}
