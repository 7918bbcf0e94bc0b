//! Detects whether a peer has sent as many bytes as an HTTP/2 preface has.
//!
//! Neither hyper nor its keep-alive closes a connection whose preface is incomplete. One such
//! socket would count as a connection, and delay the shutdown, for ever. See
//! `docs/decisions/http2-preface-timeout.md`.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n` (RFC 9113, section 3.4).
const LENGTH: usize = 24;

/// A connection that counts the bytes it has read, up to the length of a preface.
pub(super) struct PrefaceReader<I> {
    inner: I,
    read: Arc<AtomicUsize>,
}

/// Answers whether a connection has read as much as a preface.
pub(super) struct Preface(Arc<AtomicUsize>);

impl Preface {
    pub(super) fn has_arrived(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= LENGTH
    }
}

impl<I> PrefaceReader<I> {
    pub(super) fn new(inner: I) -> (Self, Preface) {
        let read = Arc::new(AtomicUsize::new(0));
        (Self { inner, read: Arc::clone(&read) }, Preface(read))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for PrefaceReader<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if self.read.load(Ordering::Relaxed) < LENGTH {
            self.read.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for PrefaceReader<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
