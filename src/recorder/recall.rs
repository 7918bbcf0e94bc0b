//! Puts the history of one object together from what is remembered.

use std::{
    collections::{BTreeSet, VecDeque},
    hash::BuildHasher,
    ops::RangeInclusive,
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    LATELY, LIFETIME, Recorder, SAME_POLL, Store, Tenths,
    history::{Change, Connection, Event, Happening, History, TriggerHistory, Window},
    log::{Entry, Unpacked},
    succession::{Polls, predecessor},
    tenths_of,
    trigger::{Told, Trigger},
};
use crate::diagnostics::nearest;

/// The most triggers of an object that are told, those that were asked for last. Whoever asks with ever other metadata
/// makes ever more of them.
const MOST_TRIGGERS: usize = 100;

/// The most changes of a trigger that are told, the latest ones, and the most of all triggers together.
const MOST_CHANGES: usize = 1_000;
const MOST_CHANGES_OF_ALL: usize = 10_000;

/// The most other objects that are all named to somebody who asked for one that is not remembered.
const MOST_NAMED: usize = 3;

/// A trigger that began to ask for another query than it did before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherQuery {
    /// The time at which KEDA first asked with it.
    pub at: Instant,
    /// The namespace of the object.
    pub namespace: String,
    /// The object.
    pub name: String,
    /// The query since then.
    pub query: String,
    /// The query until then.
    pub before: String,
}

/// The wall clock of the recorder's own time. It is asked once, so that a clock that was set moves all times alike.
#[derive(Clone, Copy)]
struct WallClock {
    now: Tenths,
    began_at: OffsetDateTime,
}

impl WallClock {
    fn wall(self, at: Tenths) -> OffsetDateTime {
        self.began_at + Duration::from_millis(100) * at
    }

    /// Returns the recorder's time of a moment; it is negative before the beginning.
    fn tenths(self, wall: OffsetDateTime) -> i64 {
        let since = (wall - self.began_at).whole_milliseconds().div_euclid(100);
        i64::try_from(since).unwrap_or(i64::MAX)
    }
}

impl Recorder {
    /// Returns what is remembered of an object around a moment. The databases of its queries are left for others to
    /// fill in.
    pub fn history(&self, namespace: &str, name: &str, window: Window) -> History {
        let clock = self.wall_clock();
        let now = clock.wall(clock.now);
        let at = window.at.unwrap_or(now).to_offset(time::UtcOffset::UTC);
        let (from, until) = (at.saturating_sub(saturated(window.before)), at.saturating_add(saturated(window.after)));
        let range = clock.tenths(from)..=clock.tenths(until);
        let object = self.hasher.hash_one((namespace, name));
        let store = self.lock();
        let (others_asked, others_silent) = store.others(object, clock.now);
        let (triggers, triggers_left_off) = store.triggers_of(object, namespace, name, clock, &range);
        let others = if triggers.is_empty() { store.names_of_objects(clock.now) } else { BTreeSet::new() };
        let incidents = store.told_incidents((*range.start(), *range.end()), clock.now).into_iter();
        let mut history = History {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            started_at: clock.wall(0),
            remembers_since: clock.wall(store.remembers_since(namespace, clock.now)),
            now,
            from,
            at,
            until,
            others_asked,
            others_silent,
            near_objects: Vec::new(),
            expired_certificates: Vec::new(),
            triggers,
            triggers_left_off,
            incidents: incidents
                .map(|(at, incident)| Happening { at: clock.wall(*at), incident: incident.clone() })
                .collect(),
        };
        // Names are compared without the lock, which every call takes.
        drop(store);
        history.near_objects = near_objects(namespace, name, &others);
        history
    }
}

impl Recorder {
    /// Returns what became of the connection over which KEDA last asked for any trigger, as far as it is known.
    pub fn latest_connection(&self) -> Option<Connection> {
        let clock = self.wall_clock();
        let store = self.lock();
        let of_keda = store.triggers.values().filter(|trigger| trigger.payer.is_some() && trigger.is_of_keda());
        let latest = of_keda.max_by_key(|trigger| trigger.asked_at)?;
        store.connection((latest.asked_at, clock.now), latest, clock)
    }

    /// Returns the triggers that began to ask for another query within [`LIFETIME`], the latest first.
    pub fn other_queries(&self) -> Vec<OtherQuery> {
        let (clock, present) = (self.wall_clock(), Instant::now());
        let oldest = clock.now.saturating_sub(tenths_of(LIFETIME));
        let now = clock.wall(clock.now);
        let mut found: Vec<(Tenths, OtherQuery)> = Vec::new();
        // The rule is applied without the lock, which every call takes.
        let objects = self.lock().objects_of_several_queries(oldest);
        for asked in objects {
            let polls: Vec<Polls> = asked.iter().map(|asked| asked.polls(clock)).collect();
            for (one, of_one) in asked.iter().zip(&polls).filter(|(one, _)| one.first >= oldest) {
                let before = predecessor(of_one, &polls, now).map(|number| &asked[number]);
                if let Some(before) = before.filter(|before| before.query != one.query) {
                    let (namespace, name) = (one.namespace.to_string(), one.name.to_string());
                    let (query, before) = (one.query.to_string(), before.query.to_string());
                    let at = self.clock.instant(one.first, present);
                    found.push((one.first, OtherQuery { at, namespace, name, query, before }));
                }
            }
        }
        found.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        found.into_iter().map(|(_, other)| other).collect()
    }

    fn wall_clock(&self) -> WallClock {
        WallClock { now: self.clock.tenths(Instant::now()), began_at: self.clock.beginning() }
    }
}

/// A time in which KEDA asked for a trigger.
struct Asked {
    namespace: Box<str>,
    name: Box<str>,
    query: Box<str>,
    first: Tenths,
    last: Tenths,
    pause: Tenths,
    was_served: bool,
}

impl Asked {
    /// Returns the times in which KEDA asked for a trigger: two if others were asked for in its place meanwhile.
    fn of(trigger: &Trigger) -> impl Iterator<Item = Self> {
        let asked = |first, last| Self {
            namespace: trigger.namespace.clone(),
            name: trigger.name.clone(),
            query: trigger.query.clone(),
            first,
            last,
            pause: trigger.pause,
            was_served: trigger.target.is_some(),
        };
        let earlier = trigger.returned.map(|(left_at, _)| asked(trigger.began_at, left_at));
        let latest = asked(trigger.returned.map_or(trigger.began_at, |(_, at)| at), trigger.asked_at);
        earlier.into_iter().chain([latest])
    }

    fn polls(&self, clock: WallClock) -> Polls {
        Polls {
            first: clock.wall(self.first),
            last: clock.wall(self.last),
            interval: time::Duration::milliseconds(100) * i32::try_from(self.pause).unwrap_or(i32::MAX),
            was_served: self.was_served,
        }
    }
}

impl Store {
    /// Returns when KEDA asked for the triggers of each object that has asked for several queries.
    fn objects_of_several_queries(&self, oldest: Tenths) -> Vec<Vec<Asked>> {
        let of_object = |keys: &Vec<u64>| {
            let triggers = keys.iter().filter_map(|key| self.triggers.get(key));
            let mut triggers: Vec<&Trigger> =
                triggers.filter(|trigger| trigger.asked_at >= oldest && trigger.is_of_keda()).collect();
            let first = triggers.first()?;
            if triggers.iter().all(|trigger| trigger.query == first.query) {
                return None;
            }
            triggers.sort_unstable_by_key(|trigger| (trigger.asked_at, trigger.number));
            triggers.drain(..triggers.len().saturating_sub(MOST_TRIGGERS));
            Some(triggers.into_iter().flat_map(Asked::of).collect())
        };
        self.objects.values().filter(|keys| keys.len() > 1).filter_map(of_object).collect()
    }

    /// Returns the time since which nothing of a namespace is forgotten.
    fn remembers_since(&self, namespace: &str, now: Tenths) -> Tenths {
        let owner = self.tenants.get(&Some(namespace.into()));
        let strangers = self.tenants.get(&None).and_then(|strangers| strangers.forgot);
        let forgot = owner.map_or(self.forgot, |owner| owner.forgot).max(strangers);
        forgot.unwrap_or(0).max(now.saturating_sub(tenths_of(LIFETIME)))
    }

    /// Counts the triggers of other objects that were answered: those that were asked for within [`LATELY`], and those
    /// that are silent. One between them says nothing about whether KEDA asks at all. Neither does one that was asked
    /// for longer ago than others of its object: it was removed or changed.
    fn others(&self, object: u64, now: Tenths) -> (usize, usize) {
        let oldest = now.saturating_sub(tenths_of(LIFETIME));
        let of_keda =
            |trigger: &&Trigger| trigger.payer.is_some() && trigger.is_of_keda() && trigger.asked_at >= oldest;
        let (mut asked, mut silent) = (0, 0);
        for (_, keys) in self.objects.iter().filter(|(other, _)| **other != object) {
            let triggers = || keys.iter().filter_map(|key| self.triggers.get(key)).filter(of_keda);
            let latest = triggers().map(|trigger| trigger.asked_at).max().unwrap_or_default();
            for trigger in triggers().filter(|trigger| trigger.asked_at + SAME_POLL >= latest) {
                let age = now.saturating_sub(trigger.asked_at);
                asked += usize::from(age <= tenths_of(LATELY));
                silent += usize::from(age > trigger.longest_pause());
            }
        }
        (asked, silent)
    }

    /// Returns the namespaces and names of the objects that were answered.
    fn names_of_objects(&self, now: Tenths) -> BTreeSet<(Box<str>, Box<str>)> {
        let oldest = now.saturating_sub(tenths_of(LIFETIME));
        let of_keda = self
            .triggers
            .values()
            .filter(|trigger| trigger.payer.is_some() && trigger.is_of_keda() && trigger.asked_at >= oldest);
        of_keda.map(|trigger| (trigger.namespace.clone(), trigger.name.clone())).collect()
    }

    fn triggers_of(
        &self,
        object: u64,
        namespace: &str,
        name: &str,
        clock: WallClock,
        range: &RangeInclusive<i64>,
    ) -> (Vec<TriggerHistory>, usize) {
        let oldest = clock.now.saturating_sub(tenths_of(LIFETIME));
        let keys = self.objects.get(&object).into_iter().flatten();
        let mut triggers: Vec<&Trigger> = keys
            .filter_map(|key| self.triggers.get(key))
            .filter(|trigger| *trigger.namespace == *namespace && *trigger.name == *name)
            .filter(|trigger| trigger.asked_at >= oldest)
            .collect();
        let left_off = triggers.len().saturating_sub(MOST_TRIGGERS);
        let is_of_range = |trigger: &Trigger| {
            i64::from(trigger.began_at) <= *range.end() && i64::from(trigger.asked_at) >= *range.start()
        };
        triggers.sort_unstable_by_key(|trigger| (is_of_range(trigger), trigger.asked_at, trigger.number));
        triggers.drain(..left_off);
        triggers.sort_unstable_by_key(|trigger| (trigger.began_at, trigger.number));
        let mut logs: Vec<Vec<Entry>> = vec![Vec::new(); triggers.len()];
        for tenant in [Some(namespace.into()), None] {
            let Some(owner) = self.tenants.get(&tenant) else { continue };
            for entry in owner.log.entries().filter(|entry| entry.at >= oldest) {
                if let Some(index) = triggers.iter().position(|trigger| trigger.number == entry.trigger) {
                    logs[index].push(*entry);
                }
            }
        }
        let most = MOST_CHANGES.min(MOST_CHANGES_OF_ALL / triggers.len().max(1));
        let histories = triggers.into_iter().zip(logs);
        (histories.map(|(trigger, log)| self.history_of(trigger, log, most, clock, range)).collect(), left_off)
    }

    fn history_of(
        &self,
        trigger: &Trigger,
        mut log: Vec<Entry>,
        most: usize,
        clock: WallClock,
        range: &RangeInclusive<i64>,
    ) -> TriggerHistory {
        let is_logged = |told: &Told| log.iter().any(|entry| (entry.at, entry.packed) == (told.since, told.packed));
        // What it is told now is known, even if the log has forgotten since when.
        let now = [trigger.value, trigger.activity].into_iter().filter(|told| !is_logged(told)).collect::<Vec<_>>();
        log.extend(now.into_iter().map(|Told { packed, since }| Entry { at: since, trigger: trigger.number, packed }));
        sort(&mut log);
        let mut told: VecDeque<Entry> = VecDeque::new();
        let mut before = Before::default();
        let mut left_off = 0;
        for entry in log.into_iter().filter(|entry| i64::from(entry.at) <= *range.end()) {
            if i64::from(entry.at) < *range.start() {
                before.take(entry);
                continue;
            }
            if told.len() == most {
                left_off += 1;
                told.pop_front().into_iter().for_each(|entry| before.take(entry));
            }
            told.push_back(entry);
        }
        let changes = before.entries().chain(told);
        let is_silent = clock.now.saturating_sub(trigger.asked_at) > trigger.longest_pause();
        let connection = is_silent.then(|| self.connection((trigger.asked_at, clock.now), trigger, clock)).flatten();
        TriggerHistory {
            query: (*trigger.query).to_owned(),
            databases: Vec::new(),
            standbys: Vec::new(),
            target: trigger.target,
            activation: trigger.activation,
            divide_by: trigger.divide_by,
            first_asked_at: clock.wall(trigger.began_at),
            last_asked_at: clock.wall(trigger.asked_at),
            interval_seconds: (trigger.pause > 0).then(|| f64::from(trigger.pause) / 10.0),
            silent_keys: 0,
            short_keys: 0,
            stalled: None,
            budget: None,
            is_grouped: false,
            is_silent,
            connection,
            changes: changes
                .filter_map(|entry| {
                    Some(Change { at: clock.wall(entry.at), event: self.event(entry, trigger, clock)? })
                })
                .collect(),
            left_off,
        }
    }

    /// Returns what became of the connection over which KEDA had asked before a silence of a trigger.
    fn connection(&self, silence: (Tenths, Tenths), trigger: &Trigger, clock: WallClock) -> Option<Connection> {
        self.connections.fate(silence, trigger.longest_pause(), |at| clock.wall(at))
    }

    fn event(&self, entry: Entry, trigger: &Trigger, clock: WallClock) -> Option<Event> {
        let status = |text| self.texts.get(text).map(|cause| (cause.code.to_owned(), cause.text.to_owned()));
        Some(match entry.packed.unpacked() {
            Unpacked::Nothing => return None,
            Unpacked::Value(value) => Event::Value { value },
            Unpacked::Active(active) => Event::Activity { active },
            Unpacked::Pushed(active) => Event::Pushed { active },
            Unpacked::NoValue(text) => status(text).map(|(code, text)| Event::NoValue { code, text })?,
            Unpacked::NoActivity(text) => status(text).map(|(code, text)| Event::NoActivity { code, text })?,
            Unpacked::Refused(text) => status(text).map(|(code, text)| Event::Refusal { code, text })?,
            Unpacked::Silence(since) => {
                let connection = self.connection((since, entry.at), trigger, clock);
                Event::Silence { since: clock.wall(since), connection }
            }
            Unpacked::Changed(text) => status(text).map(|(_, keys)| Event::Metadata { keys })?,
        })
    }
}

/// The value and the activity that a trigger had been told before the beginning.
#[derive(Default)]
struct Before {
    value: Option<Entry>,
    activity: Option<Entry>,
}

impl Before {
    fn take(&mut self, entry: Entry) {
        match entry.packed.unpacked() {
            Unpacked::Value(_) | Unpacked::NoValue(_) | Unpacked::Refused(_) => self.value = Some(entry),
            Unpacked::Active(_) | Unpacked::Pushed(_) | Unpacked::NoActivity(_) => self.activity = Some(entry),
            Unpacked::Silence(_) | Unpacked::Changed(_) | Unpacked::Nothing => {}
        }
    }

    fn entries(self) -> impl Iterator<Item = Entry> {
        let mut entries: Vec<Entry> = self.value.into_iter().chain(self.activity).collect();
        sort(&mut entries);
        entries.into_iter()
    }
}

/// Sorts changes by time. Those of one moment stay in their order.
fn sort(entries: &mut [Entry]) {
    entries.sort_by_key(|entry| entry.at);
}

fn saturated(duration: Duration) -> time::Duration {
    time::Duration::try_from(duration).unwrap_or(time::Duration::MAX)
}

/// Returns the objects that somebody may have meant: all of them, if they are few, or the one of the same name in the
/// nearest namespace, or of the nearest name in the same namespace.
fn near_objects(namespace: &str, name: &str, known: &BTreeSet<(Box<str>, Box<str>)>) -> Vec<String> {
    if known.len() <= MOST_NAMED {
        return known.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
    }
    let namespaces = || known.iter().filter(|(_, other)| **other == *name).map(|(namespace, _)| &**namespace);
    let names = known.iter().filter(|(other, _)| **other == *namespace).map(|(_, name)| &**name);
    let of_name =
        nearest(namespace, namespaces()).or_else(|| namespaces().next()).map(|other| format!("{other}/{name}"));
    of_name.or_else(|| nearest(name, names).map(|other| format!("{namespace}/{other}"))).into_iter().collect()
}
