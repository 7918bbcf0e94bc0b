//! The places of gRPC connections: those that have carried no call are counted apart from those that have.
//!
//! Everybody can open connections that ask nothing, even without a certificate. They take no place from a client that
//! asks: the oldest of them gives way to the next one.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::time::Instant;

use crate::{
    metrics::Metrics,
    places::{Peer, Place, Places},
    recorder::EndedBy,
};

/// The most connections that have carried no call, and the most of one peer: handshakes, and clients that connect
/// ahead.
const NEWCOMERS: usize = 512;
const NEWCOMERS_OF_A_PEER: usize = NEWCOMERS / 2;

/// The most connections that have carried a call, and the most of one peer. A KEDA operator opens one for each address,
/// TLS and authentication that its triggers name.
const SERVED: usize = 1_000;
const SERVED_OF_A_PEER: usize = SERVED / 2;

/// The places of a port.
pub(super) struct ConnectionPlaces {
    newcomers: Arc<Places>,
    served: Arc<Places>,
    metrics: Arc<Metrics>,
}

/// The place of one connection.
pub(super) struct ConnectionPlace {
    newcomer: Mutex<Option<Place>>,
    places: Arc<Places>,
    served: OnceLock<Place>,
    asks_since: OnceLock<Instant>,
    metrics: Arc<Metrics>,
}

impl ConnectionPlaces {
    pub(super) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        let newcomers = Places::new(NEWCOMERS, NEWCOMERS_OF_A_PEER);
        Arc::new(Self { newcomers, served: Places::new(SERVED, SERVED_OF_A_PEER), metrics })
    }

    /// Takes a place for a new connection of a peer. Returns what ends when the connection has to give way, too.
    pub(super) fn take(&self, peer: Peer) -> (ConnectionPlace, impl Future<Output = ()> + use<>) {
        let place = self.newcomers.take(peer);
        let gives_way = place.gives_way();
        let newcomer = Mutex::new(Some(place));
        let (places, metrics) = (Arc::clone(&self.served), Arc::clone(&self.metrics));
        (ConnectionPlace { newcomer, places, served: OnceLock::new(), asks_since: OnceLock::new(), metrics }, gives_way)
    }
}

impl ConnectionPlace {
    /// Notes that the connection carries a call. Returns whether there is a place for one that does; without one it
    /// stays a newcomer, and may find a place with its next call.
    pub(super) fn carries_a_call(&self) -> bool {
        if self.is_served() {
            return true;
        }
        let mut newcomer = self.newcomer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(served) = newcomer.as_ref().and_then(|place| place.try_take_in(&self.places)) {
            *newcomer = None;
            // Nobody else sets it: that needs the newcomer's place.
            let _ = self.served.set(served);
        }
        self.is_served()
    }

    /// Notes that the connection asks the scaler, as KEDA does and a health check does not.
    pub(super) fn asks(&self) {
        self.asks_since.get_or_init(|| {
            let now = Instant::now();
            self.metrics.recorder.connection_asks(now);
            self.metrics.asking_connections.inc();
            now
        });
    }

    /// Notes that the connection has ended.
    pub(super) fn ended(mut self, by: EndedBy) {
        self.end(by);
    }

    fn end(&mut self, by: EndedBy) {
        if let Some(since) = self.asks_since.take() {
            self.metrics.recorder.connection_ended(since, by, Instant::now());
            self.metrics.asking_connections.dec();
        }
    }

    /// Returns whether it has a place among those that have carried a call.
    pub(super) fn is_served(&self) -> bool {
        self.served.get().is_some()
    }
}

/// A task that panics ends its connection, too.
impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.end(EndedBy::Clapometer);
    }
}
