//! The two streams: current state at once, then changes, never an error after the open.
//!
//! Any error status leaves KEDA up to 60 s blind before it opens the stream again, while an end
//! with OK costs it two seconds (pkg/scalers/external_scaler.go, the back-off of both streams).
//! So a stream is silent while the database is away, and ends only with OK: on shutdown, at the
//! connection's age, and when its query is gone after a reload.

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

/// `true` is sent again this often: KEDA drops one that comes before it knows the metric.
const REMINDER: Duration = Duration::from_secs(30);

/// Over how long the streams of a connection that got too old are ended.
const SPREAD: Duration = Duration::from_secs(10);

/// Open streams of one trigger at most; KEDA holds two, and overlaps while it reconnects.
const STREAMS_PER_TRIGGER: usize = 4;

/// Open streams of the process at most.
const STREAMS_PER_PROCESS: usize = 50_000;

/// Bytes of what their triggers say about themselves, at most: a stream keeps it, and each may say 64 KiB. Fifty thousand
/// usual ones say half of it.
const METADATA_BYTES_PER_PROCESS: usize = 64 * 1024 * 1024;

/// Messages of one stream.
pub struct Updates<T>(Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>);

impl<T> Stream for Updates<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl<T: Send + 'static> Updates<T> {
    /// Takes messages from `next` until it has none, or the stream's lifetime is over.
    fn new<S: Send + 'static>(
        state: S,
        lifetime: Lifetime,
        next: impl for<'a> Fn(&'a mut S) -> BoxFuture<'a, Option<T>> + Copy + Send + 'static,
    ) -> Self {
        let messages = stream::unfold((state, lifetime), move |(mut state, mut lifetime)| async move {
            let message = tokio::select! {
                biased;
                () = lifetime.wait() => None,
                // A panic ends this stream with OK like everything else; it has been logged.
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

/// When a stream must end, and its permit among the open ones.
struct Lifetime {
    process: CancellationToken,
    /// The connection's, where the server says when it gets too old.
    connection: Option<CancellationToken>,
    /// When the stream of a connection that got too old ends; drawn once, when that is known.
    ends_at: Option<Instant>,
    permit: StreamPermit,
    opened_at: Instant,
    /// Cancelled, until we end it.
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
                    // Not all at once: each end makes KEDA open a stream elsewhere.
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
    /// # Errors
    /// As a unary call's, but for the reading: a database that is away means silence.
    pub(super) fn open_activity(&self, request: Request<ScaledObjectRef>) -> Result<Updates<IsActiveResponse>, Status> {
        let connection = request.extensions().get::<CancellationToken>().cloned();
        let reference = request.into_inner();
        let ResolvedTrigger { trigger, cached } = self.resolve(&reference, None, Instant::now())?;
        let trigger = trigger.into_owned();
        let lifetime = self.lifetime(connection, trigger.id, reference.encoded_len(), "StreamIsActive")?;
        let activity = ActivityUpdates::new(reference, trigger, &cached, self.catalog.clone(), Arc::clone(&self.cache));
        Ok(Updates::new(activity, lifetime, |activity| activity.next().boxed()))
    }

    /// # Errors
    /// Metadata that does not fit, and our limits.
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

    /// `bytes` is what the trigger says about itself.
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
    /// What the latest attempt told; none while the database is away.
    known: Option<bool>,
    /// What was sent last.
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

    /// The next message; none once the query is gone.
    async fn next(&mut self) -> Option<IsActiveResponse> {
        loop {
            tokio::select! {
                reading = self.watch.changed() => {
                    self.known = reading.and_then(|reading| convert::is_active(&self.trigger, &reading)).ok();
                }
                () = sleep_until(self.remind_at), if self.sent == Some(true) && self.known == Some(true) => {
                    if !self.watch.is_current() {
                        // The attempt that is under way will tell.
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

    /// What must be sent: a change, or `true` once more. Nothing while nothing is known.
    fn due_update(&self) -> Option<bool> {
        let is_due = |known: &bool| self.sent != Some(*known) || (*known && Instant::now() >= self.remind_at);
        self.known.filter(is_due)
    }

    /// Finds the trigger again in a new catalog; none if it is not there any more.
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
    /// The next message: what GetMetricSpec says, whenever a reload has changed it.
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

/// The open streams, within limits.
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

/// One open stream's permit among them; given back when dropped.
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
