//! `clapometer get` without an answer: its messages, its exit codes, and that it shows no secret.

use super::{configuration, redacted, run_alone};
use crate::support::{
    cluster::Cluster,
    database::Database,
    executable::{Executable, Finished},
};

#[tokio::test]
async fn each_kind_of_refusal_has_its_code_and_its_advice() {
    let database = Database::empty(Cluster::shared().await).await;
    let queries = "
  absent: {sql: SELECT count(*) FROM nowhere}
  elsewhere: {sql: SELECT 1, namespaces: [billing]}
  slow: {sql: SELECT count(*) FROM pg_sleep(20), timeout: 50ms}
  jobs: {sql: SELECT 1}
";
    let serving = Executable::serve(&configuration(&database.scaler(), queries)).serving().await;
    let address = serving.grpc.to_string();
    let mut pages = String::new();
    for arguments in [
        &["absent"][..],
        &["elsewhere"],
        &["slow"],
        &["unheard-of"],
        &["jobs", "--metadata", "targetQueryVlaue=5"],
        &["jobs", "--metadata", "rounding=down"],
    ] {
        let finished = run_alone(&[&["get"], arguments, &["--address", &address]].concat()).await;
        assert_eq!((finished.code(), &*finished.errors), (Some(1), ""), "{arguments:?}: {}", finished.output);
        pages += &finished.output;
        pages += "\n";
    }
    insta::assert_snapshot!(redacted(&pages, &[(&address, "<address>")]));
}

#[tokio::test]
async fn what_is_unavailable_exits_with_69() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let database = Database::empty(Cluster::shared().await).await;
    let access = database.scaler().by_way_of(nobody);
    let serving = Executable::serve(&configuration(&access, "  jobs: {sql: SELECT 1}\n")).serving().await;
    let off = configuration(&database.scaler(), "  jobs: {sql: SELECT 1}\n")
        .replace("    host:", "    enabled: false\n    host:");
    let off = Executable::serve(&off).serving().await;
    let cases = [
        (serving.grpc.to_string(), "GetMetrics", "the scaler answers, its database does not"),
        (off.grpc.to_string(), "GetMetrics", "`enabled: false` for this database"),
        (nobody.to_string(), "connect", "nothing answers there"),
        (serving.admin.to_string(), "GetMetricSpec", "the connection broke"),
        (format!("https://{}", serving.grpc), "connect", "the scaler seems to serve plain text"),
        ("scaler.invalid:9090".to_owned(), "connect", "this name is not known here"),
    ];
    for (address, rpc, advice) in cases {
        let finished = run_alone(&["get", "jobs", "--address", &address]).await;
        assert_eq!((finished.code(), &*finished.errors), (Some(69), ""), "{address}: {}", finished.output);
        assert!(finished.output.contains(&format!("  {rpc} ")), "{address}: {}", finished.output);
        assert!(finished.output.contains(advice), "{address}: {}", finished.output);

        let finished = run_alone(&["get", "jobs", "--json", "--address", &address]).await;
        let document: serde_json::Value = serde_json::from_str(&finished.output).unwrap();
        assert_eq!((finished.code(), &document["code"]), (Some(69), &"UNAVAILABLE".into()), "{address}");
    }
}

#[tokio::test]
async fn what_may_be_a_secret_is_never_shown() {
    let database = Database::empty(Cluster::shared().await).await;
    let serving = Executable::serve(&configuration(&database.scaler(), "  jobs: {sql: SELECT 1}\n")).serving().await;
    let address = serving.grpc.to_string();
    let ask = async |metadata: &str| -> Finished {
        run_alone(&["get", "jobs", "--address", &address, "--metadata", metadata]).await
    };
    let refused = ask("passwordFromEnv=canary").await;
    assert_eq!(refused.code(), Some(1));
    assert!(refused.output.contains("passwordFromEnv=(hidden)"), "{}", refused.output);
    for finished in [refused, ask("canary").await, ask("passwordFromEnv:canary").await] {
        assert!(!finished.output.contains("canary") && !finished.errors.contains("canary"), "{finished:?}");
    }
}
