//! Records when KEDA last asked for each trigger: "KEDA stopped asking" is the one outage that KEDA hides.
//!
//! Callers choose the names of triggers, so this is the one open set of labels. It has at most
//! [`CAPACITY`] series. A new trigger replaces the one that has been silent longest, if that has
//! been silent for [`REPLACEABLE_AFTER`].

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::time::Instant;

use super::{FloatGauge, since_1970, single};

/// The most series.
const CAPACITY: usize = 2_000;

/// How long a trigger must have been silent before a new one may replace it.
const REPLACEABLE_AFTER: Duration = Duration::from_secs(3_600);

/// A trigger, by the names that its requests carry.
#[derive(Debug, Clone, Copy)]
pub struct TriggerId<'a> {
    /// A hash of the three names, so that the usual case copies nothing.
    pub hash: u64,
    /// The namespace that the request claims.
    pub namespace: &'a str,
    /// The ScaledObject or ScaledJob.
    pub name: &'a str,
    /// The configured query.
    pub query: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TriggerLabels {
    namespace: String,
    name: String,
    query: String,
}

#[derive(Debug)]
pub(super) struct Triggers {
    known: Mutex<HashMap<u64, TriggerSeries>>,
    last_request: Family<TriggerLabels, FloatGauge>,
    untracked: Counter,
}

#[derive(Debug)]
struct TriggerSeries {
    series: FloatGauge,
    labels: TriggerLabels,
    asked_at: Instant,
    /// Whether the series shows `asked_at`.
    is_published: bool,
}

impl Triggers {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let last_request = Family::default();
        registry.register(
            "clapometer_trigger_last_request_timestamp_seconds",
            "When KEDA last asked for the trigger, in seconds since 1970",
            Family::clone(&last_request),
        );
        let untracked =
            single(registry, "clapometer_triggers_untracked", "Requests of triggers that have no series of their own.");
        Self { known: Mutex::default(), last_request, untracked }
    }

    pub(super) fn record_request(&self, trigger: TriggerId<'_>, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get_mut(&trigger.hash) {
            known.asked_at = now;
            known.is_published = false;
            return;
        }
        if known.len() >= CAPACITY && !self.evict_one(&mut known) {
            self.untracked.inc();
            return;
        }
        let labels = TriggerLabels {
            namespace: trigger.namespace.to_owned(),
            name: trigger.name.to_owned(),
            query: trigger.query.to_owned(),
        };
        let series = self.last_request.get_or_create_owned(&labels);
        known.insert(trigger.hash, TriggerSeries { series, labels, asked_at: now, is_published: false });
    }

    /// Updates the series. This is done at each scrape, because doing it at each request would read the wall clock
    /// each time; and once for each request, so that an unchanged time stays the same in every scrape.
    pub(super) fn publish(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for known in known.values_mut().filter(|known| !known.is_published) {
            known.series.set(since_1970().saturating_sub(known.asked_at.elapsed()).as_secs_f64());
            known.is_published = true;
        }
    }

    /// Drops the trigger that has been silent longest, if it may be replaced.
    fn evict_one(&self, known: &mut HashMap<u64, TriggerSeries>) -> bool {
        let oldest = known.iter().min_by_key(|(_, known)| known.asked_at);
        let Some((&hash, _)) = oldest.filter(|(_, known)| known.asked_at.elapsed() >= REPLACEABLE_AFTER) else {
            return false;
        };
        if let Some(forgotten) = known.remove(&hash) {
            // One object may have several triggers on one query, which share the series.
            if known.values().all(|other| other.labels != forgotten.labels) {
                self.last_request.remove(&forgotten.labels);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trigger(hash: u64, name: &str) -> TriggerId<'_> {
        TriggerId { hash, namespace: "default", name, query: "pending-claps" }
    }

    fn series(registry: &Registry) -> Vec<String> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).expect("a String takes everything");
        let of_a_trigger = |line: &&str| line.starts_with("clapometer_trigger_last_request_timestamp_seconds{");
        text.lines().filter(of_a_trigger).map(str::to_owned).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_series_that_another_trigger_still_writes_to_stays() {
        let mut registry = Registry::default();
        let triggers = Triggers::register(&mut registry);
        (0..2_000u64)
            .for_each(|hash| triggers.record_request(trigger(hash, &format!("job-{}", hash / 2)), Instant::now()));
        tokio::time::advance(REPLACEABLE_AFTER).await;
        // Each first of two is asked for no more.
        (0..1_000u64)
            .for_each(|pair| triggers.record_request(trigger(2 * pair + 1, &format!("job-{pair}")), Instant::now()));
        triggers.record_request(trigger(9_999, "newcomer"), Instant::now());
        assert_eq!(series(&registry).len(), 1_001);
    }

    #[tokio::test(start_paused = true)]
    async fn the_series_are_capped_and_the_longest_silent_gives_way() {
        let mut registry = Registry::default();
        let triggers = Triggers::register(&mut registry);
        for hash in 0..2_500u64 {
            triggers.record_request(trigger(hash, &format!("job-{hash}")), Instant::now());
        }
        assert_eq!(series(&registry).len(), CAPACITY);
        assert_eq!(triggers.untracked.get(), 500);

        tokio::time::advance(REPLACEABLE_AFTER).await;
        triggers.record_request(trigger(1, "job-1"), Instant::now());
        triggers.record_request(trigger(9_999, "newcomer"), Instant::now());
        let series = series(&registry);
        assert_eq!(series.len(), CAPACITY);
        assert!(series.iter().any(|line| line.contains("newcomer")));
    }
}
