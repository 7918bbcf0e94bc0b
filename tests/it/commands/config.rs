//! `clapometer config`.

use super::{SOON, configuration, run};
use crate::support::{cluster::Cluster, database::Database, executable::Executable};

#[tokio::test]
async fn what_is_printed_has_every_default_and_no_secret_and_loads_again() {
    let database = Database::empty(Cluster::shared().await).await;
    let access = database.scaler();
    let printed = run(&configuration(&access, "  jobs: {sql: SELECT 1}\n"), &["config"]).await;
    assert_eq!((printed.code(), &*printed.errors), (Some(0), ""));
    assert!(!printed.output.contains(&access.password), "{}", printed.output);
    for expected in ["pool_size: 4", "password: redacted", "outstanding-claps:", "max_age: 1s"] {
        assert!(printed.output.contains(expected), "no {expected} in\n{}", printed.output);
    }

    let again = run(&printed.output, &["config"]).await;
    let without_places = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split("  # ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(without_places(&again.output), without_places(&printed.output));
}

#[tokio::test]
async fn a_variable_is_named_where_it_has_set_a_key() {
    let finished = Executable::clapometer(["config"])
        .variable("CLAPOMETER__ADMIN__LISTEN", "127.0.0.1:9999")
        .variable("PGHOST", "127.0.0.1")
        .variable("PGUSER", "somebody")
        .finish(SOON)
        .await;
    assert!(
        finished.output.contains("listen: 127.0.0.1:9999  # CLAPOMETER__ADMIN__LISTEN"),
        "{}\n{}",
        finished.output,
        finished.errors
    );
}

#[tokio::test]
async fn every_fault_is_told_at_once_with_78_and_nothing_is_printed() {
    for command in [&["config"][..], &["check"], &["check", "--offline"], &["serve"]] {
        let finished = run("server: {listen: nowhere}\nqueries: {jobs: {sqll: SELECT 1}}\n", command).await;
        assert_eq!((finished.code(), &*finished.output), (Some(78), ""), "{command:?}");
        for expected in
            ["clapometer.yaml:1: server.listen: found \"nowhere\",", "clapometer.yaml:2: queries.jobs.sqll: "]
        {
            assert!(finished.errors.contains(expected), "{command:?}: {}", finished.errors);
        }
    }
}

#[tokio::test]
async fn json_is_the_same_configuration_and_names_every_fault() {
    let good = "admin: {listen: 127.0.0.1:9099}\ndatabases: {d: {host: localhost, user: me, password: hunter2}}\n";
    let printed = run(good, &["config", "--json"]).await;
    assert_eq!((printed.code(), &*printed.errors), (Some(0), ""));
    let json: serde_json::Value = serde_json::from_str(&printed.output).unwrap();
    assert_eq!(json["admin"]["listen"], "127.0.0.1:9099");
    assert_eq!(json["databases"]["d"]["password"], "redacted");
    assert_eq!(json["queries"]["pending-claps"]["target"], 1);

    let refused = run("admin: {listen: nowhere}\nsever: {}\n", &["config", "--json"]).await;
    assert_eq!((refused.code(), &*refused.errors), (Some(78), ""));
    let json: serde_json::Value = serde_json::from_str(&refused.output).unwrap();
    let keys: Vec<_> = json["faults"].as_array().unwrap().iter().map(|fault| (&fault["line"], &fault["key"])).collect();
    assert_eq!(keys, [(&1.into(), &"admin.listen".into()), (&2.into(), &"sever".into())]);
}

#[tokio::test]
async fn the_schema_is_printed_without_a_configuration() {
    let printed = Executable::clapometer(["config", "--schema", "--config", "/nowhere"]).finish(SOON).await;
    assert_eq!((printed.code(), &*printed.errors), (Some(0), ""));
    let shipped = std::fs::read_to_string("docs/configuration.schema.json").unwrap();
    assert_eq!(printed.output, shipped);
}
