//! Permits for a database's connections, shared fairly: each namespace waits in a queue of its own.
//!
//! In one queue for all, a namespace with a thousand slow parameters would put the readings of others
//! behind a thousand of its own. So the queues are served in turn, and while there is more than one,
//! no namespace may hold the last connection: the reading of another never waits for a whole
//! statement timeout. A single namespace has the whole pool.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::reading::Tenant;

/// The time for which a namespace counts as one that may ask again.
const RECENT: Duration = Duration::from_secs(600);

/// The most namespaces that are remembered; beyond them there is more than one in any case.
const REMEMBERED: usize = 1_000;

/// The least share of the time, in percent, of a query that is named as one that holds connections.
const LEAST_SHARE: f64 = 5.0;

/// The queues of one database.
#[derive(Debug)]
pub(super) struct FairPool {
    permits: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    by_tenant: HashMap<Tenant, Waiters>,
    /// The namespaces with waiting readings, the next in turn first.
    waiting: VecDeque<Tenant>,
    /// The longest wait that has ended since [`FairPool::take_use`].
    longest_wait: Duration,
    /// The time for which each query has held connections since then, by its name; without what those in use add.
    held: HashMap<String, Duration>,
    /// The permits in use, by number: the query that uses each, and the time from which it still counts.
    users: HashMap<u64, (String, Instant)>,
    next_user: u64,
}

#[derive(Debug)]
struct Waiters {
    holds: usize,
    queue: VecDeque<Waiter>,
    asked_at: Instant,
}

#[derive(Debug)]
struct Waiter {
    sender: oneshot::Sender<Permit>,
    asked_at: Instant,
}

/// The use of a pool in the time since it was last asked about.
#[derive(Debug)]
pub(super) struct PoolUse {
    /// The longest that a reading has waited for its permit, or waits now.
    pub(super) longest_wait: Duration,
    /// The number of readings that wait now.
    pub(super) waiting: usize,
    /// The queries that hold or held connections, each with its share of that time in percent, the largest first. One
    /// that hardly held any is left out.
    pub(super) held_by: Vec<String>,
}

/// The right to use one connection; passed on when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    pool: Arc<FairPool>,
    tenant: Tenant,
    /// Its number among those in use.
    user: Option<u64>,
}

impl FairPool {
    /// Makes the queues for this many connections.
    pub(super) fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self { permits, state: Mutex::default() })
    }

    /// Waits for a permit for a query in the queue of a namespace, and in that of another as soon as `tenant` changes.
    ///
    /// # Cancel safety
    /// Safe, as [`FairPool::acquire`].
    pub(super) async fn acquire_for(self: &Arc<Self>, tenant: &watch::Receiver<Tenant>, query: &str) -> Permit {
        let mut tenant = tenant.clone();
        loop {
            let now = tenant.borrow_and_update().clone();
            tokio::select! {
                biased;
                mut permit = self.acquire(&now) => {
                    permit.user = Some(self.lock().begin_use(query));
                    return permit;
                }
                // Without a sender nothing can change, and only the permit is waited for.
                Ok(()) = tenant.changed() => {}
            }
        }
    }

    /// Waits in the queue of a namespace for a permit.
    ///
    /// # Cancel safety
    /// Safe: a permit that comes too late is passed on.
    async fn acquire(self: &Arc<Self>, tenant: &Tenant) -> Permit {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.lock();
            state.remember(tenant);
            let entry = state.by_tenant.entry(tenant.clone()).or_insert_with(Waiters::new);
            entry.asked_at = Instant::now();
            entry.queue.push_back(Waiter { sender, asked_at: entry.asked_at });
            if entry.queue.len() == 1 {
                state.waiting.push_back(tenant.clone());
            }
        }
        self.serve();
        receiver.await.expect("the sender stays in its tenant, and `self` is held, until it is used")
    }

    /// Returns the number of readings that wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().live().count()
    }

    /// Returns the use of the pool since this was last called.
    pub(super) fn take_use(&self, now: Instant) -> PoolUse {
        let mut state = self.lock();
        let waits = state.live().map(|waiter| now.saturating_duration_since(waiter.asked_at));
        let longest_wait = waits.max().unwrap_or_default().max(state.longest_wait);
        let waiting = state.live().count();
        state.longest_wait = Duration::ZERO;
        let mut held = std::mem::take(&mut state.held);
        for (query, since) in state.users.values_mut() {
            *held.entry(query.clone()).or_default() += now.saturating_duration_since(*since);
            *since = now;
        }
        drop(state);
        let mut held: Vec<(String, Duration)> = held.into_iter().collect();
        held.sort_unstable_by(|(a, for_a), (b, for_b)| for_b.cmp(for_a).then(a.cmp(b)));
        let all: Duration = held.iter().map(|(_, held)| *held).sum();
        let shares = held.into_iter().map(|(query, held)| (query, 100.0 * held.as_secs_f64() / all.as_secs_f64()));
        let held_by =
            shares.filter(|(_, share)| *share >= LEAST_SHARE).map(|(query, share)| format!("{query} ({share:.0} %)"));
        PoolUse { longest_wait, waiting, held_by: held_by.collect() }
    }

    /// Gives out the permits that are free.
    fn serve(self: &Arc<Self>) {
        loop {
            let (sender, tenant) = {
                let mut state = self.lock();
                match state.next(self.permits) {
                    Some(next) => next,
                    None => return,
                }
            };
            // Outside the lock, since a permit that no reading takes comes back at once.
            drop(sender.send(Permit { pool: Arc::clone(self), tenant, user: None }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the readings that wait and have not given up.
    fn live(&self) -> impl Iterator<Item = &Waiter> {
        self.by_tenant.values().flat_map(|entry| &entry.queue).filter(|waiter| !waiter.sender.is_closed())
    }

    /// Notes that a query uses a permit from now on. Returns the number of the use.
    fn begin_use(&mut self, query: &str) -> u64 {
        let number = self.next_user;
        self.next_user += 1;
        self.users.insert(number, (query.to_owned(), Instant::now()));
        number
    }

    /// Takes a permit for the next in turn, if there is one.
    fn next(&mut self, permits: usize) -> Option<(oneshot::Sender<Permit>, Tenant)> {
        if self.taken >= permits {
            return None;
        }
        let most = if self.by_tenant.len() > 1 { permits.saturating_sub(1).max(1) } else { permits };
        for _ in 0..self.waiting.len() {
            let tenant = self.waiting.pop_front()?;
            let Some(entry) = self.by_tenant.get_mut(&tenant) else { continue };
            // A reading that has given up leaves its sender behind.
            while entry.queue.front().is_some_and(|waiter| waiter.sender.is_closed()) {
                entry.queue.pop_front();
            }
            if entry.holds >= most {
                if !entry.queue.is_empty() {
                    self.waiting.push_back(tenant);
                }
                continue;
            }
            let Some(Waiter { sender, asked_at }) = entry.queue.pop_front() else { continue };
            entry.holds += 1;
            self.taken += 1;
            self.longest_wait = self.longest_wait.max(asked_at.elapsed());
            if !entry.queue.is_empty() {
                self.waiting.push_back(tenant.clone());
            }
            return Some((sender, tenant));
        }
        None
    }

    /// Makes room for this namespace among those that are remembered.
    fn remember(&mut self, tenant: &Tenant) {
        if !self.by_tenant.contains_key(tenant) {
            let is_full = self.by_tenant.len() >= REMEMBERED;
            self.by_tenant.retain(|_, entry| {
                entry.holds > 0 || !entry.queue.is_empty() || (!is_full && entry.asked_at.elapsed() < RECENT)
            });
        }
    }
}

impl Waiters {
    fn new() -> Self {
        Self { holds: 0, queue: VecDeque::new(), asked_at: Instant::now() }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut state = self.pool.lock();
            state.taken -= 1;
            if let Some((query, since)) = self.user.and_then(|number| state.users.remove(&number)) {
                *state.held.entry(query).or_default() += since.elapsed();
            }
            if let Some(entry) = state.by_tenant.get_mut(&self.tenant) {
                entry.holds -= 1;
            }
        }
        self.pool.serve();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn tenant(name: &str) -> Tenant {
        Some(name.into())
    }

    /// Returns the permits that have been given out by now.
    fn served<F: Future<Output = Permit> + Unpin>(waiting: &mut Vec<F>) -> Vec<Permit> {
        let mut permits = Vec::new();
        waiting.retain_mut(|waiter| match waiter.now_or_never() {
            Some(permit) => {
                permits.push(permit);
                false
            }
            None => true,
        });
        permits
    }

    #[tokio::test]
    async fn one_namespace_alone_has_every_connection() {
        let pool = FairPool::new(4);
        let noisy = tenant("noisy");
        let mut waiting: Vec<_> = (0..9).map(|_| Box::pin(pool.acquire(&noisy))).collect();
        let first = served(&mut waiting);
        assert_eq!(first.len(), 4);
        drop(first);
        assert_eq!(served(&mut waiting).len(), 4);
    }

    #[tokio::test]
    async fn among_several_none_holds_the_last_connection_and_lines_take_turns() {
        let pool = FairPool::new(4);
        let (noisy, quiet) = (tenant("noisy"), tenant("quiet"));
        drop(pool.acquire(&quiet).await);
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(pool.acquire(&noisy))).collect();
        let held = served(&mut waiting);
        assert_eq!(held.len(), 3);
        let one = pool.acquire(&quiet).now_or_never().expect("a connection is free for others");
        let two = pool.acquire(&quiet);
        tokio::pin!(two);
        assert!(two.as_mut().now_or_never().is_none());
        drop(held);
        assert_eq!(served(&mut waiting).len(), 2, "one of the three is the other's");
        assert!(two.now_or_never().is_some(), "it waited for one, not for a hundred");
        drop(one);
    }

    #[tokio::test]
    async fn what_several_namespaces_share_leaves_the_queue_of_the_first() {
        let pool = FairPool::new(2);
        let noisy = tenant("noisy");
        drop(pool.acquire(&None).await);
        let held = pool.acquire(&noisy).await;
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(pool.acquire(&noisy))).collect();
        assert_eq!(served(&mut waiting).len(), 0);
        let by = watch::Sender::new(noisy.clone());
        let by_now = by.subscribe();
        let shared = pool.acquire_for(&by_now, "shared");
        tokio::pin!(shared);
        assert!(shared.as_mut().now_or_never().is_none());
        by.send_replace(None);
        assert!(shared.now_or_never().is_some(), "it waits behind a hundred of the first namespace");
        drop(held);
    }

    #[tokio::test]
    async fn who_gives_up_leaves_nothing_behind() {
        let pool = FairPool::new(1);
        let (first, second) = (tenant("first"), tenant("second"));
        let held = pool.acquire(&first).await;
        for _ in 0..10 {
            assert!(pool.acquire(&second).now_or_never().is_none());
        }
        drop(held);
        assert!(pool.acquire(&first).now_or_never().is_some());
        assert_eq!(pool.lock().taken, 0);
        assert!(pool.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_use_tells_the_longest_wait_and_who_held_the_connections() {
        let pool = FairPool::new(1);
        let noisy = tenant("noisy");
        let by = watch::Sender::new(noisy.clone());
        let by_now = by.subscribe();
        let used_for = async |name: &str, seconds: u64| {
            let _permit = pool.acquire_for(&by_now, name).await;
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        };
        let used = || {
            let PoolUse { longest_wait, waiting, held_by } = pool.take_use(Instant::now());
            (longest_wait.as_secs(), waiting, held_by.join(", "))
        };
        tokio::join!(used_for("exports", 3), used_for("mails", 1), used_for("exports", 2));
        assert_eq!(used(), (4, 0, "exports (83 %), mails (17 %)".to_owned()));
        assert_eq!(used(), (0, 0, String::new()));
        let held = pool.acquire_for(&by_now, "reports").await;
        let mut waiter = Box::pin(pool.acquire(&noisy));
        assert!((&mut waiter).now_or_never().is_none());
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(used(), (7, 1, "reports (100 %)".to_owned()), "it still holds what is waited for");
        assert_eq!(used(), (7, 1, String::new()), "no time has passed");
        drop(waiter);
        assert_eq!(used(), (0, 0, String::new()), "who gave up waits no more");
        drop(held);
    }

    #[tokio::test]
    async fn a_thousand_namespaces_are_not_remembered_for_ever() {
        let pool = FairPool::new(2);
        for name in 0..10 * REMEMBERED {
            drop(pool.acquire(&tenant(&name.to_string())).await);
        }
        assert!(pool.lock().by_tenant.len() <= REMEMBERED);
    }
}
