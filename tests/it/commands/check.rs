//! `clapometer check` with working databases and queries, and with warnings.

use super::{SOON, configuration, redacted, run};
use crate::support::{
    certificates::Certificates,
    cluster::{Cluster, Settings, speaks_tls},
    database::Database,
    executable::Executable,
    skip::skip,
};

/// Returns the pieces of a check's output that differ from run to run.
async fn redacted_for(database: &Database<'_>, text: &str) -> String {
    let version: String = database.value("SHOW server_version").await;
    let port = format!("127.0.0.1:{}", database.cluster().port());
    redacted(text, &[(&version, "<version>"), (&port, "127.0.0.1:<port>"), (database.name(), "<database>")])
}

#[tokio::test]
async fn the_seeds_tables_answer_and_what_postgres_batch_would_add_is_a_warning() {
    let database = Database::seed(Cluster::shared().await).await;
    database.execute("INSERT INTO make_it_clap (duration_seconds) SELECT 40 FROM generate_series(1, 60)").await;
    let finished = Executable::clapometer(["check"]).variables(database.scaler().environment()).finish(SOON).await;
    assert_eq!((finished.code(), &*finished.errors), (Some(0), ""), "{}", finished.output);
    insta::assert_snapshot!(redacted_for(&database, &finished.output).await);
}

#[tokio::test]
async fn every_form_of_answer_is_shown() {
    let database = Database::empty(Cluster::shared().await).await;
    database
        .execute(
            "CREATE TABLE job (queue text, state text); GRANT SELECT ON job TO scaler;
             INSERT INTO job SELECT 'q' || n % 7, CASE WHEN n <= 3 THEN 'ready' ELSE 'held' END
                        FROM generate_series(1, 61) AS n",
        )
        .await;
    let queries = "
  tens: {sql: SELECT count(*) FROM job, divide_by: 10}
  halves: {sql: SELECT count(*) FROM job, divide_by: 2, rounding: none, activation: 40}
  outstanding: {sql: \"SELECT count(*) AS n, count(*) FILTER (WHERE state = 'ready') AS ready FROM job\",
                value_column: n, activity_column: ready}
  of-queue: {sql: SELECT count(*) FROM job WHERE queue = $1, parameters: {queue: text}}
  unasked: {sql: \"SELECT count(*) FROM job WHERE queue = $1 AND state = $2\", parameters: {queue: text, state: text}}
  by-queue: {sql: \"SELECT queue, count(*) AS n FROM job GROUP BY queue\", group_by: queue, value_column: n}
  pending-claps: {sql: SELECT 1}
  outstanding-claps: {sql: SELECT 2}
  clap-workers: {sql: SELECT 3}
";
    let arguments = ["check", "--param", "of-queue.queue=q1", "--param", "unasked.queue=q1"];
    let finished = run(&configuration(&database.scaler(), queries), &arguments).await;
    assert_eq!((finished.code(), &*finished.errors), (Some(0), ""), "{}", finished.output);
    insta::assert_snapshot!(redacted_for(&database, &finished.output).await);
}

#[tokio::test]
async fn every_outcome_is_a_document_with_json() {
    let documented = async |configuration: &str, arguments: &[&str], code: i32| -> serde_json::Value {
        let finished = run(configuration, arguments).await;
        assert_eq!((finished.code(), &*finished.errors), (Some(code), ""), "{arguments:?}: {}", finished.output);
        serde_json::from_str(&finished.output).unwrap()
    };
    let valid = "databases: {app: {host: 127.0.0.1, user: scaler}}\nqueries: {jobs: {sql: SELECT 1}}\n";
    let offline = documented(valid, &["check", "--offline", "--json"], 0).await;
    let database = &offline["databases"][0];
    assert_eq!((&database["name"], &database["state"]), (&"app".into(), &"not_connected".into()), "{offline}");
    assert_eq!(database["queries"][0]["outcome"], "not_asked", "{offline}");

    let misspelt = "server: {listen: nowhere}\nqueries: {jobs: {sqll: SELECT 1}}\n";
    let unusable = "server: {tls: {cert: none.crt, key: none.key}}\n";
    for arguments in [&["check", "--json"][..], &["check", "--offline", "--json"]] {
        let faults = documented(misspelt, arguments, 78).await;
        assert_eq!((&faults["faults"][0]["key"], &faults["faults"][0]["line"]), (&"server.listen".into(), &1.into()));
    }
    let faults = documented(unusable, &["check", "--json"], 78).await;
    assert!(faults["faults"][0]["message"].as_str().unwrap().contains("none.crt"), "{faults}");
    let noted = documented(unusable, &["check", "--offline", "--json"], 0).await;
    assert!(noted["notes"][0]["message"].as_str().unwrap().contains("none.crt"), "{noted}");
}

#[tokio::test]
async fn an_empty_table_of_the_same_name_is_named() {
    let database = Database::empty(Cluster::shared().await).await;
    database
        .execute(
            "CREATE SCHEMA app; CREATE TABLE app.job (); CREATE TABLE public.job (); INSERT INTO app.job DEFAULT VALUES;
             GRANT USAGE ON SCHEMA app TO scaler; GRANT SELECT ON app.job, public.job TO scaler",
        )
        .await;
    let queries = "  jobs: {sql: SELECT count(*) FROM job}\n";
    let finished = run(&configuration(&database.scaler(), queries), &["check"]).await;
    assert!(finished.output.contains("reads public.job;"), "{}", finished.output);
    assert!(finished.output.contains("counts nothing in public.job; there is also app.job"), "{}", finished.output);

    let access = database.scaler().with("search_path", "app");
    let finished = run(&configuration(&access, queries), &["check"]).await;
    assert!(finished.output.contains("reads app.job;"), "{}", finished.output);
    assert!(!finished.output.contains("counts nothing"), "{}", finished.output);
}

#[tokio::test]
async fn row_level_security_is_told_to_a_role_above_it() {
    let database = Database::empty(Cluster::shared().await).await;
    database.execute("CREATE TABLE job (); ALTER TABLE job ENABLE ROW LEVEL SECURITY").await;
    let queries = "  jobs: {sql: SELECT count(*) FROM job}\n";
    let finished = run(&configuration(&database.superuser(), queries), &["check"]).await;
    assert_eq!(finished.code(), Some(0), "{}", finished.output);
    assert!(finished.output.contains("row level security is on for public.job"), "{}", finished.output);
    assert!(finished.output.contains("the role can do more than read (superuser)"), "{}", finished.output);
}

#[tokio::test]
async fn a_large_table_that_each_reading_scans_is_a_hint_until_there_is_an_index() {
    let database = Database::empty(Cluster::shared().await).await;
    database
        .execute(
            "CREATE TABLE job (state text, filler text); GRANT SELECT ON job TO scaler;
             INSERT INTO job SELECT 'done', repeat('x', 200) FROM generate_series(1, 50000); ANALYZE job",
        )
        .await;
    let configuration =
        configuration(&database.scaler(), "  jobs: {sql: \"SELECT count(*) FROM job WHERE state = 'ready'\"}\n");
    let hint = "each reading scans all of public.job (";
    let finished = run(&configuration, &["check"]).await;
    assert!(finished.output.contains(hint), "{}", finished.output);

    database.execute("CREATE INDEX ON job (state) WHERE state = 'ready'; ANALYZE job").await;
    let finished = run(&configuration, &["check"]).await;
    assert!(!finished.output.contains(hint), "{}", finished.output);
}

#[tokio::test]
async fn a_count_at_its_limit_is_at_least_that() {
    let database = Database::empty(Cluster::shared().await).await;
    database
        .execute(
            "CREATE VIEW clap_backlog AS SELECT 100000 AS claimable, 17 AS held, NULL::timestamptz AS next_change;
             GRANT SELECT ON clap_backlog TO scaler",
        )
        .await;
    let queries = "  other: {sql: SELECT 100017}\n";
    let finished = run(&configuration(&database.scaler(), queries), &["check"]).await;
    let line = |name: &str| {
        let found = finished.output.lines().find(|line| line.contains(&format!("  {name} ")));
        found.unwrap_or_else(|| panic!("no {name} in\n{}", finished.output)).to_owned()
    };
    assert!(line("outstanding-claps").contains("at least 100017"), "{}", finished.output);
    assert!(!line("other").contains("at least"), "{}", finished.output);
}

#[tokio::test]
async fn a_number_that_kubernetes_cannot_hold_is_told() {
    let database = Database::empty(Cluster::shared().await).await;
    let queries = "  huge: {sql: SELECT 1e19}\n  large: {sql: SELECT 1e15}\n";
    let finished = run(&configuration(&database.scaler(), queries), &["check"]).await;
    assert_eq!(finished.code(), Some(0), "{}", finished.output);
    assert_eq!(finished.output.matches("larger than what Kubernetes counts with").count(), 1, "{}", finished.output);
    assert!(finished.output.contains("queries.huge.divide_by"), "{}", finished.output);
}

#[tokio::test]
async fn a_document_has_the_numbers() {
    let database = Database::seed(Cluster::shared().await).await;
    database.execute("INSERT INTO make_it_clap (duration_seconds) VALUES (40)").await;
    let queries = "  tens: {sql: SELECT 61, divide_by: 10}\n";
    let finished = run(&configuration(&database.scaler(), queries), &["check", "--json"]).await;
    let document: serde_json::Value = serde_json::from_str(&finished.output).unwrap();
    let found = &document["databases"][0];
    assert_eq!((&found["name"], &found["state"]), (&"claps".into(), &"reached".into()));
    let query = |name: &str| {
        let queries = found["queries"].as_array().unwrap();
        queries.iter().find(|query| query["name"] == name).unwrap_or_else(|| panic!("no {name} in {document:#}"))
    };
    assert_eq!((&query("tens")["outcome"], &query("tens")["value"]), (&"answered".into(), &7.into()));
    assert_eq!(query("pending-claps")["plan"]["relations"], serde_json::json!(["public.clap", "public.make_it_clap"]));
    assert_eq!(query("clap-workers")["outcome"], "absent");
}

#[tokio::test]
async fn tls_is_shown_with_protocol_and_cipher() {
    if !speaks_tls().await {
        return skip("this PostgreSQL was built without TLS");
    }
    let certificates = Certificates::generate();
    let cluster = Cluster::with_settings(Settings::default().with_certificates(certificates.clone())).await;
    let database = Database::empty(&cluster).await;
    let access = database.scaler().with("sslmode", "verify-full").with("sslrootcert", "ca.crt");
    let check = |authority: &str| {
        Executable::clapometer(["check", "--config", "clapometer.yaml"])
            .file("clapometer.yaml", &configuration(&access, "  jobs: {sql: SELECT 1}\n"))
            .file("ca.crt", authority)
            .finish(SOON)
    };
    let finished = check(&certificates.authority).await;
    assert!(finished.output.contains("TLSv1.3, TLS_"), "{}", finished.output);
    assert!(finished.output.contains("(sslmode verify-full)"), "{}", finished.output);

    let finished = check(&Certificates::generate().authority).await;
    assert_eq!(finished.code(), Some(69), "{}", finished.output);
    assert!(
        finished.output.contains("databases.claps.sslrootcert must hold the certificate of the authority"),
        "{}",
        finished.output
    );
}

#[tokio::test]
async fn offline_connects_to_nothing_and_says_so() {
    let yaml = "\
databases:
  billing: {host: db.invalid, dbname: billing, user: scaler, sslmode: verify-full, enabled: false}
queries:
  jobs: {sql: SELECT $1::int8, parameters: {n: bigint}, namespaces: [billing, staging]}
  by-queue: {sql: \"SELECT queue, n FROM job\", group_by: queue, value_column: n}
";
    let finished = run(yaml, &["check", "--offline"]).await;
    assert_eq!((finished.code(), &*finished.errors), (Some(0), ""));
    insta::assert_snapshot!(finished.output);
}

#[tokio::test]
async fn the_certificates_towards_keda_are_read_and_their_end_is_told() {
    let certificates = Certificates::generate();
    let ending = certificates.sign_with("scaler", &["scaler.test"], |parameters| {
        parameters.not_after =
            (std::time::SystemTime::now() + std::time::Duration::from_secs(3 * 86_400 + 3_600)).into();
    });
    let yaml = "\
server: {tls: {cert: tls.crt, key: tls.key, client_ca: ca.crt, client_names: [keda-operator]}}
databases: {app: {host: 127.0.0.1, user: scaler}}
";
    let check = |key: &str| {
        Executable::clapometer(["check", "--offline", "--config", "clapometer.yaml"])
            .file("clapometer.yaml", yaml)
            .file("ca.crt", &certificates.authority)
            .file("tls.crt", &ending.certificate)
            .file("tls.key", key)
            .finish(SOON)
    };
    let finished = check(&ending.key).await;
    assert_eq!((finished.code(), &*finished.errors), (Some(0), ""));
    for expected in
        ["server.tls.cert ends in 3 days", "warning  server.tls.cert ends in 3 days", "with a name of keda-operator"]
    {
        assert!(finished.output.contains(expected), "no {expected} in\n{}", finished.output);
    }

    let finished = check(&certificates.server.key).await;
    assert_eq!((finished.code(), &*finished.output), (Some(78), ""));
    assert!(finished.errors.starts_with("clapometer.yaml:1: server.tls.key: found "), "{}", finished.errors);
    assert!(finished.errors.contains("is not the key of the certificate "), "{}", finished.errors);
}

#[tokio::test]
async fn a_file_of_a_databases_tls_that_is_none_is_told_with_the_place_of_its_key() {
    let yaml = "\
databases:
  claps:
    host: 127.0.0.1
    user: scaler
    sslmode: verify-full
    sslrootcert: ca.crt
";
    let finished = Executable::clapometer(["check", "--config", "clapometer.yaml"])
        .file("clapometer.yaml", yaml)
        .file("ca.crt", "none\n")
        .finish(SOON)
        .await;
    assert_eq!(finished.code(), Some(69), "{}{}", finished.output, finished.errors);
    assert!(finished.output.contains("sslrootcert: ca.crt: the file holds no certificate"), "{}", finished.output);
    assert!(finished.output.contains("that is named (clapometer.yaml:6)\n"), "{}", finished.output);
}
