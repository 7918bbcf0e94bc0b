//! Each row is seen within `resync`, whatever becomes of the transaction that was to tell of it.

use std::time::Duration;

use super::{INSERT, jobs};
use crate::{
    streams::ground::{Stand, of_jobs},
    support::{cluster::Cluster, database::Database},
};

/// Readings get two seconds old; a busy machine takes its time, too.
const RESYNC: Duration = Duration::from_secs(4);

const QUERY: &str = "
  jobs: {sql: SELECT count(*) FROM app.jobs, max_age: 1m, notify: {channel: jobs, resync: 2s}}
";

async fn watched(database: &Database<'_>) -> Stand {
    database.execute("GRANT SELECT ON app.jobs TO scaler").await;
    let stand = Stand::with(&database.scaler(), QUERY).await;
    stand.hears().await;
    stand
}

#[tokio::test]
async fn a_row_whose_leader_rolls_back_stays_open_or_is_long_gone_is_seen() {
    let database = jobs(Cluster::shared().await).await;
    let stand = watched(&database).await;
    let (snapshot, leader, follower) = (database.connect().await, database.connect().await, database.connect().await);
    snapshot.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM app.jobs").await.unwrap();

    leader.batch_execute(&format!("BEGIN; {INSERT}")).await.unwrap();
    follower.batch_execute(INSERT).await.unwrap();
    leader.batch_execute("ROLLBACK").await.unwrap();
    stand.scaler.reaches(&of_jobs(), 1.0, RESYNC).await;

    leader.batch_execute(&format!("BEGIN; {INSERT}")).await.unwrap();
    follower.batch_execute(INSERT).await.unwrap();
    stand.scaler.reaches(&of_jobs(), 2.0, RESYNC).await;
    leader.batch_execute("COMMIT").await.unwrap();
    stand.scaler.reaches(&of_jobs(), 3.0, RESYNC).await;

    leader.batch_execute(&format!("BEGIN; {INSERT}")).await.unwrap();
    follower.batch_execute(&format!("BEGIN; {INSERT}")).await.unwrap();
    leader.batch_execute("COMMIT").await.unwrap();
    stand.scaler.reaches(&of_jobs(), 4.0, RESYNC).await;
    // Longer than clapometer reads again after a notification.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    follower.batch_execute("COMMIT").await.unwrap();
    stand.scaler.reaches(&of_jobs(), 5.0, RESYNC).await;
}
