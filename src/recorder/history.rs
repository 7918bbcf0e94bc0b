//! The history of one object, as the admin port tells it and `clapometer why` reads it.

use std::{collections::VecDeque, hash::BuildHasher, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, serde::rfc3339};
use tokio::time::Instant;

use super::{
    LATELY, LIFETIME, Recorder, Store, Tenths,
    log::{Entry, Packed, Unpacked},
    tenths_of,
    trigger::{Told, Trigger},
};
use crate::json;

/// The most triggers of an object that are told, those that were asked for last. Whoever asks with ever other metadata makes
/// ever more of them.
const MOST_TRIGGERS: usize = 100;

/// The most changes of a trigger that are told, the latest ones, and the most of all triggers together.
const MOST_CHANGES: usize = 1_000;
const MOST_CHANGES_OF_ALL: usize = 10_000;

/// The time that is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// The moment; none for now.
    pub at: Option<OffsetDateTime>,
    /// The time before it that is told.
    pub before: Duration,
    /// The time after it that is told.
    pub after: Duration,
}

/// The history of one ScaledObject or ScaledJob, as a process remembers it.
#[derive(Debug, Serialize, Deserialize)]
pub struct History {
    /// The namespace of the object.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The time at which the process began to record.
    #[serde(with = "rfc3339")]
    pub started_at: OffsetDateTime,
    /// The time since which nothing of this object is forgotten.
    #[serde(with = "rfc3339")]
    pub remembers_since: OffsetDateTime,
    /// The time of the answer.
    #[serde(with = "rfc3339")]
    pub now: OffsetDateTime,
    /// The beginning of the time that is shown.
    #[serde(with = "rfc3339")]
    pub from: OffsetDateTime,
    /// The moment that is asked about.
    #[serde(with = "rfc3339")]
    pub at: OffsetDateTime,
    /// The end of the time that is shown.
    #[serde(with = "rfc3339")]
    pub until: OffsetDateTime,
    /// The number of triggers of other objects that KEDA has asked for within a minute.
    #[serde(default)]
    pub others_asked: usize,
    /// The number of those that it asked for within [`LIFETIME`] and does not any more, by the rhythm of each.
    #[serde(default)]
    pub others_silent: usize,
    /// The keys of the server's certificates that have expired.
    #[serde(default)]
    pub expired_certificates: Vec<String>,
    /// Its triggers, in the order in which they first asked. Metadata that changed makes another trigger.
    pub triggers: Vec<TriggerHistory>,
    /// The number of other triggers that it had, which are not told, because there are too many: first those outside the
    /// window, then those that KEDA asked for longest ago.
    #[serde(default)]
    pub triggers_left_off: usize,
    /// The incidents of the process and its databases. They begin with what held at the beginning.
    pub incidents: Vec<Happening>,
}

/// Rows of a preset that no worker gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stalled {
    /// Their number, undivided.
    #[serde(serialize_with = "json::number")]
    pub rows: f64,
    /// The thing that they wait for, in a sentence.
    pub step: String,
}

/// The history of one trigger, as far as it is remembered.
#[derive(Debug, Serialize, Deserialize)]
pub struct TriggerHistory {
    /// The name of its query.
    pub query: String,
    /// The databases of the query; none if it is not configured now.
    pub databases: Vec<String>,
    /// Those of them whose readings come from a standby now.
    #[serde(default)]
    pub standbys: Vec<String>,
    /// The target; none for a trigger that was refused.
    #[serde(serialize_with = "json::number_if_any")]
    pub target: Option<f64>,
    /// The number that the activity must exceed; none for a trigger that was refused.
    #[serde(default, serialize_with = "json::number_if_any")]
    pub activation: Option<f64>,
    /// The divisor of the value; none for a trigger that was refused.
    #[serde(default, serialize_with = "json::number_if_any")]
    pub divide_by: Option<f64>,
    /// The time at which KEDA first asked.
    #[serde(with = "rfc3339")]
    pub first_asked_at: OffsetDateTime,
    /// The time at which KEDA last asked.
    #[serde(with = "rfc3339")]
    pub last_asked_at: OffsetDateTime,
    /// The usual time between two polls; none before the second one.
    pub interval_seconds: Option<f64>,
    /// True if KEDA has not asked for three times its usual interval, and for 90 s.
    pub is_silent: bool,
    /// The number of keys of its query that are asked for, are in no answer, and count as zero.
    #[serde(default)]
    pub silent_keys: usize,
    /// The number of keys that its query's budget leaves fewer Jobs than they have rows now.
    #[serde(default)]
    pub short_keys: usize,
    /// The rows of its query's preset that no worker gets now, if there are any.
    #[serde(default)]
    pub stalled: Option<Stalled>,
    /// The number of Jobs that its query shares among its keys, if it does.
    #[serde(default)]
    pub budget: Option<u64>,
    /// True if its query counts for each key, and it asks for one of them.
    #[serde(default)]
    pub is_grouped: bool,
    /// The changes, the oldest first. They begin with what KEDA had been told before the beginning.
    pub changes: Vec<Change>,
    /// The number of changes that are not told, because there are too many.
    pub left_off: usize,
}

/// A change of what KEDA is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Its time.
    #[serde(with = "rfc3339")]
    pub at: OffsetDateTime,
    /// The event that made the change.
    #[serde(flatten)]
    pub event: Event,
}

/// An event that changed something for a trigger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// GetMetrics told another value.
    Value {
        /// The value.
        #[serde(serialize_with = "json::number")]
        value: f64,
    },
    /// IsActive told another activity.
    Activity {
        /// The activity.
        active: bool,
    },
    /// A stream told another activity.
    Pushed {
        /// The activity.
        active: bool,
    },
    /// GetMetrics ended with another error.
    NoValue {
        /// The status code.
        code: String,
        /// The status text.
        text: String,
    },
    /// IsActive ended with another error.
    NoActivity {
        /// The status code.
        code: String,
        /// The status text.
        text: String,
    },
    /// The trigger was refused for another reason.
    Refusal {
        /// The status code.
        code: String,
        /// The status text.
        text: String,
    },
    /// KEDA asked again after a pause of more than three times its usual interval.
    Silence {
        /// The time at which KEDA had asked before.
        #[serde(with = "rfc3339")]
        since: OffsetDateTime,
    },
    /// KEDA asked with other metadata than before.
    Metadata {
        /// The names of the keys that changed, shortened.
        keys: String,
    },
}

/// Something that happened to the process or one of its databases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Happening {
    /// Its time.
    #[serde(with = "rfc3339")]
    pub at: OffsetDateTime,
    /// The incident that happened.
    #[serde(flatten)]
    pub incident: Incident,
}

/// An incident that happened to the process or one of its databases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Incident {
    /// A configuration was loaded.
    Reload {
        /// The names of the keys that changed, shortened.
        #[serde(default)]
        changed: String,
    },
    /// A configuration, or a query file, was wrong, and what was in force before stayed.
    ReloadRejected {
        /// The first fault, without what was found, shortened.
        #[serde(default)]
        fault: String,
    },
    /// A database failed.
    DatabaseDown {
        /// Its name in the configuration.
        database: String,
        /// The reason, as the metrics spell it.
        reason: String,
        /// The step at which no session could be opened, if that is what failed.
        #[serde(default)]
        step: Option<String>,
    },
    /// Readings of a database come from a standby, and came from a primary before.
    Standby {
        /// Its name in the configuration.
        database: String,
    },
    /// Readings of a database come from a primary, and came from a standby before.
    Primary {
        /// Its name in the configuration.
        database: String,
    },
    /// Notifications of a database do not arrive any more.
    Deaf {
        /// Its name in the configuration.
        database: String,
        /// The reason, as the metrics spell it.
        #[serde(default)]
        reason: String,
    },
    /// Notifications of a database arrive again.
    Hearing {
        /// Its name in the configuration.
        database: String,
    },
    /// A change of a query's numbers came without a notification, after all had been announced.
    Unannounced {
        /// Its name.
        query: String,
        /// The database's name in the configuration.
        database: String,
    },
    /// The `search_path` of the role changed: a name in a query may mean another table.
    SearchPath {
        /// The database's name in the configuration.
        database: String,
    },
    /// Readings of a database have to wait for a connection.
    PoolFull {
        /// Its name in the configuration.
        database: String,
        /// The names of the queries that held the connections longest.
        held_by: String,
    },
    /// Readings of a database do not have to wait any more.
    PoolFree {
        /// Its name in the configuration.
        database: String,
    },
    /// A database answered again.
    DatabaseUp {
        /// Its name in the configuration.
        database: String,
    },
    /// The process ran again after it had stood still: it had no CPU, or was paused.
    Standstill {
        /// The whole seconds for which it had.
        seconds: u64,
    },
}

/// The wall clock of the recorder's own time. It is asked once, so that a clock that was set moves all times alike.
#[derive(Clone, Copy)]
struct Clock {
    now: Tenths,
    began_at: OffsetDateTime,
}

impl Clock {
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
    /// Returns what is remembered of an object around a moment. The databases of its queries are left for others to fill in.
    pub fn history(&self, namespace: &str, name: &str, window: Window) -> History {
        let clock = Clock { now: self.tenths(Instant::now()), began_at: self.wall(self.began_at) };
        let now = clock.wall(clock.now);
        let at = window.at.unwrap_or(now).to_offset(time::UtcOffset::UTC);
        let (from, until) = (at.saturating_sub(saturated(window.before)), at.saturating_add(saturated(window.after)));
        let range = clock.tenths(from)..=clock.tenths(until);
        let object = self.hasher.hash_one((namespace, name));
        let store = self.lock();
        let (others_asked, others_silent) = store.others(object, clock.now);
        let (triggers, triggers_left_off) = store.triggers_of(object, namespace, name, clock, &range);
        let within = store.incidents.iter().filter(|(at, _)| range.contains(&i64::from(*at)));
        let incidents = store.standing(*range.start()).into_iter().chain(within);
        History {
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
            expired_certificates: Vec::new(),
            triggers,
            triggers_left_off,
            incidents: incidents
                .map(|(at, incident)| Happening { at: clock.wall(*at), incident: incident.clone() })
                .collect(),
        }
    }
}

impl Store {
    /// Returns the time since which nothing of a namespace is forgotten.
    fn remembers_since(&self, namespace: &str, now: Tenths) -> Tenths {
        let owner = self.tenants.get(&Some(namespace.into()));
        let strangers = self.tenants.get(&None).and_then(|strangers| strangers.forgot);
        let forgot = owner.map_or(self.forgot, |owner| owner.forgot).max(strangers);
        forgot.unwrap_or(0).max(now.saturating_sub(tenths_of(LIFETIME)))
    }

    /// Counts the triggers of other objects that were answered: those that were asked for within [`LATELY`], and those that are
    /// silent. One between them says nothing about whether KEDA asks at all.
    fn others(&self, object: u64, now: Tenths) -> (usize, usize) {
        let oldest = now.saturating_sub(tenths_of(LIFETIME));
        let others = self
            .triggers
            .values()
            .filter(|trigger| trigger.object != object && trigger.payer.is_some() && trigger.is_of_keda());
        others.filter(|trigger| trigger.asked_at >= oldest).fold((0, 0), |(asked, silent), trigger| {
            let age = now.saturating_sub(trigger.asked_at);
            match (age <= tenths_of(LATELY), age > trigger.longest_pause()) {
                (true, _) => (asked + 1, silent),
                (false, true) => (asked, silent + 1),
                (false, false) => (asked, silent),
            }
        })
    }

    fn triggers_of(
        &self,
        object: u64,
        namespace: &str,
        name: &str,
        clock: Clock,
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
        clock: Clock,
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
            is_silent: clock.now.saturating_sub(trigger.asked_at) > trigger.longest_pause(),
            changes: changes
                .filter_map(|entry| Some(Change { at: clock.wall(entry.at), event: self.event(entry.packed, clock)? }))
                .collect(),
            left_off,
        }
    }

    fn event(&self, packed: Packed, clock: Clock) -> Option<Event> {
        let status = |text| self.texts.get(text).map(|cause| (cause.code.to_owned(), cause.text.to_owned()));
        Some(match packed.unpacked() {
            Unpacked::Nothing => return None,
            Unpacked::Value(value) => Event::Value { value },
            Unpacked::Active(active) => Event::Activity { active },
            Unpacked::Pushed(active) => Event::Pushed { active },
            Unpacked::NoValue(text) => status(text).map(|(code, text)| Event::NoValue { code, text })?,
            Unpacked::NoActivity(text) => status(text).map(|(code, text)| Event::NoActivity { code, text })?,
            Unpacked::Refused(text) => status(text).map(|(code, text)| Event::Refusal { code, text })?,
            Unpacked::Silence(since) => Event::Silence { since: clock.wall(since) },
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
