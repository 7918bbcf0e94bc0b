//! The server's plan for a statement, and the relations that it reads.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use serde_json::Value as Json;
use tokio_postgres::{Client, Error, types::Type};

use super::{
    Statement,
    called::Function,
    caveats::Caveat,
    connect,
    explain::{Explained, text},
    invalid_index::InvalidIndex,
    loose_key,
    masked::PLAIN_NAMES,
};
use crate::query::Value;

/// The catalog's knowledge about relations, by schema and name, with the other schemas that have a
/// relation of the same name: `search_path` may have found the wrong one.
const RELATIONS: &str = "\
-- clapometer check: relations
SELECT asked.place::int4,
       c.reltuples::float8,
       pg_table_size(c.oid),
       c.relrowsecurity,
       ARRAY(SELECT other_schema.nspname::text
               FROM pg_class AS other
               JOIN pg_namespace AS other_schema ON other_schema.oid = other.relnamespace
              WHERE other.relname = c.relname
                AND other.oid <> c.oid
                AND other.relkind IN ('r', 'p', 'v', 'm', 'f')
                AND other_schema.nspname !~ '^pg_'
              ORDER BY other_schema.nspname
              LIMIT 10)
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (schema_name, relation_name, place)
  JOIN pg_namespace AS n ON n.nspname = asked.schema_name
  JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = asked.relation_name";

/// A statement's plan, as far as an operator wants to know.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The total cost, in the planner's unit: reading one page in sequence is 1.
    pub cost: f64,
    /// The number of rows that the planner expects.
    pub rows: f64,
    /// The relations that it reads, by name. A plan does not show what functions read.
    pub relations: Vec<Relation>,
    /// The functions that it calls.
    pub functions: Vec<Function>,
    /// The type or the collation that makes one key of several spellings.
    pub loose_key: Option<String>,
    /// The number of rows that a LIMIT lets an aggregate have; none where the planner expects no more than it allows.
    pub cap: Option<f64>,
    /// The reasons why a count can be another than the rows that there are now.
    pub caveats: Vec<Caveat>,
    /// The indexes of its relations that no query uses.
    pub invalid_indexes: Vec<InvalidIndex>,
    /// The error because of which something of it was not looked at.
    pub unseen: Option<String>,
}

/// A table that a plan reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Relation {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// True if the plan reads it from end to end.
    pub is_scanned_whole: bool,
    /// The number of rows that the latest ANALYZE found; absent if there was none.
    pub rows: Option<f64>,
    /// Its size in bytes.
    pub bytes: i64,
    /// The row level security, by which policies could hide rows.
    pub row_security: RowSecurity,
    /// Schemas that have another relation of this name.
    pub namesakes: Vec<String>,
}

/// Row level security of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowSecurity {
    /// There is none.
    Off,
    /// It is on, and the role bypasses it: otherwise the statement would have failed (42501).
    Bypassed,
}

impl Plan {
    /// Asks the server, in the transaction that is open.
    pub(super) async fn of(
        client: &Client,
        statement: &Statement,
        parameters: &[Value],
    ) -> Result<Option<Self>, Error> {
        client.batch_execute(PLAIN_NAMES).await?;
        let rows: Vec<_> = statement.explain(client, parameters).await?.try_collect().await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let explained: Explained = row.try_get(0)?;
        let Some(mut plan) = Self::read(&explained) else { return Ok(None) };
        Relation::describe(client, &mut plan.relations).await?;
        // A finding less is no reason to show no plan.
        let functions = Function::called_by(client, &explained, &statement.query.sql).await;
        plan.functions = plan.found(functions);
        let loose_key = loose_key::of(client, statement, parameters, &explained).await;
        plan.loose_key = plan.found(loose_key);
        let caveats = Caveat::of(client, &explained).await;
        plan.caveats = plan.found(caveats);
        let (schemas, names): (Vec<String>, Vec<String>) =
            plan.relations.iter().map(|relation| (relation.schema.clone(), relation.name.clone())).unzip();
        let invalid_indexes = InvalidIndex::of_tables(client, &schemas, &names).await;
        plan.invalid_indexes = plan.found(invalid_indexes);
        Ok(Some(plan))
    }

    /// Returns what was found, or notes why it was not. The first error counts: others are its echo in the transaction.
    fn found<T: Default>(&mut self, found: Result<T, Error>) -> T {
        found.unwrap_or_else(|error| {
            self.unseen.get_or_insert_with(|| connect::explain(&error));
            T::default()
        })
    }

    /// Reads `EXPLAIN (VERBOSE, FORMAT JSON)`.
    fn read(explained: &Explained) -> Option<Self> {
        let root = explained.root()?;
        let mut relations: BTreeMap<(String, String), bool> = BTreeMap::new();
        for node in explained.nodes() {
            if let (Some(schema), Some(name)) = (text(node, "Schema"), text(node, "Relation Name")) {
                let is_scanned_whole = relations.entry((schema.to_owned(), name.to_owned())).or_default();
                *is_scanned_whole |= text(node, "Node Type") == Some("Seq Scan");
            }
        }
        let relations = relations.into_iter().map(|((schema, name), is_scanned_whole)| Relation {
            schema,
            name,
            is_scanned_whole,
            rows: None,
            bytes: 0,
            row_security: RowSecurity::Off,
            namesakes: Vec::new(),
        });
        Some(Self {
            cost: root.get("Total Cost")?.as_f64()?,
            rows: root.get("Plan Rows")?.as_f64()?,
            relations: relations.collect(),
            functions: Vec::new(),
            loose_key: None,
            cap: cap(explained),
            caveats: Vec::new(),
            invalid_indexes: Vec::new(),
            unseen: None,
        })
    }
}

/// Finds an aggregate over a LIMIT, with nothing between them that makes other rows of its rows.
///
/// What a LIMIT is expected to return is its number only where more are expected below it.
fn cap(explained: &Explained) -> Option<f64> {
    let passes_on = ["Sort", "Incremental Sort", "Subquery Scan", "Gather", "Gather Merge"];
    let below = |node: &Json| {
        let mut plans = node.get("Plans").and_then(Json::as_array).into_iter().flatten();
        plans.find(|plan| matches!(text(plan, "Parent Relationship"), Some("Outer" | "Subquery"))).cloned()
    };
    let aggregates = explained.nodes().into_iter().filter(|node| text(node, "Node Type") == Some("Aggregate"));
    aggregates.filter_map(below).find_map(|mut node| {
        while passes_on.contains(&text(&node, "Node Type")?) {
            node = below(&node)?;
        }
        let rows = |node: &Json| node.get("Plan Rows")?.as_f64();
        let allowed = rows(&node).filter(|_| text(&node, "Node Type") == Some("Limit"))?;
        (allowed < rows(&below(&node)?)?).then_some(allowed)
    })
}

impl Relation {
    /// Adds what the catalog knows, in the transaction that is open.
    async fn describe(client: &Client, relations: &mut [Self]) -> Result<(), Error> {
        let schemas: Vec<&str> = relations.iter().map(|relation| relation.schema.as_str()).collect();
        let names: Vec<&str> = relations.iter().map(|relation| relation.name.as_str()).collect();
        let rows = client.query_typed(RELATIONS, &[(&schemas, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY)]).await?;
        for row in rows {
            let place: i32 = row.try_get(0)?;
            let index = usize::try_from(place).ok().and_then(|place| place.checked_sub(1));
            let Some(relation) = index.and_then(|index| relations.get_mut(index)) else { continue };
            relation.rows = Some(row.try_get(1)?).filter(|rows| *rows >= 0.0);
            relation.bytes = row.try_get(2)?;
            relation.row_security = if row.try_get(3)? { RowSecurity::Bypassed } else { RowSecurity::Off };
            relation.namesakes = row.try_get(4)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_read_twice_is_named_once_and_a_whole_scan_counts() {
        let scan = |kind: &str, name: &str| json!({"Node Type": kind, "Schema": "app", "Relation Name": name});
        let document = json!([{"Plan": {
            "Node Type": "Limit", "Total Cost": 12.5, "Plan Rows": 1,
            "Plans": [
                {"Node Type": "Append", "Plans": [scan("Index Scan", "job"), scan("Seq Scan", "job")]},
                scan("Index Only Scan", "done"),
            ],
        }}]);
        let plan = Plan::read(&document.into()).expect("a plan");
        let relations: Vec<_> =
            plan.relations.iter().map(|relation| (&*relation.name, relation.is_scanned_whole)).collect();
        assert_eq!((plan.cost, plan.rows), (12.5, 1.0));
        assert_eq!(relations, [("done", false), ("job", true)]);
    }

    #[test]
    fn an_aggregate_over_a_limit_is_capped_and_one_over_a_join_with_a_limit_is_not() {
        let scan = |rows: u32| json!({"Node Type": "Seq Scan", "Parent Relationship": "Outer", "Plan Rows": rows, "Total Cost": 1});
        let node = |kind: &str, plans: Json| json!({"Node Type": kind, "Parent Relationship": "Outer", "Plan Rows": 100, "Total Cost": 1, "Plans": plans});
        let limit = || node("Limit", json!([scan(101)]));
        let cap = |plan: Json| Plan::read(&json!([{"Plan": plan}]).into()).expect("a plan").cap;
        assert_eq!(cap(node("Limit", json!([node("Aggregate", json!([limit()]))]))), Some(100.0));
        assert_eq!(cap(node("Aggregate", json!([node("Subquery Scan", json!([limit()]))]))), Some(100.0));
        assert_eq!(cap(node("Aggregate", json!([node("Nested Loop", json!([limit(), limit()]))]))), None);
        assert_eq!(cap(node("Aggregate", json!([node("Limit", json!([scan(100)]))]))), None, "there are no more");
        assert_eq!(cap(node("Limit", json!([node("Aggregate", json!([scan(101)]))]))), None);
    }

    #[test]
    fn what_is_no_plan_is_none() {
        for document in [json!(null), json!([]), json!([{"Plan": {"Plan Rows": 1}}])] {
            assert_eq!(Plan::read(&document.clone().into()), None, "{document}");
        }
    }
}
