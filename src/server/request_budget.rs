//! Bounds the memory of all requests that have not been answered: those that are not complete, and those that wait for a
//! reading.
//!
//! A call waits up to 2.4 seconds, and a peer may send 20,000 at once on each of its connections.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tonic::Status;

use super::counted_log::CountedLog;
use crate::{
    metrics::{Limit, Metrics},
    places::Peer,
};

/// The most bytes that all these requests may hold, and the most of one peer, so that another one is answered beside it:
/// as much as 5,000 calls of usual triggers. `docs/limits.md` has the sum of all budgets.
const BUDGET: usize = 48 * 1024 * 1024;
const BUDGET_OF_A_PEER: usize = 32 * 1024 * 1024;

/// The memory of a request beside its message: measured, and rounded up.
const OVERHEAD: usize = 6 * 1024;

/// The bytes that requests hold at this moment.
#[derive(Debug)]
pub(super) struct RequestBudget {
    held: AtomicUsize,
    by_peer: Mutex<HashMap<Peer, Weak<PeerBudget>>>,
    refused: CountedLog,
    metrics: Arc<Metrics>,
}

/// The share of one peer, over all of its connections.
#[derive(Debug)]
pub(super) struct PeerBudget {
    all: Arc<RequestBudget>,
    peer: Peer,
    held: AtomicUsize,
}

/// The bytes that one request holds; dropping it gives them back.
#[derive(Debug)]
pub(super) struct Charge {
    peer: Arc<PeerBudget>,
    waits: Waits,
    bytes: AtomicUsize,
    has_overhead: AtomicBool,
}

/// A request once it is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// It is answered at once, and takes nothing from the budget if it comes whole.
    Never,
    /// It may wait for a reading, or be a stream.
    Perhaps,
}

impl RequestBudget {
    pub(super) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        let (held, by_peer) = (AtomicUsize::new(0), Mutex::default());
        Arc::new(Self { held, by_peer, refused: CountedLog::default(), metrics })
    }

    /// Returns the share of a peer.
    pub(super) fn of(self: &Arc<Self>, peer: Peer) -> Arc<PeerBudget> {
        let mut by_peer = self.by_peer();
        if let Some(known) = by_peer.get(&peer).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(PeerBudget { all: Arc::clone(self), peer, held: AtomicUsize::new(0) });
        by_peer.insert(peer, Arc::downgrade(&new));
        new
    }

    fn by_peer(&self) -> MutexGuard<'_, HashMap<Peer, Weak<PeerBudget>>> {
        self.by_peer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a refused request, and logs the count once a minute.
    fn refuse(&self) -> Status {
        self.metrics.limit_reached(Limit::Requests);
        if let Some(count) = self.refused.count() {
            tracing::warn!(
                count,
                "requests were refused because too many of their peer, or of all, are not answered yet"
            );
        }
        Status::resource_exhausted("too many requests are not answered yet")
    }
}

impl Drop for PeerBudget {
    fn drop(&mut self) {
        let mut by_peer = self.all.by_peer();
        // The peer may have come back since.
        if by_peer.get(&self.peer).is_some_and(|share| share.strong_count() == 0) {
            by_peer.remove(&self.peer);
        }
    }
}

impl Charge {
    /// Begins to count what a request holds.
    pub(super) fn new(peer: &Arc<PeerBudget>, waits: Waits) -> Arc<Self> {
        Arc::new(Self {
            peer: Arc::clone(peer),
            waits,
            bytes: AtomicUsize::new(0),
            has_overhead: AtomicBool::new(false),
        })
    }

    /// Charges what a request costs whatever it says; once.
    ///
    /// # Errors
    /// There is no room for it.
    pub(super) fn add_overhead(&self) -> Result<(), Status> {
        if self.has_overhead.swap(true, Ordering::Relaxed) { Ok(()) } else { self.add(OVERHEAD) }
    }

    /// Charges a piece of its message, which may be the last one.
    ///
    /// # Errors
    /// There is no room for it.
    pub(super) fn add_bytes(&self, bytes: usize, is_last: bool) -> Result<(), Status> {
        if is_last && self.waits == Waits::Never { Ok(()) } else { self.add(bytes) }
    }

    fn add(&self, bytes: usize) -> Result<(), Status> {
        let PeerBudget { all, held, .. } = &*self.peer;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let of_all = all.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let of_peer = held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if of_all > BUDGET || of_peer > BUDGET_OF_A_PEER { Err(all.refuse()) } else { Ok(()) }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        self.peer.held.fetch_sub(bytes, Ordering::Relaxed);
        self.peer.all.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::metrics::Build;

    fn budget() -> Arc<RequestBudget> {
        RequestBudget::new(Arc::new(Metrics::new(Build { version: "0", commit: "0", rustc: "0" })))
    }

    fn share(budget: &Arc<RequestBudget>, peer: &str) -> Arc<PeerBudget> {
        budget.of(Peer::from(peer.parse::<IpAddr>().unwrap()))
    }

    /// Begins requests of a peer until one is refused.
    fn fill(peer: &Arc<PeerBudget>) -> Vec<Arc<Charge>> {
        let mut charges = Vec::new();
        loop {
            let charge = Charge::new(peer, Waits::Perhaps);
            match charge.add_overhead() {
                Ok(()) => charges.push(charge),
                Err(_) => return charges,
            }
        }
    }

    #[test]
    fn one_peer_leaves_room_for_others_and_all_give_it_back() {
        let budget = budget();
        let (greedy, modest) = (share(&budget, "10.0.0.1"), share(&budget, "10.0.0.2"));
        let of_greedy = fill(&greedy);
        assert_eq!(of_greedy.len(), BUDGET_OF_A_PEER / OVERHEAD);
        assert!(
            Charge::new(&share(&budget, "10.0.0.1"), Waits::Perhaps).add_overhead().is_err(),
            "by another connection"
        );
        let of_modest = fill(&modest);
        assert!(of_modest.len() >= (BUDGET - BUDGET_OF_A_PEER) / OVERHEAD, "{}", of_modest.len());
        drop((of_greedy, of_modest));
        assert_eq!(budget.held.load(Ordering::Relaxed), 0);
        drop((greedy, modest));
        assert!(budget.by_peer().is_empty());
    }

    #[test]
    fn a_request_that_never_waits_is_charged_only_while_it_is_incomplete() {
        let budget = budget();
        let peer = share(&budget, "10.0.0.1");
        let charge = Charge::new(&peer, Waits::Never);
        charge.add_bytes(BUDGET, true).unwrap();
        assert_eq!(budget.held.load(Ordering::Relaxed), 0);
        charge.add_bytes(7, false).unwrap();
        charge.add_overhead().unwrap();
        charge.add_overhead().unwrap();
        assert_eq!(budget.held.load(Ordering::Relaxed), 7 + OVERHEAD);
    }
}
