//! The gRPC services of one port.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::{self, BoxFuture, FutureExt};
use http::{HeaderMap, Request, Response};
use hyper::body::{Body as _, Incoming};
use tonic::{
    Status,
    body::Body,
    codegen::Service,
    server::NamedService,
    service::{Routes, RoutesBuilder},
};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_reflection::server::Builder;

use super::{
    ServeError,
    answer_body::ChargedBody,
    body_limit::LimitedBody,
    request_budget::{Charge, ConnectionBudget, RequestBudget, Waits},
};
use crate::{
    metrics::Metrics,
    places::Peer,
    proto::{FILE_DESCRIPTORS, Rpc, external_scaler_server::ExternalScalerServer},
    scaler::Scaler,
};

/// The most bytes of one message. tonic answers OUT_OF_RANGE to a longer one.
const MAXIMUM_MESSAGE: usize = 256 * 1024;

/// The longest time that a request to the scaler may be incomplete, as long as a preface may.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest time that a request to the other services may be incomplete: reflection is a stream of requests.
const OTHER_BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The part that only the paths of the scaler's streaming methods have.
pub(super) const STREAMING: &str = "/Stream";

/// The scaler's service, and the other services behind a router.
pub(super) struct Services {
    scaler: ExternalScalerServer<Scaler>,
    others: Routes,
    budget: Arc<RequestBudget>,
}

/// The services as one peer gets them.
pub(super) struct PeerServices {
    peer: Peer,
    scaler: ExternalScalerServer<Scaler>,
    others: Routes,
    budget: Arc<ConnectionBudget>,
}

/// An answer that is being made. Until the peer has taken it, the request holds its share of the budget; a stream has a
/// place of its own once it is answered.
pub(super) struct Answering {
    answer: BoxFuture<'static, Result<Response<Body>, Infallible>>,
    charge: Option<Arc<Charge>>,
    is_stream: bool,
}

impl Services {
    pub(super) fn new(
        scaler: Scaler,
        health: HealthServer<impl Health>,
        reflection: bool,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, ServeError> {
        let scaler = ExternalScalerServer::new(scaler).max_decoding_message_size(MAXIMUM_MESSAGE);
        let mut others = RoutesBuilder::default();
        others.add_service(health.max_decoding_message_size(MAXIMUM_MESSAGE));
        if reflection {
            let builder = || {
                Builder::configure()
                    .register_encoded_file_descriptor_set(FILE_DESCRIPTORS)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            };
            others
                .add_service(builder().build_v1()?.max_decoding_message_size(MAXIMUM_MESSAGE))
                .add_service(builder().build_v1alpha()?.max_decoding_message_size(MAXIMUM_MESSAGE));
        }
        Ok(Self { scaler, others: others.routes().prepare(), budget: RequestBudget::new(Arc::clone(metrics)) })
    }

    /// Returns the services for a connection of a peer.
    pub(super) fn of(&self, peer: Peer) -> PeerServices {
        let budget = ConnectionBudget::new(self.budget.of(peer));
        PeerServices { peer, scaler: self.scaler.clone(), others: self.others.clone(), budget }
    }
}

impl PeerServices {
    /// Returns the peer.
    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    /// Returns the budget of the connection.
    pub(super) fn budget(&self) -> &Arc<ConnectionBudget> {
        &self.budget
    }

    /// Returns whether this is a call of the scaler.
    pub(super) fn asks_the_scaler(request: &Request<Incoming>) -> bool {
        request.uri().path().split('/').nth(1) == Some(ExternalScalerServer::<Scaler>::NAME)
    }

    /// Answers one request. KEDA's calls do not go through the router, which would clone, box and
    /// look up the same service for each of them.
    ///
    /// A connection that `has_no_place` among those that carry calls gets answers only that cost nothing.
    pub(super) fn answer(&self, request: Request<Incoming>, has_no_place: bool) -> Answering {
        let is_of_scaler = Self::asks_the_scaler(&request);
        let method = request.uri().path().split('/').nth(2);
        let is_stream = is_of_scaler && request.uri().path().contains(STREAMING);
        // KEDA ignores the errors of GetMetricSpec, so it is not refused while others wait.
        let never_waits = is_of_scaler && method == Some(Rpc::GetMetricSpec.name());
        let waits = if never_waits { Waits::Never } else { Waits::Perhaps };
        if has_no_place && waits == Waits::Perhaps {
            return self.refuse(Status::resource_exhausted("too many connections are open").into_http());
        }
        let charge = Charge::new(&self.budget, waits, request.headers());
        if waits == Waits::Perhaps
            && let Err(refused) = charge.add_overhead()
        {
            return Answering::refusal(refused.into_http(), charge);
        }
        let within = if is_of_scaler { BODY_TIMEOUT } else { OTHER_BODY_TIMEOUT };
        let request = request.map(|body| LimitedBody::new(body, within, Arc::clone(&charge)));
        let answer = if is_of_scaler {
            self.scaler.clone().call(request)
        } else {
            let mut others = self.others.clone();
            async move { others.call(request).await }.boxed()
        };
        Answering { answer, charge: Some(charge), is_stream }
    }

    /// Answers with this, whatever is asked.
    pub(super) fn refuse(&self, response: Response<Body>) -> Answering {
        Answering::refusal(response, Charge::new(&self.budget, Waits::Never, &HeaderMap::new()))
    }
}

impl Answering {
    fn refusal(response: Response<Body>, charge: Arc<Charge>) -> Self {
        Self { answer: future::ready(Ok(response)).boxed(), charge: Some(charge), is_stream: false }
    }
}

impl Future for Answering {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(answer) = ready!(self.answer.as_mut().poll(context));
        let charge = self.charge.take().filter(|_| !self.is_stream);
        Poll::Ready(Ok(answer.map(|body| match charge {
            // Without a message there is nothing that could wait for the peer's window.
            Some(charge) if !body.is_end_stream() => ChargedBody::wrap(body, charge),
            _ => body,
        })))
    }
}
