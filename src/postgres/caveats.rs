//! The relations and comparisons of a plan whose numbers are not those of this server at this moment.
//!
//! PostgreSQL answers from them without an error, so that what is missing looks like nothing to do. For an operator's
//! terminal: names are found as text, so that this may name too many.

use serde_json::Value as Json;
use tokio_postgres::{Client, Error, types::Type};

use super::explain::{Explained, expressions, text};

/// Finds caveats in the catalog, about relations given as schemas (`$1`) and names (`$2`), and about the expressions of
/// a plan (`$3`). Returns a kind, a name, the session's time zone, and the zone that is written.
///
/// A subscription may name a partitioned table while the plan has its partitions. `now()`, or a parameter with a time
/// zone, is compared with a column without one in the zone of the session; in UTC that is what nearly every library
/// writes. `AT TIME ZONE` is `timezone('UTC'::text, now())` in plans of PostgreSQL 13, and everywhere if it is written
/// so. Where a citext meets a text, such as a parameter, PostgreSQL compares both as text.
///
/// The other way round, a column with a time zone may be compared with a time without one, which PostgreSQL then takes
/// for one of the session's zone. `AT TIME ZONE` makes such a time of `now()`, and a second one gives it a zone again.
/// Of a parameter PostgreSQL makes it before it plans. In a shape, words in capitals that are no SQL stand for what is
/// often there.
const CAVEATS: &str = r#"
-- clapometer check: caveats
WITH present (clock) AS (
    VALUES ('(?<!::text, )(now\(\)|(statement|transaction|clock)_timestamp\(\)|CURRENT_TIMESTAMP|LOCALTIMESTAMP|''[^'']*''::timestamp with time zone)'
            '(?![^<>=,\n]*AT TIME ZONE)')
), shape (expression) AS (
    SELECT replace(replace(replace(replace(short.expression,
               'REST', '(?:(?! AND | OR |TURN)[^<>=\n])*'),
               'TURN', '(?:\mAT TIME ZONE|timezone\()'),
               'WRITTEN', '(''[^'']*''|[\w."]+)'),
               'CLOCK', '(?:now\(\)|(?:statement|transaction|clock)_timestamp\(\)|CURRENT_TIMESTAMP)')
      FROM (VALUES
          ('(?<!timezone\([^()]*, (?:\w+\.)?"?)\mCOLUMN"?\)*\s*[<>=]+RESTCLOCKREST\mAT TIME ZONE WRITTEN(?!RESTTURN)'),
          ('(?<!timezone\([^()]*, (?:\w+\.)?"?)\mCOLUMN"?\)*\s*[<>=]+REST(?<!timezone\([^()]*, )timezone\(WRITTEN(?:::text)?, RESTCLOCK(?!RESTTURN)'),
          ('CLOCKREST\mAT TIME ZONE WRITTENREST[<>=]+\s*\(*(?:\w+\.)?"?COLUMN\M(?!"?\)* AT TIME ZONE)'),
          ('(?<!::text, )timezone\(WRITTEN(?:::text)?, RESTCLOCKREST[<>=]+\s*\(*(?:\w+\.)?"?COLUMN\M(?!"?\)* AT TIME ZONE)'),
          ('(?<!timezone\([^()]*, (?:\w+\.)?"?)\mCOLUMN"?\)*\s*[<>=]+\s*''[^'']*''::timestamp without time zone()')
      ) AS short (expression)
), relation AS (
    SELECT c.oid, c.relkind, coalesce(pg_partition_root(c.oid), c.oid) AS root
      FROM unnest($1::text[], $2::text[]) AS asked (schema_name, relation_name)
      JOIN pg_catalog.pg_namespace AS n ON n.nspname = asked.schema_name
      JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = asked.relation_name
), timed AS (
    -- Once for a table, however many partitions of it the plan reads.
    SELECT DISTINCT relation.root, a.attname::text AS name, a.atttypid = 'timestamptz'::regtype AS has_zone
      FROM relation
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = relation.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE a.atttypid IN ('timestamp'::regtype, 'timestamptz'::regtype)
       AND a.attname ~ '^\w+$'
), citext AS (
    SELECT DISTINCT relation.root, a.attname::text AS name
      FROM relation
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = relation.oid AND a.attnum > 0 AND NOT a.attisdropped
      JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid AND t.typname = 'citext'
     WHERE a.attname ~ '^\w+$'
), session (zone, is_utc) AS (
    SELECT current_setting('TimeZone'), current_setting('TimeZone') ~* '^(etc/)?(utc|gmt|uct|zulu|universal|greenwich)$'
), found (kind, oid, name, written) AS (
    SELECT 'view', relation.oid, NULL, NULL
      FROM relation
     WHERE relation.relkind = 'm'
 UNION
    SELECT 'subscribed', relation.root, NULL, NULL
      FROM relation
      JOIN pg_catalog.pg_subscription_rel AS s ON s.srrelid IN (relation.oid, relation.root)
 UNION
    SELECT 'clock', timed.root, timed.name, NULL
      FROM timed
     CROSS JOIN present
     CROSS JOIN session
     WHERE NOT timed.has_zone
       AND NOT session.is_utc
       AND ($3 ~ format('(?<!timezone\([^()]*, (\w+\.)?"?)\m%s"?\)*\s*[<>=]+\s*\(*%s', timed.name, present.clock)
            OR $3 ~ format('%s[^<>=,\n]*[<>=]+\s*\(*(\w+\.)?"?%s\M(?!"?\)* AT TIME ZONE)', present.clock, timed.name))
 UNION
    SELECT 'clock', timed.root, timed.name, NULL
      FROM timed
      JOIN timed AS other ON other.has_zone
     CROSS JOIN session
     CROSS JOIN LATERAL (VALUES (timed.name, other.name), (other.name, timed.name)) AS side (a, b)
     WHERE NOT timed.has_zone
       AND NOT session.is_utc
       AND $3 ~ format('(?<!timezone\([^()]*, (\w+\.)?"?)\m%s"?\)*\s*[<>=]+\s*\(*(\w+\.)?"?%s\M(?!"?\)* AT TIME ZONE)', side.a, side.b)
 UNION
    SELECT 'moved', timed.root, timed.name, nullif(written.zone[1], '')
      FROM timed
     CROSS JOIN shape
     CROSS JOIN session
     CROSS JOIN LATERAL regexp_matches($3, replace(shape.expression, 'COLUMN', timed.name), 'g') AS written (zone)
     WHERE timed.has_zone
       AND lower(btrim(written.zone[1], '''')) <> lower(session.zone)
       AND NOT (session.is_utc AND written.zone[1] ~* '^(''(etc/)?(utc|gmt|uct|zulu|universal|greenwich)'')?$')
 UNION
    SELECT 'case', citext.root, citext.name, NULL
      FROM citext
     WHERE $3 ~ format('\m%s"?\)::text\s*(=|<>|!?~~)', citext.name)
        OR $3 ~ format('[=>~]\s*\(?(\w+\.)?"?%s"?\)::text', citext.name)
)
SELECT found.kind, concat_ws('.', quote_ident(n.nspname), quote_ident(c.relname), quote_ident(found.name)),
       session.zone, found.written
  FROM found
 CROSS JOIN session
  JOIN pg_catalog.pg_class AS c ON c.oid = found.oid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 ORDER BY 1, 2"#;

/// Finds the indexes (`$3`) of relations given as schemas (`$1`) and names (`$2`) whose texts are in an order that the
/// server's libraries no longer have: a search in such an index misses rows that are there.
///
/// `DATABASE` stands for the same about the database's own collation.
const REORDERED: &str = r#"
-- clapometer check: collations
SELECT DISTINCT concat_ws('.', quote_ident(n.nspname), quote_ident(x.relname))
  FROM unnest($1::text[], $2::text[]) AS asked (schema_name, relation_name)
  JOIN pg_catalog.pg_namespace AS n ON n.nspname = asked.schema_name
  JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = asked.relation_name
  JOIN pg_catalog.pg_index AS i ON i.indrelid = c.oid
  JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid AND x.relname = ANY ($3)
 CROSS JOIN LATERAL unnest(i.indcollation) AS used (id)
  JOIN pg_catalog.pg_collation AS l ON l.oid = used.id
 WHERE CASE l.collprovider WHEN 'd' THEN DATABASE ELSE l.collversion <> pg_collation_actual_version(l.oid) END
 ORDER BY 1"#;

/// Says whether the collation of the database has another version than when it was made. PostgreSQL remembers that from
/// 15 on.
const DATABASE_REORDERED: &str = "\
(SELECT d.datcollversion <> pg_database_collation_actual_version(d.oid)
                                       FROM pg_catalog.pg_database AS d WHERE d.datname = current_database())";

/// A reason why a count can be another than the rows that there are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caveat {
    /// A materialized view of this name, which has the rows of its latest REFRESH.
    MaterializedView(String),
    /// A table of this name, which a subscription fills.
    Subscribed(String),
    /// Tables of another server, as the plan names them.
    Foreign(String),
    /// A column without a time zone, which is compared with a time that has one, in the session's zone.
    SessionZone {
        /// Its schema, table and name.
        column: String,
        /// The session's time zone.
        zone: String,
    },
    /// A column with a time zone, which is compared with a time that has none, in the session's zone.
    LostZone {
        /// Its schema, table and name.
        column: String,
        /// The zone that `AT TIME ZONE` names for that time, where the plan has it.
        written: Option<String>,
        /// The session's time zone.
        zone: String,
    },
    /// A column of type citext, given with its schema and table, that is compared as text.
    CaseCounts(String),
    /// Counters and estimates of PostgreSQL's own statistics.
    Statistics,
    /// An index of this name, which was built with another version of its collation.
    Reordered(String),
}

/// The beginnings and the parts of the functions that read counters which a crash resets.
const COUNTER: (&str, [&str; 4]) = ("pg_stat_get_", ["tuples_", "_tuples", "_since_", "numscans"]);

impl Caveat {
    /// Returns the caveats of a plan: looks at its nodes, and asks the catalog in the transaction that is open.
    pub(super) async fn of(client: &Client, plan: &Explained) -> Result<Vec<Self>, Error> {
        let mut caveats = foreign(plan);
        caveats.extend(reads_statistics(plan).then_some(Self::Statistics));
        let named = |node: &Json| Some((text(node, "Schema")?.to_owned(), text(node, "Relation Name")?.to_owned()));
        let (schemas, names): (Vec<String>, Vec<String>) = plan.nodes().into_iter().filter_map(named).unzip();
        let expressions = expressions(plan);
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
            [(&schemas, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY), (&expressions, Type::TEXT)];
        for row in client.query_typed(CAVEATS, &parameters).await? {
            let (kind, name): (&str, String) = (row.try_get(0)?, row.try_get(1)?);
            caveats.push(match kind {
                "view" => Self::MaterializedView(name),
                "subscribed" => Self::Subscribed(name),
                "case" => Self::CaseCounts(name),
                "moved" => Self::LostZone { column: name, zone: row.try_get(2)?, written: row.try_get(3)? },
                _ => Self::SessionZone { column: name, zone: row.try_get(2)? },
            });
        }
        let named = plan.nodes().into_iter().filter_map(|node| text(node, "Index Name"));
        let indexes: Vec<String> = named.map(str::to_owned).collect();
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
            [(&schemas, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY), (&indexes, Type::TEXT_ARRAY)];
        if !indexes.is_empty() {
            let version = "SELECT current_setting('server_version_num')::int4 >= 150000";
            let is_remembered: bool = client.query_typed_one(version, &[]).await?.try_get(0)?;
            let of_database = if is_remembered { DATABASE_REORDERED } else { "false" };
            let rows = client.query_typed(&REORDERED.replace("DATABASE", of_database), &parameters).await?;
            let found = rows.iter().map(|row| row.try_get(0).map(Self::Reordered));
            caveats.extend(found.collect::<Result<Vec<_>, _>>()?);
        }
        Ok(caveats)
    }
}

/// Returns the tables of other servers. A join or an aggregate that such a server does itself has no table of its own.
fn foreign(plan: &Explained) -> Vec<Caveat> {
    let mut names: Vec<String> = Vec::new();
    for node in plan.nodes() {
        if text(node, "Node Type") != Some("Foreign Scan") {
            continue;
        }
        let table = text(node, "Schema").zip(text(node, "Relation Name"));
        let name = table.map(|(schema, name)| format!("{schema}.{name}"));
        names.extend(name.or_else(|| text(node, "Relations").map(str::to_owned)));
    }
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(Caveat::Foreign).collect()
}

/// Returns whether a plan computes with what PostgreSQL remembers about its tables. The scan of a table may list
/// columns that nobody uses, so its own list does not count.
fn reads_statistics(plan: &Explained) -> bool {
    let is_counter = |word: &str| {
        let (beginning, parts) = COUNTER;
        word.strip_prefix(beginning).is_some_and(|rest| parts.iter().any(|part| rest.contains(part)))
    };
    let is_estimate = |line: &str| line.contains(".reltuples") || line.split(|c| !is_part(c)).any(is_counter);
    plan.nodes().into_iter().filter_map(Json::as_object).any(|node| {
        let is_scan = node.contains_key("Relation Name");
        let used = node.iter().filter(|(key, _)| !(is_scan && *key == "Output")).map(|(_, value)| value);
        let texts = used.flat_map(|value| value.as_array().into_iter().flatten().chain([value]));
        texts.filter_map(Json::as_str).any(is_estimate)
    })
}

fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_of_another_server_are_named_whoever_aggregates() {
        let plan = json!([{"Plan": {"Node Type": "Append", "Plans": [
            {"Node Type": "Foreign Scan", "Schema": "app", "Relation Name": "job", "Alias": "job"},
            {"Node Type": "Foreign Scan", "Relations": "Aggregate on (app.done)"},
            {"Node Type": "Foreign Scan", "Schema": "app", "Relation Name": "job", "Alias": "job_1"},
            {"Node Type": "Seq Scan", "Schema": "app", "Relation Name": "own"},
        ]}}]);
        let named = ["Aggregate on (app.done)", "app.job"].map(|name| Caveat::Foreign(name.to_owned()));
        assert_eq!(foreign(&plan.into()), named);
    }

    #[test]
    fn statistics_count_where_they_are_used_and_not_where_a_scan_lists_them() {
        let plan = |top: &str| {
            json!([{"Plan": {"Node Type": "Limit", "Output": [top], "Plans": [
                {"Node Type": "Seq Scan", "Relation Name": "pg_class", "Output": ["c.relname", "c.reltuples"]},
            ]}}])
        };
        for used in [
            "((pg_class.reltuples)::double precision)",
            "(pg_stat_get_live_tuples(c.oid))",
            "(sum((pg_stat_get_tuples_inserted(c.oid) - pg_stat_get_tuples_deleted(c.oid))))",
            "(pg_stat_get_ins_since_vacuum(c.oid))",
        ] {
            assert!(reads_statistics(&plan(used).into()), "{used}");
        }
        for plain in ["(count(*))", "(pg_stat_get_activity(NULL::integer))", "(pg_stat_get_backend_pid(s.beid))"] {
            assert!(!reads_statistics(&plan(plain).into()), "{plain}");
        }
    }
}
