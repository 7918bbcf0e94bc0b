//! The grants that a query needs: the relations that its text names, and which of them the role may not read.
//!
//! A plan cannot say it: the server makes none for a role that may not read, and a plan shows the tables behind a view,
//! which need no grant. So the statement is only parsed, which takes its locks, and the locks are looked up.

use postgres_protocol::escape::escape_identifier;
use tokio_postgres::{Client, Error, types::Type};

use super::Statement;

/// The name of the statement that is only parsed.
const PREPARED: &str = "clapometer_check_grants";

/// The relations that this transaction has locked, system catalogs and what is only behind a view aside, quoted, and
/// whether the role may read each.
const LOCKED: &str = "\
WITH locked AS (SELECT DISTINCT l.relation AS oid FROM pg_catalog.pg_locks AS l \
WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation') \
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), \
pg_catalog.has_table_privilege(c.oid, 'SELECT') \
FROM locked JOIN pg_catalog.pg_class AS c ON c.oid = locked.oid \
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
AND NOT EXISTS (SELECT FROM pg_catalog.pg_rewrite AS r JOIN pg_catalog.pg_depend AS d \
ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid \
JOIN locked AS view ON view.oid = r.ev_class \
WHERE d.refobjid = c.oid AND r.ev_class <> c.oid) \
ORDER BY 1";

/// The schema that the role may not use and whose name is in a message of the server, quoted; of several the longest.
const SCHEMA: &str = "\
SELECT quote_ident(n.nspname) FROM pg_namespace AS n \
WHERE NOT has_schema_privilege(n.oid, 'USAGE') AND strpos($1, n.nspname) > 0 \
ORDER BY length(n.nspname) DESC LIMIT 1";

/// A relation that a statement names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its schema and name, quoted where that is needed.
    pub name: String,
    /// True if the role may read it.
    pub is_readable: bool,
}

/// Returns the relations that a statement names, in the transaction that is open.
pub(super) async fn relations(client: &Client, statement: &Statement) -> Result<Vec<Named>, Error> {
    let types: Vec<String> = statement.parameter_types().map(|kind| name_of(&kind)).collect();
    let types = if types.is_empty() { String::new() } else { format!(" ({})", types.join(", ")) };
    let text = statement.text();
    // Each by the protocol that takes one statement only. The name is removed before another session could meet it.
    client.query_typed(&format!("PREPARE {PREPARED}{types} AS {text}"), &[]).await?;
    let rows = client.query_typed(LOCKED, &[]).await?;
    client.query_typed(&format!("DEALLOCATE {PREPARED}"), &[]).await?;
    rows.iter().map(|row| Ok(Named { name: row.try_get(0)?, is_readable: row.try_get(1)? })).collect()
}

/// Returns the schema that a message of the server says the role may not use.
pub(super) async fn schema(client: &Client, message: &str) -> Result<Option<String>, Error> {
    let rows = client.query_typed(SCHEMA, &[(&message, Type::TEXT)]).await?;
    rows.first().map(|row| row.try_get(0)).transpose()
}

/// Returns the statement that lets a role read relations.
pub(super) fn grant_select<'a>(relations: impl IntoIterator<Item = &'a str>, role: &str) -> Option<String> {
    let names: Vec<&str> = relations.into_iter().collect();
    (!names.is_empty()).then(|| format!("GRANT SELECT ON {} TO {};", names.join(", "), identifier(role)))
}

/// Returns the statement that lets a role use a schema.
pub(super) fn grant_usage(schema: &str, role: &str) -> String {
    format!("GRANT USAGE ON SCHEMA {schema} TO {};", identifier(role))
}

/// Quotes a name where it needs it.
pub(super) fn identifier(name: &str) -> String {
    let is_plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_plain { name.to_owned() } else { escape_identifier(name) }
}

fn name_of(kind: &Type) -> String {
    format!("pg_catalog.{}", kind.name())
}
