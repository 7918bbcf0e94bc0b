//! The greatest number of streams that the contract allows one process, and one more.

use std::{ops::Range, time::Duration};

use clapometer::proto::ScaledObjectRef;
use tonic::Code;

use super::{
    MANY_STREAMS, Victim,
    frames::{SETTINGS, frame, grpc},
    held::HeldConnection,
};
use crate::support::{admin, cluster::Cluster, database::Database, wait};

/// The address of the crowd: another peer than the client that is answered.
const PEER: [u8; 4] = [127, 0, 0, 2];

/// The window of who takes everything.
const ALL: u32 = 0x7fff_ffff;

/// The contract: of the process, of one trigger.
const OF_THE_PROCESS: u32 = 50_000;
const OF_A_TRIGGER: u32 = 4;

/// Connections that they come over; one may have 20,000 at once.
const CONNECTIONS: u32 = 5;

/// Opened at once, so that the server's window on the connection suffices.
const AT_ONCE: u32 = 5_000;

/// Changes of its settings that a connection full of streams sends at once.
const SETTINGS_CHANGES: usize = 2_000;

/// A busy machine takes seconds.
const OPENED: Duration = Duration::from_secs(60);

/// Bytes of the server's memory that a stream may cost.
const COST: u64 = 8 * 1024;

/// Opens streams with these numbers, of which [`OF_A_TRIGGER`] each are one trigger's.
async fn open(crowd: &mut HeldConnection, numbers: Range<u32>) {
    let mut bytes = Vec::new();
    for number in numbers {
        let reference = ScaledObjectRef { name: format!("object-{}", number / OF_A_TRIGGER), ..Victim::trigger() };
        bytes.extend(crowd.call("StreamMetricSpec", &[], &grpc(&reference), false));
    }
    crowd.say(&bytes).await;
}

async fn open_streams(victim: &Victim) -> f64 {
    admin::metric(victim.fixture.serving.admin, "clapometer_streams").await
}

#[tokio::test]
async fn fifty_thousand_streams_are_held_and_the_next_is_refused_until_one_ends() {
    let _alone = MANY_STREAMS.lock().await;
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let start = std::time::Instant::now();
    let mut crowds = Vec::new();
    let mut opened = 0;
    for _ in 0..CONNECTIONS {
        let mut crowd = HeldConnection::new(PEER, victim.address(), ALL).await;
        let first = opened;
        while opened - first < OF_THE_PROCESS / CONNECTIONS {
            open(&mut crowd, opened..opened + AT_ONCE).await;
            opened += AT_ONCE;
            wait::first(&format!("{opened} streams are open"), OPENED, async || {
                (open_streams(&victim).await == f64::from(opened)).then_some(())
            })
            .await;
        }
        crowds.push(crowd);
        victim.answers().await;
    }
    let grown = victim.memory("VmRSS").saturating_sub(victim.memory);
    println!("{opened} streams in {:.1?}, {} KiB each", start.elapsed(), grown / u64::from(OF_THE_PROCESS) / 1024);
    assert!(grown < COST * u64::from(OF_THE_PROCESS), "{grown} bytes");

    let one_more = ScaledObjectRef { name: "one more".to_owned(), ..Victim::trigger() };
    let refused =
        victim.scaler().activity(&one_more).await.map(drop).expect_err("there is no place for a StreamIsActive");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let refused = victim.scaler().client().stream_metric_spec(one_more.clone()).await.map(drop);
    assert_eq!(refused.expect_err("there is no place for a StreamMetricSpec").code(), Code::ResourceExhausted);
    victim.answers().await;

    // HTTP/2 looks at every stream for each of them.
    let flooding = crowds.pop().expect("there are some");
    let changes = [frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]), frame(SETTINGS, 0, 0, &[0, 4, 0, 2, 0, 0])].concat();
    flooding.say(&changes.repeat(SETTINGS_CHANGES / 2)).await;
    victim.answers().await;
    wait::first("the places of a closed connection are given back", OPENED, async || {
        (open_streams(&victim).await <= f64::from(OF_THE_PROCESS - OF_THE_PROCESS / CONNECTIONS)).then_some(())
    })
    .await;
    let mut taken = victim.scaler().activity(&one_more).await.expect("there is a place again");
    assert!(taken.message().await.unwrap().expect("its first state").result);
    drop((taken, flooding, crowds));
    wait::first("nothing is left of the crowd", OPENED, async || (open_streams(&victim).await == 0.0).then_some(()))
        .await;
    victim.answers().await;
    assert!(victim.fixture.serving.process.ended().is_none(), "the process has ended");
    let log = victim.fixture.serving.process.errors();
    assert!(!log.contains("panicked"), "{log}");
}
