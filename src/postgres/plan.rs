//! How the server would go about a statement: its plan, and the relations that it reads.

use std::{collections::BTreeMap, error::Error as StdError};

use futures_util::TryStreamExt;
use serde_json::Value as Json;
use tokio_postgres::{
    Client, Error,
    types::{FromSql, Type},
};

use super::Statement;
use crate::query::Value;

/// What there is to know about relations, by schema and name; those of the same name in other
/// schemas too, since `search_path` may have found the wrong one.
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
    /// The whole cost, in the planner's unit: reading one page in sequence is 1.
    pub cost: f64,
    /// How many rows the planner expects.
    pub rows: f64,
    /// What it reads, by name. What functions read is not seen.
    pub relations: Vec<Relation>,
}

/// A table that a plan reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Relation {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Whether the plan reads it from end to end.
    pub is_scanned_whole: bool,
    /// How many rows it has, as its latest ANALYZE found; absent: never analysed.
    pub rows: Option<f64>,
    /// Its size.
    pub bytes: i64,
    /// Whether policies could hide rows.
    pub row_security: RowSecurity,
    /// Schemas that have another relation of this name.
    pub namesakes: Vec<String>,
}

/// Row level security of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowSecurity {
    /// There is none.
    Off,
    /// It is on, and the role stands above it: otherwise the statement would have failed (42501).
    Bypassed,
}

impl Plan {
    /// Asks the server, in the transaction that is open.
    pub(super) async fn of(
        client: &Client,
        statement: &Statement,
        parameters: &[Value<'_>],
    ) -> Result<Option<Self>, Error> {
        let rows: Vec<_> = statement.explain(client, parameters).await?.try_collect().await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let Document(document) = row.try_get(0)?;
        Ok(Self::read(&document))
    }

    /// Reads `EXPLAIN (VERBOSE, FORMAT JSON)`.
    fn read(document: &Json) -> Option<Self> {
        let root = document.get(0)?.get("Plan")?;
        let mut relations = BTreeMap::new();
        collect(root, &mut relations);
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
        })
    }
}

impl Relation {
    /// Adds what the catalog knows, in the transaction that is open.
    pub(super) async fn describe(client: &Client, relations: &mut [Self]) -> Result<(), Error> {
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

/// The relations of a node and of those below it, each with whether any node reads it whole.
fn collect(node: &Json, relations: &mut BTreeMap<(String, String), bool>) {
    let text = |key| node.get(key).and_then(Json::as_str).map(str::to_owned);
    if let (Some(schema), Some(name)) = (text("Schema"), text("Relation Name")) {
        *relations.entry((schema, name)).or_default() |= text("Node Type").is_some_and(|kind| kind == "Seq Scan");
    }
    for child in node.get("Plans").and_then(Json::as_array).into_iter().flatten() {
        collect(child, relations);
    }
}

/// A column of type json.
struct Document(Json);

impl<'a> FromSql<'a> for Document {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(serde_json::from_slice(raw)?))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSON
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
        let plan = Plan::read(&document).expect("a plan");
        let relations: Vec<_> =
            plan.relations.iter().map(|relation| (&*relation.name, relation.is_scanned_whole)).collect();
        assert_eq!((plan.cost, plan.rows), (12.5, 1.0));
        assert_eq!(relations, [("done", false), ("job", true)]);
    }

    #[test]
    fn what_is_no_plan_is_none() {
        for document in [json!(null), json!([]), json!([{"Plan": {"Plan Rows": 1}}])] {
            assert_eq!(Plan::read(&document), None, "{document}");
        }
    }
}
