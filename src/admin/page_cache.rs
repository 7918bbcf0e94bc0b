//! Makes a page at a bounded rate, once for all requests that wait for it, and on another thread than the one that
//! serves.
//!
//! A page with 2,000 triggers takes as long as hundreds of calls. A hundred scrapes at a time must neither hold up a
//! call nor fill the memory with copies.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};

use super::page::{Page, PageStore};
use crate::blocking;

/// The bytes of pages that are made in a second: a page with 2,000 triggers is made once a second, and a small one at
/// once.
const BYTES_A_SECOND: u32 = 768 * 1024;

/// The most views of a page that are kept.
const VIEWS: usize = 8;

/// One page as it was last made, or the latest views of a page that has views.
pub(super) struct PageCache<V = ()> {
    make: Arc<dyn Fn(&V) -> Bytes + Send + Sync>,
    store: Arc<PageStore>,
    latest: Mutex<Latest<V>>,
}

struct Latest<V> {
    /// The latest first.
    made: VecDeque<Made<V>>,
    /// The earliest time at which the next page may be made.
    next_at: Instant,
}

struct Made<V> {
    view: V,
    began_at: Instant,
    page: Arc<Page>,
}

impl<V: Clone + PartialEq + Send + Sync + 'static> PageCache<V> {
    /// Creates the cache of the page that `make` makes.
    pub(super) fn new(store: &Arc<PageStore>, make: impl Fn(&V) -> Bytes + Send + Sync + 'static) -> Self {
        let latest = Latest { made: VecDeque::new(), next_at: Instant::now() };
        Self { make: Arc::new(make), store: Arc::clone(store), latest: Mutex::new(latest) }
    }

    /// Returns a page that was begun after this call, so that it shows whatever happened before. Calls that ask for the
    /// same view meanwhile share it.
    ///
    /// # Cancel safety
    /// The next caller makes the page instead.
    pub(super) async fn page(&self, view: V) -> Arc<Page> {
        let asked_at = Instant::now();
        let mut latest = self.latest.lock().await;
        let serves = |made: &&Made<V>| made.view == view && made.began_at > asked_at && made.page.is_there();
        if let Some(made) = latest.made.iter().find(serves) {
            return Arc::clone(&made.page);
        }
        sleep_until(latest.next_at).await;
        let began_at = Instant::now();
        // Until the page is made it counts as large, so that a caller that connects and disconnects starts at most one
        // thread a second.
        latest.next_at = began_at + Duration::from_secs(1);
        latest.made.retain(|made| made.view != view);
        latest.made.truncate(VIEWS - 1);
        let (make, asked) = (Arc::clone(&self.make), view.clone());
        let page = blocking::run_or_here("page", move || make(&asked)).await;
        let length = u32::try_from(page.len()).unwrap_or(u32::MAX);
        latest.next_at = began_at + Duration::from_secs(1) * length / BYTES_A_SECOND;
        let page = self.store.add(page);
        latest.made.push_front(Made { view, began_at, page: Arc::clone(&page) });
        page
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use http_body_util::BodyExt;

    use super::*;
    use crate::admin::page::PageBody;

    /// Returns the first byte of a page.
    async fn first(page: Arc<Page>) -> u8 {
        let body = PageBody::from(page).collect().await.expect("the page is there");
        body.to_bytes()[0]
    }

    /// Creates a cache of pages of this size that begin with their number, and the number of those made.
    fn numbered(size: usize) -> (PageCache, Arc<AtomicUsize>) {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let make = move |(): &()| {
            let mut page = vec![0; size];
            page[0] = u8::try_from(count.fetch_add(1, Ordering::Relaxed) + 1).unwrap();
            Bytes::from(page)
        };
        (PageCache::new(&Arc::default(), make), made)
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_who_ask_at_once_share_two_pages() {
        let (cache, made) = numbered(usize::try_from(BYTES_A_SECOND).unwrap());
        let start = Instant::now();
        let pages = join_all((0..100).map(async |_| first(cache.page(()).await).await)).await;
        // The first page was begun when the first asked; the others asked at that moment, or after it.
        assert!(pages.iter().all(|number| *number <= 2));
        assert!(made.load(Ordering::Relaxed) <= 2);
        assert!(start.elapsed() <= Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_is_never_older_than_its_request_and_a_large_one_is_made_once_a_second() {
        let (cache, made) = numbered(usize::try_from(BYTES_A_SECOND).unwrap());
        let start = Instant::now();
        for number in 1..=5 {
            assert_eq!(first(cache.page(()).await).await, number);
        }
        assert_eq!(made.load(Ordering::Relaxed), 5);
        assert!(start.elapsed() >= Duration::from_secs(4), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_leaves_the_page_to_the_next_and_starts_no_second_thread_at_once() {
        let (cache, made) = numbered(1);
        let start = Instant::now();
        for _ in 0..10 {
            let _ = futures_util::poll!(std::pin::pin!(cache.page(())));
        }
        assert!(first(cache.page(()).await).await <= 2);
        assert!(made.load(Ordering::Relaxed) <= 2);
        assert!(start.elapsed() <= Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_at_once_for_one_of_several_views_shares_it() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let cache = PageCache::new(&Arc::default(), move |view: &u8| {
            count.fetch_add(1, Ordering::Relaxed);
            vec![*view; 1024].into()
        });
        let pages = join_all((0..100u8).map(async |number| first(cache.page(number % 4).await).await)).await;
        assert!(pages.iter().zip(0..100u8).all(|(page, number)| *page == number % 4));
        assert!(made.load(Ordering::Relaxed) <= 2 * 4, "{made:?}");
        // Of many views the latest are kept.
        join_all((0..100u8).map(|number| cache.page(number))).await;
        assert_eq!(cache.latest.lock().await.made.len(), VIEWS);
    }
}
