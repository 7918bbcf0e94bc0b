//! Keys of grouped queries that PostgreSQL takes for one although they are spelt in several ways.
//!
//! A trigger names one spelling. The rows of all spellings are counted under the one that PostgreSQL returns.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::{Client, Error, types::Type};

use super::{
    Statement,
    explain::{Explained, text},
};
use crate::query::{Value, sql};

/// The end of a statement, which says what is loose about the types and collations that come before: the domains' base
/// types, then the first that is known for it.
const CLASSIFIED: &str = "
  , base (type, collation_id) AS (
    SELECT key.type, key.collation_id FROM key
  UNION
    SELECT t.typbasetype, base.collation_id
      FROM base
      JOIN pg_catalog.pg_type AS t ON t.oid = base.type
     WHERE t.typbasetype <> 0
)
SELECT coalesce(
    (SELECT 'type ' || t.typname
       FROM base
       JOIN pg_catalog.pg_type AS t ON t.oid = base.type
      WHERE t.typname IN ('citext', 'numeric', 'interval', 'jsonb')
      LIMIT 1),
    (SELECT 'nondeterministic collation ' || c.collname
       FROM base
       JOIN pg_catalog.pg_collation AS c ON c.oid = base.collation_id
      WHERE NOT c.collisdeterministic
      LIMIT 1))";

/// The types of columns of tables, given as schemas, tables and columns.
const COLUMNS: &str = "\
-- clapometer check: grouped columns
WITH RECURSIVE key (type, collation_id) AS (
    SELECT a.atttypid, a.attcollation
      FROM unnest($1::text[], $2::text[], $3::text[]) AS grouped (schema_name, relation_name, column_name)
      JOIN pg_catalog.pg_namespace AS n ON n.nspname = grouped.schema_name
      JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = grouped.relation_name
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = grouped.column_name
)";

/// Returns what makes one key of several spellings, if something does: the column that the query returns, or one by
/// which its plan groups.
pub(super) async fn of(
    client: &Client,
    statement: &Statement,
    parameters: &[Value],
    plan: &Explained,
) -> Result<Option<String>, Error> {
    let Some(column) = &statement.query.group_by else { return Ok(None) };
    let text = returned(column, &statement.query.sql);
    let rows: Vec<_> = statement.send_instead(client, &text, parameters).await?.try_collect().await?;
    if let Some(loose) = rows.first().map(|row| row.try_get::<_, Option<String>>(0)).transpose()?.flatten() {
        return Ok(Some(loose));
    }
    let columns = grouped_columns(plan);
    let part = |part: fn(&[String; 3]) -> &String| columns.iter().map(part).collect::<Vec<_>>();
    let (schemas, relations, names) = (part(|[schema, ..]| schema), part(|[_, name, _]| name), part(|[.., name]| name));
    let arrays: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
        [(&schemas, Type::TEXT_ARRAY), (&relations, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY)];
    let rows = client.query_typed(&format!("{COLUMNS}{CLASSIFIED}"), &arrays).await?;
    Ok(rows.first().map(|row| row.try_get(0)).transpose()?.flatten())
}

/// Returns the statement that asks for the key's type without reading a row.
fn returned(column: &str, sql: &str) -> String {
    let (column, sql) = (escape_identifier(column), sql::without_terminator(sql));
    format!(
        "\
-- clapometer check: grouped key
WITH RECURSIVE key (type, collation_id) AS (
    SELECT pg_typeof(one.key)::oid,
           CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_type AS t WHERE t.oid = pg_typeof(one.key) AND t.typcollation <> 0)
                THEN pg_collation_for(one.key)::regcollation::oid END
      FROM (SELECT (SELECT q.{column} FROM (
{sql}
) AS q LIMIT 0) AS key) AS one
){CLASSIFIED}"
    )
}

/// Returns schema, table and name of each column by which a plan groups.
fn grouped_columns(plan: &Explained) -> Vec<[String; 3]> {
    let nodes = plan.nodes();
    let scans: BTreeMap<&str, (&str, &str)> = nodes
        .iter()
        .filter_map(|node| Some((text(node, "Alias")?, (text(node, "Schema")?, text(node, "Relation Name")?))))
        .collect();
    let keys = nodes.iter().filter_map(|node| node.get("Group Key")?.as_array()).flatten();
    keys.filter_map(|key| {
        let (alias, column) = key.as_str()?.rsplit_once('.')?;
        let (schema, relation) = scans.get(alias.trim_matches('"'))?;
        Some([(*schema).to_owned(), (*relation).to_owned(), column.trim_matches('"').to_owned()])
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_columns_of_a_group_are_found_by_the_alias_of_their_table() {
        let plan = json!([{"Plan": {
            "Node Type": "Aggregate", "Group Key": ["j.\"Queue\"", "lower(j.name)", "o.x"],
            "Plans": [{"Node Type": "Seq Scan", "Schema": "app", "Relation Name": "job", "Alias": "j"}],
        }}]);
        assert_eq!(grouped_columns(&plan.into()), [["app", "job", "Queue"].map(str::to_owned)]);
    }
}
