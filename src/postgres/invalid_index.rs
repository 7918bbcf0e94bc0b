//! Indexes that an attempt to build or to drop them beside readers and writers has left invalid when it failed.
//!
//! The planner uses no such index, every write maintains it, and `CREATE INDEX IF NOT EXISTS` takes it for the one that
//! is wanted.

use tokio_postgres::{Client, Error, types::Type};

/// Finds them on tables given as schemas (`$1`) and names (`$2`).
///
/// One that is being built or dropped at this moment is left out. Whoever does that holds a lock on the table or on the
/// index, and every role may see these locks and, of a build, the process. Of what the primary does, a standby shows
/// nothing, so that nothing is said there. The index of a partitioned table is invalid until each partition has its
/// own, which queries use all the same.
const INVALID: &str = "\
-- clapometer check: invalid indexes
SELECT DISTINCT concat_ws('.', quote_ident(n.nspname), quote_ident(x.relname)),
       concat_ws('.', quote_ident(n.nspname), quote_ident(c.relname)),
       x.relname ~ '_cc(new|old)[0-9]*$'
  FROM unnest($1::text[], $2::text[]) AS asked (schema_name, relation_name)
  JOIN pg_catalog.pg_namespace AS n ON n.nspname = asked.schema_name
  JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = asked.relation_name
  JOIN pg_catalog.pg_index AS i ON i.indrelid = c.oid AND NOT i.indisvalid
  JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid AND x.relkind = 'i'
 WHERE NOT pg_is_in_recovery()
   AND NOT EXISTS (SELECT
                     FROM pg_catalog.pg_locks AS l
                    WHERE l.locktype = 'relation'
                      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = current_database())
                      AND l.mode = 'ShareUpdateExclusiveLock'
                      AND (l.relation = x.oid
                           OR l.relation = c.oid
                              AND l.pid IN (SELECT p.pid FROM pg_catalog.pg_stat_progress_create_index AS p)))
 ORDER BY 1";

/// An index that no query uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidIndex {
    /// Its schema and name, quoted where that is needed.
    pub name: String,
    /// Its table's, likewise.
    pub table: String,
    /// True for what REINDEX CONCURRENTLY builds or replaces, by its name: beside it there is the index itself.
    pub is_transient: bool,
}

impl InvalidIndex {
    /// Finds those of tables, given as schemas and names.
    pub(crate) async fn of_tables(client: &Client, schemas: &[String], names: &[String]) -> Result<Vec<Self>, Error> {
        let rows = client.query_typed(INVALID, &[(&schemas, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY)]).await?;
        rows.iter()
            .map(|row| Ok(Self { name: row.try_get(0)?, table: row.try_get(1)?, is_transient: row.try_get(2)? }))
            .collect()
    }

    /// Says what is wrong.
    pub(crate) fn problem(&self) -> String {
        let left_by = if self.is_transient { "REINDEX CONCURRENTLY" } else { "CREATE INDEX CONCURRENTLY" };
        format!(
            "the index {} of {} is invalid, as a {left_by} that failed leaves it: no query uses it, and every write pays \
             for it",
            self.name, self.table
        )
    }

    /// Returns the statements that mend it.
    pub(crate) fn remedy(&self) -> String {
        let drop = format!("DROP INDEX CONCURRENTLY {};", self.name);
        if self.is_transient {
            return drop;
        }
        format!("REINDEX INDEX CONCURRENTLY {}; or, if it is not needed, {drop}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reindex_has_left_is_dropped_and_another_index_is_built_again() {
        let index =
            |name: &str, is_transient| InvalidIndex { name: name.to_owned(), table: "t".to_owned(), is_transient };
        assert_eq!(index("i_ccnew", true).remedy(), "DROP INDEX CONCURRENTLY i_ccnew;");
        let remedy = "REINDEX INDEX CONCURRENTLY i; or, if it is not needed, DROP INDEX CONCURRENTLY i;";
        assert_eq!(index("i", false).remedy(), remedy);
    }
}
