//! Watched cached queries, which are read again without a call.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::ready, stream::select_all};
use tokio::{
    sync::watch,
    task::{JoinHandle, yield_now},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::WatchStream;

use super::{CachedQuery, Outcome, freshness::Rules};
use crate::{
    fault::Fault,
    reading::{Breaker, Numbers},
};

/// The longest pause after an attempt that took long.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// The watchers of one cached query and the task that reads for them.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    pub(super) count: usize,
    refresher: Option<JoinHandle<()>>,
    /// The wake-ups for the watchers of each key, or for those of a plain query.
    wakes: HashMap<Option<Arc<str>>, watch::Sender<()>>,
}

/// A view of a cached query, or of one key of a grouped query, that changes as its numbers do. As long as
/// there is one, the query is read again as its rules say.
pub struct Watch {
    cached: Arc<CachedQuery>,
    key: Option<Arc<str>>,
    wakes: watch::Receiver<()>,
    /// The end of the next attempt, where this watcher waits for it whatever it brings.
    next_outcome: Option<watch::Receiver<Outcome>>,
}

impl Watchers {
    /// Wakes the watchers for whom `after` differs from `before`: a thousand streams of as many keys
    /// sleep on while one of the keys changes.
    pub(super) fn wake(&self, before: &Outcome, after: &Outcome) {
        for (key, wake) in &self.wakes {
            if !before.tells_the_same(after, key.as_deref()) {
                wake.send_replace(());
            }
        }
    }
}

impl Outcome {
    /// Returns whether the two are the same for a watcher of this key.
    fn tells_the_same(&self, other: &Self, key: Option<&str>) -> bool {
        match (&self.result, &other.result) {
            (Ok(reading), Ok(other)) => reading.rows.of(key) == other.rows.of(key),
            (Err(_), Err(_)) => true,
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        }
    }
}

impl CachedQuery {
    /// Begins to watch a key of a grouped query, or a plain query. The first outcome is the latest
    /// one, unless that is so old that another is due.
    pub fn watch(self: &Arc<Self>, key: Option<Arc<str>>) -> Watch {
        let mut state = self.lock();
        let mut wakes = state.watchers.wakes.entry(key.clone()).or_default().subscribe();
        let is_current = self.due() > Instant::now();
        if is_current {
            wakes.mark_changed();
        }
        let next_outcome = (!is_current).then(|| self.outcome.subscribe());
        state.watchers.count += 1;
        if state.watchers.count == 1 {
            state.watchers.refresher = Some(tokio::spawn(keep_fresh(Arc::clone(self))));
        }
        drop(state);
        Watch { cached: Arc::clone(self), key, wakes, next_outcome }
    }
}

impl Watch {
    /// Waits until an attempt has changed the numbers; [`Watch::latest`] returns them.
    ///
    /// # Cancel safety
    /// Safe: a change that was not waited for to the end is still there for the next wait.
    pub async fn changed(&mut self) {
        // The senders live in the cached query that `self` holds, for as long as `self` does.
        const OUTLIVES: &str = "the cached query outlives its watch";
        if let Some(outcome) = &mut self.next_outcome {
            outcome.changed().await.expect(OUTLIVES);
            self.next_outcome = None;
            self.wakes.mark_unchanged();
        } else {
            self.wakes.changed().await.expect(OUTLIVES);
        }
    }

    /// Returns the numbers of the latest attempt, which [`Watch::changed`] has waited for: none if the reading does not
    /// have the key.
    ///
    /// # Errors
    /// The fault of the latest attempt.
    pub fn latest(&self) -> Result<Option<Numbers>, Fault> {
        let outcome = self.cached.outcome.borrow();
        let reading = outcome.result.as_ref().map_err(|fault| *fault)?;
        Ok(reading.rows.of(self.key.as_deref()).copied())
    }

    /// Returns whether the latest reading is as young as the rules demand of a watched query. If it is not,
    /// [`Watch::changed`] returns at the end of the next attempt, whatever that brings.
    pub fn is_current(&mut self) -> bool {
        // Before the look, so that no attempt ends unseen after it.
        let next_outcome = self.cached.outcome.subscribe();
        let is_good = self.cached.outcome.borrow().result.is_ok();
        let is_current = is_good && Instant::now() < self.cached.due();
        self.next_outcome = (!is_current).then_some(next_outcome);
        is_current
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.cached.lock();
        state.watchers.count -= 1;
        let wakes = &mut state.watchers.wakes;
        // `self` still counts.
        if wakes.get(&self.key).is_some_and(|wake| wake.receiver_count() == 1) {
            wakes.remove(&self.key);
        }
        state.used_at = Instant::now();
        if state.watchers.count == 0
            && let Some(refresher) = state.watchers.refresher.take()
        {
            refresher.abort();
        }
    }
}

/// Starts an attempt whenever one is due. The last watcher ends it.
async fn keep_fresh(cached: Arc<CachedQuery>) {
    let mut outcomes = cached.outcome.subscribe();
    let shards = &cached.key.source.shards;
    let mut invalidations =
        select_all(shards.iter().filter_map(|shard| shard.channel.clone()).map(WatchStream::from_changes));
    let breakers = select_all(shards.iter().map(|shard| WatchStream::from_changes(shard.reader.breaker())));
    let mut returns = breakers.filter(|breaker| ready(*breaker == Breaker::Closed));
    // True if a database has come back since the latest attempt.
    let mut has_returned = false;
    loop {
        let due = cached.due();
        let in_flight = {
            let mut state = cached.lock();
            if !state.in_flight {
                has_returned &= cached.outcome.borrow().result.is_err();
                if due <= Instant::now() || has_returned {
                    has_returned = false;
                    cached.start_attempt(&mut state);
                }
            }
            state.in_flight
        };
        tokio::select! {
            changed = outcomes.changed() => {
                changed.expect("the cached query outlives its refresher");
                // The streams first, whose clients wait for the outcome.
                yield_now().await;
            }
            () = sleep_until(due), if !in_flight => {}
            // A stream without a channel, or of a database that is gone, has ended, and is not waited for.
            Some(_) = invalidations.next(), if !in_flight => {}
            Some(_) = returns.next() => has_returned = true,
        }
    }
}

impl CachedQuery {
    /// Returns when the next attempt should begin because of the watchers.
    fn due(&self) -> Instant {
        let outcome = self.outcome.borrow();
        if outcome.attempt == 0 {
            return Instant::now();
        }
        let is_good = outcome.result.is_ok();
        let source = &self.key.source;
        let parts = outcome.parts.iter().zip(Rules::of_each(source.query(), &source.shards));
        let dues = parts.map(|(part, rules)| rules.due(part.as_deref().filter(|_| is_good), outcome.began_at));
        let due = dues.min().expect("a query has at least one database");
        // The rest is as long as the work: under a storm of notifications, or with a statement that takes
        // longer than its readings may be old, half of a server process is enough.
        let took = outcome.ended_at.duration_since(outcome.began_at);
        due.max(outcome.ended_at + took.min(LONGEST_REST))
    }
}
