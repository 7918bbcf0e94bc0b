//! LISTEN behind a pooler, and on a host of its own.

use std::time::{Duration, Instant};

use super::{EAGER, TOLD_DEAF, poll};
use crate::support::{
    cluster::Cluster,
    fixture::{Fixture, SOON, add, jobs, jobs_trigger},
    pooler::Pooler,
    skip::skip,
    wait,
};

#[tokio::test]
async fn behind_a_pooler_listen_is_deaf_says_so_once_and_polls() {
    let database = jobs(Cluster::shared().await).await;
    let client = database.connect().await;
    let Some(pooler) = Pooler::before(&database.scaler(), 4).await else { return skip("PgBouncer is not installed") };
    let fixture = Fixture::with(&database.scaler().by_way_of(pooler.address()), EAGER).await;
    wait::eventually("it says that it is deaf", Duration::from_secs(10), || fixture.logged(TOLD_DEAF) > 0).await;
    let before = fixture.statements("jobs").await;
    add(&client).await;
    fixture.scaler.reaches(&jobs_trigger(), 1.0, SOON).await;
    poll(&fixture).await;
    assert!(fixture.statements("jobs").await - before > 5.0, "a deaf scaler must poll");
    // The next attempts fail as the first did.
    let logins = pooler.logins();
    wait::eventually("three more attempts", Duration::from_secs(20), || pooler.logins() >= logins + 3).await;
    assert_eq!(fixture.logged(TOLD_DEAF), 1);
    assert_eq!(fixture.metric("clapometer_listen_up", "database=\"claps\"").await, Some(0.0));
}

#[tokio::test]
async fn behind_a_pooler_attempts_to_listen_leave_the_only_connection_to_readings() {
    let database = jobs(Cluster::shared().await).await;
    let Some(pooler) = Pooler::before(&database.scaler(), 4).await else { return skip("PgBouncer is not installed") };
    let access = database.scaler().by_way_of(pooler.address()).with("pool_size", 1);
    let fixture = Fixture::with(&access, EAGER).await;
    wait::eventually("it says that it is deaf", Duration::from_secs(10), || fixture.logged(TOLD_DEAF) > 0).await;
    let logins = pooler.logins();
    let (start, mut late) = (Instant::now(), Vec::new());
    // With the third login two attempts have waited for their NOTIFY, two seconds each.
    while pooler.logins() < logins + 3 {
        assert!(start.elapsed() < SOON * 4, "{} attempts", pooler.logins() - logins);
        let asked = Instant::now();
        assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 0.0);
        late.extend(Some(asked.elapsed()).filter(|taken| *taken > Duration::from_millis(1_500)));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // One may be the machine's.
    assert!(late.len() < 2, "{late:?}");
}

#[tokio::test]
async fn behind_a_pooler_listen_host_makes_it_hear() {
    let database = jobs(Cluster::shared().await).await;
    let client = database.connect().await;
    let Some(pooler) = Pooler::before(&database.scaler(), 4).await else { return skip("PgBouncer is not installed") };
    let access = database.scaler();
    let pooled = access.clone().by_way_of(pooler.address());
    let pooled = pooled.with("listen_host", &access.host).with("listen_port", access.port);
    let fixture = Fixture::listening(&pooled).await;
    let follower = fixture.follow(&jobs_trigger()).await;
    follower.says(&[false], SOON).await;
    add(&client).await;
    follower.says(&[false, true], SOON).await;
    assert_eq!(fixture.logged(TOLD_DEAF), 0);
}

#[tokio::test]
async fn listen_host_may_be_a_unix_socket_while_readings_go_elsewhere() {
    let cluster = Cluster::shared().await;
    let database = jobs(cluster).await;
    let by_socket = database.scaler().with("listen_host", cluster.socket_directory().display());
    let fixture = Fixture::listening(&by_socket).await;
    let client = database.connect().await;
    let follower = fixture.follow(&jobs_trigger()).await;
    follower.says(&[false], SOON).await;
    add(&client).await;
    follower.says(&[false, true], SOON).await;
}
