//! The state of one StreamIsActive.

use std::{
    future::{pending, ready},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{limits::StreamPermit, request::KeptRequest};
use crate::{
    cache::{CachedQuery, QueryCache, Watch},
    metrics::{Metrics, TriggerId},
    proto::IsActiveResponse,
    recorder::Answer,
    scaler::{
        Catalog, convert,
        metadata::{Metadata, Trigger},
        refusal::Refusal,
    },
};

/// The interval at which `true` is sent again: KEDA drops a `true` that comes before it knows the metric.
pub(super) const REMINDER: Duration = Duration::from_secs(30);

/// The activity of one trigger, as its readings change it.
pub(super) struct ActivityUpdates {
    request: KeptRequest,
    permit: StreamPermit,
    subject: Subject,
    catalog: watch::Receiver<Arc<Catalog>>,
    cache: Arc<QueryCache>,
    metrics: Arc<Metrics>,
    /// The activity according to the latest attempt; `None` while the database is away.
    known: Option<bool>,
    /// The latest message.
    sent: Option<bool>,
    remind_at: Instant,
}

/// The subject that a stream reports on.
pub(super) enum Subject {
    /// The keeper, which is never active.
    Keeper,
    /// A query that is not configured yet. The stream stays silent until a reload adds it: a refusal would make KEDA
    /// wait for up to a minute before it tries again.
    Unknown,
    /// A trigger, with the readings of its query.
    Trigger(Box<(Trigger, Watch)>),
}

/// What a stream is woken by.
enum Event {
    /// The subject has changed.
    Changed,
    /// `true` is due again.
    Reminded,
    /// There is a new catalog.
    Reloaded,
}

impl Subject {
    pub(super) fn watching(mut trigger: Trigger, cached: &Arc<CachedQuery>) -> Self {
        let watch = cached.watch(trigger.group.clone());
        // The cached query has them.
        trigger.key.parameters = Vec::new();
        Self::Trigger(Box::new((trigger, watch)))
    }

    /// Waits until an attempt changes what [`Subject::is_active`] returns.
    async fn changed(&mut self) {
        match self {
            Self::Trigger(watched) => watched.1.changed().await,
            Self::Keeper | Self::Unknown => pending().await,
        }
    }

    /// Returns the activity according to the latest attempt; none if that failed, or if there is no activity yet.
    fn is_active(&self) -> Option<bool> {
        match self {
            Self::Trigger(watched) => {
                let (trigger, watch) = &**watched;
                watch.latest().and_then(|numbers| convert::is_active(trigger, numbers)).ok()
            }
            Self::Keeper => Some(false),
            Self::Unknown => None,
        }
    }

    /// Returns whether the latest reading is still fresh enough.
    fn is_current(&mut self) -> bool {
        match self {
            Self::Trigger(watched) => watched.1.is_current(),
            Self::Keeper | Self::Unknown => true,
        }
    }
}

impl ActivityUpdates {
    pub(super) fn new(
        request: KeptRequest,
        permit: StreamPermit,
        subject: Subject,
        catalog: watch::Receiver<Arc<Catalog>>,
        cache: Arc<QueryCache>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { request, permit, subject, catalog, cache, metrics, known: None, sent: None, remind_at: Instant::now() }
    }

    /// Waits for the next message. Returns `None` once the query is gone.
    ///
    /// # Cancel safety
    /// Not safe: what woke the stream while it waited for its turn is forgotten.
    pub(super) async fn next(&mut self) -> Option<IsActiveResponse> {
        loop {
            let is_new_keeper = matches!(self.subject, Subject::Keeper) && self.sent.is_none();
            let event = tokio::select! {
                () = ready(()), if is_new_keeper => Event::Changed,
                () = self.subject.changed() => Event::Changed,
                () = sleep_until(self.remind_at), if self.sent == Some(true) && self.known == Some(true) => Event::Reminded,
                changed = self.catalog.changed() => {
                    changed.ok()?;
                    Event::Reloaded
                }
            };
            // What woke this stream may have woken them all.
            self.permit.turn(self.request.peer()).await;
            match event {
                // The attempt that is in flight decides.
                Event::Reminded if !self.subject.is_current() => self.known = None,
                Event::Changed | Event::Reminded => self.known = self.subject.is_active(),
                Event::Reloaded => self.follow_reload()?,
            }
            if let Some(is_active) = self.due_update() {
                self.sent = Some(is_active);
                self.remind_at = Instant::now() + REMINDER;
                self.record(is_active);
                return Some(IsActiveResponse { result: is_active });
            }
        }
    }

    /// Records what KEDA is told.
    fn record(&self, is_active: bool) {
        if let Subject::Trigger(watched) = &self.subject {
            let (trigger, _) = &**watched;
            let (namespace, name) = (self.request.namespace(), self.request.name());
            let query = &trigger.query().name;
            let id = TriggerId {
                hash: trigger.id,
                namespace,
                name,
                query,
                thresholds: None,
                divide_by: None,
                metadata: None,
            };
            self.metrics.trigger_streamed(id, is_active);
            self.metrics.recorder.told(trigger.asker(namespace, name), Answer::Pushed(is_active), Instant::now());
        }
    }

    /// Returns the activity if it must be sent: it has changed, or `true` is due again.
    fn due_update(&self) -> Option<bool> {
        let is_due = |known: &bool| self.sent != Some(*known) || (*known && Instant::now() >= self.remind_at);
        self.known.filter(is_due)
    }

    /// Resolves the trigger in a new catalog. Returns `None` if its query is gone.
    fn follow_reload(&mut self) -> Option<()> {
        let catalog = Arc::clone(&self.catalog.borrow_and_update());
        let reference = self.request.reference();
        let metadata = Metadata::parse(&reference).ok()?;
        if metadata.is_keeper() {
            return Some(());
        }
        let trigger = match metadata.resolve(&reference, &catalog) {
            Ok(trigger) => trigger,
            Err(Refusal::Denied) if self.permit.is_waiting() => return Some(()),
            Err(_) => return None,
        };
        self.permit.admit(trigger.id).ok()?;
        let cached = self.cache.get_or_insert(&trigger.key, &reference.namespace).ok()?;
        // A new watch is needed even for the same cached query, because thresholds may have changed.
        self.subject = Subject::watching(trigger, &cached);
        self.known = None;
        Some(())
    }
}
