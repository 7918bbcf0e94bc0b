//! Bounds the memory of requests: those that are not complete, those that wait for a reading, and those whose answer
//! the peer has not taken.
//!
//! A call waits up to 2.4 seconds, and a peer may send 20,000 at once on each of its connections. What goes beyond the
//! budget is refused. A refusal is an answer, too: a peer that takes none is not read any further (`pace.rs`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use http::HeaderMap;
use tonic::Status;

use crate::{
    metrics::{Limit, Metrics},
    places::Peer,
    telemetry::CountedLog,
};

/// The most bytes that all these requests may hold, and the most of one peer, so that another one is answered beside
/// it: as much as 5,000 calls of usual triggers. `docs/limits.md` has the sum of all budgets.
const BUDGET: usize = 48 * 1024 * 1024;
const BUDGET_OF_A_PEER: usize = 32 * 1024 * 1024;

/// The bytes beyond the budget that the answers of one peer may hold which are never refused: refusals, and those of
/// `GetMetricSpec`. All peers together may hold twice as many. From there on nothing more is read.
const ANSWERS: usize = 4 * 1024 * 1024;

/// The memory of a request beside its message until it is answered: measured with its answer, and rounded up.
const OVERHEAD: usize = 4 * 1024;

/// The memory of a field beside its name and its value.
const FIELD: usize = 100;

/// The memory of a request and its answer until the peer has taken it, measured and rounded up.
const ANSWER: usize = 2 * 1024;

/// The bytes that requests hold at this moment.
#[derive(Debug)]
pub(super) struct RequestBudget {
    held: AtomicUsize,
    /// The number of peers that hold something.
    holders: AtomicUsize,
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

/// The part of a peer's share that one connection takes.
#[derive(Debug)]
pub(super) struct ConnectionBudget {
    peer: Arc<PeerBudget>,
    /// Bytes of answers that HTTP/2 has, and that the socket may not have taken yet.
    unsent: AtomicUsize,
}

/// The bytes that one request holds. Dropping it gives them back, but for those of its answer.
#[derive(Debug)]
pub(super) struct Charge {
    connection: Arc<ConnectionBudget>,
    waits: Waits,
    /// The bytes of the request's head.
    head: usize,
    bytes: AtomicUsize,
    has_overhead: AtomicBool,
}

/// A request once it is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// It is answered at once, and not refused if it comes whole.
    Never,
    /// It may wait for a reading, or be a stream.
    Perhaps,
}

impl RequestBudget {
    pub(super) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        let (held, holders) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { held, holders, by_peer: Mutex::default(), refused: CountedLog::default(), metrics })
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

    /// Returns the bytes that every peer may hold, however much others do: two peers can fill the budget. Those that
    /// are connected and hold nothing take no share.
    fn least_share(&self) -> usize {
        ANSWERS / self.holders.load(Ordering::Relaxed).max(1)
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

impl PeerBudget {
    /// Holds bytes, and returns whether there is room for them.
    fn hold(&self, bytes: usize) -> bool {
        let of_all = self.all.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let of_peer = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if of_peer == bytes && bytes > 0 {
            self.all.holders.fetch_add(1, Ordering::Relaxed);
        }
        of_peer <= BUDGET_OF_A_PEER && (of_all <= BUDGET || of_peer <= self.all.least_share())
    }

    fn release(&self, bytes: usize) {
        if self.held.fetch_sub(bytes, Ordering::Relaxed) == bytes && bytes > 0 {
            self.all.holders.fetch_sub(1, Ordering::Relaxed);
        }
        self.all.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Returns whether so much is held that nothing more may be read from this peer. One that holds little is read,
    /// however much others hold.
    fn is_full(&self) -> bool {
        let (of_all, of_peer) = (self.all.held.load(Ordering::Relaxed), self.held.load(Ordering::Relaxed));
        of_peer > BUDGET_OF_A_PEER + ANSWERS || (of_all > BUDGET + ANSWERS && of_peer > self.all.least_share())
    }
}

impl ConnectionBudget {
    pub(super) fn new(peer: Arc<PeerBudget>) -> Arc<Self> {
        Arc::new(Self { peer, unsent: AtomicUsize::new(0) })
    }

    /// Returns whether nothing more may be read from the peer of this connection, and counts if so.
    pub(super) fn is_full(&self) -> bool {
        let is_full = self.peer.is_full();
        if is_full {
            self.peer.all.metrics.limit_reached(Limit::Reading);
        }
        is_full
    }

    /// Gives back the bytes of the answers that HTTP/2 had: the socket has taken them.
    pub(super) fn sent(&self) {
        self.peer.release(self.unsent.swap(0, Ordering::Relaxed));
    }
}

impl Drop for ConnectionBudget {
    fn drop(&mut self) {
        self.sent();
    }
}

impl Charge {
    /// Begins to count what a request holds: there will be an answer in any case.
    pub(super) fn new(connection: &Arc<ConnectionBudget>, waits: Waits, head: &HeaderMap) -> Arc<Self> {
        connection.peer.hold(ANSWER);
        Arc::new(Self {
            connection: Arc::clone(connection),
            waits,
            head: size(head),
            bytes: AtomicUsize::new(0),
            has_overhead: AtomicBool::new(false),
        })
    }

    /// Charges what a request costs whatever it says; once.
    ///
    /// # Errors
    /// There is no room for it.
    pub(super) fn add_overhead(&self) -> Result<(), Status> {
        if self.has_overhead.swap(true, Ordering::Relaxed) { Ok(()) } else { self.add(OVERHEAD + self.head) }
    }

    /// Charges a piece of its message, which may be the last one.
    ///
    /// # Errors
    /// There is no room for it.
    pub(super) fn add_bytes(&self, bytes: usize, is_last: bool) -> Result<(), Status> {
        if is_last && self.waits == Waits::Never { Ok(()) } else { self.add(bytes) }
    }

    /// Charges the fields that come after its message.
    ///
    /// # Errors
    /// There is no room for them.
    pub(super) fn add_trailers(&self, trailers: &HeaderMap) -> Result<(), Status> {
        self.add(size(trailers))
    }

    fn add(&self, bytes: usize) -> Result<(), Status> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let peer = &self.connection.peer;
        if peer.hold(bytes) { Ok(()) } else { Err(peer.all.refuse()) }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.connection.peer.release(*self.bytes.get_mut());
        self.connection.unsent.fetch_add(ANSWER, Ordering::Relaxed);
    }
}

/// Returns the memory of these fields. HTTP/2 bounds what they say, and on the wire a field may take a single byte.
fn size(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| FIELD + name.as_str().len() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::metrics::Build;

    fn budget() -> Arc<RequestBudget> {
        RequestBudget::new(Arc::new(Metrics::new(Build { version: "0", commit: "0", rustc: "0" })))
    }

    fn share(budget: &Arc<RequestBudget>, peer: &str) -> Arc<ConnectionBudget> {
        ConnectionBudget::new(budget.of(Peer::from(peer.parse::<IpAddr>().unwrap())))
    }

    fn charge(connection: &Arc<ConnectionBudget>, waits: Waits) -> Arc<Charge> {
        Charge::new(connection, waits, &HeaderMap::new())
    }

    /// Begins requests of a peer until one is refused.
    fn fill(connection: &Arc<ConnectionBudget>) -> Vec<Arc<Charge>> {
        let mut charges = Vec::new();
        loop {
            let next = charge(connection, Waits::Perhaps);
            match next.add_overhead() {
                Ok(()) => charges.push(next),
                Err(_) => return charges,
            }
        }
    }

    #[test]
    fn one_peer_leaves_room_for_others_and_all_give_it_back() {
        let budget = budget();
        let (greedy, modest) = (share(&budget, "10.0.0.1"), share(&budget, "10.0.0.2"));
        let of_greedy = fill(&greedy);
        assert_eq!(of_greedy.len(), BUDGET_OF_A_PEER / (OVERHEAD + ANSWER));
        assert!(charge(&share(&budget, "10.0.0.1"), Waits::Perhaps).add_overhead().is_err(), "by another connection");
        let of_modest = fill(&modest);
        assert!(of_modest.len() >= (BUDGET - BUDGET_OF_A_PEER) / (OVERHEAD + ANSWER) - 1, "{}", of_modest.len());
        let late = share(&budget, "10.0.0.3");
        let of_late = fill(&late);
        assert_eq!(of_late.len(), ANSWERS / 3 / (OVERHEAD + ANSWER), "two peers keep no third one out");
        assert!(budget.held.load(Ordering::Relaxed) <= BUDGET + 2 * ANSWERS);
        drop((of_greedy, of_modest, of_late, late));
        let answers = greedy.unsent.load(Ordering::Relaxed) + modest.unsent.load(Ordering::Relaxed);
        assert!(answers > 0);
        assert_eq!(budget.held.load(Ordering::Relaxed), answers);
        greedy.sent();
        assert_eq!(budget.holders.load(Ordering::Relaxed), 1);
        drop((greedy, modest));
        assert_eq!(budget.holders.load(Ordering::Relaxed), 0);
        assert_eq!(budget.held.load(Ordering::Relaxed), 0);
        assert!(budget.by_peer().is_empty());
    }

    #[test]
    fn peers_that_hold_nothing_take_no_share_from_one_that_asks() {
        let budget = budget();
        let idle: Vec<_> =
            (0..1_000).map(|number| share(&budget, &format!("10.1.{}.{}", number / 256, number % 256))).collect();
        let (greedy, other, modest) =
            (share(&budget, "10.0.0.1"), share(&budget, "10.0.0.2"), share(&budget, "10.0.0.3"));
        let of_greedy = [fill(&greedy), fill(&other)];
        assert_eq!(fill(&modest).len(), ANSWERS / 3 / (OVERHEAD + ANSWER));
        drop((idle, of_greedy));
    }

    #[test]
    fn a_request_that_never_waits_is_charged_only_while_it_is_incomplete() {
        let budget = budget();
        let peer = share(&budget, "10.0.0.1");
        let charge = charge(&peer, Waits::Never);
        charge.add_bytes(BUDGET, true).unwrap();
        assert_eq!(budget.held.load(Ordering::Relaxed), ANSWER);
        charge.add_bytes(7, false).unwrap();
        charge.add_overhead().unwrap();
        charge.add_overhead().unwrap();
        assert_eq!(budget.held.load(Ordering::Relaxed), 7 + OVERHEAD + ANSWER);
    }

    #[test]
    fn a_field_is_charged_with_what_it_takes_here_and_not_on_the_wire() {
        let budget = budget();
        let peer = share(&budget, "10.0.0.1");
        let mut head = HeaderMap::new();
        for _ in 0..2 {
            head.append("name", http::HeaderValue::from_static("value"));
        }
        let charge = Charge::new(&peer, Waits::Perhaps, &head);
        charge.add_overhead().unwrap();
        charge.add_trailers(&head).unwrap();
        let fields = 4 * (FIELD + "name".len() + "value".len());
        assert_eq!(budget.held.load(Ordering::Relaxed), fields + OVERHEAD + ANSWER);
    }

    #[test]
    fn a_peer_that_takes_no_answer_is_not_read_and_others_are() {
        let budget = budget();
        let (greedy, other, modest) =
            (share(&budget, "10.0.0.1"), share(&budget, "10.0.0.2"), share(&budget, "10.0.0.3"));
        for peer in [&greedy, &other] {
            while !peer.is_full() {
                drop(charge(peer, Waits::Never));
            }
        }
        assert!(budget.held.load(Ordering::Relaxed) <= BUDGET + 2 * ANSWERS);
        drop(charge(&modest, Waits::Never));
        assert!(greedy.is_full() && other.is_full() && !modest.is_full());
        greedy.sent();
        assert!(!greedy.is_full() && !other.is_full());
    }
}
