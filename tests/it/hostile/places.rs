//! Connections that hold places: the kubelet and KEDA get in beside them.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use clapometer::proto::GetMetricsRequest;
use futures_util::future::join_all;
use h2::client::SendRequest;
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tonic::Code;

use super::{Victim, frames, whole};
use crate::support::{cluster::Cluster, database::Database, grpc::Scaler, wait};

/// A busy machine takes seconds for what takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// The contract: so many connections of the gRPC port, and of one peer.
const CONNECTIONS: usize = 1_000;
const OF_A_PEER: usize = CONNECTIONS / 2;

/// Begins to ask, and stays.
async fn begin_to_ask(address: SocketAddr, source: [u8; 4]) -> TcpStream {
    let mut socket = frames::connect_from(source, address).await;
    let _ = socket.write_all(b"GET /livez HTTP/1.1\r\nhost: admin\r\n").await;
    socket
}

#[tokio::test]
async fn a_probe_finds_a_place_while_others_hold_the_port_of_probes() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let admin = victim.fixture.serving.admin;
    let mut late = Vec::new();
    // From another address than the prober's, and from its own.
    for source in [[127, 0, 0, 2], [127, 0, 0, 1]] {
        let mut sockets = Vec::new();
        for _ in 0..520 {
            sockets.push(begin_to_ask(admin, source).await);
        }
        for _ in 0..9 {
            late.extend(victim.late_probe().await);
        }
    }
    assert!(late.len() < 2, "late probes: {late:?}");
    victim.is_unharmed().await;
}

/// Bytes of a head that hyper would wait for the rest of.
const LONG_HEAD: usize = 400_000;

#[tokio::test]
async fn heads_of_hundreds_of_kilobytes_are_not_kept() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let admin = victim.fixture.serving.admin;
    let head = format!("GET /livez HTTP/1.1\r\nhost: {}", "a".repeat(LONG_HEAD));
    let mut refused = Vec::new();
    for _ in 0..200 {
        let mut socket = begin_to_ask(admin, [127, 0, 0, 2]).await;
        let head = head.as_bytes();
        refused.push(async move {
            // It is refused in the middle of it.
            let _ = socket.write_all(head).await;
            let mut answer = Vec::new();
            let _ = socket.read_to_end(&mut answer).await;
        });
    }
    wait::bounded("the ends of all", PATIENCE, join_all(refused)).await;
    victim.is_unharmed().await;
}

/// Checks that somebody who was not there before is answered in time.
async fn a_new_client_is_answered(address: SocketAddr) {
    let new = Scaler::at(address);
    assert_eq!(new.value(&Victim::trigger()).await.expect("a new client is answered"), 3.0);
}

#[tokio::test]
async fn a_new_client_is_answered_beside_a_thousand_connections_that_carry_no_call() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    // From another address than the client's, and from its own.
    for source in [[127, 0, 0, 2], [127, 0, 0, 1]] {
        let mut sockets = Vec::new();
        for _ in 0..=CONNECTIONS {
            sockets.push(frames::open_from(source, victim.address()).await);
        }
        for _ in 0..3 {
            a_new_client_is_answered(victim.address()).await;
        }
        victim.answers().await;
    }
    let gave_way = victim.fixture.metric("clapometer_limit_reached_total", "limit=\"new_connections\"").await;
    assert!(gave_way >= Some(1_000.0), "{gave_way:?}");
    victim.logs_once_a_minute("connections gave way to newer ones").await;
    victim.is_unharmed().await;
}

/// A connection that carries calls.
struct Caller {
    client: SendRequest<Bytes>,
    driving: JoinHandle<Result<(), h2::Error>>,
}

impl Caller {
    async fn new(victim: &Victim, source: [u8; 4]) -> Self {
        let socket = frames::connect_from(source, victim.address()).await;
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        Self { client, driving: tokio::spawn(connection) }
    }

    async fn call(&self, method: &str, message: &impl Message) -> Option<Code> {
        wait::bounded("an answer", PATIENCE, whole::call(self.client.clone(), method, frames::grpc(message).into()))
            .await
    }

    /// Returns the code of a call that may wait for a reading.
    async fn value(&self) -> Option<Code> {
        let request = GetMetricsRequest { scaled_object_ref: Some(Victim::trigger()), metric_name: "jobs".to_owned() };
        self.call("GetMetrics", &request).await
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.driving.abort();
    }
}

#[tokio::test]
async fn connections_that_carry_calls_are_shared_among_peers() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let mut callers: Vec<Caller> = Vec::new();
    // The client from before the attack has a place, too.
    for (source, places) in [([127, 0, 0, 2], OF_A_PEER), ([127, 0, 0, 3], OF_A_PEER - 1)] {
        for _ in 0..places {
            let caller = Caller::new(&victim, source).await;
            assert_eq!(caller.value().await, Some(Code::Ok));
            callers.push(caller);
        }
        let beyond = Caller::new(&victim, source).await;
        assert_eq!(beyond.value().await, Some(Code::ResourceExhausted), "no peer gets more than another one");
        // KEDA drops errors of this call, so that there is none.
        assert_eq!(beyond.call("GetMetricSpec", &Victim::trigger()).await, Some(Code::Ok));
        callers.pop();
        wait::first("the place of a connection that has ended is free", PATIENCE, async || {
            (beyond.value().await == Some(Code::Ok)).then_some(())
        })
        .await;
        callers.push(beyond);
        victim.answers().await;
    }
    for _ in 0..3 {
        a_new_client_is_answered(victim.address()).await;
    }
    victim.answers().await;
    let gave_way = victim.fixture.metric("clapometer_limit_reached_total", "limit=\"connections\"").await;
    assert!(gave_way >= Some(1.0), "{gave_way:?}");
    drop(callers);
    victim.is_unharmed().await;
}
