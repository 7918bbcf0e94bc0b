//! `clapometer why` with two running scalers, of which KEDA asks one.

use super::{SOON, configuration, run_alone};
use crate::support::{
    cluster::Cluster,
    database::Database,
    executable::{Executable, Finished},
    fixture::Fixture,
    grpc::trigger,
};

/// The texts that must not be told: a part of the SQL, and the value of a parameter.
const SQL: &str = "canary_of_the_sql";
const VALUE: &str = "canary-of-a-value";

async fn why(arguments: &[&str]) -> Finished {
    run_alone(&[&["why"], arguments].concat()).await
}

#[tokio::test]
async fn the_process_that_was_asked_tells_it_and_the_others_say_that_they_were_not() {
    let database = Database::empty(Cluster::shared().await).await;
    let queries = format!("  jobs: {{sql: SELECT 7 AS {SQL} WHERE $1 <> '', parameters: {{queue: text}}}}\n");
    let configuration = configuration(&database.scaler(), &queries);
    let asked = Fixture::start(Executable::serve(&configuration)).await;
    let idle = Executable::serve(&configuration).serving().await;
    let (first, second) = (asked.serving.admin.to_string(), idle.admin.to_string());
    let good = trigger("jobs", &[("param.queue", VALUE), ("targetQueryValue", "2")]);
    asked.scaler.reaches(&good, 7.0, SOON).await;
    assert_eq!(asked.scaler.active(&good).await.ok(), Some(true));
    asked.scaler.refusal(&trigger("jobs", &[("param.queue", VALUE), ("divedBy", VALUE)])).await;

    let object = format!("{}/{}", good.namespace, good.name);
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    let nowhere = nowhere.to_string();
    let told =
        why(&[&object, "--admin-address", &second, "--admin-address", &nowhere, "--admin-address", &first]).await;
    assert_eq!((told.code(), &*told.errors), (Some(0), ""), "{}", told.output);
    for expected in [
        &*format!("{first}, which remembers since"),
        "value 7 / 2",
        "refused: InvalidArgument, \"divedBy: unknown key; did you mean divideBy?\"",
        &format!("{second} was not asked for it since"),
        &format!("{nowhere} does not answer, so that what it was asked is unknown: Connection refused"),
    ] {
        assert!(
            told.output.split_whitespace().collect::<Vec<_>>().join(" ").contains(expected),
            "{expected} in\n{}",
            told.output
        );
    }
    for canary in [SQL, VALUE, &database.scaler().dbname] {
        assert!(!told.output.contains(canary), "it tells {canary}:\n{}", told.output);
    }
    let unknown = why(&["default/other", "--at", "03:12", "--admin-address", &first]).await;
    assert_eq!(unknown.code(), Some(1), "{}", unknown.output);
    let away = why(&[&object, "--admin-address", &nowhere, "--admin-address", "host.invalid:9091"]).await;
    assert_eq!(away.code(), Some(69), "{}", away.output);
    assert!(away.output.contains("host.invalid:9091 does not answer"), "{}", away.output);
    // The gRPC port is no admin port.
    let other = why(&[&object, "--admin-address", &asked.serving.grpc.to_string()]).await;
    assert_eq!(other.code(), Some(69), "{}", other.output);
}

#[tokio::test]
async fn wrong_usage_is_said() {
    for (arguments, expected) in [
        (&["invoices"][..], "must be NAMESPACE/NAME"),
        (&["a/b", "--at", "yesterday"], "--at: must be HH:MM, HH:MM:SS, or RFC 3339"),
        (&["a/b", "--since", "2d"], "up to 24h"),
        (&["a/b", "--admin-address", "no-port"], "must be HOST:PORT"),
        (&["a/b", "--manifest", "missing.yaml"], "--manifest: cannot read missing.yaml"),
        (&["a/b", "--manifest", "b.yaml"], "--manifest: the object is in the namespace other, not in a"),
        (&["a/c", "--manifest", "b.yaml"], "--manifest: no object is named c; there are ScaledJob/b"),
    ] {
        let manifest = "apiVersion: keda.sh/v1alpha1\nkind: ScaledJob\nmetadata: {name: b, namespace: other}\n";
        let executable = Executable::clapometer([&["why"], arguments].concat()).file("b.yaml", manifest);
        let finished = executable.finish(SOON).await;
        assert_eq!(finished.code(), Some(2), "{arguments:?}");
        assert!(finished.errors.contains(expected), "{arguments:?}: {}", finished.errors);
    }
}
