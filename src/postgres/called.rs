//! The functions that a statement calls, as far as its plan, its text and the catalogue show.
//!
//! For an operator's terminal: a function can hide rows that clapometer would have missed, and it reads
//! with a snapshot that does not fit its locks. Names are found as text, so that this may name too many.

use tokio_postgres::{Client, Error, types::Type};

use super::explain::{Explained, expressions};

/// Follows the words before a parenthesis, and the views, from the plan (`$1`) and the SQL (`$2`) into the bodies of
/// functions and views.
///
/// `is_run` is false where only the SQL names a function that the planner may have dissolved in the plan, which is then
/// read as the query itself is.
const FUNCTIONS: &str = r#"
-- clapometer check: functions
WITH RECURSIVE source (function, view, body, is_run) AS (
    SELECT 0::oid, 0::oid, root.body COLLATE "C", root.is_run
      FROM (VALUES ($1::text, true), ($2::text, false)) AS root (body, is_run)
  UNION
    SELECT next.function, next.view, next.body COLLATE "C", source.is_run OR next.is_run
      FROM source
     CROSS JOIN LATERAL (
        SELECT p.oid, 0::oid, coalesce(nullif(p.prosrc, ''), pg_get_functiondef(p.oid)),
               l.lanname <> 'sql' OR p.proconfig IS NOT NULL OR p.prosecdef
          FROM regexp_matches(source.body, '(?:"?(\w+)"?\.)?"?(\w+)"?\s*\(', 'g') AS word
          JOIN pg_catalog.pg_proc AS p ON p.proname IN (word[2], lower(word[2]))
          JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
          JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
         WHERE p.prokind = 'f'
           AND n.nspname NOT IN ('pg_catalog', 'information_schema')
           AND CASE WHEN word[1] IS NULL THEN source.function <> 0 OR pg_function_is_visible(p.oid)
                    ELSE n.nspname IN (word[1], lower(word[1])) END
     UNION ALL
        SELECT 0::oid, c.oid, pg_get_viewdef(c.oid), false
          FROM regexp_matches(source.body, '\w+', 'g') AS word
          JOIN pg_catalog.pg_class AS c ON c.relname IN (word[1], lower(word[1])) AND c.relkind = 'v'
         WHERE c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
           AND (source.function <> 0 OR source.view <> 0 OR pg_table_is_visible(c.oid))
          ) AS next (function, view, body, is_run)
)
SELECT format('%I.%I', n.nspname, p.proname),
       p.provolatile = 'v',
       bool_or(source.body ~* 'row_security[^;]*\m(on|true)\M')
           OR EXISTS (SELECT
                        FROM unnest(p.proconfig) AS setting
                       WHERE setting ~* '^row_security=(?!off|f|n|0)'),
       bool_or(source.is_run AND l.lanname IN ('sql', 'plpgsql') AND (
           source.body ~* '\mexecute\M'
           OR EXISTS (SELECT
                        FROM regexp_matches(source.body, '\m(?:from|join|only|table)\s+(?:"?\w+"?\.)?"?(\w+)"?', 'gi') AS word
                        JOIN pg_catalog.pg_class AS c ON c.relname IN (word[1], lower(word[1]))
                       WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f'))))
  FROM source
  JOIN pg_catalog.pg_proc AS p ON p.oid = source.function
  JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
  JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
 GROUP BY p.oid, n.nspname, p.proname, p.provolatile, p.proconfig
 ORDER BY 1"#;

/// A function that a statement calls, by itself or by others, views included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its schema and its name.
    pub name: String,
    /// The snapshot of its reads.
    pub snapshot: FunctionSnapshot,
    /// True if it turns row level security on, which hides rows where our setting makes an error of them.
    pub hides_rows: bool,
}

/// The snapshot with which a function reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionSnapshot {
    /// None is seen: it reads no table, or the planner has made it a part of the query.
    None,
    /// That of the query which calls it, taken before the function has locked a table.
    OfCaller,
    /// Another one for each of its statements.
    Own,
}

impl Function {
    /// Asks the catalogue, in the transaction that is open.
    pub(super) async fn called_by(client: &Client, plan: &Explained, sql: &str) -> Result<Vec<Self>, Error> {
        let plan = expressions(plan);
        let rows = client.query_typed(FUNCTIONS, &[(&plan, Type::TEXT), (&sql, Type::TEXT)]).await?;
        let function = |row: &tokio_postgres::Row| {
            let (is_volatile, reads): (bool, bool) = (row.try_get(1)?, row.try_get(3)?);
            let snapshot = match (reads, is_volatile) {
                (false, _) => FunctionSnapshot::None,
                (true, false) => FunctionSnapshot::OfCaller,
                (true, true) => FunctionSnapshot::Own,
            };
            Ok(Self { name: row.try_get(0)?, snapshot, hides_rows: row.try_get(2)? })
        };
        rows.iter().map(function).collect()
    }
}
