//! Canaries: what must not be said is planted everywhere, and looked for in all that is said.

mod certificates;

use std::time::Duration;

use tonic::{Code, Status};

use crate::support::{
    cluster::{Cluster, SCALER_PASSWORD},
    database::Database,
    executable::Executable,
    grpc::{Scaler, trigger},
    proxy::{Mode, Proxy},
};

/// The text of a query; whoever reads an Event has no business with it.
const SQL: &str = "canary_in_the_sql";
/// A secret that KEDA has resolved for a trigger.
const FROM_ENV: &str = "canary-from-env";
/// A value in a place where it does not belong.
const VALUE: &str = "canary-value";

/// Everything that a status must not hold, beside the passwords.
fn must_stay_here(database: &Database<'_>) -> Vec<String> {
    let access = database.scaler();
    [SCALER_PASSWORD, SQL, FROM_ENV, VALUE, "pg_sleep", "127.0.0.1", "scaler@"]
        .iter()
        .map(|canary| (*canary).to_owned())
        .chain([access.port.to_string(), access.dbname])
        .collect()
}

#[tokio::test]
async fn no_status_and_no_log_at_any_level_tells_a_secret() {
    let cluster = Cluster::private().await;
    let database = Database::seed(&cluster).await;
    let proxy = Proxy::to_cluster(&cluster).await;
    let queries = format!(
        "  fine: {{sql: SELECT count(*) AS {SQL} FROM make_it_clap, max_age: 0s}}
  missing: {{sql: SELECT count(*) FROM {SQL}, max_age: 0s}}
  mistaken: {{sql: \"SELECT '{SQL}'::bigint\", max_age: 0s}}
  slow: {{sql: 'SELECT 1 AS {SQL} FROM pg_sleep(30)', timeout: 100ms}}
  typed: {{sql: 'SELECT $1 AS {SQL}', parameters: {{n: bigint}}}}
"
    );
    let configuration =
        format!("databases:\n{}queries:\n{queries}", database.scaler().by_way_of(proxy.address()).yaml("claps"));
    let serving = Executable::serve(&configuration).variable("RUST_LOG", "trace").serving().await;
    let scaler = Scaler::at(serving.grpc);
    let mut said: Vec<Status> = Vec::new();
    let refused = async |reference, code| {
        let status = scaler.refusal(&reference).await;
        assert_eq!(status.code(), code, "{status:?}");
        status
    };

    scaler.reaches(&trigger("fine", &[]), 0.0, Duration::from_secs(10)).await;
    said.push(refused(trigger("missing", &[]), Code::FailedPrecondition).await);
    said.push(refused(trigger("mistaken", &[]), Code::FailedPrecondition).await);
    said.push(refused(trigger("slow", &[]), Code::DeadlineExceeded).await);
    said.push(refused(trigger("typed", &[("param.n", VALUE)]), Code::InvalidArgument).await);
    said.push(refused(trigger("typed", &[]), Code::InvalidArgument).await);
    for key in ["passwordFromEnv", "connectionFromEnv", "FromEnv", "queryFromEnv"] {
        said.push(refused(trigger("fine", &[(key, FROM_ENV)]), Code::InvalidArgument).await);
    }
    for key in ["divideBy", "rounding", "targetQueryValue", "activationTargetQueryValue", "activityColumn", "colour"] {
        said.push(refused(trigger("fine", &[(key, VALUE)]), Code::InvalidArgument).await);
    }
    for key in ["host", "port", "userName", "dbName", "sslmode"] {
        said.push(refused(trigger("fine", &[(key, VALUE)]), Code::InvalidArgument).await);
    }
    said.push(refused(trigger(&format!("SELECT '{VALUE}'"), &[]), Code::PermissionDenied).await);
    said.push(refused(trigger(VALUE, &[]), Code::PermissionDenied).await);
    for mode in [Mode::Reset, Mode::Blackhole] {
        proxy.set(mode);
        for _ in 0..4 {
            said.push(scaler.value(&trigger("fine", &[])).await.unwrap_err());
        }
        proxy.set(Mode::Pass);
        scaler.reaches(&trigger("fine", &[]), 0.0, Duration::from_secs(10)).await;
    }
    cluster.stop().await;
    scaler.refuses(&trigger("fine", &[]), Code::Unavailable, Duration::from_secs(10)).await;
    said.push(scaler.refusal(&trigger("fine", &[])).await);

    for status in &said {
        for canary in must_stay_here(&database) {
            assert!(!status.message().contains(&canary), "a status tells {canary}: {status:?}");
            assert!(status.details().is_empty() && status.metadata().get("x-error").is_none());
        }
    }
    let log = serving.process.terminate(Duration::from_secs(10)).await.errors;
    assert!(log.contains("query fails") && log.contains("database fails"), "nothing was logged: {log}");
    for canary in [SCALER_PASSWORD, FROM_ENV] {
        let told = log.lines().find(|line| line.contains(canary));
        assert!(told.is_none(), "the log tells {canary}: {told:?}");
    }
}

#[tokio::test]
async fn the_password_stays_out_of_everything_that_an_operator_prints() {
    let database = Database::seed(Cluster::shared().await).await;
    let access = database.scaler();
    let url = format!("postgres://scaler:{SCALER_PASSWORD}@{}:{}/{}", access.host, access.port, access.dbname);
    let configurations = [
        format!("databases:\n{}", access.yaml("claps")),
        format!("databases:\n  claps: {{url: '{url}?sslmode=disable'}}\n"),
        format!("databases:\n  claps: {{url: '{url}?sslmode=nonsense'}}\n"),
        format!("databases:\n{}    nonsense: {SCALER_PASSWORD}\n", access.yaml("claps")),
    ];
    for configuration in configurations {
        for command in [&["config"][..], &["check"], &["check", "--offline"]] {
            let executable = Executable::clapometer(command).file("clapometer.yaml", &configuration);
            let finished =
                executable.argument("--config").argument("clapometer.yaml").finish(Duration::from_secs(20)).await;
            let said = finished.output + &finished.errors;
            assert!(!said.is_empty());
            assert!(!said.contains(SCALER_PASSWORD), "{command:?} tells the password: {said}");
        }
    }
}
