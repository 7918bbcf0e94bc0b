//! KEDA's operator after a restart: thousands of objects, polling in phase over one connection.
//!
//! The rules are those of pkg/scaling/scale_handler.go: every object's loop polls at once and then by the
//! clock, without jitter, its timer armed before the poll; a poll is GetMetricSpec, GetMetrics,
//! IsActive, in this order, and a failed read is tried once more at once. Beside them the HPA
//! asks for the metric of every ScaledObject that is scaled up, and external-push triggers hold
//! their streams. There are no deadlines.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    client::Connection,
    drive::LAST_ANSWERS,
    request::{Call, Outcome, Trigger},
    tally::Tally,
};

/// The behaviour of the operator.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    /// `pollingInterval`.
    pub(crate) polling: Duration,
    /// The time over which the objects' first polls are spread: none after an operator's restart.
    pub(crate) spread: Duration,
    /// The interval of the HPA; 15 s in Kubernetes.
    pub(crate) hpa: Duration,
    /// The length of the load.
    pub(crate) lasting: Duration,
}

/// The kind of object that a trigger belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Polled.
    ScaledJob,
    /// Polled, and asked for by the HPA.
    ScaledObject,
    /// Polled, asked for by the HPA, and it holds a stream.
    Pushed,
}

/// The results of the fleet.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) specs: Tally,
    pub(crate) metrics: Tally,
    pub(crate) activity: Tally,
    /// The messages of streams, or why there was none.
    pub(crate) streams: Tally,
    /// Streams that ended while they should have stayed open.
    pub(crate) ended_streams: u64,
}

impl Seen {
    /// Returns each kind of call with its tally.
    pub(crate) fn parts(&self) -> [(&'static str, &Tally); 4] {
        [
            ("GetMetricSpec", &self.specs),
            ("GetMetrics", &self.metrics),
            ("IsActive", &self.activity),
            ("StreamIsActive", &self.streams),
        ]
    }
}

/// The fleet's tallies, which all its loops write to: one for each would fill the memory.
type SharedTallies = Arc<Mutex<Seen>>;

/// One trigger's three calls.
struct Asked {
    spec: Call,
    metrics: Call,
    activity: Call,
}

/// Lets the operator loose on the server behind `connection`.
///
/// # Panics
/// When an answer does not come at all.
pub(crate) async fn run(connection: &Connection, triggers: &[(Kind, Trigger)], habits: Habits) -> Seen {
    let tallies = SharedTallies::default();
    let mut loops = JoinSet::new();
    let start = Instant::now();
    let end = start + habits.lasting;
    let count = u32::try_from(triggers.len()).expect("a count of triggers");
    for (number, (kind, trigger)) in (0..).zip(triggers) {
        let asked = Arc::new(Asked::new(connection, trigger));
        let first = start + habits.spread * number / count;
        loops.spawn(repeated(Arc::clone(&asked), first, habits.polling, end, Arc::clone(&tallies)));
        if *kind != Kind::ScaledJob {
            loops.spawn(repeated(asked, first, habits.hpa, end, Arc::clone(&tallies)));
        }
        if *kind == Kind::Pushed {
            loops.spawn(pushed(trigger.stream().to(connection), end, Arc::clone(&tallies)));
        }
    }
    let all = async {
        while let Some(ended) = loops.join_next().await {
            ended.expect("a loop does not panic");
        }
    };
    timeout(habits.lasting + LAST_ANSWERS, all).await.expect("every call is answered");
    Arc::into_inner(tallies).expect("all loops have ended").into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Asks once for every trigger, one after the other.
///
/// # Panics
/// When an answer does not come at all.
pub(crate) async fn roll_call(connection: &Connection, triggers: &[(Kind, Trigger)]) -> Seen {
    let tallies = SharedTallies::default();
    for (_, trigger) in triggers {
        let poll = Asked::new(connection, trigger);
        timeout(LAST_ANSWERS, poll.poll(&tallies)).await.expect("every call is answered");
    }
    Arc::into_inner(tallies).expect("nobody else has it").into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl Asked {
    fn new(connection: &Connection, trigger: &Trigger) -> Self {
        Self {
            spec: trigger.spec().to(connection),
            metrics: trigger.metrics().to(connection),
            activity: trigger.activity().to(connection),
        }
    }

    async fn poll(&self, tallies: &SharedTallies) {
        timed(&self.spec, tallies, |seen| &mut seen.specs).await;
        if !self.read(tallies).await {
            self.read(tallies).await;
        }
    }

    async fn read(&self, tallies: &SharedTallies) -> bool {
        timed(&self.metrics, tallies, |seen| &mut seen.metrics).await
            && timed(&self.activity, tallies, |seen| &mut seen.activity).await
    }
}

async fn timed(call: &Call, tallies: &SharedTallies, part: fn(&mut Seen) -> &mut Tally) -> bool {
    let sent_at = Instant::now();
    let outcome = call.make().await;
    let is_answered = !matches!(outcome, Outcome::Failed(_));
    part(&mut lock(tallies)).add(outcome, sent_at.elapsed());
    is_answered
}

async fn repeated(asked: Arc<Asked>, first: Instant, every: Duration, end: Instant, tallies: SharedTallies) {
    sleep_until(first).await;
    loop {
        let next = Instant::now() + every;
        asked.poll(&tallies).await;
        if next >= end {
            return;
        }
        sleep_until(next).await;
    }
}

async fn pushed(call: Call, end: Instant, tallies: SharedTallies) {
    let opened_at = Instant::now();
    let mut messages = match call.open().await {
        Ok(messages) => messages,
        Err(failure) => return lock(&tallies).streams.add(Outcome::Failed(failure), opened_at.elapsed()),
    };
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = sleep_until(end) => return,
        };
        let mut seen = lock(&tallies);
        match message {
            Ok(Some(message)) => seen.streams.add(call.question().judge(&message), opened_at.elapsed()),
            Ok(None) => {
                seen.ended_streams += 1;
                return;
            }
            Err(failure) => return seen.streams.add(Outcome::Failed(failure), opened_at.elapsed()),
        }
    }
}

fn lock(tallies: &SharedTallies) -> MutexGuard<'_, Seen> {
    tallies.lock().unwrap_or_else(PoisonError::into_inner)
}
