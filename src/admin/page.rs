//! The pages that are being sent, and the bound of their memory.
//!
//! A page is made once and shared by all who asked for it. Each of them gets it piece by piece, and nobody keeps more
//! of it than a piece: so a page can be taken from readers that are too slow for it.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// The most bytes of all pages that are being sent, or kept for the next who asks. Beyond it the oldest gives way, so
/// that what was asked last is received.
const CAPACITY: usize = 16 * 1024 * 1024;

/// The bytes that a reader gets at a time.
const PIECE: usize = 8 * 1024;

/// The pages of the port.
#[derive(Debug, Default)]
pub(super) struct PageStore {
    /// The oldest first.
    pages: Mutex<VecDeque<Weak<Page>>>,
}

/// One page, shared by its readers.
#[derive(Debug)]
pub(super) struct Page {
    length: usize,
    /// None once it has given way.
    bytes: Mutex<Option<Bytes>>,
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct PageBody {
    page: Arc<Page>,
    sent: usize,
}

/// The page has given way to newer ones before all of it was taken.
#[derive(Debug)]
pub(super) struct TooSlow;

impl PageStore {
    /// Adds a page. The oldest give way until all fit.
    pub(super) fn add(&self, bytes: Bytes) -> Arc<Page> {
        let page = Arc::new(Page::new(bytes));
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.retain(|page| page.strong_count() > 0);
        let mut held: usize = pages.iter().filter_map(Weak::upgrade).map(|page| page.length).sum();
        while held + page.length > CAPACITY
            && let Some(oldest) = pages.pop_front()
        {
            let Some(oldest) = oldest.upgrade() else { continue };
            held -= oldest.length;
            oldest.bytes().take();
        }
        pages.push_back(Arc::downgrade(&page));
        page
    }
}

impl Page {
    fn new(bytes: Bytes) -> Self {
        Self { length: bytes.len(), bytes: Mutex::new(Some(bytes)) }
    }

    /// Returns whether it can still be sent.
    pub(super) fn is_there(&self) -> bool {
        self.bytes().is_some()
    }

    fn bytes(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<String> for Page {
    fn from(text: String) -> Self {
        Self::new(text.into())
    }
}

impl From<Arc<Page>> for PageBody {
    fn from(page: Arc<Page>) -> Self {
        Self { page, sent: 0 }
    }
}

impl From<&'static str> for PageBody {
    fn from(text: &'static str) -> Self {
        Arc::new(Page::new(Bytes::from_static(text.as_bytes()))).into()
    }
}

impl Body for PageBody {
    type Data = Bytes;
    type Error = TooSlow;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TooSlow>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let end = self.page.length.min(self.sent + PIECE);
        // A copy: a part of the page would keep all of it.
        let piece = self.page.bytes().as_ref().map(|bytes| Bytes::copy_from_slice(&bytes[self.sent..end]));
        self.sent = end;
        Poll::Ready(Some(piece.map(Frame::data).ok_or(TooSlow)))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.page.length
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.page.length - self.sent).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for TooSlow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the page gave way to newer ones before it was taken")
    }
}

impl std::error::Error for TooSlow {}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn read(body: PageBody) -> Option<Vec<u8>> {
        Some(body.collect().await.ok()?.to_bytes().to_vec())
    }

    #[tokio::test]
    async fn a_page_comes_whole_and_in_pieces() {
        let store = PageStore::default();
        for length in [0, 1, PIECE, PIECE + 1, 100_000] {
            let page: Vec<u8> = (0..=255).cycle().take(length).collect();
            let body = PageBody::from(store.add(page.clone().into()));
            assert_eq!(body.size_hint().exact(), u64::try_from(length).ok());
            assert_eq!(read(body).await, Some(page), "{length} bytes");
        }
        assert_eq!(read("ok\n".into()).await, Some(b"ok\n".to_vec()));
    }

    #[tokio::test]
    async fn the_oldest_pages_give_way_and_what_was_asked_last_is_received() {
        let store = PageStore::default();
        let third = || Bytes::from(vec![7; CAPACITY / 3]);
        let [oldest, older, newest] = [(); 3].map(|()| PageBody::from(store.add(third())));
        drop(older);
        let another = PageBody::from(store.add(third()));
        assert!(oldest.page.is_there(), "the pages that nobody reads any more take no room");
        let fourth = PageBody::from(store.add(third()));
        assert!(!oldest.page.is_there());
        assert!(read(oldest).await.is_none(), "half a page is an error");
        for body in [newest, another, fourth] {
            assert!(read(body).await.is_some());
        }
        let large = PageBody::from(store.add(vec![7; 2 * CAPACITY].into()));
        assert!(read(large).await.is_some(), "a page that is larger than the bound is sent alone");
    }
}
