//! Each row is seen within `resync`, even if the transaction that should have notified of it did not.

use std::time::Duration;

use super::{INSERT, jobs};
use crate::support::{
    cluster::Cluster,
    database::Database,
    fixture::{Fixture, REREADS, jobs_trigger},
};

/// Readings get two seconds old; a busy machine takes its time, too.
const RESYNC: Duration = Duration::from_secs(8);

const QUERY: &str = "
  jobs: {sql: SELECT count(*) FROM app.jobs, max_age: 1m, notify: {channel: jobs, resync: 2s}}
";

async fn watched(database: &Database<'_>) -> Fixture {
    database.execute("GRANT SELECT ON app.jobs TO scaler").await;
    let fixture = Fixture::with(&database.scaler(), QUERY).await;
    fixture.listens().await;
    fixture
}

#[tokio::test]
async fn a_row_whose_leader_rolls_back_stays_open_or_is_long_gone_is_seen() {
    let database = jobs(Cluster::shared().await).await;
    let fixture = watched(&database).await;
    let (snapshot, leader, follower) = (database.connect().await, database.connect().await, database.connect().await);
    snapshot.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM app.jobs").await.unwrap();

    leader.batch_execute(&format!("BEGIN; {INSERT}")).await.unwrap();
    follower.batch_execute(INSERT).await.unwrap();
    leader.batch_execute("ROLLBACK").await.unwrap();
    fixture.scaler.reaches(&jobs_trigger(), 1.0, RESYNC).await;

    leader.batch_execute(&format!("BEGIN; {INSERT}")).await.unwrap();
    follower.batch_execute(INSERT).await.unwrap();
    fixture.scaler.reaches(&jobs_trigger(), 2.0, RESYNC).await;
    leader.batch_execute("COMMIT").await.unwrap();
    fixture.scaler.reaches(&jobs_trigger(), 3.0, RESYNC).await;

    leader.batch_execute(&format!("BEGIN; {INSERT}")).await.unwrap();
    follower.batch_execute(&format!("BEGIN; {INSERT}")).await.unwrap();
    leader.batch_execute("COMMIT").await.unwrap();
    fixture.scaler.reaches(&jobs_trigger(), 4.0, RESYNC).await;
    // The commit must come after the last statement that the notification causes.
    tokio::time::sleep(REREADS).await;
    follower.batch_execute("COMMIT").await.unwrap();
    fixture.scaler.reaches(&jobs_trigger(), 5.0, RESYNC).await;
}
