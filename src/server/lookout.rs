//! Says in the log what no request would: that KEDA does not ask any more, and that a certificate ends.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::accept::{Departure, EndedBy};
use crate::{
    admin::CERTIFICATES,
    metrics::{CertificateLabels, Metrics, Thresholds, TriggerLabels, TriggerState},
    recorder::{LATELY, LOOKING},
    terminal::text::number,
};

/// The pause between two looks, each of which writes a few lines at most. No trigger is silent before two minutes.
const PAUSE: Duration = Duration::from_secs(60);

/// The time without any request that is worth a line. Behind a Service, KEDA's one connection comes to another pod every few
/// minutes, and the pod that it leaves hears nothing until it comes back.
const ALONE: Duration = Duration::from_secs(3_600);

/// The same if KEDA itself ended its connection, or answered no ping: it was not sent to another pod, and comes back at once if it
/// can. A new operator takes less.
const LEFT: Duration = Duration::from_secs(300);

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
    /// KEDA does not ask for so many triggers any more, and has lately `asked` for others. The one that it last asked for is named.
    Stopped { count: usize, asked: usize, latest: Arc<TriggerLabels>, silent: Duration },
    /// KEDA ended its connection so long ago, and has asked for nothing since: so many triggers.
    Left { count: usize, ago: Duration },
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
pub(super) async fn follow(metrics: Arc<Metrics>, departed: watch::Receiver<Option<Departure>>) {
    let mut lookout = Lookout::default();
    loop {
        let departure = *departed.borrow();
        for news in lookout.look(&metrics, departure, Instant::now(), SystemTime::now()) {
            news.log();
        }
        sleep(PAUSE).await;
    }
}

impl Lookout {
    fn look(&mut self, metrics: &Metrics, departure: Option<Departure>, now: Instant, wall: SystemTime) -> Vec<News> {
        let (mut states, _) = metrics.trigger_states(now);
        // Names that were made up were never served.
        states.retain(|state| state.was_served && state.labels.name != LOOKING);
        let mut news = self.thresholds(&states, now);
        news.extend(self.triggers(states, departure, now));
        news.extend(self.certificates(metrics, wall));
        news
    }

    /// Compares the numbers that answers are judged by. Where one of several triggers of the same labels is new, the others are
    /// asked for within the same minute, so that only numbers that are gone are a change.
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

    fn triggers(&mut self, states: Vec<TriggerState>, departure: Option<Departure>, now: Instant) -> Vec<News> {
        let age = |state: &TriggerState| now.saturating_duration_since(state.asked_at);
        let asked = states.iter().filter(|state| age(state) <= LATELY).count();
        self.present_since = (asked > 0).then(|| self.present_since.unwrap_or(now));
        let left = departure.and_then(|departure| left(&states, departure, now));
        let has_stopped = |state: &TriggerState| match self.present_since {
            Some(since) => state.is_missed(since, now),
            None => left.is_some() || state.is_silent(now) && age(state) > ALONE,
        };
        let is_told = |state: &TriggerState| self.silent.contains(&state.labels);
        let (silent, heard): (Vec<_>, Vec<_>) =
            states.into_iter().partition(|state| has_stopped(state) || is_told(state) && state.is_silent(now));
        let stopped = silent.iter().filter(|state| !is_told(state));
        let count = stopped.clone().count();
        let latest = stopped.max_by_key(|state| state.asked_at).map(|state| match left {
            Some(ago) if asked == 0 => News::Left { count, ago },
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

/// Returns how long ago KEDA left, if it ended the latest connection itself, had asked until then, and has asked for nothing since.
fn left(states: &[TriggerState], departure: Departure, now: Instant) -> Option<Duration> {
    let asked_at = states.iter().map(|state| state.asked_at).max()?;
    let had_asked = asked_at <= departure.at && departure.at.duration_since(asked_at) <= LATELY;
    let ago = now.saturating_duration_since(departure.at);
    (departure.by == EndedBy::Peer && had_asked && ago >= LEFT).then_some(ago)
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
                    "KEDA asks this process for nothing any more: it asks another pod, or its operator is away or cannot connect"
                );
            }
            Self::Left { count, ago } => {
                let ago = Duration::from_secs(ago.as_secs());
                tracing::warn!(
                    count,
                    ?ago,
                    "KEDA's connection ended, and nothing has asked since: KEDA's operator is away or cannot connect. With several \
                     pods it may ask another one"
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
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::metrics::{Build, Refused, Told, TriggerId};

    fn metrics() -> Metrics {
        Metrics::new(Build { version: "0", commit: "0", rustc: "0" })
    }

    fn trigger(name: &str) -> TriggerId<'_> {
        TriggerId { hash: 1, namespace: "billing", name, query: "jobs", thresholds: None, metadata: None }
    }

    fn poll(metrics: &Metrics, names: &[&str]) {
        for name in names {
            let (key, _) = metrics.trigger_asked(trigger(name), Instant::now());
            metrics.trigger_told(key, Told::Value(1.0), Instant::now());
        }
    }

    /// Returns the kind, the counts and the name of each news about triggers.
    fn told(lookout: &mut Lookout, metrics: &Metrics) -> Vec<(&'static str, usize, usize, String)> {
        told_after(lookout, metrics, None)
    }

    /// The same after a connection has ended.
    fn told_after(
        lookout: &mut Lookout,
        metrics: &Metrics,
        departure: Option<Departure>,
    ) -> Vec<(&'static str, usize, usize, String)> {
        let news = lookout.look(metrics, departure, Instant::now(), SystemTime::UNIX_EPOCH).into_iter();
        news.map(|news| match news {
            News::Left { count, .. } => ("left", count, 0, String::new()),
            News::Stopped { count, asked, latest, .. } => ("stopped", count, asked, latest.name.clone()),
            News::Resumed { count, one } => ("resumed", count, 0, one.name.clone()),
            other => panic!("it is about something else: {other:?}"),
        })
        .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silence_is_told_once_and_so_is_its_end() {
        let (metrics, mut lookout) = (metrics(), Lookout::default());
        let refused = Refused { code: "PermissionDenied", message: "not configured", text: Some(1) };
        metrics.trigger_refused(trigger("made-up"), refused, Instant::now());
        poll(&metrics, &["mails", "exports", LOOKING]);
        assert!(told(&mut lookout, &metrics).is_empty());
        for _ in 0..5 {
            advance(Duration::from_secs(30)).await;
            poll(&metrics, &["mails"]);
        }
        assert_eq!(told(&mut lookout, &metrics), [("stopped", 1, 1, "exports".to_owned())]);
        assert!(told(&mut lookout, &metrics).is_empty());
        poll(&metrics, &["mails", "exports"]);
        assert_eq!(told(&mut lookout, &metrics), [("resumed", 1, 0, "exports".to_owned())]);
        assert!(told(&mut lookout, &metrics).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_target_is_told_once_and_a_second_trigger_of_the_same_labels_is_no_change() {
        let (metrics, mut lookout) = (metrics(), Lookout::default());
        let mut told = |thresholds: &[(u64, f64, f64)]| {
            for (hash, target, activation) in thresholds {
                let thresholds = Some(Thresholds { target: *target, activation: *activation });
                metrics.trigger_asked(TriggerId { hash: *hash, thresholds, ..trigger("mails") }, Instant::now());
            }
            let news = lookout.look(&metrics, None, Instant::now(), SystemTime::UNIX_EPOCH).into_iter();
            news.map(|news| match news {
                News::Changed { keys, before, after, .. } => {
                    (keys.is_some(), format!("{} to {}", in_words(&before), in_words(&after)))
                }
                other => panic!("it is about something else: {other:?}"),
            })
            .collect::<Vec<_>>()
        };
        assert!(told(&[(1, 5.0, 0.0)]).is_empty());
        assert!(told(&[(1, 5.0, 0.0), (2, 7.0, 0.0)]).is_empty());
        advance(Duration::from_secs(61)).await;
        assert!(told(&[(1, 5.0, 0.0)]).is_empty());
        let changes = [(false, "target 5, activation 0 to target 500, activation 0".to_owned())];
        assert_eq!(told(&[(1, 500.0, 0.0)]), changes, "by a reload");
        assert!(told(&[(1, 500.0, 0.0)]).is_empty());
        advance(Duration::from_secs(1)).await;
        let changes = [(true, "target 500, activation 0 to target 500, activation 1000".to_owned())];
        assert_eq!(told(&[(3, 500.0, 1000.0)]), changes, "by a deployment");
        for _ in 0..3 {
            advance(Duration::from_secs(30)).await;
            assert!(told(&[(3, 500.0, 1000.0)]).is_empty());
        }
        advance(Duration::from_secs(1)).await;
        let changes = [(true, "target 500, activation 1000 to target 500, activation 1000".to_owned())];
        assert_eq!(told(&[(4, 500.0, 1000.0)]), changes, "of other keys");
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_triggers_of_the_same_labels_a_number_that_goes_is_no_change() {
        let (metrics, mut lookout) = (metrics(), Lookout::default());
        let mut told = |thresholds: &[(u64, f64)]| {
            for (hash, target) in thresholds {
                let thresholds = Some(Thresholds { target: *target, activation: 0.0 });
                metrics.trigger_asked(TriggerId { hash: *hash, thresholds, ..trigger("mails") }, Instant::now());
            }
            lookout.look(&metrics, None, Instant::now(), SystemTime::UNIX_EPOCH).len()
        };
        assert_eq!(told(&[(1, 5.0), (2, 7.0)]), 0);
        advance(Duration::from_secs(120)).await;
        assert_eq!(told(&[(1, 5.0), (2, 7.0)]), 0);
        advance(Duration::from_secs(30)).await;
        assert_eq!(told(&[(1, 5.0), (3, 8.0)]), 1, "7 has become 8");
        for _ in 0..6 {
            advance(Duration::from_secs(30)).await;
            assert_eq!(told(&[(1, 5.0), (3, 8.0)]), 0);
        }
        assert_eq!(told(&[(3, 8.0)]), 0, "one was taken away");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_keda_leaves_for_another_says_so_after_an_hour_and_nothing_when_it_comes_back() {
        let (metrics, mut lookout) = (metrics(), Lookout::default());
        poll(&metrics, &["mails", "exports"]);
        assert!(told(&mut lookout, &metrics).is_empty());
        advance(Duration::from_secs(600)).await;
        assert!(told(&mut lookout, &metrics).is_empty());
        poll(&metrics, &["mails"]);
        assert!(told(&mut lookout, &metrics).is_empty(), "the turn of the other is to come");
        advance(Duration::from_secs(30)).await;
        poll(&metrics, &["exports"]);
        assert!(told(&mut lookout, &metrics).is_empty());
        advance(Duration::from_secs(3_601)).await;
        assert_eq!(told(&mut lookout, &metrics), [("stopped", 2, 0, "exports".to_owned())]);
        assert!(told(&mut lookout, &metrics).is_empty());
        poll(&metrics, &["mails", "exports"]);
        let news = told(&mut lookout, &metrics);
        assert_eq!((news.len(), news[0].0, news[0].1), (1, "resumed", 2));
    }

    #[tokio::test(start_paused = true)]
    async fn an_operator_that_ends_its_connection_is_missed_after_five_minutes_and_one_that_is_sent_away_is_not() {
        for (by, pause, is_told) in [(EndedBy::Peer, 10, true), (EndedBy::Us, 10, false), (EndedBy::Peer, 100, false)] {
            let (metrics, mut lookout) = (metrics(), Lookout::default());
            poll(&metrics, &["mails", "exports"]);
            // Whoever ends a connection long after KEDA has asked is somebody else.
            advance(Duration::from_secs(pause)).await;
            let departure = Some(Departure { at: Instant::now(), by });
            advance(Duration::from_secs(240)).await;
            assert!(told_after(&mut lookout, &metrics, departure).is_empty());
            advance(Duration::from_secs(60)).await;
            let expected = [("left", 2, 0, String::new())];
            assert_eq!(told_after(&mut lookout, &metrics, departure), expected[..usize::from(is_told)]);
            advance(Duration::from_secs(60)).await;
            assert!(told_after(&mut lookout, &metrics, departure).is_empty());
            poll(&metrics, &["mails", "exports"]);
            let resumed: Vec<_> = told_after(&mut lookout, &metrics, departure).iter().map(|news| news.0).collect();
            assert_eq!(resumed, ["resumed"][..usize::from(is_told)]);
        }
    }

    #[tokio::test]
    async fn a_certificate_is_told_at_each_step_to_its_end_and_again_after_it_was_renewed() {
        let (metrics, mut lookout) = (metrics(), Lookout::default());
        let mut told = |days: f64| {
            let end = &metrics.certificate_expiry;
            end.get_or_create(&CertificateLabels { certificate: CERTIFICATES[0] }).set(days * 86_400.0);
            let news = lookout.look(&metrics, None, Instant::now(), SystemTime::UNIX_EPOCH + 1_000 * DAY);
            news.into_iter()
                .map(|news| match news {
                    News::Ending(_, remaining) => remaining,
                    other => panic!("no trigger is known: {other:?}"),
                })
                .collect::<Vec<_>>()
        };
        assert!(told(1_030.0).is_empty());
        assert_eq!(told(1_006.9), [Remaining::Days]);
        assert!(told(1_006.0).is_empty());
        assert_eq!(told(1_000.5), [Remaining::Hours]);
        assert_eq!(told(1_000.0), [Remaining::Nothing]);
        assert!(told(999.0).is_empty());
        assert!(told(1_090.0).is_empty());
        assert_eq!(told(999.0), [Remaining::Nothing]);
    }
}
