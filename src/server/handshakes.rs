//! TLS handshakes, one step at a time.
//!
//! The signature of a step takes a millisecond or more (RSA), and a stranger makes us sign with one packet. So
//! handshakes take turns: other calls are served between two steps, and the handshakes of a flood wait for each other
//! in the queue of their peer.

use std::{io, pin::pin, task::Poll};

use futures_util::{pending, poll};
use rustls::CertificateError;

use crate::{places::Peer, turns::Turns};

/// The steps in a round of turns.
pub(super) const STEPS: usize = 1;

/// The kind of a failure, as a metric and the log have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The client showed no certificate.
    NoCertificate,
    /// Its certificate is not signed by `client_ca`.
    UnknownAuthority,
    /// Its certificate has expired.
    Expired,
    /// Its certificate has none of `client_names`.
    Name,
    /// Its certificate has another fault.
    Certificate,
    /// The client ended the handshake with an alert: it does not take our certificate, for example.
    RefusedByPeer,
    /// What came is no TLS.
    NoTls,
    /// The two have no version, cipher or protocol in common, or one of them does not keep to it.
    Incompatible,
    /// It took longer than it may.
    Timeout,
}

impl Failure {
    pub(super) const ALL: [Self; 9] = [
        Self::NoCertificate,
        Self::UnknownAuthority,
        Self::Expired,
        Self::Name,
        Self::Certificate,
        Self::RefusedByPeer,
        Self::NoTls,
        Self::Incompatible,
        Self::Timeout,
    ];

    /// Returns the kind of a handshake's error; none if the peer only went away.
    pub(super) fn of_error(error: &io::Error) -> Option<Self> {
        Some(match error.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::InvalidCertificate(invalid) => match invalid {
                CertificateError::UnknownIssuer => Self::UnknownAuthority,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                // What our own check of `client_names` returns.
                CertificateError::ApplicationVerificationFailure => Self::Name,
                _ => Self::Certificate,
            },
            rustls::Error::AlertReceived(_) => Self::RefusedByPeer,
            rustls::Error::InvalidMessage(_) => Self::NoTls,
            _ => Self::Incompatible,
        })
    }

    /// The word of the metric and the log.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::UnknownAuthority => "unknown_authority",
            Self::Expired => "expired",
            Self::Name => "name",
            Self::Certificate => "certificate",
            Self::RefusedByPeer => "refused_by_peer",
            Self::NoTls => "no_tls",
            Self::Incompatible => "incompatible",
            Self::Timeout => "timeout",
        }
    }
}

/// The handshakes of one peer, which take their turns with those of all others.
pub(super) struct PeerHandshakes {
    turns: Turns,
    peer: Peer,
}

impl PeerHandshakes {
    pub(super) fn new(turns: &Turns, peer: Peer) -> Self {
        Self { turns: turns.clone(), peer }
    }

    /// Shakes hands: polls the future in turns until it is ready.
    pub(super) async fn shake<T>(&self, handshake: impl Future<Output = T>) -> T {
        let mut handshake = pin!(handshake);
        loop {
            self.turns.take(self.peer).await;
            if let Poll::Ready(shaken) = poll!(handshake.as_mut()) {
                return shaken;
            }
            // Until the handshake, or what surrounds it, wakes this task.
            pending!();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        net::IpAddr,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    /// Steps of one handshake.
    const OF_ONE: usize = 3;

    fn peer(number: u8) -> Peer {
        Peer::from(IpAddr::from([10, 0, 0, number]))
    }

    /// A handshake that is ready for each of its steps at once, and counts all that are done.
    async fn steps(done: &AtomicUsize) {
        let mut left = OF_ONE;
        poll_fn(|context| {
            done.fetch_add(1, Ordering::Relaxed);
            left -= 1;
            context.waker().wake_by_ref();
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Begins handshakes of a peer.
    fn flood(turns: &Turns, peer: Peer, count: usize, done: &Arc<AtomicUsize>) -> Vec<JoinHandle<()>> {
        let begin = |_| {
            let (of_peer, done) = (PeerHandshakes::new(turns, peer), Arc::clone(done));
            tokio::spawn(async move { of_peer.shake(steps(&done)).await })
        };
        (0..count).map(begin).collect()
    }

    #[tokio::test]
    async fn others_wait_for_a_step_of_a_flood_and_not_for_its_handshakes() {
        const FLOOD: usize = 100;
        let (turns, done) = (Turns::new(STEPS), Arc::<AtomicUsize>::default());
        let flood = flood(&turns, peer(1), FLOOD, &done);
        yield_now().await;
        let own = Arc::<AtomicUsize>::default();
        PeerHandshakes::new(&turns, peer(2)).shake(steps(&own)).await;
        assert_eq!(own.load(Ordering::Relaxed), OF_ONE);
        let before = done.load(Ordering::Relaxed);
        assert!(before <= 3 * OF_ONE, "{before} steps of the flood came before a handshake of another peer");
        let (mut before, mut looks) = (before, 0);
        while flood.iter().any(|handshake| !handshake.is_finished()) {
            yield_now().await;
            let now = done.load(Ordering::Relaxed);
            assert!(now - before <= 1, "{} steps at once", now - before);
            (before, looks) = (now, looks + 1);
        }
        assert_eq!(before, FLOOD * OF_ONE);
        assert!(looks >= FLOOD, "{looks}");
    }

    #[tokio::test]
    async fn a_handshake_that_is_given_up_holds_up_nobody() {
        let (turns, done) = (Turns::new(STEPS), Arc::<AtomicUsize>::default());
        for handshake in flood(&turns, peer(1), 10, &done) {
            yield_now().await;
            handshake.abort();
        }
        PeerHandshakes::new(&turns, peer(1)).shake(steps(&done)).await;
        PeerHandshakes::new(&turns, peer(2)).shake(steps(&done)).await;
    }
}
