//! `clapometer get` with a running scaler.

use rustix::process::Signal;

use super::{SOON, configuration, redacted, run_alone};
use crate::support::{
    certificates::Certificates,
    cluster::Cluster,
    database::Database,
    executable::{Executable, Serving},
    wait,
};

/// A scaler with a query whose numbers are its parameters.
async fn scaler() -> Serving {
    let database = Database::empty(Cluster::shared().await).await;
    let queries = "
  jobs: {sql: SELECT $1::float8, parameters: {n: double}}
  both: {sql: \"SELECT $1::float8 AS n, $2::float8 AS ready\", parameters: {n: double, ready: double},
         value_column: n, activity_column: ready}
";
    Executable::serve(&configuration(&database.scaler(), queries)).serving().await
}

async fn page(serving: &Serving, arguments: &[&str]) -> String {
    let address = serving.grpc.to_string();
    let mut all = vec!["get"];
    all.extend(arguments);
    all.extend(["--address", &address]);
    let finished = run_alone(&all).await;
    assert_eq!((finished.code(), &*finished.errors), (Some(0), ""), "{arguments:?}: {}", finished.output);
    redacted(&finished.output, &[(&address, "<address>")])
}

#[tokio::test]
async fn each_combination_of_value_and_activity_is_explained() {
    let serving = scaler().await;
    let both = ["both", "--metadata", "param.n=61", "--metadata", "param.ready=3", "--metadata", "divideBy=10"];
    let further =
        ["--metadata", "targetQueryValue=2", "--max-replicas", "3", "--namespace", "mail", "--name", "sender"];
    insta::assert_snapshot!("active", page(&serving, &[&both[..], &further].concat()).await);
    let held = ["both", "--metadata", "param.n=5", "param.ready=0"];
    insta::assert_snapshot!("held", page(&serving, &held).await);
    let odd = ["both", "--metadata", "param.n=0", "--metadata", "param.ready=1"];
    insta::assert_snapshot!("active_zero", page(&serving, &odd).await);
    insta::assert_snapshot!("nothing", page(&serving, &["jobs", "--metadata", "param.n=0"]).await);
}

#[tokio::test]
async fn a_document_has_what_keda_would_do() {
    let serving = scaler().await;
    let arguments = ["jobs", "--metadata", "param.n=60", "--metadata", "divideBy=10", "--max-replicas", "4", "--json"];
    let document: serde_json::Value = serde_json::from_str(&page(&serving, &arguments).await).unwrap();
    assert_eq!(document["value"], 6);
    assert_eq!(document["active"], true);
    assert_eq!(document["scaled_job"], serde_json::json!({"max_replicas": 4, "starts": 4}));
    assert_eq!(document["scaled_object"], serde_json::json!({"replicas": 4}));
}

#[tokio::test]
async fn a_backlog_at_its_limit_is_at_least_that() {
    let database = Database::empty(Cluster::shared().await).await;
    database
        .execute(
            "CREATE VIEW clap_backlog AS SELECT 100000 AS claimable, 17 AS held, NULL::timestamptz AS next_change;
             GRANT SELECT ON clap_backlog TO scaler",
        )
        .await;
    let serving =
        Executable::serve(&configuration(&database.scaler(), "  other: {sql: SELECT 100017}\n")).serving().await;
    assert!(page(&serving, &["outstanding-claps"]).await.contains("at least 100017"));
    assert!(page(&serving, &["clap-workers", "--metadata", "divideBy=10"]).await.contains("at least 10002"));
    assert!(!page(&serving, &["other"]).await.contains("at least"));
}

#[tokio::test]
async fn watch_prints_each_change_once_until_it_is_interrupted() {
    let database = Database::seed(Cluster::shared().await).await;
    let serving = Executable::serve(&configuration(&database.scaler(), "  other: {sql: SELECT 1}\n")).serving().await;
    let address = serving.grpc.to_string();
    let watching = Executable::clapometer(["get", "pending-claps", "--watch", "--address", &address]).start();
    let events = || {
        let output = watching.output();
        let (_, events) = output.split_once("Ctrl-C ends\n\n").unwrap_or_default();
        let word = |line: &str| line.split("Z  ").nth(1).unwrap_or_default().to_owned();
        events.lines().map(word).collect::<Vec<_>>()
    };
    wait::eventually("it is told to be inactive", SOON, || events() == ["inactive"]).await;
    database.execute("INSERT INTO make_it_clap (duration_seconds) VALUES (40)").await;
    wait::eventually("it is told to be active", SOON, || events() == ["inactive", "active"]).await;
    database.execute("DELETE FROM make_it_clap").await;
    wait::eventually("it is told to be inactive", SOON, || events() == ["inactive", "active", "inactive"]).await;
    watching.signal(Signal::INT);
    assert_eq!(watching.finish(SOON).await.code(), Some(0));
}

#[tokio::test]
async fn tls_is_used_with_our_certificate_under_the_name_that_is_given() {
    let certificates = Certificates::generate();
    let server = certificates.sign("clapometer.test", &["clapometer.test"]);
    let client = certificates.sign("keda-operator", &["keda-operator"]);
    let database = Database::empty(Cluster::shared().await).await;
    let tls = "server: {tls: {cert: tls.crt, key: tls.key, client_ca: ca.crt, client_names: [keda-operator]}}\n";
    let serving =
        Executable::serve(&format!("{tls}{}", configuration(&database.scaler(), "  jobs: {sql: SELECT 7}\n")))
            .file("tls.crt", &server.certificate)
            .file("tls.key", &server.key)
            .file("ca.crt", &certificates.authority)
            .serving()
            .await;
    let address = serving.grpc.to_string();
    let get = |arguments: &[&str]| {
        let get = Executable::clapometer(["get", "jobs", "--address", &address])
            .file("ca.crt", &certificates.authority)
            .file("tls.crt", &client.certificate)
            .file("tls.key", &client.key);
        arguments.iter().fold(get, Executable::argument).finish(SOON)
    };
    let ours = ["--tls-cert", "tls.crt", "--tls-key", "tls.key"];
    let theirs = ["--tls-ca", "ca.crt", "--tls-server-name", "clapometer.test"];
    let finished = get(&[&ours[..], &theirs].concat()).await;
    assert_eq!(finished.code(), Some(0), "{}{}", finished.output, finished.errors);
    assert!(finished.output.contains("GetMetrics     7 "), "{}", finished.output);

    let wrong: [(&[&str], &str); 3] = [
        (&theirs, "certificate"),
        (&[&ours[..], &["--tls-ca", "ca.crt"]].concat(), "compare the certificates"),
        (&[], "serves TLS, put https://"),
    ];
    let unfit = get(&["--tls-cert", "ca.crt", "--tls-key", "tls.key"]).await;
    assert_eq!(unfit.code(), Some(2), "{}{}", unfit.output, unfit.errors);
    assert!(unfit.errors.contains("--tls-key: tls.key: is not the key of the certificate ca.crt"), "{}", unfit.errors);

    for (arguments, advice) in wrong {
        let finished = get(arguments).await;
        assert_eq!(finished.code(), Some(69), "{arguments:?}: {}{}", finished.output, finished.errors);
        let words = finished.output.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(advice), "{arguments:?}: {}", finished.output);
    }
}
