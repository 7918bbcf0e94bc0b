//! The two streams: they send the current state at once and then each change, and never end with an error.
//!
//! After an error KEDA waits up to 60 s before it opens the stream again; after OK it waits two
//! seconds (pkg/scalers/external_scaler.go, the back-off of both streams). So a stream sends
//! nothing while the database is away, and ends only with OK: on shutdown, when its connection is
//! too old, and when a reload removes its query. A StreamIsActive for a query that is unknown, or
//! not for its namespace, waits in silence for a reload that changes this.

mod activity;
mod limits;
mod request;
mod specs;

use std::{
    future::pending,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, Stream, future::BoxFuture, stream};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

pub(super) use self::limits::StreamLimits;
use self::{
    activity::{ActivityUpdates, Subject},
    limits::StreamPermit,
    request::KeptRequest,
    specs::SpecUpdates,
};
use super::{
    Resolved, Scaler,
    metadata::{Metadata, identity},
    refusal::Refusal,
    status::code_name,
};
use crate::{
    metrics::RpcLabels,
    places::Peer,
    proto::{GetMetricSpecResponse, IsActiveResponse, Rpc, ScaledObjectRef},
};

/// The connection of a stream. The server puts it into the extensions of each request that opens one.
#[derive(Debug, Clone)]
pub struct StreamConnection {
    /// The peer, which has its turns beside others.
    pub peer: Peer,
    /// None where connections have no age.
    pub age: Option<ConnectionAge>,
}

/// The age of a connection.
#[derive(Debug, Clone)]
pub struct ConnectionAge {
    /// Cancelled when the connection is too old.
    pub is_over: CancellationToken,
    /// The configured limit. Once the age is over, all streams of the connection end within the same time.
    pub limit: Duration,
}

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

/// The events that end a stream, and the record of its end.
struct Lifetime {
    process: CancellationToken,
    connection: Option<ConnectionAge>,
    /// The moment at which this stream of a too old connection ends; drawn once.
    ends_at: Option<Instant>,
    streams: Arc<StreamLimits>,
    rpc: Rpc,
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
                Some(ConnectionAge { is_over, limit }) => {
                    is_over.cancelled().await;
                    // Spread, because each end makes KEDA open a new stream.
                    let draw = || self.streams.end_of_aged(self.rpc, *limit);
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
        let labels = RpcLabels::new(self.rpc);
        let metrics = &self.streams.metrics;
        metrics.handling.get_or_create(&labels).observe(self.opened_at.elapsed().as_secs_f64());
        metrics.handled.get_or_create(&labels.handled(code_name(self.ended_with))).inc();
    }
}

impl Scaler {
    /// Opens a StreamIsActive.
    ///
    /// # Errors
    /// Those of a unary call, except the ones of its reading: without a database the stream is silent.
    pub(super) fn open_activity(&self, request: Request<ScaledObjectRef>) -> Result<Updates<IsActiveResponse>, Status> {
        let StreamConnection { peer, age } = connection(&request);
        let lifetime = self.lifetime(age, Rpc::StreamIsActive);
        let reference = request.into_inner();
        // Seen before the query is looked up, so that a reload in between is noticed.
        let mut catalog = self.catalog.clone();
        catalog.mark_unchanged();
        let (id, subject) = match self.resolve(&reference, None, Instant::now())? {
            Resolved::Keeper(_) => (Some(identity(&reference)), Subject::Keeper),
            Resolved::Unknown => (None, Subject::Unknown),
            Resolved::Trigger { trigger, cached, key: _ } => (Some(trigger.id), Subject::watching(trigger, &cached)),
        };
        let (request, permit) = self.permit(KeptRequest::new(reference, peer), id, Rpc::StreamIsActive)?;
        let (cache, metrics) = (Arc::clone(&self.cache), Arc::clone(&self.metrics));
        let activity = ActivityUpdates::new(request, permit, subject, catalog, cache, metrics);
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
        let StreamConnection { peer, age } = connection(&request);
        let lifetime = self.lifetime(age, Rpc::StreamMetricSpec);
        let reference = request.into_inner();
        let id = self.id_for_specs(&reference).map_err(Status::from);
        let id = id.inspect_err(|status| self.note_refusal(&reference, status, Instant::now()))?;
        let (request, permit) = self.permit(KeptRequest::new(reference, peer), id, Rpc::StreamMetricSpec)?;
        let specs = SpecUpdates::new(request, permit, self.catalog.clone());
        Ok(Updates::new(specs, lifetime, |specs| specs.next().boxed()))
    }

    /// Returns the id of a trigger; none if its query is unknown, or not for its namespace.
    fn id_for_specs(&self, reference: &ScaledObjectRef) -> Result<Option<u64>, Refusal> {
        let metadata = Metadata::parse(reference)?;
        if metadata.is_keeper() {
            metadata.check_keeper()?;
            return Ok(Some(identity(reference)));
        }
        match metadata.resolve(reference, &self.catalog.borrow()) {
            Ok(trigger) => Ok(Some(trigger.id)),
            Err(Refusal::Denied) => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// Takes a permit for a stream of the trigger with this id, and for its request; without an id the stream waits for
    /// its query.
    fn permit(&self, request: KeptRequest, id: Option<u64>, rpc: Rpc) -> Result<(KeptRequest, StreamPermit), Status> {
        let permit = match id {
            Some(id) => self.streams.acquire(id, request.bytes(), rpc).map_err(Status::from),
            None => {
                let permit = self.streams.acquire_waiting(request.namespace(), request.bytes(), rpc);
                permit.ok_or_else(|| Refusal::Denied.into())
            }
        };
        match permit {
            Ok(permit) => Ok((request, permit)),
            Err(status) => {
                self.note_refusal(&request.reference(), &status, Instant::now());
                Err(status)
            }
        }
    }

    fn lifetime(&self, connection: Option<ConnectionAge>, rpc: Rpc) -> Lifetime {
        Lifetime {
            process: self.shutdown.clone(),
            connection,
            ends_at: None,
            streams: Arc::clone(&self.streams),
            rpc,
            opened_at: Instant::now(),
            ended_with: Code::Cancelled,
        }
    }
}

/// Returns the connection of a request that opens a stream.
fn connection(request: &Request<ScaledObjectRef>) -> StreamConnection {
    request.extensions().get().cloned().expect("the server puts it there")
}

#[cfg(test)]
mod tests;
