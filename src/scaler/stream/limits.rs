//! Counts the open streams, limits them, and paces their ends.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    fault::{Fault, Limit},
    metrics::{Metrics, StreamLabels},
    places::Peer,
    proto::Rpc,
    turns::Turns,
};

/// The most open streams of one trigger. KEDA has two, and for a moment four while it reconnects.
pub(super) const STREAMS_PER_TRIGGER: usize = 4;

/// The most open streams of the process, waiting ones aside.
pub(super) const STREAMS_PER_PROCESS: usize = 50_000;

/// The most streams that wait for a query that their namespace may use, in the process and for one namespace.
pub(super) const WAITING_PER_PROCESS: usize = 1_000;
pub(super) const WAITING_PER_NAMESPACE: usize = WAITING_PER_PROCESS / 4;

/// The most bytes that all streams keep of their requests: each keeps its own, whose metadata may have 64 KiB. It is
/// 671 bytes for each of fifty thousand streams.
const METADATA_BYTES_PER_PROCESS: usize = 32 * 1024 * 1024;

/// The streams that make their messages in a round of turns, of those that were woken together: about a millisecond,
/// and enough of them that each write to a socket has many.
const TURNS: usize = 256;

/// The time over which the StreamIsActive of a connection that is too old are ended.
pub(super) const SPREAD: Duration = Duration::from_secs(10);

/// The pause between the ends of two StreamMetricSpec, at most: KEDA reconciles the ScaledObject of each that it opens
/// again.
pub(super) const SPEC_PACE: Duration = Duration::from_millis(50);

/// Counts the open streams, and limits them.
pub(in crate::scaler) struct StreamLimits {
    open: Mutex<OpenStreams>,
    turns: Turns,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
pub(super) struct OpenStreams {
    pub(super) admitted: usize,
    pub(super) waiting: usize,
    pub(super) bytes: usize,
    pub(super) by_trigger: HashMap<u64, usize>,
    pub(super) waiting_by_namespace: HashMap<String, usize>,
    /// Open StreamMetricSpec, waiting ones included.
    specs: usize,
    /// The moment at which the next StreamMetricSpec may be ended.
    next_spec_end: Option<Instant>,
}

/// The permit of one open stream; dropping it gives it back.
pub(super) struct StreamPermit {
    streams: Arc<StreamLimits>,
    holder: Holder,
    bytes: usize,
    rpc: Rpc,
}

/// The trigger or namespace that a stream is counted for.
enum Holder {
    /// A trigger whose query is known.
    Trigger(u64),
    /// A namespace that waits for a query.
    Namespace(String),
}

impl StreamLimits {
    pub(in crate::scaler) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), turns: Turns::new(TURNS), metrics })
    }

    pub(super) fn open(&self) -> MutexGuard<'_, OpenStreams> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a permit for a stream of a trigger, which keeps so many `bytes` of its request.
    ///
    /// # Errors
    /// The process or the trigger has too many streams.
    pub(super) fn acquire(self: &Arc<Self>, trigger: u64, bytes: usize, rpc: Rpc) -> Result<StreamPermit, Fault> {
        let mut open = self.open();
        if open.admitted >= STREAMS_PER_PROCESS || !open.has_room(bytes) {
            return Err(Fault::Exhausted(Limit::Streams));
        }
        let of_trigger = open.by_trigger.entry(trigger).or_default();
        if *of_trigger >= STREAMS_PER_TRIGGER {
            return Err(Fault::Exhausted(Limit::TriggerStreams));
        }
        *of_trigger += 1;
        open.admitted += 1;
        Ok(self.permit(&mut open, Holder::Trigger(trigger), bytes, rpc))
    }

    /// Takes a permit for a stream that waits for a query; none if too many wait.
    pub(super) fn acquire_waiting(self: &Arc<Self>, namespace: &str, bytes: usize, rpc: Rpc) -> Option<StreamPermit> {
        let mut open = self.open();
        let of_namespace = open.waiting_by_namespace.get(namespace).copied().unwrap_or_default();
        if open.waiting >= WAITING_PER_PROCESS || of_namespace >= WAITING_PER_NAMESPACE || !open.has_room(bytes) {
            return None;
        }
        open.waiting_by_namespace.insert(namespace.to_owned(), of_namespace + 1);
        open.waiting += 1;
        Some(self.permit(&mut open, Holder::Namespace(namespace.to_owned()), bytes, rpc))
    }

    fn permit(self: &Arc<Self>, open: &mut OpenStreams, holder: Holder, bytes: usize, rpc: Rpc) -> StreamPermit {
        open.bytes += bytes;
        open.specs += usize::from(rpc == Rpc::StreamMetricSpec);
        self.metrics.streams.get_or_create(&StreamLabels { rpc: rpc.name() }).inc();
        StreamPermit { streams: Arc::clone(self), holder, bytes, rpc }
    }

    /// Draws the moment at which a stream of a too old connection is ended, so that all are within `limit`.
    pub(super) fn end_of_aged(&self, rpc: Rpc, limit: Duration) -> Instant {
        let now = Instant::now();
        if rpc != Rpc::StreamMetricSpec {
            return now + SPREAD.mul_f64(rand::random());
        }
        let mut open = self.open();
        let others = u32::try_from(open.specs).unwrap_or(u32::MAX).max(1);
        let end = open.next_spec_end.map_or(now, |next| next.max(now));
        open.next_spec_end = Some(end + SPEC_PACE.min(limit / others));
        end
    }
}

impl OpenStreams {
    fn has_room(&self, bytes: usize) -> bool {
        self.bytes + bytes <= METADATA_BYTES_PER_PROCESS
    }
}

impl StreamPermit {
    /// Returns whether the stream waits for a query.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.holder, Holder::Namespace(_))
    }

    /// Waits for the turn of a stream of this peer that was woken, and perhaps fifty thousand others with it.
    pub(super) async fn turn(&self, peer: Peer) {
        self.streams.turns.take(peer).await;
    }

    /// Moves a waiting stream, whose query has become known, to the account of its trigger.
    ///
    /// # Errors
    /// The process or the trigger has too many streams.
    pub(super) fn admit(&mut self, trigger: u64) -> Result<(), Fault> {
        if self.is_waiting() {
            *self = self.streams.acquire(trigger, self.bytes, self.rpc)?;
        }
        Ok(())
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut open = self.streams.open();
        open.bytes -= self.bytes;
        open.specs -= usize::from(self.rpc == Rpc::StreamMetricSpec);
        match &self.holder {
            Holder::Trigger(trigger) => {
                open.admitted -= 1;
                release(&mut open.by_trigger, trigger);
            }
            Holder::Namespace(namespace) => {
                open.waiting -= 1;
                release(&mut open.waiting_by_namespace, namespace);
            }
        }
        self.streams.metrics.streams.get_or_create(&StreamLabels { rpc: self.rpc.name() }).dec();
    }
}

/// Takes one off a count, and the count off the map if nothing is left.
fn release<K, Q>(counts: &mut HashMap<K, usize>, key: &Q)
where
    K: std::borrow::Borrow<Q> + std::hash::Hash + Eq,
    Q: std::hash::Hash + Eq + ?Sized,
{
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
