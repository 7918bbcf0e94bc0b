//! The ground that the batch's tests stand on: a database with the tables, ledgers and workers on it.

use std::{collections::BTreeMap, time::Duration};

use clapometer::{
    batch::{
        operator::migrate,
        store::{Job, Statement, Store},
        transaction::Transactions,
    },
    conninfo::ConnectionSource,
};
use serde_json::Value;
use tokio::time::Instant;

use crate::support::{
    cluster::Cluster,
    database::{Access, Database, connect},
    executable::{Executable, Finished, log_lines},
};

/// More than any statement here takes, on a busy machine, too.
pub(super) const SOON: Duration = Duration::from_secs(30);

/// A lease that does not end during a test.
pub(super) const LONG: Duration = Duration::from_secs(600);

/// Statements whose text a test has replaced.
pub(super) type Overrides = BTreeMap<Statement, String>;

/// A database with the batch's tables, made by the migrations themselves.
pub(super) async fn queue(cluster: &Cluster) -> Database<'_> {
    Database::like(cluster, "batch_template", async |template| {
        migrate::up(&mut transactions(&template.owner(), None)).await.expect("the migrations are sound");
    })
    .await
}

/// A database with the batch's tables in another encoding than UTF-8.
pub(super) async fn queue_in<'cluster>(cluster: &'cluster Cluster, encoding: &str) -> Database<'cluster> {
    let database = Database::empty(cluster).await;
    let postgres = connect(&cluster.superuser("postgres")).await;
    let name = database.name();
    postgres.batch_execute(&format!("DROP DATABASE {name}")).await.expect("nobody uses it yet");
    let create = format!(
        "CREATE DATABASE {name} OWNER owner TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    );
    postgres.batch_execute(&create).await.expect("the C locale takes every encoding");
    database.execute("GRANT ALL ON SCHEMA public TO owner").await;
    batch(&database, ["migrate", "up"]).finish(SOON).await;
    database
}

/// A way to connect as the library wants it.
pub(super) fn source(access: &Access) -> ConnectionSource {
    let variables = access.environment();
    ConnectionSource::from_environment(&|name| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    })
    .expect("the environment is complete")
}

pub(super) fn transactions(access: &Access, schema: Option<&str>) -> Transactions {
    Transactions::new(source(access), schema.map(str::to_owned), "tests", SOON)
}

pub(super) fn store(database: &Database<'_>) -> Store {
    store_with(database, &Overrides::new())
}

pub(super) fn store_with(database: &Database<'_>, overrides: &Overrides) -> Store {
    Store::with_overrides(source(&database.owner()), None, overrides.clone())
}

/// A Job's first pod.
pub(super) fn job(uid: &str) -> Job {
    pod(uid, &format!("{uid}-pod"))
}

/// Some pod of a Job.
pub(super) fn pod(uid: &str, pod: &str) -> Job {
    Job { uid: uid.to_owned(), name: Some(format!("{uid}-name")), pod: pod.to_owned(), node: None }
}

/// The deadline of whatever is asked now.
pub(super) fn soon() -> Instant {
    Instant::now() + SOON
}

/// Adds requests of `duration_seconds` each.
pub(super) async fn request(database: &Database<'_>, count: u32, duration_seconds: u32) {
    database
        .execute(&format!(
            "INSERT INTO make_it_clap (duration_seconds) SELECT {duration_seconds} FROM generate_series(1, {count})"
        ))
        .await;
}

/// Lets the lease of every clap end.
pub(super) async fn expire_leases(database: &Database<'_>) {
    database.execute("UPDATE clap SET lease_expires_at = now() - interval '1 second'").await;
}

/// Makes every clap due.
pub(super) async fn end_back_off(database: &Database<'_>) {
    database.execute("UPDATE clap SET next_attempt_at = now() - interval '1 second'").await;
}

/// The executable on this database; arguments begin with the subcommand.
pub(super) fn batch<'a>(database: &Database<'_>, arguments: impl IntoIterator<Item = &'a str>) -> Executable {
    Executable::postgres_batch(arguments).variables(database.owner().environment())
}

/// The report at the end of a Job's output, wherever it stands.
pub(super) fn report(finished: &Finished) -> Value {
    let lines = log_lines(&format!("{}\n{}", finished.output, finished.errors));
    let mut reports = lines.into_iter().filter(|line| line.get("outcome").is_some());
    let report = reports.next().unwrap_or_else(|| panic!("no report in {finished:?}"));
    assert_eq!(reports.next(), None, "a Job reports once");
    assert_eq!(report["exit_code"], finished.code().unwrap_or_default(), "the report has the exit code");
    report
}
