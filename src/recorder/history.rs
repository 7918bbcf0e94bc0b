//! The history of one object, as the admin port tells it and `clapometer why` reads it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, serde::rfc3339};

use crate::json;

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
    /// The number of those that it asked for within [`LIFETIME`](super::LIFETIME) and does not any more, by the rhythm
    /// of each.
    #[serde(default)]
    pub others_silent: usize,
    /// The other objects that somebody may have meant if no trigger of this one is remembered, as `NAMESPACE/NAME`: all
    /// that KEDA asked for, if they are few, or the one of the nearest name.
    #[serde(default)]
    pub near_objects: Vec<String>,
    /// The keys of the server's certificates that have expired.
    #[serde(default)]
    pub expired_certificates: Vec<String>,
    /// Its triggers, in the order in which they first asked. Metadata that changed makes another trigger.
    pub triggers: Vec<TriggerHistory>,
    /// The number of other triggers that it had, which are not told, because there are too many: first those outside
    /// the window, then those that KEDA asked for longest ago.
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
    /// While it is silent, what became of the connection over which KEDA had asked, as far as it is known.
    #[serde(default)]
    pub connection: Option<Connection>,
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

/// The side that ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndedBy {
    /// It closed the connection, or answered no ping.
    Peer,
    /// The connection was too old, one too many, or flooded, or the process shuts down.
    Clapometer,
}

/// The connection over which KEDA had asked, while it did not ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Connection {
    /// It stayed open, or KEDA has opened another one.
    Open,
    /// It ended, and no new one came.
    Ended {
        /// The time of its end.
        #[serde(with = "rfc3339")]
        at: OffsetDateTime,
        /// The side that ended it.
        by: EndedBy,
    },
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
        /// What became of the connection over which KEDA had asked, as far as it is known.
        #[serde(default)]
        connection: Option<Connection>,
    },
    /// KEDA asked with other metadata than before.
    Metadata {
        /// The names of the keys that changed, shortened.
        keys: String,
    },
}

/// A state of a database that ended because nobody asks any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DroppedState {
    /// It failed.
    Down,
    /// Its readings came from a standby.
    Standby,
    /// Its notifications did not arrive.
    Deaf,
}

/// A query file that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedFile {
    /// Its name in the directory.
    pub name: String,
    /// The part of it that is served.
    pub served: Served,
}

/// The part of a faulty query file that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Served {
    /// All of its queries but those whose names are taken.
    OtherQueries,
    /// Its last good version.
    LastGood,
    /// None of its queries: it has been faulty since the start.
    Nothing,
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
        /// The name of the query file, and what holds now; none for the main file, whose last good version stays in
        /// force.
        #[serde(default)]
        file: Option<RejectedFile>,
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
    /// The configuration sets the `search_path` of a database, so that that of the role does not matter any more.
    SearchPathSet {
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
    /// A state of a database is of no interest any more: the configuration switched the database off, or no query waits
    /// for its notifications.
    Dropped {
        /// Its name in the configuration.
        database: String,
        /// The state.
        state: DroppedState,
        /// True if the database was switched off.
        is_off: bool,
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
