//! A survey of a database: tables by their names, a role, and texts that a statement lists.
//!
//! Each question is a read-only transaction of its own, with a limit, and asks the catalog, which every role may read.

use tokio::{join, time::timeout};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{CONNECT, Inspector, QueryError};
use crate::{
    fault::Fault,
    postgres::{Cause, OVERTIME},
    terminal::text::moves_cursor,
};

/// The beginning of each transaction. A policy that would hide rows is an error, as for readings.
const BEGIN: &str = "\
BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SET LOCAL statement_timeout = '5s'; SET LOCAL lock_timeout = '1s'; \
SET LOCAL idle_in_transaction_session_timeout = '5s'; SET LOCAL row_security = off";

const TABLES: &str = "\
-- clapometer init: tables
SELECT n.nspname::text,
       c.relname::text,
       quote_ident(n.nspname),
       quote_ident(c.relname),
       c.relrowsecurity,
       ARRAY(SELECT a.attname::text
               FROM pg_catalog.pg_attribute AS a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum),
       ARRAY(SELECT quote_ident(a.attname)
               FROM pg_catalog.pg_attribute AS a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum),
       ARRAY(SELECT format_type(a.atttypid, a.atttypmod)
                    || coalesce(': ' || (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
                                           FROM pg_catalog.pg_enum AS e
                                          WHERE e.enumtypid = a.atttypid), '')
               FROM pg_catalog.pg_attribute AS a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum),
       ARRAY(SELECT NOT (a.attnotnull OR t.typnotnull)
               FROM pg_catalog.pg_attribute AS a
               JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum),
       c.relkind
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
   AND c.relname = ANY ($1)
   AND n.nspname !~ '^pg_'
   AND n.nspname <> 'information_schema'
 ORDER BY n.nspname, c.relname";

const NAMES: &str = "\
-- clapometer init: names
SELECT n.nspname::text, c.relname::text
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
   AND NOT c.relispartition
   AND n.nspname !~ '^pg_'
   AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT
                     FROM pg_catalog.pg_depend AS d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY n.nspname <> $1, n.nspname, c.relname
 LIMIT $2";

const TABLES_LIKE: &str = "\
-- clapometer init: tables of a schema
SELECT c.relname::text
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p')
   AND n.nspname = $1
   AND starts_with(c.relname::text, $2)
 ORDER BY c.relname
 LIMIT $3";

const ROLE: &str = "\
-- clapometer init: role
SELECT quote_ident($1),
       quote_ident(current_database()),
       r.oid IS NOT NULL,
       coalesce(r.rolsuper, false),
       coalesce(r.rolsuper OR r.rolbypassrls, false),
       coalesce(r.rolcanlogin, false),
       CASE WHEN r.oid IS NULL THEN has_database_privilege('public', current_database(), 'CONNECT')
            ELSE has_database_privilege(r.oid, current_database(), 'CONNECT') END
  FROM (VALUES (0)) AS one (row)
  LEFT JOIN pg_catalog.pg_roles AS r ON r.rolname = $1";

/// A table or a view, as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its schema as SQL names it: on one line, in quotes where it needs them.
    pub schema_in_sql: String,
    /// Its name as SQL names it, with the schema.
    pub name_in_sql: String,
    /// True if row level security is on.
    pub has_row_security: bool,
    /// Its columns.
    pub columns: Vec<Column>,
    /// The way in which it gets an index.
    pub indexing: Indexing,
}

/// The way in which a table gets an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indexing {
    /// CONCURRENTLY, beside readers and writers.
    Concurrent,
    /// A partitioned table gets it in a lock that keeps writers waiting.
    Locking,
    /// A view or a foreign table has none: what it reads has.
    Elsewhere,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its name as SQL names it: on one line, in quotes where it needs them.
    pub name_in_sql: String,
    /// Its type, and of an enum its labels.
    pub kind: String,
    /// True unless NULL is ruled out, which no view tells.
    pub may_be_null: bool,
}

/// Everything that is known of a role and of its way into the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its name as SQL names it.
    pub name_in_sql: String,
    /// The database's name as SQL names it.
    pub dbname_in_sql: String,
    /// True if there is such a role.
    pub exists: bool,
    /// True if it is a superuser.
    pub is_superuser: bool,
    /// True if the role bypasses row level security.
    pub bypasses_row_security: bool,
    /// True if it may log in.
    pub can_log_in: bool,
    /// True if it may connect to the database; where there is no such role, if PUBLIC may.
    pub can_connect: bool,
}

impl Inspector {
    /// Returns every table and view of these names, whatever its schema, the server's own aside.
    ///
    /// # Errors
    /// The server's message.
    pub async fn tables(&mut self, names: &[&str]) -> Result<Vec<Table>, QueryError> {
        let rows = self.ask(TABLES, &[(&names, Type::TEXT_ARRAY)]).await?;
        rows.iter().map(|row| Table::of(row).map_err(|error| QueryError::of(&error))).collect()
    }

    /// Returns the schemas and names of tables and views, at most `limit`, those of `schema` first. The server's, its
    /// extensions' and partitions are none of them.
    ///
    /// # Errors
    /// The server's message.
    pub async fn names(&mut self, schema: &str, limit: i64) -> Result<Vec<(String, String)>, QueryError> {
        let rows = self.ask(NAMES, &[(&schema, Type::TEXT), (&limit, Type::INT8)]).await?;
        let name = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(|row| name(row).map_err(|error| QueryError::of(&error))).collect()
    }

    /// Returns the names of a schema's tables that begin with `prefix`, at most `limit`.
    ///
    /// # Errors
    /// The server's message.
    pub async fn tables_like(&mut self, schema: &str, prefix: &str, limit: i64) -> Result<Vec<String>, QueryError> {
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&schema, Type::TEXT), (&prefix, Type::TEXT), (&limit, Type::INT8)];
        let rows = self.ask(TABLES_LIKE, &parameters).await?;
        rows.iter().map(|row| row.try_get(0).map_err(|error| QueryError::of(&error))).collect()
    }

    /// Returns the only column of a statement, which is text.
    ///
    /// # Errors
    /// The server's message.
    pub async fn texts(&mut self, statement: &str) -> Result<Vec<String>, QueryError> {
        let rows = self.ask(statement, &[]).await?;
        rows.iter().map(|row| row.try_get(0).map_err(|error| QueryError::of(&error))).collect()
    }

    /// Returns what is known of a role, which need not exist.
    ///
    /// # Errors
    /// The server's message.
    pub async fn role(&mut self, name: &str) -> Result<Role, QueryError> {
        let rows = self.ask(ROLE, &[(&name, Type::TEXT)]).await?;
        let row = rows.first().expect("a join with one row has one");
        Role::of(row, name).map_err(|error| QueryError::of(&error))
    }

    async fn ask(&mut self, text: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, QueryError> {
        let client = &self.session.client;
        // In one round trip, because a database may have many tables to ask about.
        let asked = timeout(CONNECT + OVERTIME, async {
            let begin = client.batch_execute(BEGIN);
            let (begun, rows, ended) =
                join!(biased; begin, client.query_typed(text, parameters), client.batch_execute("ROLLBACK"));
            begun?;
            let rows = rows?;
            ended.map(|()| rows)
        });
        match asked.await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => {
                self.renew().await;
                Err(QueryError::of(&error))
            }
            Err(_) => {
                self.replace_session().await;
                let message = format!("no answer within {:?}", CONNECT + OVERTIME);
                Err(QueryError::ours(Fault::DeadlineExceeded, Cause::Silent, message))
            }
        }
    }
}

impl Table {
    fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let (schema, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let (quoted_schema, quoted_name): (String, String) = (row.try_get(2)?, row.try_get(3)?);
        let (names, quoted_names): (Vec<String>, Vec<String>) = (row.try_get(5)?, row.try_get(6)?);
        let (kinds, may_be_null): (Vec<String>, Vec<bool>) = (row.try_get(7)?, row.try_get(8)?);
        let schema_in_sql = on_one_line(&schema, quoted_schema);
        let name_in_sql = format!("{schema_in_sql}.{}", on_one_line(&name, quoted_name));
        let columns = names.into_iter().zip(quoted_names).zip(kinds.into_iter().zip(may_be_null));
        let columns = columns.map(|((name, quoted), (kind, may_be_null))| {
            let name_in_sql = on_one_line(&name, quoted);
            Column { name, name_in_sql, kind, may_be_null }
        });
        let columns = columns.collect();
        // PostgreSQL's "char", a byte.
        let indexing = match u8::try_from(row.try_get::<_, i8>(9)?) {
            Ok(b'r' | b'm') => Indexing::Concurrent,
            Ok(b'p') => Indexing::Locking,
            _ => Indexing::Elsewhere,
        };
        Ok(Self { schema, name, schema_in_sql, name_in_sql, has_row_security: row.try_get(4)?, columns, indexing })
    }
}

impl Role {
    fn of(row: &Row, name: &str) -> Result<Self, tokio_postgres::Error> {
        let dbname_in_sql: String = row.try_get(1)?;
        let dbname = dbname_in_sql.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let dbname = dbname.map_or_else(|| dbname_in_sql.clone(), |quoted| quoted.replace("\"\"", "\""));
        Ok(Self {
            name_in_sql: on_one_line(name, row.try_get(0)?),
            dbname_in_sql: on_one_line(&dbname, dbname_in_sql),
            exists: row.try_get(2)?,
            is_superuser: row.try_get(3)?,
            bypasses_row_security: row.try_get(4)?,
            can_log_in: row.try_get(5)?,
            can_connect: row.try_get(6)?,
        })
    }
}

/// Returns a quoted name, with escapes in place of characters that would break its line or move the cursor.
fn on_one_line(name: &str, quoted: String) -> String {
    if !name.contains(moves_cursor) {
        return quoted;
    }
    let escaped: String = name
        .chars()
        .map(|c| match c {
            '\\' => "\\\\".to_owned(),
            '"' => "\"\"".to_owned(),
            c if moves_cursor(c) => format!("\\{:04X}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    format!("U&\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_on_its_line() {
        assert_eq!(on_one_line("app", "app".to_owned()), "app");
        assert_eq!(on_one_line("a\"b", "\"a\"\"b\"".to_owned()), "\"a\"\"b\"");
        assert_eq!(on_one_line("a\nb\\\"\u{2028}", String::new()), r#"U&"a\000Ab\\""\2028""#);
    }
}
