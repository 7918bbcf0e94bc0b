//! Many clients at once: five thousand objects whose connections are cut, and a peer that floods.

use std::{net::SocketAddr, time::Duration};

use clapometer::proto::{GetMetricsRequest, ScaledObjectRef};
use futures_util::{
    future::join_all,
    stream::{self, StreamExt},
};
use tokio::{runtime::Builder, time::sleep};

use crate::{
    hostile::held::{HeldConnection, IS_ACTIVE},
    support::{
        fixture::named,
        grpc::{Scaler, trigger},
        wait,
    },
};

/// The objects, and the connections that they share.
const OBJECTS: usize = 5_000;
const CONNECTIONS: usize = 10;

/// The polls that are under way at a time: KEDA spreads those of its objects over their intervals.
const POLLS: usize = 50;

/// A busy machine takes seconds for five thousand of anything in a debug build.
const PATIENCE: Duration = Duration::from_secs(120);

/// The connections of the peer that floods, the bytes of each of its requests, and the pause between two of them: the
/// scaler gives up one that is not complete after 5 s.
const FLOODING: usize = 400;
const REQUEST: usize = 60_000;
const PAUSE: Duration = Duration::from_secs(1);

/// Lets all objects have their streams, cuts their connections, and lets them come back at once. Each is answered.
///
/// It blocks its thread: what five thousand clients do must not hold up the client whose answers are looked at.
pub(super) fn reconnect(address: SocketAddr) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        drop(wait::bounded("the first message of each stream", PATIENCE, connect(address)).await);
        wait::bounded("the first message of each stream after a mass reconnect", PATIENCE, connect(address)).await;
    });
}

/// Opens the streams of all objects at once, and then polls each. Whoever drops what it returns cuts the connections.
async fn connect(address: SocketAddr) -> impl Sized {
    let scalers: Vec<Scaler> = (0..CONNECTIONS).map(|_| Scaler::at(address)).collect();
    let objects = || (0..OBJECTS).map(|number| (scalers[number % CONNECTIONS].client(), object(number)));
    let streams = objects().map(async |(mut client, object)| {
        let mut stream = client.stream_is_active(object).await.expect("a stream is opened").into_inner();
        let message = stream.message().await.expect("a stream does not fail");
        assert!(message.is_some(), "a stream begins with the present state");
        stream
    });
    let streams = join_all(streams).await;
    let polls = objects().map(async |(mut client, object)| {
        let request = GetMetricsRequest { scaled_object_ref: Some(object), metric_name: "shared".to_owned() };
        client.get_metrics(request).await.expect("a poll is answered");
    });
    stream::iter(polls).buffer_unordered(POLLS).collect::<Vec<()>>().await;
    (scalers, streams)
}

fn object(number: usize) -> ScaledObjectRef {
    named(&trigger("shared", &[]), format!("object-{number}"))
}

/// Begins requests of a peer that never become complete, until it is aborted.
pub(super) async fn flood(address: SocketAddr) {
    let mut connections = Vec::new();
    for _ in 0..FLOODING {
        connections.push(HeldConnection::new([127, 0, 0, 2], address, 0).await);
    }
    loop {
        for connection in &mut connections {
            connection.begin(IS_ACTIVE, REQUEST).await;
        }
        sleep(PAUSE).await;
    }
}
