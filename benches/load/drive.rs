//! Makes load: a number of calls in flight (closed loop), or a number a second regardless of the answers (open loop).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::{request::Call, tally::Tally};

/// The bound of the last answers after the end of the load; a later one counts as a hang.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_secs(15);

/// The rule for the time of the next call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// A closed loop: a call begins when an answer has come, and this many are in flight.
    InFlight(usize),
    /// An open loop: this many calls a second. Latency counts from when a call was due, so that a server
    /// which stalls cannot hide the calls that it has prevented.
    PerSecond(u32),
}

/// The measurements of a load.
#[derive(Debug)]
pub(crate) struct Driven {
    pub(crate) tally: Tally,
    pub(crate) took: Duration,
}

impl Driven {
    /// Returns the calls a second.
    pub(crate) fn rate(&self) -> f64 {
        crate::tally::real(self.tally.calls()) / self.took.as_secs_f64()
    }
}

/// Makes the calls one after the other, over and over.
///
/// # Panics
/// When an answer does not come at all.
pub(crate) async fn drive(calls: &Arc<[Call]>, pace: Pace, lasting: Duration) -> Driven {
    let start = Instant::now();
    let end = start + lasting;
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    match pace {
        Pace::InFlight(count) => {
            for _ in 0..count {
                workers.spawn(closed(Arc::clone(calls), Arc::clone(&next), end));
            }
        }
        Pace::PerSecond(rate) => {
            workers.spawn(open(Arc::clone(calls), Duration::from_secs(1) / rate, start, end));
        }
    }
    let mut tally = Tally::default();
    let all = async {
        while let Some(worker) = workers.join_next().await {
            tally.merge(worker.expect("a worker does not panic"));
        }
    };
    timeout(lasting + LAST_ANSWERS, all).await.expect("every call is answered");
    Driven { tally, took: start.elapsed() }
}

async fn closed(calls: Arc<[Call]>, next: Arc<AtomicUsize>, end: Instant) -> Tally {
    let mut tally = Tally::default();
    loop {
        let call = &calls[next.fetch_add(1, Ordering::Relaxed) % calls.len()];
        let sent_at = Instant::now();
        if sent_at >= end {
            return tally;
        }
        let outcome = call.make().await;
        tally.add(outcome, sent_at.elapsed());
    }
}

async fn open(calls: Arc<[Call]>, every: Duration, start: Instant, end: Instant) -> Tally {
    let mut tally = Tally::default();
    let mut under_way = JoinSet::new();
    let mut due = start;
    let mut next = (0..calls.len()).cycle();
    while due < end {
        sleep_until(due).await;
        let calls = Arc::clone(&calls);
        let index = next.next().expect("a cycle has no end");
        under_way.spawn(async move {
            let outcome = calls[index].make().await;
            (outcome, due.elapsed())
        });
        while let Some(done) = under_way.try_join_next() {
            let (outcome, took) = done.expect("a call does not panic");
            tally.add(outcome, took);
        }
        due += every;
    }
    while let Some(done) = under_way.join_next().await {
        let (outcome, took) = done.expect("a call does not panic");
        tally.add(outcome, took);
    }
    tally
}
