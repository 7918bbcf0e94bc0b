//! Says in the log what no request would: that KEDA does not ask any more, and that a certificate ends.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, sleep};

use crate::{
    admin::CERTIFICATES,
    metrics::{CertificateLabels, Metrics, Thresholds, TriggerLabels, TriggerState},
    recorder::{EndedBy, LATELY, LOOKING, Present},
    terminal::text::number,
};

/// The pause between two looks, each of which writes a few lines at most. No trigger is silent before two minutes.
const PAUSE: Duration = Duration::from_secs(60);

/// The time without any request that is worth a line. Behind a Service, KEDA's one connection comes to another pod
/// every few minutes, and the pod that it leaves hears nothing until it comes back.
const ALONE: Duration = Duration::from_secs(3_600);

/// The same if KEDA itself ended its connection, or answered no ping: it was not sent to another pod, and comes back at
/// once if it can. A new operator takes less. The same also if its connection is open, so that it does not ask another
/// pod.
const LEFT: Duration = Duration::from_secs(300);

/// The recorder tells an end by the tenth of a second in which it was.
const RECORDED: Duration = Duration::from_millis(100);

/// The most triggers whose changes one look tells one by one.
const MOST_CHANGED: usize = 10;

const DAY: Duration = Duration::from_secs(86_400);

/// The time before the end of a certificate in which it needs a person, as the alert has it.
const SOON: Duration = Duration::from_secs(7 * 86_400);

/// The state that the log has told.
#[derive(Default)]
struct Lookout {
    silent: HashSet<Arc<TriggerLabels>>,
    /// The time since which KEDA asks this process.
    present_since: Option<Instant>,
    certificates: HashMap<&'static str, Remaining>,
    looked_at: Option<Instant>,
    /// The numbers that the answers to each trigger were judged by when it was last told.
    thresholds: HashMap<Arc<TriggerLabels>, Vec<Thresholds>>,
}

/// The time that a certificate has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remaining {
    Enough,
    Days,
    Hours,
    Nothing,
}

/// Something that changed since the look before.
#[derive(Debug, PartialEq)]
enum News {
    /// KEDA does not ask for so many triggers any more, and has lately `asked` for others. The one that it last asked
    /// for is named.
    Stopped { count: usize, asked: usize, latest: Arc<TriggerLabels>, silent: Duration },
    /// KEDA ended its connection so long ago, and has asked for nothing since: so many triggers.
    Left { count: usize, ago: Duration },
    /// KEDA has asked for nothing for so long, although its connection is open: so many triggers.
    Hangs { count: usize, silent: Duration },
    /// KEDA asks again for so many triggers, one of which is named.
    Resumed { count: usize, one: Arc<TriggerLabels> },
    /// The metadata of a trigger has changed, of which the keys are named, or only its target or activation.
    Changed { keys: Option<Arc<str>>, labels: Arc<TriggerLabels>, before: Vec<Thresholds>, after: Vec<Thresholds> },
    /// The same of so many further triggers.
    MoreChanged(usize),
    /// A certificate has less time left than before.
    Ending(&'static str, Remaining),
}

/// Looks again and again, for as long as the process lives.
pub(super) async fn follow(metrics: Arc<Metrics>) {
    let mut lookout = Lookout::default();
    loop {
        let now = Instant::now();
        for news in lookout.look(&metrics, metrics.recorder.connections(now), now, SystemTime::now()) {
            news.log();
        }
        sleep(PAUSE).await;
    }
}

impl Lookout {
    fn look(&mut self, metrics: &Metrics, connections: Present, now: Instant, wall: SystemTime) -> Vec<News> {
        let (mut states, _) = metrics.trigger_states(now);
        // Names that were made up were never served.
        states.retain(|state| state.was_served && state.labels.name != LOOKING);
        let mut news = self.thresholds(&states, now);
        news.extend(self.triggers(states, connections, now));
        news.extend(self.certificates(metrics, wall));
        news
    }

    /// Compares the numbers that answers are judged by. Where one of several triggers of the same labels is new, the
    /// others are asked for within the same minute, so that only numbers that are gone are a change.
    fn thresholds(&mut self, states: &[TriggerState], now: Instant) -> Vec<News> {
        let looked_at = self.looked_at.replace(now);
        let mut known = HashMap::with_capacity(states.len());
        let mut changed = Vec::new();
        for state in states.iter().filter(|state| !state.thresholds.is_empty()) {
            let labels = &state.labels;
            let before = self.thresholds.remove(labels);
            let newest =
                state.changed.as_ref().filter(|change| looked_at.is_some_and(|looked_at| change.at > looked_at));
            let after = match (&before, newest) {
                // It is not known which of several has become the new one.
                (Some(before), Some(newest)) if before.len() > 1 => {
                    let added = Some(newest.thresholds).filter(|newest| !before.contains(newest));
                    before.iter().copied().chain(added).collect()
                }
                (_, Some(newest)) => vec![newest.thresholds],
                (Some(before), None) if before.iter().all(|one| state.thresholds.contains(one)) => before.clone(),
                _ => state.thresholds.clone(),
            };
            let has_new = |before: &Vec<_>| after.iter().any(|one| !before.contains(one));
            if let Some(before) = before.filter(|before| newest.is_some() || has_new(before)) {
                let keys = newest.map(|newest| Arc::clone(&newest.keys));
                changed.push(News::Changed { keys, labels: Arc::clone(labels), before, after: after.clone() });
            }
            known.insert(Arc::clone(labels), after);
        }
        self.thresholds = known;
        if let more @ 1.. = changed.len().saturating_sub(MOST_CHANGED) {
            changed.truncate(MOST_CHANGED);
            changed.push(News::MoreChanged(more));
        }
        changed
    }

    fn triggers(&mut self, states: Vec<TriggerState>, connections: Present, now: Instant) -> Vec<News> {
        let age = |state: &TriggerState| now.saturating_duration_since(state.asked_at);
        let asked = states.iter().filter(|state| age(state) <= LATELY).count();
        self.present_since = (asked > 0).then(|| self.present_since.unwrap_or(now));
        let left = connections.latest_end.and_then(|(at, by)| left(&states, at, now).filter(|_| by == EndedBy::Peer));
        // KEDA has asked over it, and not a person who looks since then.
        let asked_at = states.iter().map(|state| state.asked_at).max();
        let is_open = asked_at.is_some_and(|at| connections.open_since.is_some_and(|since| since <= at));
        let hangs = is_open && states.iter().all(|state| state.is_silent(now) && age(state) >= LEFT);
        let has_stopped = |state: &TriggerState| match self.present_since {
            Some(since) => state.is_missed(since, now),
            None => left.is_some() || hangs || state.is_silent(now) && age(state) > ALONE,
        };
        let is_told = |state: &TriggerState| self.silent.contains(&state.labels);
        let (silent, heard): (Vec<_>, Vec<_>) =
            states.into_iter().partition(|state| has_stopped(state) || is_told(state) && state.is_silent(now));
        let stopped = silent.iter().filter(|state| !is_told(state));
        let count = stopped.clone().count();
        let latest = stopped.max_by_key(|state| state.asked_at).map(|state| match left {
            Some(ago) if asked == 0 => News::Left { count, ago },
            None if hangs => News::Hangs { count, silent: age(state) },
            _ => News::Stopped { count, asked, latest: Arc::clone(&state.labels), silent: age(state) },
        });
        let resumed: Vec<_> = heard.iter().filter(|state| is_told(state)).collect();
        let one = resumed.first().map(|one| News::Resumed { count: resumed.len(), one: Arc::clone(&one.labels) });
        let news = latest.into_iter().chain(one).collect();
        self.silent = silent.into_iter().map(|state| state.labels).collect();
        news
    }

    fn certificates(&mut self, metrics: &Metrics, wall: SystemTime) -> Vec<News> {
        let mut news = Vec::new();
        for certificate in CERTIFICATES {
            let Some(ends_at) = metrics.certificate_expiry.get(&CertificateLabels { certificate }).map(|end| end.get())
            else {
                continue;
            };
            let remaining = remaining(ends_at, wall);
            let before = self.certificates.insert(certificate, remaining).unwrap_or(Remaining::Enough);
            if remaining != before && remaining != Remaining::Enough {
                news.push(News::Ending(certificate, remaining));
            }
        }
        news
    }
}

/// Returns how long ago KEDA left, if it had asked until the latest connection ended, and has asked for nothing since.
fn left(states: &[TriggerState], ended_at: Instant, now: Instant) -> Option<Duration> {
    let asked_at = states.iter().map(|state| state.asked_at).max()?;
    let had_asked = asked_at <= ended_at + RECORDED && ended_at.saturating_duration_since(asked_at) <= LATELY;
    let ago = now.saturating_duration_since(ended_at);
    (had_asked && ago >= LEFT).then_some(ago)
}

/// Returns what is left until a time in seconds since 1970.
fn remaining(ends_at: f64, wall: SystemTime) -> Remaining {
    let now = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ends_at = Duration::try_from_secs_f64(ends_at).unwrap_or_default();
    match ends_at.saturating_sub(now) {
        Duration::ZERO => Remaining::Nothing,
        left if left < DAY => Remaining::Hours,
        left if left < SOON => Remaining::Days,
        _ => Remaining::Enough,
    }
}

impl News {
    fn log(self) {
        match self {
            Self::Stopped { count, asked: 0, latest, silent } => {
                let TriggerLabels { namespace, name, query } = &*latest;
                let silent = Duration::from_secs(silent.as_secs());
                tracing::info!(
                    count,
                    asked = 0,
                    namespace,
                    name,
                    query,
                    ?silent,
                    "KEDA asks this process for nothing any more: it asks another pod, its objects were deleted or paused, or its operator \
                     is away or cannot connect"
                );
            }
            Self::Left { count, ago } => {
                let ago = Duration::from_secs(ago.as_secs());
                tracing::warn!(
                    count,
                    ?ago,
                    "KEDA's connection ended, and nothing has asked since: KEDA's operator is away or cannot connect, or its objects \
                     were deleted or paused. With several pods it may ask another one"
                );
            }
            Self::Hangs { count, silent } => {
                let silent = Duration::from_secs(silent.as_secs());
                tracing::warn!(
                    count,
                    ?silent,
                    "KEDA's connection is open, and nothing asks any more: KEDA's operator hangs, or its objects were deleted or paused"
                );
            }
            Self::Stopped { count, asked, latest, silent } => {
                let TriggerLabels { namespace, name, query } = &*latest;
                let silent = Duration::from_secs(silent.as_secs());
                tracing::warn!(
                    count,
                    asked,
                    namespace,
                    name,
                    query,
                    ?silent,
                    "KEDA has stopped asking for triggers; the one that it last asked for is named"
                );
            }
            Self::Resumed { count, one } => {
                let TriggerLabels { namespace, name, query } = &*one;
                tracing::info!(count, namespace, name, query, "KEDA asks for triggers again; one of them is named");
            }
            Self::Changed { keys, labels, before, after } => {
                let TriggerLabels { namespace, name, query } = &*labels;
                let changed = match before == after {
                    true => "other keys than target and activation".to_owned(),
                    false => format!("{} to {}", in_words(&before), in_words(&after)),
                };
                match keys.as_deref() {
                    Some(keys) => {
                        tracing::info!(namespace, name, query, keys, changed, "a trigger's metadata has changed")
                    }
                    None => {
                        tracing::info!(namespace, name, query, changed, "a trigger's target or activation has changed");
                    }
                }
            }
            Self::MoreChanged(count) => {
                tracing::info!(count, "more triggers have changed");
            }
            Self::Ending(certificate, Remaining::Nothing) => {
                tracing::error!(certificate, "a certificate has expired: KEDA cannot connect; renew it");
            }
            Self::Ending(certificate, Remaining::Hours) => {
                tracing::warn!(certificate, "a certificate expires within a day; renew it");
            }
            Self::Ending(certificate, _) => {
                tracing::warn!(certificate, "a certificate expires within a week; renew it")
            }
        }
    }
}

/// Returns the targets and activations of the triggers of one object on one query.
fn in_words(thresholds: &[Thresholds]) -> String {
    let one = |thresholds: &Thresholds| {
        format!("target {}, activation {}", number(thresholds.target), number(thresholds.activation))
    };
    thresholds.iter().map(one).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests;
