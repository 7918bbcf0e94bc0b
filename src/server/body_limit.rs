//! Requests on their way: each must come in time, and all of them may hold so many bytes.
//!
//! What has come of a message is kept until it is whole. Twenty thousand calls of one connection
//! that stop short of their ends would otherwise hold gigabytes, for as long as the peer pleases.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;

/// Bytes of all requests on their way. The images run within 256 MiB.
const BUDGET: usize = 32 * 1024 * 1024;

/// What a request costs that has not come whole, beside its message: measured, rounded up.
const OVERHEAD: usize = 4 * 1024;

/// The bytes of all requests that are on their way.
#[derive(Debug, Default)]
pub(super) struct BodyBudget(AtomicUsize);

/// The body of one request. One that is there when it is looked for costs nothing.
pub(super) struct LimitedBody<B> {
    body: B,
    within: Duration,
    late: Option<Pin<Box<Sleep>>>,
    reservation: Reservation,
}

/// What one request holds; given back when dropped.
struct Reservation {
    budget: Arc<BodyBudget>,
    bytes: usize,
}

impl<B> LimitedBody<B> {
    /// A body that must have come `within` that time after it was first looked for in vain.
    pub(super) fn new(body: B, within: Duration, budget: Arc<BodyBudget>) -> Self {
        Self { body, within, late: None, reservation: Reservation { budget, bytes: 0 } }
    }
}

impl Reservation {
    fn take(&mut self, bytes: usize) -> Result<(), Status> {
        self.bytes += bytes;
        if self.budget.0.fetch_add(bytes, Ordering::Relaxed) + bytes > BUDGET {
            return Err(Status::resource_exhausted("too many requests have not come whole"));
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
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
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                let taken = if this.body.is_end_stream() { Ok(()) } else { this.reservation.take(bytes) };
                return Poll::Ready(Some(taken.map(|()| frame)));
            }
            Poll::Ready(Some(Err(error))) => Status::from_error(Box::new(error)),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {
                if this.late.is_none() {
                    this.late = Some(Box::pin(sleep(this.within)));
                    if let Err(refused) = this.reservation.take(OVERHEAD) {
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
