//! The state of everything, as the page and `/api/status` show it: one model, from which both are made.
//!
//! Whoever reaches the admin port sees it. So there is no SQL, no address, no user, no secret, no value of a parameter
//! and no key of a group in it, and no text of a server: a fault has the fixed text that KEDA is told, too.

mod clock;
mod events;
mod gather;
mod html;
mod lately;
mod problems;
mod triggers;
mod view;

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use self::{
    clock::Moment,
    lately::{Change, Trend},
    problems::Problem,
};
pub(super) use self::{gather::Gatherer, html::CONTENT_SECURITY_POLICY, view::View};
use crate::{
    json::{number_if_any, numbers_if_any},
    recorder::Connection,
};

/// The state of everything. The entries of each list that need a person come first.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    process: Process,
    databases: Vec<Database>,
    queries: Vec<Query>,
    triggers: Vec<Trigger>,
    /// Requests of triggers for which there was no place among the 2,000 that are remembered.
    untracked_requests: u64,
    /// The latest first.
    events: Vec<Event>,
    /// The latest first.
    reloads: Vec<Reload>,
    /// Problems that need a person and are in none of the lists.
    #[serde(skip)]
    files: Files,
    /// The connection over which KEDA last asked, while it asks for nothing.
    #[serde(skip)]
    connection: Option<Connection>,
}

/// The files that are wrong now, or will be soon.
#[derive(Debug, Default)]
struct Files {
    /// True if the main file on disk is refused.
    is_rejected: bool,
    /// The query files that are refused.
    rejected: Vec<String>,
    /// The certificates that have ended, or will have within a week, by their keys, with the days that are left.
    certificates: Vec<(&'static str, i64)>,
}

/// The answer of `/api/status`.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    status: &'a Status,
    problems: Vec<Problem<'a>>,
    changes: Vec<Change<'a>>,
}

/// The process that speaks. There may be several, and KEDA asks one of them.
#[derive(Debug, Serialize)]
struct Process {
    /// The host's name as the process sees it: in Kubernetes the pod's.
    name: String,
    version: &'static str,
    commit: &'static str,
    started_at: Moment,
    now: Moment,
}

#[derive(Debug, Serialize)]
struct Database {
    name: String,
    state: DatabaseState,
    since: Moment,
    /// The reason why it is down, as in the metrics and the log.
    reason: Option<&'static str>,
    /// The same as a sentence.
    error: Option<String>,
    /// The remedy, as far as it is known.
    #[serde(skip)]
    remedy: Option<&'static str>,
    /// None before the first session.
    role: Option<Role>,
    /// True if readings came from a primary before, and come from a standby now.
    #[serde(skip)]
    has_left_primary: bool,
    /// True if readings come from a standby whose age nothing limits.
    #[serde(skip)]
    may_lag: bool,
    /// The time at which the role's `search_path` changed, within the last day.
    #[serde(skip)]
    path_changed_at: Option<Moment>,
    /// The time since which readings have to wait for a connection, if they do.
    #[serde(skip)]
    crowded_since: Option<Moment>,
    /// True if its role can do more than read.
    privileged: Option<bool>,
    breaker: Breaker,
    /// True if notifications are known to arrive; none if no query waits for them.
    notifications: Option<bool>,
    /// Statements of its queries since the start.
    statements: u64,
}

/// The states of a database, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum DatabaseState {
    Down,
    /// Nothing was asked yet.
    Unknown,
    Up,
    /// Switched off in the configuration.
    Disabled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Primary,
    Standby,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Breaker {
    Closed,
    Open,
}

#[derive(Debug, Serialize)]
struct Query {
    name: String,
    databases: Vec<String>,
    state: QueryState,
    /// The time since which it fails.
    since: Option<Moment>,
    reason: Option<&'static str>,
    error: Option<String>,
    /// The value of the latest reading, undivided; none if it depends on parameters or keys.
    #[serde(serialize_with = "number_if_any")]
    value: Option<f64>,
    #[serde(serialize_with = "number_if_any")]
    activity: Option<f64>,
    /// The number of keys in the latest reading of a grouped query.
    keys: Option<usize>,
    /// The number of keys that are asked for in vain and count as zero.
    #[serde(skip)]
    silent_keys: usize,
    /// The Jobs that its keys share, and the number of keys that get fewer than they have rows, if any does.
    #[serde(skip)]
    short: Option<(u64, usize)>,
    /// The number of rows of a preset that no worker gets, if there are any, and what they wait for.
    #[serde(skip)]
    stalled: Option<(f64, &'static str)>,
    /// The time since which changes come without the notifications that it waits for.
    #[serde(skip)]
    unannounced_since: Option<Moment>,
    read_at: Option<Moment>,
    age_seconds: Option<f64>,
    duration_seconds: Option<f64>,
    /// Statements since the start.
    statements: u64,
    /// The age up to which a reading is told again.
    #[serde(skip)]
    max_age: Duration,
    /// A trend of its value that may be no accident.
    #[serde(skip)]
    trend: Option<Trend>,
    /// The greatest value of each of the last 60 minutes, the present one last.
    #[serde(serialize_with = "numbers_if_any")]
    history: Vec<Option<f64>>,
    /// The time within these minutes at which a reload changed the query or its database.
    changed_at: Option<Moment>,
}

/// The states of a query, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum QueryState {
    Failing,
    Good,
    /// Nobody has asked for it.
    Unread,
}

#[derive(Debug, Serialize)]
struct Trigger {
    namespace: String,
    name: String,
    query: String,
    state: TriggerState,
    since: Moment,
    asked_at: Moment,
    /// The value that KEDA was told; none if it was told an error.
    #[serde(serialize_with = "number_if_any")]
    value: Option<f64>,
    /// The activity that KEDA was told.
    active: Option<bool>,
    /// The time since which KEDA is told this value, and the latest other value.
    value_since: Option<Moment>,
    #[serde(serialize_with = "number_if_any")]
    value_before: Option<f64>,
    /// The target that KEDA divides by, and the number that the activity must exceed; none if several triggers differ.
    #[serde(serialize_with = "number_if_any")]
    target: Option<f64>,
    #[serde(serialize_with = "number_if_any")]
    activation: Option<f64>,
    /// What the numbers come to, where they do not say it themselves; none if several triggers differ.
    effect: Option<String>,
    /// True if it starts nothing although it has a value.
    #[serde(skip)]
    is_held: bool,
    /// The latest change of its metadata.
    changed: Option<TriggerChange>,
    /// The triggers that it is, if there are several, and what each was told. A refused one is none of them.
    variants: Vec<Variant>,
    /// The code of the refusal or the error that KEDA is told, else `OK`; none before the first answer.
    code: Option<&'static str>,
    /// The text of the refusal or the error.
    error: Option<String>,
    /// The answers so far by their codes.
    requests: BTreeMap<&'static str, u64>,
}

/// A change of a trigger's metadata.
#[derive(Debug, Serialize)]
struct TriggerChange {
    at: Moment,
    /// The keys that changed.
    keys: String,
    /// The target, the activation and the divisor as far as they changed, with the old and the new number; empty if
    /// none did.
    numbers: String,
}

/// One of several triggers of an object that ask one query with other parameters or numbers.
#[derive(Debug, Serialize)]
struct Variant {
    #[serde(serialize_with = "number_if_any")]
    value: Option<f64>,
    active: Option<bool>,
    #[serde(serialize_with = "number_if_any")]
    target: Option<f64>,
    #[serde(serialize_with = "number_if_any")]
    activation: Option<f64>,
    effect: Option<String>,
    code: Option<&'static str>,
    error: Option<String>,
}

/// The states of a trigger, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum TriggerState {
    /// Its metadata is wrong, or it may not use the query: it gets no number before somebody mends that.
    Refused,
    /// There is no reading: it gets an error, and KEDA holds still.
    Failing,
    /// KEDA does not ask any more.
    Silent,
    /// It is asked for and was not answered yet.
    Waiting,
    Answered,
}

impl TriggerState {
    const ALL: [Self; 5] = [Self::Refused, Self::Failing, Self::Silent, Self::Waiting, Self::Answered];

    fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Failing => "failing",
            Self::Silent => "silent",
            Self::Waiting => "waiting",
            Self::Answered => "answered",
        }
    }
}

/// Something that went wrong or changed, and may be over.
#[derive(Debug, Serialize)]
struct Event {
    at: Moment,
    /// Its end, which is `at` if it has no duration; none while it lasts.
    until: Option<Moment>,
    /// A word for it, as in the tables.
    word: &'static str,
    /// The database that it is about.
    database: Option<String>,
    /// The trigger that it is about, by the names of its object.
    namespace: Option<String>,
    name: Option<String>,
    /// The query that it is about.
    query: Option<String>,
    /// The number of other triggers that it happened to at the same time.
    others: usize,
    text: String,
}

#[derive(Debug, Serialize)]
struct Reload {
    at: Moment,
    result: ReloadResult,
    /// The keys that it changed.
    changed: Option<String>,
    /// The reasons why the last good configuration stays in force.
    faults: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum ReloadResult {
    Applied,
    Rejected,
}

impl Status {
    /// Returns the body of `/api/status`.
    pub(super) fn json(&self) -> String {
        let document = Document { status: self, problems: self.problems(), changes: self.changes() };
        serde_json::to_string(&document).expect("the model has no map with keys that are not text")
    }
}
