//! `clapometer check` warns of what a plan hides: functions that read, keys of several spellings, rows that are
//! elsewhere.

use super::{configuration, run};
use crate::support::{
    cluster::{Cluster, SCALER_PASSWORD},
    database::Database,
    fixture::Fixture,
    grpc::trigger,
};

const FUNCTIONS: &str = "
    CREATE TABLE job (queue text, state text);
    GRANT SELECT ON job TO scaler;
    CREATE FUNCTION hiding() RETURNS bigint LANGUAGE plpgsql SET row_security = on AS 'BEGIN RETURN 1; END';
    CREATE FUNCTION stable_count() RETURNS bigint STABLE LANGUAGE plpgsql AS
        'BEGIN RETURN (SELECT count(*) FROM job); END';
    CREATE FUNCTION dynamic_count() RETURNS bigint STABLE LANGUAGE plpgsql AS
        'DECLARE n bigint; BEGIN EXECUTE format(''SELECT count(*) FROM %I'', ''job'') INTO n; RETURN n; END';
    CREATE FUNCTION volatile_count() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM job';
    CREATE FUNCTION inlined() RETURNS SETOF job STABLE LANGUAGE sql AS 'SELECT * FROM job';
    CREATE FUNCTION folded() RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS
        'BEGIN RETURN (SELECT count(*) FROM public.job); END';
    CREATE FUNCTION harmless(moment timestamptz) RETURNS double precision LANGUAGE plpgsql AS
        'BEGIN RETURN extract(epoch FROM moment); END';
    CREATE SCHEMA inner_schema; GRANT USAGE ON SCHEMA inner_schema TO scaler;
    CREATE FUNCTION inner_schema.nested() RETURNS bigint LANGUAGE plpgsql AS
        'BEGIN PERFORM set_config(''row_security'', ''on'', true); RETURN 1; END';
    CREATE VIEW outer_view AS SELECT inner_schema.nested() AS n;
    GRANT SELECT ON outer_view TO scaler;
    CREATE FUNCTION outer_function() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT n FROM outer_view); END';
";

/// Returns the lines of each query's block, by the name with which its first line begins.
fn block<'a>(output: &'a str, query: &str) -> Vec<&'a str> {
    let is_first = |line: &&str| line.split_whitespace().nth(1) == Some(query) && line.starts_with("  ");
    let is_further = |line: &&str| line.starts_with("           ");
    let from: Vec<&str> = output.lines().skip_while(|line| !is_first(line)).collect();
    assert!(!from.is_empty(), "no {query} in\n{output}");
    let further = from[1..].iter().take_while(|line| is_further(line));
    from[..1].iter().chain(further).copied().collect()
}

#[tokio::test]
async fn functions_that_hide_rows_or_read_by_themselves_are_named() {
    let database = Database::empty(Cluster::shared().await).await;
    database.execute(FUNCTIONS).await;
    let queries = "
  hidden: {sql: SELECT hiding()}
  through-a-view: {sql: SELECT n FROM outer_view}
  through-a-function: {sql: SELECT outer_function()}
  stable: {sql: SELECT stable_count()}
  dynamic: {sql: SELECT dynamic_count()}
  immutable: {sql: 'SELECT public.folded() /* folded */'}
  volatile: {sql: SELECT volatile_count()}
  dissolved: {sql: SELECT count(*) FROM inlined()}
  plain: {sql: 'SELECT count(*) FROM job WHERE harmless(now()) > 0'}
";
    let finished = run(&configuration(&database.scaler(), queries), &["check"]).await;
    let hides = ["turns row_security on"];
    let old = ["older than the function's locks"];
    let several = ["another snapshot for each statement"];
    let expected: [(&str, &[&str], &str); 9] = [
        ("hidden", &hides, "public.hiding()"),
        ("through-a-view", &hides, "inner_schema.nested()"),
        ("through-a-function", &hides, "inner_schema.nested()"),
        ("stable", &old, "public.stable_count()"),
        ("dynamic", &old, "public.dynamic_count()"),
        ("immutable", &old, "public.folded()"),
        ("volatile", &several, "public.volatile_count()"),
        ("dissolved", &[], ""),
        ("plain", &[], ""),
    ];
    for (query, warnings, function) in expected {
        let text = block(&finished.output, query).join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(text.contains("warning"), !warnings.is_empty(), "{query}: {text}\n{}", finished.output);
        for warning in warnings {
            assert!(text.contains(warning) && text.contains(function), "{query}: {text}");
        }
    }
    assert_eq!(finished.code(), Some(0), "{}", finished.output);
}

#[tokio::test]
async fn keys_of_several_spellings_are_told() {
    let database = Database::empty(Cluster::shared().await).await;
    let citext: i64 = database.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'citext'").await;
    database
        .execute(
            "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             CREATE DOMAIN price AS numeric;
             CREATE TABLE job (plain text, loose text COLLATE loose, price price, number int);
             GRANT SELECT ON job TO scaler; INSERT INTO job VALUES ('Mail', 'Mail', 1.0, 1), ('mail', 'mail', 1.00, 2)",
        )
        .await;
    let query = |name: &str, key: &str, group: &str| {
        format!(
            "  {name}: {{sql: 'SELECT {key} AS queue, count(*) AS n FROM job GROUP BY {group}', group_by: queue, value_column: n}}\n"
        )
    };
    let mut queries = query("plain", "plain", "plain")
        + &query("collated", "loose", "loose")
        + &query("cast", "loose::text COLLATE \"C\"", "loose")
        + &query("mended", "lower(loose::text COLLATE \"C\")", "1")
        + &query("domain", "price", "price")
        + &query("number", "number", "number");
    let mut expected = vec![
        ("plain", None),
        ("collated", Some("nondeterministic collation loose")),
        ("cast", Some("nondeterministic collation loose")),
        ("mended", None),
        ("domain", Some("type numeric")),
        ("number", None),
    ];
    if citext > 0 {
        database.execute("CREATE EXTENSION citext; ALTER TABLE job ADD insensitive citext DEFAULT 'Mail'").await;
        queries += &query("insensitive", "insensitive", "insensitive");
        expected.push(("insensitive", Some("type citext")));
    }
    let finished = run(&configuration(&database.scaler(), &queries), &["check"]).await;
    for (query, reason) in expected {
        let text = block(&finished.output, query).join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(text.contains("several spellings"), reason.is_some(), "{query}: {text}\n{}", finished.output);
        assert!(reason.is_none_or(|reason| text.contains(reason)), "{query}: {text}");
    }
}

/// Returns a query's block on one line.
fn line(output: &str, query: &str) -> String {
    block(output, query).join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn rows_that_are_elsewhere_or_of_another_moment_are_told() {
    let cluster = Cluster::private().await;
    let database = Database::empty(&cluster).await;
    database
        .execute(
            "CREATE TABLE job (run_at timestamp, due timestamptz, day date);
             INSERT INTO job SELECT now(), now() FROM generate_series(1, 60);
             CREATE MATERIALIZED VIEW old AS SELECT * FROM job;
             CREATE VIEW outer_view AS SELECT * FROM old;
             CREATE TABLE replicated (id int) PARTITION BY RANGE (id);
             CREATE TABLE replicated_1 PARTITION OF replicated FOR VALUES FROM (0) TO (10);
             INSERT INTO replicated VALUES (1);
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO scaler;
             CREATE PUBLICATION p FOR TABLE replicated WITH (publish_via_partition_root = true);
             CREATE SUBSCRIPTION s CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false);
             SET allow_system_table_mods = on;
             INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) SELECT oid, 'replicated'::regclass, 'r' FROM pg_subscription;
             ALTER ROLE scaler SET TimeZone = 'America/New_York'",
        )
        .await;
    let queries = "
  materialized: {sql: SELECT count(*) FROM outer_view}
  subscribed: {sql: SELECT count(*) FROM replicated}
  local: {sql: SELECT count(*) FROM job WHERE run_at <= now()}
  turned: {sql: \"SELECT count(*) FROM job AS j WHERE now() - interval '1 min' > j.run_at\"}
  zoned: {sql: \"SELECT count(*) FROM job WHERE run_at <= now() AT TIME ZONE 'UTC'\"}
  called: {sql: \"SELECT count(*) FROM job AS j WHERE timezone('UTC', j.run_at) <= now() AND timezone('UTC', run_at) < now()\"}
  given: {sql: SELECT count(*) FROM job WHERE run_at < $1, parameters: {at: timestamptz}}
  moved: {sql: \"SELECT count(*) FROM job WHERE run_at < $1 AT TIME ZONE 'UTC'\", parameters: {at: timestamptz}}
  absolute: {sql: SELECT count(*) FROM job WHERE due <= now() AND run_at IS NOT NULL}
  both: {sql: SELECT count(*) FROM job WHERE run_at <= due}
  both_turned: {sql: SELECT count(*) FROM job AS j WHERE j.due > j.run_at}
  apart: {sql: \"SELECT count(*) FROM job AS j WHERE due > j.run_at AT TIME ZONE 'UTC'\"}
  right: {sql: \"SELECT count(*) FROM job AS j WHERE now() >= j.run_at AT TIME ZONE 'UTC'\"}
";
    let check = ["check", "--param=given.at=2026-11-29T03:12:00Z", "--param=moved.at=2026-11-29T03:12:00Z"];
    let finished = run(&configuration(&database.scaler(), queries), &check).await;
    let local = "public.job.run_at has no time zone, so that PostgreSQL compares it in the session's, \
                 America/New_York";
    for (query, expected) in [
        ("materialized", Some("public.old is a materialized view")),
        ("subscribed", Some("public.replicated is filled by logical replication")),
        ("local", Some(local)),
        ("turned", Some(local)),
        ("given", Some(local)),
        ("moved", None),
        ("zoned", None),
        ("called", None),
        ("absolute", None),
        ("both", Some(local)),
        ("both_turned", Some(local)),
        ("apart", None),
        ("right", None),
    ] {
        let text = line(&finished.output, query);
        assert_eq!(text.contains("warning"), expected.is_some(), "{query}: {text}\n{}", finished.output);
        assert!(expected.is_none_or(|expected| text.contains(expected)), "{query}: {text}");
    }
    database.execute("ALTER ROLE scaler SET TimeZone = 'Etc/UTC'; ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s").await;
    let finished = run(&configuration(&database.scaler(), queries), &["check"]).await;
    assert!(!line(&finished.output, "local").contains("warning"), "{}", finished.output);
    assert!(!line(&finished.output, "subscribed").contains("warning"), "{}", finished.output);
}

#[tokio::test]
async fn a_time_that_has_lost_its_zone_is_told_beside_a_column_that_has_one() {
    let cluster = Cluster::private().await;
    let database = Database::empty(&cluster).await;
    database
        .execute(
            "CREATE TABLE job (run_at timestamp, due timestamptz, zone text);
             INSERT INTO job SELECT now(), now(), 'UTC' FROM generate_series(1, 60);
             CREATE INDEX ON job (due); GRANT SELECT ON job TO scaler; ALTER ROLE scaler SET TimeZone = 'Etc/UTC'",
        )
        .await;
    let queries = "
  local: {sql: \"SELECT count(*) FROM job WHERE due <= now() AT TIME ZONE 'Europe/Berlin'\"}
  called: {sql: \"SELECT count(*) FROM job AS j WHERE j.due <= timezone('Europe/Berlin', now())\"}
  turned: {sql: \"SELECT count(*) FROM job AS j WHERE (now() - interval '1 min') AT TIME ZONE 'Europe/Berlin' > j.due\"}
  given: {sql: \"SELECT count(*) FROM job WHERE due < $1 AT TIME ZONE 'Europe/Berlin'\", parameters: {at: timestamptz}}
  of_row: {sql: SELECT count(*) FROM job WHERE due <= now() AT TIME ZONE zone}
  same: {sql: \"SELECT count(*) FROM job WHERE due <= now() AT TIME ZONE 'UTC'\"}
  there_and_back: {sql: \"SELECT count(*) FROM job WHERE due <= now() AT TIME ZONE 'Europe/Berlin' AT TIME ZONE 'Europe/Berlin'\"}
  midnight: {sql: \"SELECT count(*) FROM job WHERE due <= date_trunc('day', now() AT TIME ZONE 'Europe/Berlin') AT TIME ZONE 'Europe/Berlin'\"}
  midnight_lost: {sql: \"SELECT count(*) FROM job WHERE due >= date_trunc('day', now() AT TIME ZONE 'Europe/Berlin')\"}
  both: {sql: \"SELECT count(*) FROM job WHERE due AT TIME ZONE 'UTC' <= now() AT TIME ZONE 'UTC'\"}
  columns: {sql: \"SELECT count(*) FROM job WHERE due <= now() AND run_at <= now() AT TIME ZONE 'Europe/Berlin'\"}
  plain: {sql: SELECT count(*) FROM job WHERE due <= now() AND due < LOCALTIMESTAMP}
";
    let check = ["check", "--param=given.at=2026-11-29T03:12:00Z"];
    let finished = run(&configuration(&database.scaler(), queries), &check).await;
    let of = |zone: &str| {
        format!("public.job.due has a time zone and is compared with a time that has none (AT TIME ZONE {zone}), which")
    };
    let (berlin, row) = (&*of("'Europe/Berlin'"), &*of("job.zone"));
    for (query, expected) in [
        ("local", Some(berlin)),
        ("called", Some(berlin)),
        ("turned", Some(berlin)),
        ("midnight_lost", Some(berlin)),
        // The plan has the time alone, and in UTC that may be right.
        ("given", None),
        ("of_row", Some(row)),
        ("same", None),
        ("there_and_back", None),
        ("midnight", None),
        ("both", None),
        ("columns", None),
        ("plain", None),
    ] {
        let text = line(&finished.output, query);
        assert_eq!(text.contains("warning"), expected.is_some(), "{query}: {text}\n{}", finished.output);
        assert!(expected.is_none_or(|expected| text.contains(expected)), "{query}: {text}");
    }
    database.execute("ALTER ROLE scaler SET TimeZone = 'Europe/Berlin'").await;
    let finished = run(&configuration(&database.scaler(), queries), &check).await;
    assert!(!line(&finished.output, "local").contains("warning"), "{}", finished.output);
    assert!(line(&finished.output, "same").contains(&of("'UTC'")), "{}", finished.output);
    let given =
        "is compared with a time that has none, which PostgreSQL takes for one of the session's zone, Europe/Berlin";
    assert!(line(&finished.output, "given").contains(given), "{}", finished.output);
}

#[tokio::test]
async fn many_partitions_are_looked_at_and_told_once() {
    let cluster = Cluster::private().await;
    let database = Database::empty(&cluster).await;
    database
        .execute(
            "CREATE TABLE job (id int, run_at timestamp) PARTITION BY LIST (id);
             DO $$ BEGIN FOR n IN 1..200 LOOP
                 EXECUTE format('CREATE TABLE job_%s PARTITION OF job FOR VALUES IN (%s)', n, n);
             END LOOP; END $$;
             GRANT SELECT ON job TO scaler; ALTER ROLE scaler SET TimeZone = 'Europe/Berlin'",
        )
        .await;
    let queries = "  due: {sql: SELECT count(*) FROM job WHERE run_at <= now(), timeout: 20s}\n";
    let finished = run(&configuration(&database.scaler(), queries), &["check"]).await;
    let words = finished.output.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words.matches("public.job.run_at has no time zone").count(), 1, "{}", finished.output);
    assert!(
        words.contains("reads public.job_1, ") && words.contains(" and 190 more; plan cost"),
        "{}",
        finished.output
    );
    assert!(!words.contains("not looked at"), "{}", finished.output);
}

/// What an upgrade of the operating system does to every index on texts.
#[tokio::test]
async fn an_index_in_an_order_of_the_past_is_told() {
    let database = Database::empty(Cluster::shared().await).await;
    let icu: i64 = database.value("SELECT count(*) FROM pg_collation WHERE collname = 'en-x-icu'").await;
    if icu == 0 {
        return crate::support::skip::skip("PostgreSQL was built without ICU");
    }
    database
        .execute(
            "CREATE TABLE job (queue text COLLATE \"en-x-icu\", id int PRIMARY KEY);
             INSERT INTO job SELECT n::text, n FROM generate_series(1, 20000) n;
             CREATE INDEX job_queue ON job (queue);
             ANALYZE job; GRANT SELECT ON job TO scaler",
        )
        .await;
    let queries = "
  text: {sql: SELECT count(*) FROM job WHERE queue = '7'}
  number: {sql: SELECT count(*) FROM job WHERE id = 7}
";
    let before = run(&configuration(&database.scaler(), queries), &["check"]).await;
    assert!(!before.output.contains("collation"), "{}", before.output);
    database.execute("UPDATE pg_collation SET collversion = '1' WHERE collname = 'en-x-icu'").await;
    let after = run(&configuration(&database.scaler(), queries), &["check"]).await;
    let told = "public.job_queue is of another version of its collation than the server's libraries have now";
    assert!(line(&after.output, "text").contains(told), "{}", after.output);
    assert!(!line(&after.output, "number").contains("collation"), "{}", after.output);
}

#[tokio::test]
async fn statistics_and_words_whose_case_counts_are_told() {
    let database = Database::empty(Cluster::shared().await).await;
    let citext: i64 = database.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'citext'").await;
    if citext == 0 {
        return crate::support::skip::skip("citext is not installed");
    }
    database
        .execute(
            "CREATE EXTENSION citext; CREATE TABLE job (queue citext, kind text);
             INSERT INTO job SELECT 'Mail', 'Mail' FROM generate_series(1, 60); GRANT SELECT ON job TO scaler",
        )
        .await;
    let queries = "
  live: {sql: \"SELECT n_live_tup FROM pg_stat_user_tables WHERE relname = 'job'\"}
  difference: {sql: \"SELECT sum(n_tup_ins - n_tup_del) FROM pg_stat_all_tables WHERE relname = 'job'\"}
  estimate: {sql: \"SELECT abs(reltuples) FROM pg_class WHERE relname = 'job'\"}
  tables: {sql: \"SELECT count(*) FROM pg_class WHERE relname = 'job'\"}
  text: {sql: SELECT count(*) FROM job WHERE queue = $1, parameters: {queue: text}}
  turned: {sql: SELECT count(*) FROM job WHERE $1 = queue, parameters: {queue: text}}
  cast: {sql: 'SELECT count(*) FROM job WHERE queue = $1::citext', parameters: {queue: text}}
  plain: {sql: SELECT count(*) FROM job WHERE kind = $1, parameters: {queue: text}}
";
    let with_parameters: Vec<String> =
        ["text", "turned", "cast", "plain"].map(|query| format!("--param={query}.queue=mail")).into();
    let arguments: Vec<&str> = ["check"].into_iter().chain(with_parameters.iter().map(String::as_str)).collect();
    let finished = run(&configuration(&database.scaler(), queries), &arguments).await;
    let statistics = Some("counters or estimates that PostgreSQL keeps");
    let case = Some("public.job.queue is of type citext");
    for (query, expected) in [
        ("live", statistics),
        ("difference", statistics),
        ("estimate", statistics),
        ("tables", None),
        ("text", case),
        ("turned", case),
        ("cast", None),
        ("plain", None),
    ] {
        let text = line(&finished.output, query);
        assert_eq!(text.contains("warning"), expected.is_some(), "{query}: {text}\n{}", finished.output);
        assert!(expected.is_none_or(|expected| text.contains(expected)), "{query}: {text}");
    }
}

/// PostgreSQL's own silent zero: the policy of the other server hides the rows, where its own `row_security` is on.
#[tokio::test]
async fn a_table_of_another_server_is_told_because_its_policies_hide_rows() {
    let cluster = Cluster::private().await;
    let database = Database::empty(&cluster).await;
    let is_there: i64 =
        database.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'").await;
    if is_there == 0 {
        return crate::support::skip::skip("postgres_fdw is not installed");
    }
    let (name, port) = (database.name(), cluster.port());
    database
        .execute(&format!(
            "CREATE TABLE job (); INSERT INTO job SELECT FROM generate_series(1, 60); GRANT SELECT ON job TO scaler;
             ALTER TABLE job ENABLE ROW LEVEL SECURITY;
             CREATE EXTENSION postgres_fdw;
             CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{port}', dbname '{name}');
             CREATE USER MAPPING FOR scaler SERVER there OPTIONS (user 'scaler', password '{SCALER_PASSWORD}');
             CREATE FOREIGN TABLE far () SERVER there OPTIONS (table_name 'job');
             GRANT SELECT ON far TO scaler"
        ))
        .await;
    let queries = "\n  far: {sql: SELECT count(*) FROM far}\n  listed: {sql: SELECT count(*) FROM (SELECT FROM far OFFSET 0) AS f}\n";
    let fixture = Fixture::with(&database.scaler(), queries).await;
    assert_eq!(fixture.scaler.value(&trigger("far", &[])).await.unwrap(), 0.0);
    let finished = run(&configuration(&database.scaler(), queries), &["check"]).await;
    for query in ["far", "listed"] {
        let text = line(&finished.output, query);
        assert!(text.contains("public.far") && text.contains("is of another server"), "{query}: {text}");
    }
}

#[tokio::test]
async fn a_count_that_its_limit_cuts_is_told_and_one_below_it_is_not() {
    let database = Database::empty(Cluster::shared().await).await;
    database
        .execute("CREATE TABLE job (id int); INSERT INTO job SELECT generate_series(1, 60); ANALYZE job; GRANT SELECT ON job TO scaler")
        .await;
    let queries = "
  cut: {sql: SELECT count(*) FROM (SELECT FROM job LIMIT 40) AS few}
  whole: {sql: SELECT count(*) FROM (SELECT FROM job LIMIT 1000) AS few}
  unlimited: {sql: SELECT count(*) FROM job}
";
    let finished = run(&configuration(&database.scaler(), queries), &["check"]).await;
    let told = |query: &str| {
        let block = block(&finished.output, query).join(" ");
        block.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(
        told("cut").contains("counts 40, which is all that the LIMIT inside its SQL lets it count"),
        "{}",
        finished.output
    );
    for query in ["whole", "unlimited"] {
        assert!(!told(query).contains("LIMIT"), "{query}: {}", finished.output);
    }
}
