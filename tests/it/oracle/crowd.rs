//! Many clients at once: five thousand objects whose connections are cut, and a peer that floods.

use std::{net::SocketAddr, time::Duration};

use clapometer::proto::GetMetricsRequest;
use futures_util::future::join_all;
use tokio::time::sleep;

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

/// A busy machine takes seconds for five thousand of anything in a debug build.
const PATIENCE: Duration = Duration::from_secs(120);

/// The connections of the peer that floods, the bytes of each of its requests, and the pause between two of them: the
/// scaler gives up one that is not complete after 5 s.
const FLOODING: usize = 400;
const REQUEST: usize = 60_000;
const PAUSE: Duration = Duration::from_secs(1);

/// Lets all objects have their streams, cuts their connections, and lets them come back at once. Each is answered.
pub(super) async fn reconnect(address: SocketAddr) {
    drop(wait::bounded("the first message of each stream", PATIENCE, connect(address)).await);
    wait::bounded("the first message of each stream after a mass reconnect", PATIENCE, connect(address)).await;
}

/// Opens the stream of each object, and polls each once. The streams end when the connections are dropped.
async fn connect(address: SocketAddr) -> Vec<Scaler> {
    let scalers: Vec<Scaler> = (0..CONNECTIONS).map(|_| Scaler::at(address)).collect();
    let objects = (0..OBJECTS).map(async |number| {
        let scaler = &scalers[number % CONNECTIONS];
        let object = named(&trigger("shared", &[]), format!("object-{number}"));
        let mut stream =
            scaler.client().stream_is_active(object.clone()).await.expect("a stream is opened").into_inner();
        let message = stream.message().await.expect("a stream does not fail");
        assert!(message.is_some(), "a stream begins with the present state");
        let request = GetMetricsRequest { scaled_object_ref: Some(object), metric_name: "shared".to_owned() };
        scaler.client().get_metrics(request).await.expect("a poll is answered");
        stream
    });
    let streams = join_all(objects).await;
    assert_eq!(streams.len(), OBJECTS);
    scalers
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
