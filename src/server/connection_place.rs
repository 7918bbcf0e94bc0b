//! The places of gRPC connections: those that have carried no call are counted apart from those that have.
//!
//! Everybody can open connections that ask nothing, even without a certificate. They take no place from a client that
//! asks: the oldest of them gives way to the next one.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crate::places::{Peer, Place, Places};

/// The most connections that have carried no call, and the most of one peer: handshakes, and clients that connect ahead.
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
    /// The number of connections that have asked.
    asking: Arc<AtomicUsize>,
}

/// The place of one connection.
pub(super) struct ConnectionPlace {
    newcomer: Mutex<Option<Place>>,
    places: Arc<Places>,
    served: OnceLock<Place>,
    has_asked: AtomicBool,
    asking: Arc<AtomicUsize>,
}

impl ConnectionPlaces {
    pub(super) fn new() -> Arc<Self> {
        let newcomers = Places::new(NEWCOMERS, NEWCOMERS_OF_A_PEER);
        Arc::new(Self { newcomers, served: Places::new(SERVED, SERVED_OF_A_PEER), asking: Arc::default() })
    }

    /// Returns the number of open connections that have asked the scaler.
    pub(super) fn asking(&self) -> usize {
        self.asking.load(Ordering::Relaxed)
    }

    /// Takes a place for a new connection of a peer. Returns what ends when the connection has to give way, too.
    pub(super) fn take(&self, peer: Peer) -> (ConnectionPlace, impl Future<Output = ()> + use<>) {
        let place = self.newcomers.take(peer);
        let gives_way = place.gives_way();
        let newcomer = Mutex::new(Some(place));
        let (places, asking) = (Arc::clone(&self.served), Arc::clone(&self.asking));
        (
            ConnectionPlace { newcomer, places, served: OnceLock::new(), has_asked: AtomicBool::new(false), asking },
            gives_way,
        )
    }
}

impl ConnectionPlace {
    /// Notes that the connection carries a call. Returns whether there is a place for one that does; without one it stays
    /// a newcomer, and may find a place with its next call.
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
        if !self.has_asked.swap(true, Ordering::Relaxed) {
            self.asking.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns whether the connection has asked the scaler.
    pub(super) fn has_asked(&self) -> bool {
        self.has_asked.load(Ordering::Relaxed)
    }

    /// Returns whether it has a place among those that have carried a call.
    pub(super) fn is_served(&self) -> bool {
        self.served.get().is_some()
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        if self.has_asked() {
            self.asking.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
