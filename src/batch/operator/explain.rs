//! `explain`: the plans of the scaling and claim statements, and whether one would read a whole table.
//!
//! The statements are planned with sequential scans switched off. The planner reads a small table from end to end
//! because that is cheapest; the question here is whether an index carries the statement once the table is large.

use std::{collections::BTreeSet, fmt::Write as _};

use serde_json::Value;
use tokio_postgres::{Client, types::Type};

use super::{Answer, View, by};
use crate::{
    batch::{
        store::Statement,
        transaction::{Error, Parameter, Transactions},
    },
    postgres::{
        explain::{Explained, text as node_text},
        invalid_index::InvalidIndex,
    },
    terminal::style::{ColorChoice, Style},
};

/// The scaler's statement.
const SCALING: &str = include_str!("../store/operator/scaling.sql");

/// The tables that grow.
const TABLES: [&str; 3] = ["make_it_clap", "clap", "clap_attempt"];

/// Lists the partial indexes. Reading one from end to end is what they are for.
const PARTIAL_INDEXES: &str = include_str!("../store/operator/partial_indexes.sql");

/// Lists the tables that hold nothing and have all their indexes, and these indexes. The planner may read such a table
/// in any way, since each costs nothing.
const EMPTY_TABLES: &str = include_str!("../store/operator/empty_tables.sql");

/// Lists the indexes of the tables.
const INDEXES: &str = include_str!("../store/operator/indexes.sql");

/// The statements that make the indexes, each on a line of its own.
const CREATE_INDEXES: &str = include_str!("../../../migrations/0002_indexes.sql");

/// Reads the text of a function. $1 its name.
const FUNCTION: &str = include_str!("../store/operator/function.sql");

/// The plan of one statement.
#[derive(Debug)]
struct Plan {
    name: &'static str,
    text: Vec<String>,
    whole_tables: Vec<String>,
}

/// Explains every statement that runs for each poll or each claim.
///
/// # Errors
/// Those of [`Transactions::run`].
pub(super) async fn explain(transactions: &mut Transactions, view: View) -> Result<Answer, Error> {
    let explained = explained(transactions).await;
    transactions.abandon();
    let (plans, remedies) = explained?;
    let complete = plans.iter().all(|plan| plan.whole_tables.is_empty());
    let text = match view {
        View::Json => {
            let documents: Vec<Value> = plans
                .iter()
                .map(|plan| {
                    serde_json::json!({
                        "statement": plan.name,
                        "scans_whole_tables": plan.whole_tables,
                        "plan": plan.text,
                    })
                })
                .collect();
            format!("{}\n", Value::Array(documents))
        }
        View::Human { colors, .. } => human(&plans, &remedies, colors),
    };
    Ok(Answer { text, complete })
}

/// Writes the verdict, what to do, and the plans.
fn human(plans: &[Plan], remedies: &[String], colors: ColorChoice) -> String {
    let bad_ones: Vec<&str> = plans.iter().filter(|plan| !plan.whole_tables.is_empty()).map(|plan| plan.name).collect();
    let (all, arrow) = (plans.len(), colors.paint(Style::Quiet, "->"));
    let mut text = if bad_ones.is_empty() {
        let verdict = colors.paint(Style::Good, "none scans a whole table");
        format!("{all} statements: {verdict}\n")
    } else {
        let verdict = colors.paint(Style::Bad, &format!("{} of {all} statements scan a whole table", bad_ones.len()));
        format!("{verdict}: {}\n", bad_ones.join(", "))
    };
    for remedy in remedies {
        let _ = writeln!(text, "{arrow} {remedy}");
    }
    if remedies.is_empty() && !bad_ones.is_empty() {
        let _ = writeln!(text, "{arrow} no index is missing: the plans below name what is read from end to end");
    }
    for plan in plans {
        let verdict = if plan.whole_tables.is_empty() {
            colors.paint(Style::Good, "uses its indexes")
        } else {
            colors.paint(Style::Bad, &format!("scans the whole of {}", plan.whole_tables.join(", ")))
        };
        let _ = writeln!(text, "\n{}: {verdict}", plan.name);
        for line in &plan.text {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}

async fn explained(transactions: &mut Transactions) -> Result<(Vec<Plan>, Vec<String>), Error> {
    let client = transactions.begin(by()).await?;
    let remedies = remedies(client).await?;
    Ok((plans(client).await?, remedies))
}

/// Says what mends each index that is missing or invalid.
async fn remedies(client: &Client) -> Result<Vec<String>, Error> {
    let mut present = BTreeSet::new();
    for row in client.query_typed(INDEXES, &[]).await? {
        present.insert(row.try_get::<_, String>("name")?);
    }
    let row = client.query_typed_one("SELECT current_schema()::text, quote_ident(current_schema())", &[]).await?;
    let (schema, schema_in_sql): (String, &str) = (row.try_get(0)?, row.try_get(1)?);
    let missing = missing(&present, schema_in_sql).into_iter();
    let mut remedies: Vec<String> = missing.map(|create| format!("an index is missing: {create}")).collect();
    let invalid = InvalidIndex::of_tables(client, &TABLES.map(|_| schema.clone()), &TABLES.map(str::to_owned)).await?;
    remedies.extend(invalid.iter().map(|index| format!("{}: {}", index.problem(), index.remedy())));
    Ok(remedies)
}

/// Returns the statement for each index that is not there, to be run beside readers and writers.
fn missing(present: &BTreeSet<String>, schema: &str) -> Vec<String> {
    let statements = CREATE_INDEXES.lines().filter_map(|line| line.split_once(';')).map(|(statement, _)| statement);
    statements
        .filter_map(|statement| {
            let statement = statement.split_whitespace().collect::<Vec<_>>().join(" ");
            let (create, rest) = statement.split_once(" INDEX ")?;
            let (name, on) = rest.split_once(" ON ")?;
            let is_present = present.contains(name);
            (!is_present).then(|| format!("{create} INDEX CONCURRENTLY {name} ON {schema}.{on};"))
        })
        .collect()
}

async fn plans(client: &Client) -> Result<Vec<Plan>, Error> {
    client.query_typed("SELECT set_config('enable_seqscan', 'off', true)", &[]).await?;
    let mut harmless = BTreeSet::new();
    for sql in [PARTIAL_INDEXES, EMPTY_TABLES] {
        for row in client.query_typed(sql, &[]).await? {
            harmless.insert(row.try_get::<_, String>("name")?);
        }
    }
    let (take, succeed) = (function(client, "clap_take").await?, function(client, "clap_succeed").await?);
    let (one, text, seconds) = (1_i64, "explain", 60_f64);
    let claim = |unless_due| -> [Parameter<'_>; 8] {
        [
            (&one, Type::INT8),
            (&text, Type::TEXT),
            (&text, Type::TEXT),
            (&text, Type::TEXT),
            (&text, Type::TEXT),
            (&seconds, Type::FLOAT8),
            (unless_due, Type::BOOL),
            (&true, Type::BOOL),
        ]
    };
    let (fast, fresh) = (claim(&true), claim(&false));
    let renew: [Parameter<'_>; 3] = [(&one, Type::INT8), (&one, Type::INT8), (&seconds, Type::FLOAT8)];
    let asked: [(&'static str, &str, &[Parameter<'_>]); 11] = [
        ("scaling", SCALING, &[]),
        ("fast", &take, &fast),
        ("mark_dead", Statement::MarkDead.sql(), &[(&text, Type::TEXT)]),
        ("resume", Statement::Resume.sql(), &fast[..6]),
        ("take_over", Statement::TakeOver.sql(), &fast[..6]),
        ("fresh", &take, &fresh),
        ("unread", Statement::Unread.sql(), &fast[..6]),
        ("request", Statement::Request.sql(), &fast[..1]),
        ("previous_clap", Statement::PreviousClap.sql(), &[(&text, Type::TEXT)]),
        ("renew", Statement::Renew.sql(), &renew),
        ("succeed", &succeed, &renew[..2]),
    ];
    let mut plans = Vec::new();
    for (name, sql, parameters) in asked {
        plans.push(plan(client, name, sql, parameters, &harmless).await?);
    }
    Ok(plans)
}

/// Returns the query by which an installed function finds its rows, as [`searching`] does.
async fn function(client: &Client, name: &str) -> Result<String, Error> {
    let rows = client.query_typed(FUNCTION, &[(&name, Type::TEXT)]).await?;
    let body: &str = rows.first().map_or(Ok(""), |row| row.try_get("prosrc"))?;
    Ok(searching(body))
}

/// Returns the query that finds the rows of a function: the last one that selects into `picked`, else the one whose
/// rows the function returns.
fn searching(body: &str) -> String {
    if let Some((before, after)) = body.rsplit_once("INTO picked") {
        let select = before.rfind("SELECT").map_or(before, |start| &before[start..]);
        let rest = after.split_once(';').map_or(after, |(rest, _)| rest);
        return format!("{select}{rest}");
    }
    let statement = body.split_once("RETURN QUERY").map_or(body, |(_, statement)| statement);
    statement.rsplit_once(';').map_or(statement, |(statement, _)| statement).to_owned()
}

async fn plan(
    client: &Client,
    name: &'static str,
    sql: &str,
    parameters: &[Parameter<'_>],
    harmless: &BTreeSet<String>,
) -> Result<Plan, Error> {
    let mut text = Vec::new();
    for row in client.query_typed(&format!("EXPLAIN {sql}"), parameters).await? {
        text.push(row.try_get(0)?);
    }
    let json = client.query_typed(&format!("EXPLAIN (FORMAT JSON) {sql}"), parameters).await?;
    let whole_tables = match json.first() {
        Some(row) => whole_tables(&row.try_get(0)?, harmless),
        None => Vec::new(),
    };
    Ok(Plan { name, text, whole_tables })
}

/// Returns every table or full index that some node reads from end to end, but for the harmless ones.
fn whole_tables(explained: &Explained, harmless: &BTreeSet<String>) -> Vec<String> {
    let mut whole = Vec::new();
    for node in explained.nodes() {
        let found = |kind| node_text(node, kind).filter(|name| !harmless.contains(*name));
        let table = found("Relation Name").filter(|table| TABLES.contains(table));
        let index = found("Index Name");
        match (node_text(node, "Node Type"), table, index) {
            (Some("Seq Scan"), Some(table), _) => whole.push(table.to_owned()),
            (_, _, Some(index)) if node.get("Index Cond").is_none() => whole.push(index.to_owned()),
            _ => {}
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(plan: Value) -> Vec<String> {
        let plan = serde_json::json!([{ "Plan": plan }]);
        whole_tables(&plan.into(), &BTreeSet::from(["clap_active_idx".to_owned()]))
    }

    #[test]
    fn a_whole_table_is_found_however_deep_it_is() {
        let scan = serde_json::json!({"Node Type": "Seq Scan", "Relation Name": "clap"});
        let plan = serde_json::json!({"Node Type": "Limit", "Plans": [{"Node Type": "Sort", "Plans": [scan]}]});
        assert_eq!(whole(plan), ["clap"]);
    }

    #[test]
    fn each_index_of_the_migration_has_its_statement() {
        let all = missing(&BTreeSet::new(), "app");
        assert_eq!(all.len(), 8, "{all:?}");
        let last = "CREATE UNIQUE INDEX CONCURRENTLY clap_attempt_one_running ON app.clap_attempt (clap_id) \
                    WHERE outcome = 'RUNNING';";
        assert_eq!(all[7], last);
        assert_eq!(missing(&BTreeSet::from(["clap_attempt_one_running".to_owned()]), "app"), all[..7]);
    }

    #[test]
    fn walking_a_full_index_without_a_condition_is_walking_the_table() {
        let scan = |index: &str| serde_json::json!({"Node Type": "Index Scan", "Index Name": index});
        assert_eq!(whole(scan("clap_pkey")), ["clap_pkey"]);
        assert!(whole(scan("clap_active_idx")).is_empty());
        let found = serde_json::json!({"Node Type": "Index Scan", "Index Name": "clap_pkey", "Index Cond": "(id = 1)"});
        assert!(whole(found).is_empty());
    }
}
