//! Gauges that somebody watches are kept fresh without being asked.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{Gauge, Outcome};
use crate::{fault::Fault, postgres::Signal, reading::Reading};

/// The longest rest between two attempts that is on account of how long the first took.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// The watchers of one gauge and the task that reads for them.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    pub(super) count: usize,
    keeper: Option<JoinHandle<()>>,
}

/// A view of a gauge that changes as its readings do. The gauge is read again, as its query's
/// rules say, for as long as there is one.
pub struct Watch {
    gauge: Arc<Gauge>,
    outcomes: watch::Receiver<Outcome>,
}

impl Gauge {
    /// Begins to watch. The first outcome is the latest one, unless that is so old that another is due.
    pub fn watch(self: &Arc<Self>) -> Watch {
        let mut outcomes = self.outcome.subscribe();
        if self.due() > Instant::now() {
            outcomes.mark_changed();
        }
        let mut state = self.lock();
        state.watchers.count += 1;
        if state.watchers.count == 1 {
            state.watchers.keeper = Some(tokio::spawn(keep_fresh(Arc::clone(self))));
        }
        drop(state);
        Watch { gauge: Arc::clone(self), outcomes }
    }
}

impl Watch {
    /// Waits for the next attempt's end: the latest outcome, never a queue of them.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost but intermediate outcomes.
    pub async fn changed(&mut self) -> Result<Arc<Reading>, Fault> {
        loop {
            // The sender lives in the gauge that `self` holds.
            self.outcomes.changed().await.expect("the gauge outlives its watch");
            let outcome = self.outcomes.borrow_and_update();
            if outcome.attempt > 0 {
                return outcome.result.clone();
            }
        }
    }

    /// Whether the latest reading is as young as the query's rules let a watched one get.
    pub fn is_current(&self) -> bool {
        self.gauge.outcome.borrow().result.is_ok() && Instant::now() < self.gauge.due()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.gauge.lock();
        state.watchers.count -= 1;
        state.used_at = Instant::now();
        if state.watchers.count == 0
            && let Some(keeper) = state.watchers.keeper.take()
        {
            keeper.abort();
        }
    }
}

/// Starts an attempt whenever one is due; ended with the last watcher.
async fn keep_fresh(gauge: Arc<Gauge>) {
    let mut outcomes = gauge.outcome.subscribe();
    let mut signal = gauge.shared.signal.clone();
    loop {
        let due = gauge.due();
        let in_flight = {
            let mut state = gauge.lock();
            if !state.in_flight && due <= Instant::now() {
                gauge.take_off(&mut state);
            }
            state.in_flight
        };
        tokio::select! {
            changed = outcomes.changed() => changed.expect("the gauge outlives its keeper"),
            () = sleep_until(due), if !in_flight => {}
            () = marked(&mut signal), if !in_flight => {}
        }
    }
}

/// Waits for the query's channel to change; for ever where there is none, or it is gone.
async fn marked(signal: &mut Option<watch::Receiver<Signal>>) {
    if let Some(signal) = signal
        && signal.changed().await.is_ok()
    {
        return;
    }
    pending().await
}

impl Gauge {
    /// When the next attempt should begin on the watchers' account.
    fn due(&self) -> Instant {
        let outcome = self.outcome.borrow();
        if outcome.attempt == 0 {
            return Instant::now();
        }
        let due = self.rules().due(outcome.result.as_deref().ok(), outcome.began_at);
        // As long a rest as the work took: under a storm of notifications, or with a statement
        // that takes longer than its readings may be old, half a server process is enough.
        let took = outcome.ended_at.duration_since(outcome.began_at);
        due.max(outcome.ended_at + took.min(LONGEST_REST))
    }
}
