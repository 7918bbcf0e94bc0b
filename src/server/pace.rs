//! Paces what is read from a connection, so that nothing piles up behind it.
//!
//! HTTP/2 bounds neither the requests that wait to be looked at nor the answers that a peer does not take: a peer may
//! send 20,000 requests on each of its connections, and read nothing. So a connection is read in small pieces, and not
//! at all while its socket takes no answers, or while its peer holds too much. A piece that would make HTTP/2 look at
//! all streams again and again ends the connection. See `docs/limits.md`.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{frame_count::FrameCount, request_budget::ConnectionBudget};

/// The most bytes that are read before the requests in them are charged, and others have their turn: as much as h2
/// reads at once, some thirty usual ones.
const PIECE: usize = 8 * 1024;

/// The most frames in a piece that concern every stream. A client sends one at its beginning, an answer to ours, and
/// later one whenever it wants other windows.
const FRAMES_OF_ALL_STREAMS: usize = 8;

/// The pause before a connection is looked at again whose peer holds too much.
const PAUSE: Duration = Duration::from_millis(100);

/// The pace of one connection: shared by its socket and by the task that serves it.
pub(super) struct Pace {
    budget: Arc<ConnectionBudget>,
    /// The bytes that may still be read in this turn of the task.
    allowance: AtomicUsize,
    /// True if the socket did not take all that it was last given.
    is_blocked: AtomicBool,
    /// True if the connection was ended because of its frames.
    is_flooded: AtomicBool,
}

/// A socket that is read at a pace.
pub(super) struct PacedIo<I> {
    inner: I,
    pace: Arc<Pace>,
    frames: FrameCount,
    /// The task, if it was kept from reading while the socket took nothing.
    kept: Option<Waker>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(super) fn new(budget: Arc<ConnectionBudget>) -> Arc<Self> {
        let [is_blocked, is_flooded] = [false; 2].map(AtomicBool::new);
        Arc::new(Self { budget, allowance: AtomicUsize::new(PIECE), is_blocked, is_flooded })
    }

    /// Returns whether the connection was ended because too many of its frames concerned every stream.
    pub(super) fn is_flooded(&self) -> bool {
        self.is_flooded.load(Ordering::Relaxed)
    }

    /// Polls a connection to its end, and gives back after each turn what the answers held that the socket has taken.
    pub(super) async fn turns<F: Future>(&self, mut connection: Pin<&mut F>) -> F::Output {
        poll_fn(|context| {
            self.allowance.store(PIECE, Ordering::Relaxed);
            let polled = connection.as_mut().poll(context);
            // A turn ends with writing: if the socket has taken everything, it has every answer that is made.
            if !self.is_blocked.load(Ordering::Relaxed) {
                self.budget.sent();
            }
            polled
        })
        .await
    }
}

impl<I> PacedIo<I> {
    pub(super) fn new(inner: I, pace: Arc<Pace>) -> Self {
        Self { inner, pace, frames: FrameCount::new(), kept: None, pause: None }
    }

    /// Waits until the connection may be read.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.pace.is_blocked.load(Ordering::Relaxed) {
            self.kept = Some(context.waker().clone());
            return Poll::Pending;
        }
        if self.pace.allowance.load(Ordering::Relaxed) == 0 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            if !self.pace.budget.is_full() {
                return Poll::Ready(());
            }
            self.pause = Some(Box::pin(sleep(PAUSE)));
        }
    }

    /// Notes whether the socket took what it was given.
    fn wrote<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.pace.is_blocked.store(polled.is_pending(), Ordering::Relaxed);
        if polled.is_ready()
            && let Some(task) = self.kept.take()
        {
            task.wake();
        }
        polled
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for PacedIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_turn(context));
        let allowance = self.pace.allowance.load(Ordering::Relaxed);
        // It reads into what is left of the buffer, and only as much as it may.
        let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(allowance.min(buffer.remaining())));
        let polled = Pin::new(&mut self.inner).poll_read(context, &mut piece);
        let read = piece.filled().len();
        if self.frames.count_of_all_streams(piece.filled()) > FRAMES_OF_ALL_STREAMS {
            self.pace.is_flooded.store(true, Ordering::Relaxed);
            return Poll::Ready(Err(io::Error::other("too many frames that concern every stream")));
        }
        buffer.advance(read);
        self.pace.allowance.store(allowance - read, Ordering::Relaxed);
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for PacedIo<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(context);
        self.wrote(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
