//! The two streams: they send the current state at once and then each change, and never end with an error.
//!
//! After an error KEDA waits up to 60 s before it opens the stream again; after OK it waits two
//! seconds (pkg/scalers/external_scaler.go, the back-off of both streams). So a stream sends
//! nothing while the database is away, and ends only with OK: on shutdown, when its connection is
//! too old, and when a reload removes its query.

use std::{
    collections::HashMap,
    future::pending,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, Stream, future::BoxFuture, stream};
use prost::Message;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use super::{
    Catalog, ResolvedTrigger, Scaler, convert,
    metadata::{Metadata, Trigger, best_spec},
    status::code_name,
    streaming,
};
use crate::{
    cache::{CachedQuery, QueryCache, Watch},
    fault::{Fault, Limit},
    metrics::{Metrics, StreamLabels},
    proto::{GetMetricSpecResponse, IsActiveResponse, ScaledObjectRef},
};

/// The interval at which `true` is sent again: KEDA drops a `true` that comes before it knows the metric.
const REMINDER: Duration = Duration::from_secs(30);

/// The time over which the streams of a connection that is too old are ended.
const SPREAD: Duration = Duration::from_secs(10);

/// The most open streams of one trigger. KEDA has two, and for a moment four while it reconnects.
const STREAMS_PER_TRIGGER: usize = 4;

/// The most open streams of the process.
const STREAMS_PER_PROCESS: usize = 50_000;

/// The most bytes of metadata that all streams hold: each stream stores its own, which may have 64 KiB. Fifty thousand
/// usual triggers need half of it.
const METADATA_BYTES_PER_PROCESS: usize = 64 * 1024 * 1024;

/// The messages of one stream.
pub struct Updates<T>(Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>);

impl<T> Stream for Updates<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl<T: Send + 'static> Updates<T> {
    /// Sends the messages of `next` until it returns none, or the stream's lifetime is over.
    fn new<S: Send + 'static>(
        state: S,
        lifetime: Lifetime,
        next: impl for<'a> Fn(&'a mut S) -> BoxFuture<'a, Option<T>> + Copy + Send + 'static,
    ) -> Self {
        let messages = stream::unfold((state, lifetime), move |(mut state, mut lifetime)| async move {
            let message = tokio::select! {
                biased;
                () = lifetime.wait() => None,
                // A panic ends this stream with OK, too. The panic itself has been printed.
                message = AssertUnwindSafe(next(&mut state)).catch_unwind() => message.unwrap_or(None),
            };
            match message {
                Some(message) => Some((Ok(message), (state, lifetime))),
                None => {
                    lifetime.end_with_ok();
                    None
                }
            }
        });
        Self(Box::pin(messages))
    }
}

/// The permit of a stream, and the events that end it.
struct Lifetime {
    process: CancellationToken,
    /// Cancelled when the connection is too old; none where connections have no age.
    connection: Option<CancellationToken>,
    /// The moment at which this stream of a too old connection ends; drawn once.
    ends_at: Option<Instant>,
    permit: StreamPermit,
    opened_at: Instant,
    /// `Cancelled`, unless we end the stream.
    ended_with: Code,
}

impl Lifetime {
    fn end_with_ok(mut self) {
        self.ended_with = Code::Ok;
    }

    async fn wait(&mut self) {
        let aged = async {
            match &self.connection {
                Some(connection) => {
                    connection.cancelled().await;
                    // Spread, because each end makes KEDA open a new stream.
                    let draw = || Instant::now() + SPREAD.mul_f64(rand::random());
                    sleep_until(*self.ends_at.get_or_insert_with(draw)).await;
                }
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.process.cancelled() => {}
            () = aged => {}
        }
    }
}

impl Drop for Lifetime {
    fn drop(&mut self) {
        let rpc = streaming(self.permit.rpc);
        let metrics = &self.permit.streams.metrics;
        metrics.handling.get_or_create(&rpc).observe(self.opened_at.elapsed().as_secs_f64());
        metrics.handled.get_or_create(&rpc.handled(code_name(self.ended_with))).inc();
    }
}

impl Scaler {
    /// Opens a StreamIsActive.
    ///
    /// # Errors
    /// Those of a unary call, except the ones of its reading: without a database the stream is silent.
    pub(super) fn open_activity(&self, request: Request<ScaledObjectRef>) -> Result<Updates<IsActiveResponse>, Status> {
        let connection = request.extensions().get::<CancellationToken>().cloned();
        let reference = request.into_inner();
        let ResolvedTrigger { trigger, cached } = self.resolve(&reference, None, Instant::now())?;
        let trigger = trigger.into_owned();
        let lifetime = self.lifetime(connection, trigger.id, reference.encoded_len(), "StreamIsActive")?;
        let activity = ActivityUpdates::new(reference, trigger, &cached, self.catalog.clone(), Arc::clone(&self.cache));
        Ok(Updates::new(activity, lifetime, |activity| activity.next().boxed()))
    }

    /// Opens a StreamMetricSpec.
    ///
    /// # Errors
    /// The metadata is refused, or there are too many streams.
    pub(super) fn open_specs(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Updates<GetMetricSpecResponse>, Status> {
        let connection = request.extensions().get::<CancellationToken>().cloned();
        let reference = request.into_inner();
        let trigger = Metadata::parse(&reference)?.resolve(&reference, &self.catalog.borrow())?.id;
        let lifetime = self.lifetime(connection, trigger, reference.encoded_len(), "StreamMetricSpec")?;
        let mut catalog = self.catalog.clone();
        catalog.mark_changed();
        let specs = SpecUpdates { reference, catalog, sent: None };
        Ok(Updates::new(specs, lifetime, |specs| specs.next().boxed()))
    }

    /// Takes a permit for a stream whose metadata has so many `bytes`.
    fn lifetime(
        &self,
        connection: Option<CancellationToken>,
        trigger: u64,
        bytes: usize,
        rpc: &'static str,
    ) -> Result<Lifetime, Fault> {
        let permit = self.streams.acquire(trigger, bytes, rpc)?;
        let process = self.shutdown.clone();
        Ok(Lifetime {
            process,
            connection,
            ends_at: None,
            permit,
            opened_at: Instant::now(),
            ended_with: Code::Cancelled,
        })
    }
}

/// The state of one StreamIsActive.
struct ActivityUpdates {
    reference: ScaledObjectRef,
    trigger: Trigger<'static>,
    watch: Watch,
    catalog: watch::Receiver<Arc<Catalog>>,
    cache: Arc<QueryCache>,
    /// The activity by the latest attempt; none while the database is away.
    known: Option<bool>,
    /// The latest message.
    sent: Option<bool>,
    remind_at: Instant,
}

impl ActivityUpdates {
    fn new(
        reference: ScaledObjectRef,
        trigger: Trigger<'static>,
        cached: &Arc<CachedQuery>,
        catalog: watch::Receiver<Arc<Catalog>>,
        cache: Arc<QueryCache>,
    ) -> Self {
        Self {
            reference,
            watch: cached.watch(trigger.group.as_deref()),
            trigger,
            catalog,
            cache,
            known: None,
            sent: None,
            remind_at: Instant::now(),
        }
    }

    /// Waits for the next message; none once the query is gone.
    async fn next(&mut self) -> Option<IsActiveResponse> {
        loop {
            tokio::select! {
                reading = self.watch.changed() => {
                    self.known = reading.and_then(|reading| convert::is_active(&self.trigger, &reading)).ok();
                }
                () = sleep_until(self.remind_at), if self.sent == Some(true) && self.known == Some(true) => {
                    if !self.watch.is_current() {
                        // The attempt that is in flight decides.
                        self.known = None;
                    }
                }
                changed = self.catalog.changed() => {
                    changed.ok()?;
                    self.follow_reload()?;
                }
            }
            if let Some(is_active) = self.due_update() {
                self.sent = Some(is_active);
                self.remind_at = Instant::now() + REMINDER;
                return Some(IsActiveResponse { result: is_active });
            }
        }
    }

    /// Returns the activity if it must be sent: it has changed, or `true` is due again.
    fn due_update(&self) -> Option<bool> {
        let is_due = |known: &bool| self.sent != Some(*known) || (*known && Instant::now() >= self.remind_at);
        self.known.filter(is_due)
    }

    /// Resolves the trigger in a new catalog; none if its query is gone.
    fn follow_reload(&mut self) -> Option<()> {
        let catalog = Arc::clone(&self.catalog.borrow_and_update());
        self.trigger = Metadata::parse(&self.reference).ok()?.resolve(&self.reference, &catalog).ok()?.into_owned();
        let namespace = &self.reference.namespace;
        let cached = self.cache.get_or_insert(&self.trigger.source, &self.trigger.parameters, namespace).ok()?;
        // Also where the cached query is the same: thresholds may have changed.
        self.watch = cached.watch(self.trigger.group.as_deref());
        self.known = None;
        Some(())
    }
}

/// The state of one StreamMetricSpec.
struct SpecUpdates {
    reference: ScaledObjectRef,
    catalog: watch::Receiver<Arc<Catalog>>,
    sent: Option<GetMetricSpecResponse>,
}

impl SpecUpdates {
    /// Waits for the next message: the answer of GetMetricSpec, whenever a reload has changed it.
    async fn next(&mut self) -> Option<GetMetricSpecResponse> {
        loop {
            self.catalog.changed().await.ok()?;
            let catalog = Arc::clone(&self.catalog.borrow_and_update());
            Metadata::parse(&self.reference).ok()?.resolve(&self.reference, &catalog).ok()?;
            let (name, target) = best_spec(&self.reference, &catalog);
            let spec = convert::spec(name, target);
            if self.sent.as_ref() != Some(&spec) {
                self.sent = Some(spec.clone());
                return Some(spec);
            }
        }
    }
}

/// Counts the open streams, and limits them.
pub(super) struct StreamLimits {
    open: Mutex<OpenStreams>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct OpenStreams {
    in_all: usize,
    bytes: usize,
    by_trigger: HashMap<u64, usize>,
}

/// The permit of one open stream; dropping it gives it back.
struct StreamPermit {
    streams: Arc<StreamLimits>,
    trigger: u64,
    bytes: usize,
    rpc: &'static str,
}

impl StreamLimits {
    pub(super) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), metrics })
    }

    fn acquire(self: &Arc<Self>, trigger: u64, bytes: usize, rpc: &'static str) -> Result<StreamPermit, Fault> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.in_all >= STREAMS_PER_PROCESS || open.bytes + bytes > METADATA_BYTES_PER_PROCESS {
            return Err(Fault::Exhausted(Limit::Streams));
        }
        let of_trigger = open.by_trigger.entry(trigger).or_default();
        if *of_trigger >= STREAMS_PER_TRIGGER {
            return Err(Fault::Exhausted(Limit::TriggerStreams));
        }
        *of_trigger += 1;
        open.in_all += 1;
        open.bytes += bytes;
        self.metrics.streams.get_or_create(&StreamLabels { rpc }).inc();
        Ok(StreamPermit { streams: Arc::clone(self), trigger, bytes, rpc })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut open = self.streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.in_all -= 1;
        open.bytes -= self.bytes;
        if let Some(of_trigger) = open.by_trigger.get_mut(&self.trigger) {
            *of_trigger -= 1;
            if *of_trigger == 0 {
                open.by_trigger.remove(&self.trigger);
            }
        }
        self.streams.metrics.streams.get_or_create(&StreamLabels { rpc: self.rpc }).dec();
    }
}

#[cfg(test)]
mod tests;
