//! The template for a table of the user's own. What nobody knows is a comment where its answer belongs.

use super::{
    Parts, configuration,
    draft::{Place, SCALER, slug},
    example, grants,
    manifest::{self, Scaled},
    page::comment,
    steps::Steps,
};
use crate::{
    postgres::{Indexing, Table},
    presets::Workers,
    terminal::text::printable,
};

/// The query's name where the table's is none.
const QUERY: &str = "jobs";

/// The most rows that the query counts, as in the README and in deploy/examples/own-table.
const LIMIT: u32 = 10_000;

/// The template for a table that is known.
pub(super) fn of(place: &Place, table: &Table) -> Parts {
    let name = match slug(&table.name) {
        name if name.is_empty() => QUERY.to_owned(),
        name => name,
    };
    let columns = table.columns.iter().map(|column| {
        let null = if column.may_be_null { ", may be NULL" } else { "" };
        format!("  # {}  {}{null}", column.name_in_sql, column.kind)
    });
    let columns: String = columns.map(|line| printable(&line) + "\n").collect();
    let reading = grants::Reading {
        what: &table.name,
        schema: &table.schema_in_sql,
        tables: vec![&table.name_in_sql],
        has_row_security: table.has_row_security,
    };
    Parts {
        found: vec![format!(
            "{} is a table of your own: nobody but you knows what its rows mean. The open questions below are comments, \
             and `clapometer check` says which of them are left.",
            table.name_in_sql
        )],
        config: configuration::text(place, &queries(&name, table, &columns)),
        sql: grants::text(place, &[reading]),
        manifest: objects(&name),
        steps: Steps::of(place, false),
    }
}

/// Writes the query. Its SQL is wrong until every question is answered: a count of the wrong rows must not look right.
fn queries(name: &str, table: &Table, columns: &str) -> String {
    let remarks = remarks(table);
    let outstanding =
        remark("Does a worker run until it is stopped? Then it must stay while it holds a row: outstanding.");
    let claimable = remark("Does it take one row and exit? Then none may start that finds nothing: claimable.");
    let clock =
        remark("Does a number change by the clock alone, such as when a retry is due? docs/notify.md has an example:");
    let table = &table.name_in_sql;
    format!(
        "queries:\n{columns}  {name}:\n{remarks}    sql: |-\n      \
         SELECT count(*) FILTER (WHERE /* Which rows could a worker take now? */) AS claimable,\n             \
         count(*) AS outstanding\n      \
         FROM (SELECT *\n            \
         FROM {table}\n            \
         WHERE /* Which rows wait, or does a worker hold? Not those that are done */\n            \
         LIMIT {LIMIT}) AS open\n    \
         value_column: outstanding\n\
         {outstanding}{claimable}    activity_column: /* outstanding or claimable? */\n\
         {clock}    #   next_change: the column of the SQL that says when the next one does\n"
    )
}

/// Says what NULL does, why the query has a LIMIT, and which index serves it.
fn remarks(table: &Table) -> String {
    let limit = "The LIMIT keeps a reading cheap however long the queue is. It changes no decision of KEDA while it is \
                 above maxReplicaCount times the target.";
    let of = match table.indexing {
        Indexing::Concurrent | Indexing::Locking => "",
        Indexing::Elsewhere => " of the table behind it",
    };
    let index = format!(
        "An index{of} keeps it cheap however long the history is. Its WHERE is the inner one without now(), its columns \
         are those that are compared with now(), else any one. {}",
        example::of_rows(table)
    );
    let null = example::of_null(table);
    let null = if null.is_empty() { null } else { remark(&null) };
    null + &remark(limit) + &remark(&index) + &format!("    #   {}\n", example::of_index(table))
}

/// Writes a comment about a key of the query.
fn remark(text: &str) -> String {
    comment("    #", text)
}

/// Writes both objects as comments: which one it is, is the first question.
fn objects(query: &str) -> String {
    let object = |workers, name: &str| {
        let object = manifest::object(&Scaled {
            workers,
            name: format!("# {name}"),
            image: "# Which image?".to_owned(),
            most: "# How many at most?".to_owned(),
            share: match workers {
                Workers::LongLived => "# How many rows for each worker? In quotes".to_owned(),
                Workers::OneRow => "\"1\"".to_owned(),
            },
            scaler: format!("# Which address, with its port? As shipped: {SCALER}"),
            queries: vec![query],
        });
        object.lines().map(|line| format!("# {line}\n")).collect::<String>()
    };
    format!(
        "{}{}---\n{}{}",
        comment("#", "Does a worker run until it is stopped, and take one row after another? Then:"),
        object(Workers::LongLived, "Which Deployment?"),
        comment("#", "Does it take one row and exit? Then:"),
        object(Workers::OneRow, "Which name?")
    )
}
