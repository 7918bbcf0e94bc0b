//! The body of a request that has not been answered: it must come in time, and its bytes are charged.
//!
//! tonic buffers a message until it is complete. Without these bounds, 20,000 calls of one
//! connection that never complete would hold gigabytes for as long as the peer likes.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::request_budget::Charge;

/// The body of one request.
pub(super) struct LimitedBody<B> {
    body: B,
    within: Duration,
    late: Option<Pin<Box<Sleep>>>,
    charge: Arc<Charge>,
}

impl<B> LimitedBody<B> {
    /// Wraps a body that must be complete `within` this time after the first poll that finds it incomplete.
    pub(super) fn new(body: B, within: Duration, charge: Arc<Charge>) -> Self {
        Self { body, within, late: None, charge }
    }
}

impl<B> Body for LimitedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(context);
        let refused = match polled {
            Poll::Ready(Some(Ok(frame))) => {
                let charged = match frame.trailers_ref() {
                    Some(trailers) => this.charge.add_trailers(trailers),
                    None => {
                        let bytes = frame.data_ref().map_or(0, Bytes::len);
                        this.charge.add_bytes(bytes, this.body.is_end_stream())
                    }
                };
                return Poll::Ready(Some(charged.map(|()| frame)));
            }
            Poll::Ready(Some(Err(error))) => Status::from_error(Box::new(error)),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {
                if this.late.is_none() {
                    this.late = Some(Box::pin(sleep(this.within)));
                    if let Err(refused) = this.charge.add_overhead() {
                        return Poll::Ready(Some(Err(refused)));
                    }
                }
                if let Some(late) = &mut this.late {
                    ready!(late.as_mut().poll(context));
                }
                Status::deadline_exceeded("the request did not come in time")
            }
        };
        Poll::Ready(Some(Err(refused)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
