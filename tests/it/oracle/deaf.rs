//! Peers that acknowledge no ping: they are closed, while everybody else is answered.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use crate::support::wait;

const PEERS: usize = 20;

/// A preface and empty settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The contract: asked after 20 s of silence, closed 20 s later.
const CLOSED: Duration = Duration::from_secs(40);

/// A busy machine may be late.
const PATIENCE: Duration = Duration::from_secs(120);

/// Peers that read what they are sent and say nothing.
pub(super) struct Deaf(Vec<JoinHandle<Duration>>);

impl Deaf {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let mut peers = Vec::new();
        for _ in 0..PEERS {
            let mut socket = TcpStream::connect(address).await.expect("the scaler accepts");
            socket.write_all(HELLO).await.expect("the scaler reads");
            let since = Instant::now();
            peers.push(tokio::spawn(async move {
                let mut buffer = [0; 1_024];
                while socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
                since.elapsed()
            }));
        }
        Self(peers)
    }

    /// Waits until all have been closed, and returns how long the first and the last one were kept.
    pub(super) async fn are_closed(self) -> (Duration, Duration) {
        let (mut shortest, mut longest) = (Duration::MAX, Duration::ZERO);
        for peer in self.0 {
            let kept = wait::bounded("a peer that acknowledges no ping is closed", PATIENCE, peer).await;
            let kept = kept.expect("it reads until the end");
            (shortest, longest) = (shortest.min(kept), longest.max(kept));
        }
        assert!(shortest >= CLOSED / 2, "closed after {shortest:?}, before it could have answered");
        (shortest, longest)
    }
}
