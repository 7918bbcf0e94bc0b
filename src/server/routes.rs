//! The gRPC services of one port.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
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
    body_limit::LimitedBody,
    request_budget::{Charge, PeerBudget, RequestBudget, Waits},
};
use crate::{
    metrics::Metrics,
    places::Peer,
    proto::{FILE_DESCRIPTORS, external_scaler_server::ExternalScalerServer},
    scaler::Scaler,
};

/// The most bytes of one message. tonic answers OUT_OF_RANGE to a longer one.
const MAXIMUM_MESSAGE: usize = 256 * 1024;

/// The longest time that a request to the scaler may be incomplete, as long as a preface may.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest time that a request to the other services may be incomplete: reflection is a stream of requests.
const OTHER_BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The method that never waits. KEDA ignores its errors, so it is not refused while others wait.
const GET_METRIC_SPEC: &str = "GetMetricSpec";

/// The scaler's service, and the other services behind a router.
pub(super) struct Services {
    scaler: ExternalScalerServer<Scaler>,
    others: Routes,
    budget: Arc<RequestBudget>,
}

/// The services as one peer gets them.
pub(super) struct PeerServices {
    scaler: ExternalScalerServer<Scaler>,
    others: Routes,
    budget: Arc<PeerBudget>,
}

/// An answer that is being made. Until it is there, the request holds its share of the budget.
pub(super) struct Answering {
    answer: BoxFuture<'static, Result<Response<Body>, Infallible>>,
    charge: Option<Arc<Charge>>,
}

/// The answer of a service that is not the scaler's: a stream of it holds its share of the budget until it ends.
struct ChargedBody {
    body: Body,
    _charge: Arc<Charge>,
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
        PeerServices { scaler: self.scaler.clone(), others: self.others.clone(), budget: self.budget.of(peer) }
    }
}

impl PeerServices {
    /// Answers one request. KEDA's calls do not go through the router, which would clone, box and
    /// look up the same service for each of them.
    ///
    /// A connection that `has_no_place` among those that carry calls gets answers only that cost nothing.
    pub(super) fn answer(&self, request: Request<Incoming>, has_no_place: bool) -> Answering {
        let mut names = request.uri().path().split('/').skip(1);
        let (service, method) = (names.next(), names.next());
        let is_of_scaler = service == Some(ExternalScalerServer::<Scaler>::NAME);
        let waits = if is_of_scaler && method == Some(GET_METRIC_SPEC) { Waits::Never } else { Waits::Perhaps };
        if has_no_place && waits == Waits::Perhaps {
            return Answering::refusal(Status::resource_exhausted("too many connections are open").into_http());
        }
        let charge = Charge::new(&self.budget, waits);
        if waits == Waits::Perhaps
            && let Err(refused) = charge.add_overhead()
        {
            return Answering::refusal(refused.into_http());
        }
        let within = if is_of_scaler { BODY_TIMEOUT } else { OTHER_BODY_TIMEOUT };
        let request = request.map(|body| LimitedBody::new(body, within, Arc::clone(&charge)));
        if is_of_scaler {
            return Answering { answer: self.scaler.clone().call(request), charge: Some(charge) };
        }
        let mut others = self.others.clone();
        let answer = async move {
            let answer = others.call(request).await?;
            Ok(answer.map(|body| Body::new(ChargedBody { body, _charge: charge })))
        };
        Answering { answer: answer.boxed(), charge: None }
    }
}

impl Answering {
    /// Answers with this.
    pub(super) fn refusal(response: Response<Body>) -> Self {
        Self { answer: ready(Ok(response)).boxed(), charge: None }
    }
}

impl Future for Answering {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.answer.as_mut().poll(context);
        if polled.is_ready() {
            self.charge = None;
        }
        polled
    }
}

impl hyper::body::Body for ChargedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
