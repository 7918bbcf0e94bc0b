//! Records what KEDA asked of each trigger and what it was told: "KEDA stopped asking" is the one outage that KEDA
//! hides.
//!
//! Callers choose the names of triggers, so this is the one open set of labels. Each set of labels is a [`Place`], and
//! there are at most [`CAPACITY`]. Triggers that have only ever been refused have at most [`REFUSED_CAPACITY`] of them,
//! and give way to the others: a caller who makes up names must not push out the triggers that work.

mod fingerprint;
mod place;
mod state;

use std::{
    collections::{HashMap, hash_map::RandomState},
    fmt,
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
    metrics::{MetricType, counter::Counter},
    registry::Registry,
};
use tokio::time::Instant;

use self::place::{Place, Row};
pub use self::state::{Changed, FaultTold, Numbers, RefusalTold, TriggerState, VariantState};
use super::single;
use crate::fault::Fault;

/// The most places.
const CAPACITY: usize = 2_000;

/// The most places of triggers that have only ever been refused.
const REFUSED_CAPACITY: usize = 500;

/// The time for which a trigger that was served must have been silent before another one may replace it.
const REPLACEABLE_AFTER: Duration = Duration::from_secs(3_600);

/// The same for a trigger that was refused: four of KEDA's default polling intervals. Names that were made up are asked
/// for once, and a trigger that KEDA asks for keeps its place.
const REFUSED_REPLACEABLE_AFTER: Duration = Duration::from_secs(120);

/// The time by which the series of a trigger outlive its last request.
const LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// A trigger, by the names that its requests carry.
#[derive(Debug, Clone, Copy)]
pub struct TriggerId<'a> {
    /// A hash of its object and its metadata: one object may have several triggers on one query.
    pub hash: u64,
    /// The namespace that the request claims.
    pub namespace: &'a str,
    /// The ScaledObject or ScaledJob.
    pub name: &'a str,
    /// The query's name.
    pub query: &'a str,
    /// The numbers that its answers are judged by; none where the metadata was refused.
    pub thresholds: Option<Thresholds>,
    /// The divisor of its value; none where the metadata was refused.
    pub divide_by: Option<f64>,
    /// Its metadata. That of a refused trigger may hold a secret, and nothing of it is kept.
    pub metadata: Option<&'a HashMap<String, String>>,
}

/// The numbers that a trigger's answers are judged by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// The target that KEDA divides the value by.
    pub target: f64,
    /// The number that the activity must exceed.
    pub activation: f64,
}

/// A trigger whose request was recorded, so that its answer can be.
#[derive(Debug, Clone, Copy)]
pub struct TriggerKey {
    place: u64,
    hash: u64,
}

impl TriggerKey {
    /// Returns the hash of its object and its metadata.
    pub fn hash(self) -> u64 {
        self.hash
    }
}

/// The answer of one call, as far as it says what KEDA was told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Told {
    /// GetMetrics told this value.
    Value(f64),
    /// IsActive told this.
    Active {
        /// The answer.
        is_active: bool,
        /// The number that decided about it.
        activity: f64,
    },
    /// GetMetrics ended with this code, for this fault.
    NoValue(&'static str, Fault),
    /// IsActive ended with this code, for this fault.
    NoActivity(&'static str, Fault),
}

/// A refusal as it is told.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// The status code's name.
    pub code: &'static str,
    /// The status's text. It names keys of metadata, never their values.
    pub message: &'a str,
    /// A hash of code and text; none if the refusal is not the trigger's own.
    pub text: Option<u64>,
}

/// The answer to whether a refusal should be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalNews {
    /// The trigger was not refused for this before, or has been answered since.
    New,
    /// It is refused for the same reason again.
    Known,
    /// There is no place to remember it.
    Untracked,
}

/// The labels of a trigger, as its requests carry them: a caller can make them up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TriggerLabels {
    /// The namespace.
    pub namespace: String,
    /// The ScaledObject or ScaledJob.
    pub name: String,
    /// The query's name, or what stands for it.
    pub query: String,
}

/// The kind of a place, for the rules about who gives way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It has been served at least once: its query exists and is for its namespace.
    Served,
    /// It has only ever been refused.
    Refused,
}

/// Everything that is known of the triggers.
#[derive(Debug)]
pub(super) struct Triggers {
    hasher: RandomState,
    places: Mutex<Places>,
    untracked: Counter,
}

#[derive(Debug)]
struct Places {
    by_key: HashMap<u64, Place>,
    refused: usize,
    /// The times before which no place of a kind can be replaced, so that a flood of names causes no search each time.
    served_full_until: Instant,
    refused_full_until: Instant,
}

impl Triggers {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let untracked =
            single(registry, "clapometer_triggers_untracked", "Requests of triggers that have no series of their own.");
        let now = Instant::now();
        let places = Places { by_key: HashMap::new(), refused: 0, served_full_until: now, refused_full_until: now };
        Self { hasher: RandomState::new(), places: Mutex::new(places), untracked }
    }

    /// Records that KEDA asked for a trigger that is served. If that is the first time with these metadata, returns the
    /// names of the keys that changed.
    pub(super) fn asked(&self, trigger: TriggerId<'_>, now: Instant) -> (TriggerKey, Option<Arc<str>>) {
        let key = self.key(trigger);
        let Some(changed) =
            self.lock().enter(key.place, trigger, Standing::Served, now).map(|place| place.asked(trigger, now))
        else {
            self.untracked.inc();
            return (key, None);
        };
        (key, changed)
    }

    /// Records the answer to a trigger, and returns the queries of the refusals that it ends.
    pub(super) fn told(&self, key: TriggerKey, told: Told, now: Instant) -> Vec<String> {
        let mut places = self.lock();
        let Some(place) = places.by_key.get_mut(&key.place) else { return Vec::new() };
        let is_first = place.told(key.hash, told, now);
        if !matches!(told, Told::Value(_) | Told::Active { .. }) {
            return Vec::new();
        }
        let mut ended = Vec::new();
        if place.answered(key.hash, now) {
            ended.push(place.labels.query.clone());
        }
        if is_first {
            // A trigger that was refused because of its query's name has another one now.
            let object = Arc::clone(&place.labels);
            let of_the_object = places
                .by_key
                .iter_mut()
                .filter(|(other, place)| **other != key.place && place.is_of(&object.namespace, &object.name));
            ended.extend(of_the_object.filter_map(|(_, place)| place.replaced().then(|| place.labels.query.clone())));
        }
        ended
    }

    /// Records a message of a stream, which is no request.
    pub(super) fn streamed(&self, trigger: TriggerId<'_>, is_active: bool) {
        let key = self.key(trigger);
        if let Some(place) = self.lock().by_key.get_mut(&key.place) {
            place.streamed(key.hash, is_active);
        }
    }

    /// Records that a trigger was refused. If that is news, returns the names of the keys that have changed since it was
    /// answered, as far as it was.
    pub(super) fn refused(
        &self,
        trigger: TriggerId<'_>,
        refused: Refused<'_>,
        now: Instant,
    ) -> (RefusalNews, Option<Arc<str>>) {
        let key = self.key(trigger);
        match self.lock().enter(key.place, trigger, Standing::Refused, now) {
            Some(place) => place.refused(refused, trigger.metadata, now),
            None => {
                self.untracked.inc();
                (RefusalNews::Untracked, None)
            }
        }
    }

    fn key(&self, trigger: TriggerId<'_>) -> TriggerKey {
        let TriggerId { hash, namespace, name, query, .. } = trigger;
        TriggerKey { place: self.hasher.hash_one((namespace, name, query)), hash }
    }

    /// Returns what people see of every trigger, and the number of requests of triggers that have no place.
    pub(super) fn states(&self, now: Instant) -> (Vec<TriggerState>, u64) {
        let mut places = self.lock();
        places.expire(now);
        (places.by_key.values().map(Place::state).collect(), self.untracked.get())
    }

    /// Returns what a scrape shows of every trigger.
    fn rows(&self, now: Instant) -> Vec<Row> {
        let mut places = self.lock();
        places.expire(now);
        places.by_key.values_mut().map(Place::row).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Returns the place of a trigger; none if there is no room for it.
    fn enter(&mut self, key: u64, trigger: TriggerId<'_>, standing: Standing, now: Instant) -> Option<&mut Place> {
        match self.by_key.get(&key).map(|place| place.standing) {
            Some(Standing::Refused) if standing == Standing::Served => self.refused -= 1,
            Some(_) => {}
            None => {
                if !self.has_room(standing, now) {
                    return None;
                }
                self.refused += usize::from(standing == Standing::Refused);
            }
        }
        let place = self.by_key.entry(key).or_insert_with(|| Place::new(trigger, standing, now));
        if standing == Standing::Served {
            place.standing = standing;
        }
        place.asked_at(now);
        Some(place)
    }

    fn has_room(&mut self, standing: Standing, now: Instant) -> bool {
        let is_full = self.by_key.len() >= CAPACITY;
        match standing {
            Standing::Served if !is_full => true,
            Standing::Served if self.refused > 0 => self.evict(Standing::Refused, Duration::ZERO, now).is_none(),
            Standing::Served => {
                if now >= self.served_full_until {
                    let until = self.evict(Standing::Served, REPLACEABLE_AFTER, now);
                    self.served_full_until = until.unwrap_or(now);
                    return until.is_none();
                }
                false
            }
            Standing::Refused if !is_full && self.refused < REFUSED_CAPACITY => true,
            Standing::Refused => {
                if now >= self.refused_full_until {
                    let until = self.evict(Standing::Refused, REFUSED_REPLACEABLE_AFTER, now);
                    self.refused_full_until = until.unwrap_or(now);
                    return until.is_none();
                }
                false
            }
        }
    }

    /// Drops the place of this standing that has been silent longest, if it has been for `silence`. Otherwise returns
    /// the time until which none has been.
    fn evict(&mut self, standing: Standing, silence: Duration, now: Instant) -> Option<Instant> {
        let of_standing = self.by_key.iter().filter(|(_, place)| place.standing == standing);
        let Some((&key, oldest)) = of_standing.min_by_key(|(_, place)| place.asked_at) else {
            return Some(now + silence);
        };
        let replaceable_at = oldest.asked_at + silence;
        if replaceable_at > now {
            return Some(replaceable_at);
        }
        self.remove(key);
        None
    }

    fn remove(&mut self, key: u64) {
        if self.by_key.remove(&key).is_some_and(|place| place.standing == Standing::Refused) {
            self.refused -= 1;
        }
    }

    /// Drops the places whose last request is too long ago, and those of triggers that were removed from their object
    /// or ask for another query now: KEDA still asks for others of it. A refused one counts only if it came later: it
    /// is what the trigger asks for now.
    fn expire(&mut self, now: Instant) {
        let mut of_objects: HashMap<(&str, &str), Vec<&Place>> = HashMap::new();
        for place in self.by_key.values() {
            of_objects.entry((&place.labels.namespace, &place.labels.name)).or_default().push(place);
        }
        let is_over = |place: &Place| {
            let others = of_objects.get(&(&*place.labels.namespace, &*place.labels.name)).into_iter().flatten();
            let mut others =
                others.filter(|other| other.standing == Standing::Served || other.began_at > place.asked_at);
            others.any(|other| place.is_missed_until(other.asked_at))
                || now.saturating_duration_since(place.asked_at) >= LIFETIME
        };
        let over: Vec<u64> = self.by_key.iter().filter(|(_, place)| is_over(place)).map(|(key, _)| *key).collect();
        over.into_iter().for_each(|key| self.remove(key));
    }
}

/// The series are made at each scrape: to keep them up at each request would cost every call a look-up by labels.
impl Collector for Triggers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Written without the lock, which every call takes.
        let rows = self.rows(Instant::now());
        let mut family = encoder.encode_descriptor(
            "clapometer_trigger_last_request_timestamp_seconds",
            "When KEDA last asked for the trigger, in seconds since 1970.",
            None,
            MetricType::Gauge,
        )?;
        for row in &rows {
            family.encode_family(&*row.labels)?.encode_gauge(&row.asked_at)?;
        }
        let mut family = encoder.encode_descriptor(
            "clapometer_trigger_silent_after_seconds",
            "Pause after which the trigger counts as silent: four of its own polling intervals, two minutes at least.",
            None,
            MetricType::Gauge,
        )?;
        for row in &rows {
            family.encode_family(&*row.labels)?.encode_gauge(&row.silent_after)?;
        }
        let mut family = encoder.encode_descriptor(
            "clapometer_trigger_value",
            "Value that KEDA was told at the latest poll of the trigger, divided and rounded. Absent if it was told an error.",
            None,
            MetricType::Gauge,
        )?;
        for row in &rows {
            if let Some(value) = row.value {
                family.encode_family(&*row.labels)?.encode_gauge(&value)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "clapometer_trigger_active",
            "1 if KEDA was last told that the trigger is active, else 0. Absent if it was told an error.",
            None,
            MetricType::Gauge,
        )?;
        for row in &rows {
            if let Some(is_active) = row.is_active {
                family.encode_family(&*row.labels)?.encode_gauge(&i64::from(is_active))?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "clapometer_trigger_target",
            "Target that KEDA divides the value of the trigger by.",
            None,
            MetricType::Gauge,
        )?;
        for row in &rows {
            if let Some(thresholds) = row.thresholds {
                family.encode_family(&*row.labels)?.encode_gauge(&thresholds.target)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "clapometer_trigger_activation_target",
            "Number that the activity of the trigger must exceed, so that it is active.",
            None,
            MetricType::Gauge,
        )?;
        for row in &rows {
            if let Some(thresholds) = row.thresholds {
                family.encode_family(&*row.labels)?.encode_gauge(&thresholds.activation)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "clapometer_trigger_changed_timestamp_seconds",
            "When KEDA first asked with other metadata of the trigger, in seconds since 1970. Absent if it has not.",
            None,
            MetricType::Gauge,
        )?;
        for row in &rows {
            if let Some(changed_at) = row.changed_at {
                family.encode_family(&*row.labels)?.encode_gauge(&changed_at)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "clapometer_trigger_requests",
            "Answers to GetMetrics and IsActive of the trigger, and refusals of its streams, by status code.",
            None,
            MetricType::Counter,
        )?;
        for row in &rows {
            let TriggerLabels { namespace, name, query } = &*row.labels;
            for (code, count) in &row.codes {
                let labels = [("namespace", &**namespace), ("name", name), ("query", query), ("code", code)];
                family.encode_family(&labels)?.encode_counter::<[(&str, &str); 0], _, u64>(count, None)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
