//! Requests that begin and never end, with as much of each sent as the server takes.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use tokio::net::TcpStream;
use tonic::Code;

use super::{GROWTH, Victim};
use crate::support::{cluster::Cluster, database::Database, wait};

/// Calls of one connection, of each size: a message that is nearly whole, a head and nothing, no byte at all.
const OF_A_SIZE: usize = 400;
const SIZES: [usize; 3] = [200_000, 5, 0];

pub(super) const REQUESTS: usize = OF_A_SIZE * SIZES.len();

/// The contract's five seconds, and slack.
const REFUSED: Duration = Duration::from_secs(5 + 10);

/// Sends a call's beginning; the call is never ended.
async fn begin(client: SendRequest<Bytes>, size: usize) -> Option<(ResponseFuture, h2::SendStream<Bytes>)> {
    let request = Request::post("http://clapometer/externalscaler.ExternalScaler/IsActive")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut body) = client.ready().await.ok()?.send_request(request, false).ok()?;
    let mut message = vec![0; size];
    if let Some(length) = message.get_mut(1..5) {
        length.copy_from_slice(&250_000u32.to_be_bytes());
    }
    let mut rest = Bytes::from(message);
    while !rest.is_empty() {
        body.reserve_capacity(rest.len());
        // The server may refuse the call before all is sent; the response has the status.
        let Some(Ok(capacity)) = std::future::poll_fn(|context| body.poll_capacity(context)).await else { break };
        if body.send_data(rest.split_to(capacity.min(rest.len())), false).is_err() {
            break;
        }
    }
    Some((response, body))
}

#[tokio::test]
async fn requests_that_never_end_hold_little_and_are_refused_in_time() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let before = victim.served().await;
    let socket = TcpStream::connect(victim.address()).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    let driving = tokio::spawn(connection);
    let calls = SIZES.into_iter().flat_map(|size| (0..OF_A_SIZE).map(move |_| size));
    let calls = calls.map(|size| {
        let client = client.clone();
        async move {
            let (response, _body) = begin(client, size).await?;
            let head = response.await.ok()?;
            let status = head.headers().get("grpc-status")?.to_str().ok()?.parse().ok()?;
            Some(Code::from_i32(status))
        }
    });
    let codes = wait::bounded("the refusal of every call", REFUSED, join_all(calls)).await;
    for code in [Code::ResourceExhausted, Code::DeadlineExceeded] {
        assert!(codes.contains(&Some(code)), "no call was refused with {code:?}");
    }
    let others =
        codes.iter().flatten().filter(|code| !matches!(code, Code::ResourceExhausted | Code::DeadlineExceeded));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&Code>::new());
    assert_eq!(victim.served().await, before, "something was served");
    drop(client);
    driving.abort();
    let peak = victim.memory("VmHWM");
    assert!(peak < victim.memory + GROWTH, "memory grew from {} to {peak} bytes", victim.memory);
    victim.is_unharmed().await;
}
