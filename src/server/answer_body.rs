//! The body of an answer: its call is charged until the peer has taken the message.
//!
//! A peer that grants no window, or a single byte of it, makes HTTP/2 keep the message of every answer.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tonic::{Status, body::Body};

use super::request_budget::Charge;

/// The body of the answer to a call that is charged.
pub(super) struct ChargedBody {
    body: Body,
    charge: Arc<Charge>,
}

/// The bytes of a message, which HTTP/2 drops when it has written the last of them.
struct Message {
    bytes: Bytes,
    _charge: Arc<Charge>,
}

impl ChargedBody {
    /// Charges the call for as long as its answer is here or with HTTP/2.
    pub(super) fn wrap(body: Body, charge: Arc<Charge>) -> Body {
        Body::new(Self { body, charge })
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl hyper::body::Body for ChargedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let charged = |bytes| Bytes::from_owner(Message { bytes, _charge: Arc::clone(&self.charge) });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(charged))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
