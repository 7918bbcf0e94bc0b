//! Whole requests that wait for a slow query: they share one budget, and another client is answered beside them.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, join_all, select};
use h2::client::SendRequest;
use http::Request;
use tonic::Code;

use super::{Victim, frames};
use crate::support::{cluster::Cluster, database::Database, grpc::trigger, wait};

const CONNECTIONS: usize = 12;

/// Calls of one connection with as much metadata as a trigger may have, and with as little.
const LARGE: usize = 500;
const SMALL: usize = 600;

/// KEDA's own keys are not looked at, so that their values may be as long as the metadata.
const LONG_ADDRESS: usize = 60_000;

/// Bytes of memory that the flood may take: the budget of its peer, twice that for what the allocator and HTTP/2 keep of it,
/// and of the refused calls that are not written yet. Without the budget it takes 230 MiB and more.
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
    assert_eq!(victim.fixture.logged("requests were refused because too many"), 1);
    victim.is_unharmed_but_for(GROWN).await;
}
