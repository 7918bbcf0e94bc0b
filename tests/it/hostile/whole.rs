//! Whole requests that wait for a slow query: they share one budget, and another client is answered beside them.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, join_all, select};
use h2::client::SendRequest;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use super::{
    Victim,
    frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, frame},
};
use crate::support::{cluster::Cluster, database::Database, grpc::trigger, wait};

const CONNECTIONS: usize = 12;

/// Calls of one connection with as much metadata as a trigger may have, and with as little.
const LARGE: usize = 500;
const SMALL: usize = 600;

/// KEDA's own keys are not looked at, so that their values may be as long as the metadata.
const LONG_ADDRESS: usize = 60_000;

/// Bytes of memory that the flood may take: the budget of its peer, twice that for what the allocator and HTTP/2 keep
/// of it, and of the refused calls that are not written yet. Without the budget it takes 230 MiB and more.
const GROWN: u64 = 3 * 32 * 1024 * 1024;

const ANSWERED: Duration = Duration::from_secs(60);

/// Sends one call, and returns its code once it is answered.
pub(super) async fn call(client: SendRequest<Bytes>, method: &str, message: Bytes) -> Option<Code> {
    let request = Request::post(format!("http://clapometer/externalscaler.ExternalScaler/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut body) = client.ready().await.ok()?.send_request(request, false).ok()?;
    // The server may have refused it by now; the response has the status.
    let _ = body.send_data(message, true);
    let mut head = response.await.ok()?;
    let status = match head.headers().get("grpc-status").cloned() {
        Some(status) => Some(status),
        None => {
            let body = head.body_mut();
            // Trailers come after the data.
            while let Some(data) = body.data().await {
                body.flow_control().release_capacity(data.ok()?.len()).ok()?;
            }
            body.trailers().await.ok()??.get("grpc-status").cloned()
        }
    };
    Some(Code::from_i32(status?.to_str().ok()?.parse().ok()?))
}

#[tokio::test]
async fn whole_requests_that_wait_for_a_slow_query_share_a_budget_and_another_client_is_answered() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let mut slow = trigger("slow", &[]);
    let small = Bytes::from(frames::grpc(&slow));
    slow.scaler_metadata.insert("scalerAddress".to_owned(), "a".repeat(LONG_ADDRESS));
    let large = Bytes::from(frames::grpc(&slow));
    for (what, calls, message) in [("large", LARGE, large), ("small", SMALL, small)] {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let socket = frames::connect_from([127, 0, 0, 2], victim.address()).await;
            let (client, connection) = h2::client::handshake(socket).await.unwrap();
            connections.push((client, tokio::spawn(connection)));
        }
        let flood = connections
            .iter()
            .flat_map(|(client, _)| (0..calls).map(|_| call(client.clone(), "IsActive", message.clone())));
        let flood = wait::bounded("the answer of every call", ANSWERED, join_all(flood));
        let asking = async {
            loop {
                victim.answers().await;
            }
        };
        let codes = match select(Box::pin(flood), Box::pin(asking)).await {
            Either::Left((codes, _)) => codes,
            Either::Right((never, _)) => never,
        };
        let count = |wanted| codes.iter().filter(|code| **code == wanted).count();
        let (refused, waited) = (count(Some(Code::ResourceExhausted)), count(Some(Code::DeadlineExceeded)));
        let grown = victim.memory("VmHWM").saturating_sub(victim.memory) / 1024;
        println!("{what}: {waited} calls waited, {refused} were refused, memory grew by {grown} KiB");
        assert!(
            refused > 0 && waited > 0 && refused + waited == codes.len(),
            "{waited} and {refused} of {}",
            codes.len()
        );
        for (client, driving) in connections {
            drop(client);
            driving.abort();
        }
    }
    victim.logs_once_a_minute("requests were refused because too many").await;
    victim.is_unharmed_but_for(GROWN).await;
}

/// Fields of a long head: 14 KiB as HTTP/2 counts them, and 400 bytes of the wire.
const FIELDS: usize = 400;

/// Calls with such a head, of each connection.
const LONG_HEADED: u32 = 150;

/// The calls of one connection. A field that was sent once is a byte from then on (RFC 7541, section 6.1).
fn long_heads() -> Vec<u8> {
    let path = "/externalscaler.ExternalScaler/IsActive";
    let call = frames::fields(&frames::call(path, "application/grpc"));
    let (known, again) = (b"\x40\x01f\x01v", [0x80 | 62; FIELDS]);
    let message = frames::grpc(&trigger("slow", &[]));
    let calls = (0..LONG_HEADED).flat_map(|number| {
        let stream = 2 * number + 1;
        let first: &[u8] = if number == 0 { known } else { &[] };
        let head = frame(HEADERS, END_HEADERS, stream, &[&call, first, &again].concat());
        [head, frame(DATA, END_STREAM, stream, &message)].concat()
    });
    calls.collect()
}

/// Reads the answers to all calls of a connection, each of which is a status and no message.
async fn answers_to_long_heads(mut socket: TcpStream) {
    let mut missing = LONG_HEADED;
    while missing > 0 {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await.expect("the connection stays");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        socket.read_exact(&mut vec![0; usize::try_from(length).unwrap()]).await.expect("the frame is whole");
        missing -= u32::from(head[3] == HEADERS && head[4] & END_STREAM > 0);
    }
}

#[tokio::test]
async fn long_heads_of_waiting_requests_take_from_the_same_budget() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let calls = long_heads();
    let flood = (0..CONNECTIONS).map(async |_| {
        let mut socket = frames::open_from([127, 0, 0, 2], victim.address()).await;
        socket.write_all(&calls).await.unwrap();
        answers_to_long_heads(socket).await;
    });
    wait::bounded("the answer of every call", ANSWERED, join_all(flood)).await;
    victim.is_unharmed_but_for(GROWN).await;
}
