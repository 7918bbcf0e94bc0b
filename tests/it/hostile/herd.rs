//! Fifty thousand streams that wake at the same moment: by a change that concerns all, by a reload, and by the end of
//! their connections; and streams whose peer takes no message.

use std::{sync::atomic::Ordering, time::Instant};

use super::{
    MANY_STREAMS, Victim,
    frames::grpc,
    held::{ALL, HeldConnection, OtherClient, PATIENCE},
    limits::{AT_ONCE, PEERS},
};
use crate::support::{
    admin,
    cluster::Cluster,
    database::Database,
    fixture::{Fixture, SOON, add, clear, jobs, jobs_trigger, named},
    grpc::{Scaler, trigger},
    wait,
};

/// The contract's number. The other client has one of the places.
const STREAMS: usize = 50_000 - 1;

/// Streams of one trigger, at most.
const OF_A_TRIGGER: usize = 4;

/// The connections of one peer; each carries less than the 20,000 calls that a connection may have.
const CONNECTIONS: usize = 3;

/// Changes that all streams are told of.
const CHANGES: usize = 4;

/// Polls of the other client, and pushes to it, that show that it was answered.
const POLLS: usize = 3;

/// A table whose commits are notified, and the statements that change it.
const PUSHED: &str = "
    CREATE TABLE pushed (id int);
    GRANT SELECT ON pushed TO scaler;
    CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN PERFORM pg_notify('pushed', ''); RETURN NULL; END$$;
    CREATE TRIGGER tell AFTER INSERT OR DELETE ON pushed FOR EACH STATEMENT EXECUTE FUNCTION tell();
";
const STATEMENTS: [&str; 2] = ["INSERT INTO pushed VALUES (1)", "DELETE FROM pushed"];

/// Returns the slowest answer to another client's call, and the slowest push on its stream.
fn slowest(polling: &OtherClient, followed: &OtherClient) -> String {
    format!("a call took {:.1?} at most, a push {:.1?}", polling.slowest(), followed.slowest())
}

/// Waits until all streams together have had so many messages.
async fn heard(crowd: &[HeldConnection], messages: usize) {
    let began = Instant::now();
    wait::first("the messages of all streams", PATIENCE, async || {
        let heard: usize = crowd.iter().map(|caller| caller.messages.load(Ordering::Relaxed)).sum();
        (heard >= messages).then_some(())
    })
    .await;
    println!("{messages} messages after {:.1?}", began.elapsed());
}

#[tokio::test]
async fn another_client_is_answered_while_fifty_thousand_streams_wake() {
    let _alone = MANY_STREAMS.lock().await;
    let database = Database::empty(Cluster::shared().await).await;
    let tables = "CREATE TABLE jobs (queue text); CREATE TABLE crowd (id int); GRANT SELECT ON jobs, crowd TO scaler;
        INSERT INTO jobs SELECT 'mail' FROM generate_series(1, 3);";
    database.execute(&[tables, PUSHED].concat()).await;
    let (own, crowded) = (database.scaler().yaml("own"), database.scaler().yaml("crowded"));
    let configuration = |target: u32| {
        format!(
            "databases:\n{own}{crowded}queries:
  jobs: {{sql: 'SELECT count(*) FROM jobs WHERE queue = $1', parameters: {{queue: text}}, database: own, max_age: 0s}}
  pushed:
    {{sql: 'SELECT count(*) FROM pushed', database: own, max_age: 1m, notify: {{channel: pushed, resync: 1m}}}}
  crowd: {{sql: 'SELECT count(*) FROM crowd', database: crowded, target: {target}}}
"
        )
    };
    let mut fixture = Fixture::configured(&configuration(1)).await;
    let (address, admin) = (fixture.serving.grpc, fixture.serving.admin);
    assert_eq!(fixture.scaler.value(&Victim::trigger()).await.unwrap(), 3.0);

    let mut crowd = Vec::new();
    for number in 0..CONNECTIONS {
        crowd.push(HeldConnection::new(PEERS[number % PEERS.len()], address, ALL).await);
    }
    fixture.reaches_metric("clapometer_listen_up", "database=\"own\"", 1.0, SOON).await;
    let other = OtherClient::start(move || Scaler::at(address), Victim::trigger());
    let driver = database.superuser().driver();
    let followed = OtherClient::followed(move || Scaler::at(address), trigger("pushed", &[]), driver, STATEMENTS);
    let mut numbers = 0..STREAMS;
    while !numbers.is_empty() {
        for caller in &mut crowd {
            let triggers =
                numbers.by_ref().take(AT_ONCE).map(|number| named(&trigger("crowd", &[]), number / OF_A_TRIGGER));
            let calls = triggers
                .flat_map(|trigger| caller.call("StreamIsActive", &[], &grpc(&trigger), false))
                .collect::<Vec<_>>();
            caller.say(&calls).await;
        }
    }
    heard(&crowd, STREAMS).await;
    println!("opened: {}", slowest(&other, &followed));

    for change in 1..=CHANGES {
        let is_active = change % 2 == 1;
        database.execute(if is_active { "INSERT INTO crowd VALUES (1)" } else { "DELETE FROM crowd" }).await;
        heard(&crowd, (1 + change) * STREAMS).await;
        other.is_answered(POLLS).await;
        followed.is_answered(POLLS).await;
        println!("change {change}: {}", slowest(&other, &followed));
    }
    fixture.reload(&configuration(2)).await;
    other.is_answered(POLLS).await;
    followed.is_answered(POLLS).await;
    println!("reload: {}", slowest(&other, &followed));

    drop(crowd);
    wait::first("nothing is left of the crowd", PATIENCE, async || {
        (admin::metric(admin, "clapometer_streams").await == 1.0).then_some(())
    })
    .await;
    other.is_answered(POLLS).await;
    followed.is_answered(POLLS).await;
    println!("drop: {}", slowest(&other, &followed));
    followed.end();
    other.end();
    assert!(fixture.serving.process.ended().is_none(), "the process has ended");
}

/// Streams of a peer that takes no message.
const DEAF: usize = 8_000;

#[tokio::test]
async fn streams_whose_peer_takes_no_message_hold_up_no_other_stream() {
    let database = jobs(Cluster::shared().await).await;
    let fixture = Fixture::listening(&database.scaler()).await;
    let client = database.connect().await;
    let mut deaf = HeldConnection::new(PEERS[0], fixture.serving.grpc, 0).await;
    let triggers = (0..DEAF).map(|number| named(&jobs_trigger(), number));
    let calls: Vec<u8> =
        triggers.flat_map(|trigger| deaf.call("StreamIsActive", &[], &grpc(&trigger), false)).collect();
    // Changes come while the streams are still being told the state before.
    let changes = async {
        while admin::metric(fixture.serving.admin, "clapometer_streams").await < f64::from(u32::try_from(DEAF).unwrap())
        {
            add(&client).await;
            clear(&client).await;
        }
    };
    tokio::join!(deaf.say(&calls), changes);

    let follower = fixture.follow(&named(&jobs_trigger(), "other")).await;
    follower.says(&[false], SOON).await;
    add(&client).await;
    follower.says(&[false, true], SOON).await;
    drop(deaf);
}
