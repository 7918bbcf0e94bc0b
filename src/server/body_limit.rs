//! Bounds incomplete requests: each has a timeout, and all of them share one budget of bytes.
//!
//! tonic buffers a message until it is complete. Without these bounds, 20,000 calls of one
//! connection that never complete would hold gigabytes for as long as the peer likes.

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

/// The most bytes that all incomplete requests may hold. The images run within 256 MiB.
const BUDGET: usize = 32 * 1024 * 1024;

/// The memory of an incomplete request beside its message: measured, and rounded up.
const OVERHEAD: usize = 4 * 1024;

/// The bytes that incomplete requests hold at this moment.
#[derive(Debug, Default)]
pub(super) struct BodyBudget(AtomicUsize);

/// The body of one request. A body that is complete at the first poll takes nothing from the budget.
pub(super) struct LimitedBody<B> {
    body: B,
    within: Duration,
    late: Option<Pin<Box<Sleep>>>,
    reservation: Reservation,
}

/// The share of the budget that one request holds; dropping it gives the bytes back.
struct Reservation {
    budget: Arc<BodyBudget>,
    bytes: usize,
}

impl<B> LimitedBody<B> {
    /// Wraps a body that must be complete `within` this time after the first poll that finds it incomplete.
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
