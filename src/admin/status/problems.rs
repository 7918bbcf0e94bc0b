//! The problems that need a person, the most urgent first: the first screen of the page.

use std::{borrow::Cow, time::Duration};

use serde::{Serialize, Serializer};

use super::{
    Database, DatabaseState, Query, QueryState, ReloadResult, Status, Trigger, TriggerState,
    clock::{Moment, day_and_time},
};
use crate::{
    fault::Fault,
    reading::stalled_rows,
    recorder::{Connection, EndedBy},
    remedy,
    terminal::text::{plural, span},
};

/// The most triggers of one state that are named.
const NAMED: usize = 5;

/// The age from which a reading is old that is told again.
const OLD: Duration = Duration::from_secs(120);

/// One thing that needs a person.
#[derive(Serialize)]
pub(super) struct Problem<'a> {
    #[serde(skip)]
    pub(super) weight: Weight,
    /// A word for it, as in the tables below.
    pub(super) word: &'static str,
    /// The thing that it is about.
    pub(super) subject: Subject<'a>,
    pub(super) since: Option<Moment>,
    pub(super) text: Cow<'a, str>,
    /// The advice, if there is any.
    pub(super) remedy: Option<&'static str>,
}

/// The weight of a problem, for its place and its colour: the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    Bad,
    Warning,
    /// The cause may be intended.
    Note,
}

pub(super) enum Subject<'a> {
    Configuration,
    QueryFile(&'a str),
    Certificate(&'static str),
    Database(&'a str),
    Query(&'a str),
    Trigger {
        namespace: &'a str,
        name: &'a str,
        query: &'a str,
    },
    /// This many more triggers are in this state, and are not named.
    MoreTriggers(usize, TriggerState),
    /// KEDA asks for nothing.
    Keda,
}

impl Serialize for Subject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&match self {
            Self::Configuration => Cow::from("configuration"),
            Self::QueryFile(name) => format!("query file {name}").into(),
            Self::Certificate(key) => format!("certificate {key}").into(),
            Self::Database(name) => format!("database {name}").into(),
            Self::Query(name) => format!("query {name}").into(),
            Self::Trigger { namespace, name, query } => format!("trigger {namespace}/{name}, query {query}").into(),
            Self::MoreTriggers(more, _) => plural(*more, "more trigger", "more triggers").into(),
            Self::Keda => "KEDA".into(),
        })
    }
}

impl Status {
    /// Returns the number of triggers in a state.
    pub(super) fn count(&self, state: TriggerState) -> usize {
        self.triggers.iter().filter(|trigger| trigger.state == state).count()
    }

    /// Returns a sentence without a full stop, and the weight of the worst problem; `None` if all is well.
    pub(super) fn headline(&self) -> (String, Option<Weight>) {
        let down = self.databases.iter().filter(|database| database.state == DatabaseState::Down).count();
        let failing = self.queries.iter().filter(|query| query.state == QueryState::Failing).count();
        let mut parts = Vec::new();
        if self.files.is_rejected {
            parts.push("the configuration on disk is rejected".to_owned());
        }
        if let files @ 1.. = self.files.rejected.len() {
            parts.push(format!("{} rejected", plural(files, "query file is", "query files are")));
        }
        if let ended @ 1.. = self.files.certificates.iter().filter(|(_, days)| *days < 0).count() {
            parts.push(plural(ended, "certificate has expired", "certificates have expired"));
        }
        let are = |count: usize| if count == 1 { "is" } else { "are" };
        if down > 0 {
            parts.push(format!("{} {} down", plural(down, "database", "databases"), are(down)));
        }
        let disabled = self.databases.iter().filter(|database| self.is_missed(database)).count();
        if disabled > 0 {
            parts.push(format!("{} {} switched off", plural(disabled, "database", "databases"), are(disabled)));
        }
        if failing > 0 {
            parts.push(format!(
                "{} {}",
                plural(failing, "query", "queries"),
                if failing == 1 { "fails" } else { "fail" }
            ));
        }
        for state in [TriggerState::Refused, TriggerState::Failing] {
            let count = self.count(state);
            if count > 0 {
                parts.push(format!("{} {} {}", plural(count, "trigger", "triggers"), are(count), state.word()));
            }
        }
        let is_bad = !parts.is_empty();
        let silent = self.count(TriggerState::Silent);
        if silent > 0 && silent == self.triggers.len() {
            let fate = match self.connection {
                Some(Connection::Ended { .. }) => ", and its connection has ended",
                Some(Connection::Open) => ", and its connection stayed open",
                None => "",
            };
            parts.push(format!("KEDA asks for nothing any more{fate}"));
        }
        let of_databases = |count: usize, what: &str| match count {
            0 => None,
            count => Some(format!("{} {what}", plural(count, "database", "databases"))),
        };
        parts.extend(of_databases(self.databases.iter().filter(|one| one.is_on_standby()).count(), "on a standby"));
        let crowded = self.databases.iter().filter(|one| one.crowded_since.is_some()).count();
        parts.extend(of_databases(crowded, "without a free connection"));
        let deaf = self.databases.iter().filter(|one| one.is_deaf()).count();
        parts.extend(of_databases(deaf, "without notifications"));
        if let soon @ 1.. = self.files.certificates.iter().filter(|(_, days)| *days >= 0).count() {
            parts.push(plural(soon, "certificate expires soon", "certificates expire soon"));
        }
        if let unheard @ 1.. = self.queries.iter().filter(|query| query.unannounced_since.is_some()).count() {
            parts.push(format!("{} late", plural(unheard, "query sees changes", "queries see changes")));
        }
        if let changed @ 1.. = self.databases.iter().filter(|one| one.path_changed_at.is_some()).count() {
            parts.push(format!("{} another search_path", plural(changed, "database has", "databases have")));
        }
        if let unseen @ 1.. = self.queries.iter().filter(|query| query.silent_keys > 0).count() {
            parts.push(format!("{} asked for unknown keys", plural(unseen, "query is", "queries are")));
        }
        if let stalled @ 1.. = self.queries.iter().filter(|query| query.stalled.is_some()).count() {
            parts.push(format!("{} stalled rows", plural(stalled, "query has", "queries have")));
        }
        if silent > 0 && silent < self.triggers.len() {
            parts.push(format!("{} {} silent", plural(silent, "trigger", "triggers"), are(silent)));
        }
        match parts.as_slice() {
            [] => (self.quiet_headline(), None),
            parts => (capitalised(&parts.join(", ")), Some(if is_bad { Weight::Bad } else { Weight::Warning })),
        }
    }

    /// Returns whether KEDA asks for nothing any more.
    fn is_all_silent(&self) -> bool {
        !self.triggers.is_empty() && self.count(TriggerState::Silent) == self.triggers.len()
    }

    /// Returns whether a database is switched off, and something asks for its queries.
    fn is_missed(&self, database: &Database) -> bool {
        let is_of = |query: &Query| query.state == QueryState::Failing && query.databases.contains(&database.name);
        database.state == DatabaseState::Disabled && self.queries.iter().any(is_of)
    }

    /// Returns the number of triggers that start nothing although they have a value.
    pub(super) fn held(&self) -> usize {
        self.triggers.iter().filter(|trigger| trigger.state == TriggerState::Answered && trigger.is_held).count()
    }

    fn is_failing(&self, query: &str) -> bool {
        self.queries.iter().any(|known| known.name == query && known.state == QueryState::Failing)
    }

    /// Returns everything that needs a person.
    pub(super) fn problems(&self) -> Vec<Problem<'_>> {
        let mut problems = self.problems_of_files();
        for database in &self.databases {
            let subject = Subject::Database(&database.name);
            if database.state == DatabaseState::Down {
                let text = database.error.as_deref().unwrap_or_default().into();
                let (word, since, remedy) = ("down", Some(database.since), database.remedy);
                problems.push(Problem { weight: Weight::Bad, word, subject, since, text, remedy });
                continue;
            }
            if self.is_missed(database) {
                let text = "it is switched off in the configuration, and its queries are asked for".into();
                let (weight, word, since) = (Weight::Bad, "disabled", Some(database.since));
                let remedy = Some(remedy::of_fault(Fault::Disabled));
                problems.push(Problem { weight, word, subject, since, text, remedy });
                continue;
            }
            if database.is_on_standby() {
                let text = "readings come from a standby, and came from a primary before: they may be old".into();
                let remedy = "After a failover the connections lead to the wrong server: list all hosts, with \
                              `target_session_attrs: read-write`.";
                let (weight, word, remedy) = (Weight::Warning, "standby", Some(remedy));
                let subject = Subject::Database(&database.name);
                problems.push(Problem { weight, word, subject, since: None, text, remedy });
            }
            if database.may_lag && !database.has_left_primary {
                let text = "readings come from a standby, and are as old as its replay, however old that is".into();
                let remedy = "Is a standby wanted? Else set `target_session_attrs: read-write`. `max_lag` limits the \
                              age: it is not set.";
                let (weight, word, remedy) = (Weight::Note, "standby", Some(remedy));
                let subject = Subject::Database(&database.name);
                problems.push(Problem { weight, word, subject, since: None, text, remedy });
            }
            if let Some(changed_at) = database.path_changed_at {
                let text = "the search_path of its role has changed: names of tables may mean others".into();
                let remedy = "Set `search_path` of the database, or name schemas in the queries. ALTER ROLE ... RESET search_path takes it back.";
                let (weight, word, since, remedy) = (Weight::Note, "path", Some(changed_at), Some(remedy));
                let subject = Subject::Database(&database.name);
                problems.push(Problem { weight, word, subject, since, text, remedy });
            }
            if let Some(since) = database.crowded_since {
                let text =
                    "readings wait for a connection: calls may get an error although the database answers".into();
                let remedy = "Raise `pool_size`, or make cheaper what holds the connections: the log and the latest events name it.";
                let (weight, word, since, remedy) = (Weight::Warning, "full", Some(since), Some(remedy));
                let subject = Subject::Database(&database.name);
                problems.push(Problem { weight, word, subject, since, text, remedy });
            }
            if database.is_deaf() {
                let text = "notifications do not arrive, so that readings may be as old as max_age".into();
                let remedy = "The log says why. Behind a pooler in transaction mode set `listen_host` to the server itself; a standby has none.";
                let (weight, word, remedy) = (Weight::Warning, "deaf", Some(remedy));
                problems.push(Problem { weight, word, subject, since: None, text, remedy });
            }
        }
        let is_down = |name: &String| {
            let is_off = |database: &Database| database.state == DatabaseState::Down || self.is_missed(database);
            self.databases.iter().any(|database| database.name == *name && is_off(database))
        };
        // A query that fails because its database is down or switched off is no problem of its own.
        let failing = self.queries.iter().filter(|query| query.state == QueryState::Failing);
        for query in failing.filter(|query| !query.databases.iter().any(is_down)) {
            let text = query.error.as_deref().unwrap_or_default();
            let (subject, remedy) = (Subject::Query(&query.name), remedy::of_status("", text));
            let (weight, word, since, text) = (Weight::Bad, "failing", query.since, text.into());
            problems.push(Problem { weight, word, subject, since, text, remedy });
        }
        for query in self.queries.iter().filter(|query| query.silent_keys > 0) {
            let keys = plural(query.silent_keys, "key that triggers ask for has", "keys that triggers ask for have");
            let text = format!("{keys} been in no answer since the start, and counts as zero").into();
            let remedy = "Is the key of the trigger spelt right? The log names it. If its queue has had no row yet, all is well.";
            let (weight, word, subject) = (Weight::Note, "unknown", Subject::Query(&query.name));
            problems.push(Problem { weight, word, subject, since: None, text, remedy: Some(remedy) });
        }
        for query in &self.queries {
            let Some((rows, remedy)) = query.stalled else { continue };
            let text = format!("{}, and counted in neither number: no worker gets them", stalled_rows(rows)).into();
            let (weight, word, subject) = (Weight::Warning, "stalled", Subject::Query(&query.name));
            problems.push(Problem { weight, word, subject, since: None, text, remedy: Some(remedy) });
        }
        for query in self.queries.iter().filter(|query| query.unannounced_since.is_some()) {
            let text = "changes come without the notifications that it waits for, and are seen late".into();
            let remedy = "Is the NOTIFY trigger of its table gone or disabled? `clapometer notify-sql` makes it again. \
                          Numbers that change by the clock need `next_change`.";
            let (weight, word, subject) = (Weight::Warning, "unheard", Subject::Query(&query.name));
            problems.push(Problem {
                weight,
                word,
                subject,
                since: query.unannounced_since,
                text,
                remedy: Some(remedy),
            });
        }
        let is_told = |query: &&Query| {
            let mut triggers = self.triggers.iter().filter(|trigger| trigger.query == query.name);
            triggers.any(|trigger| trigger.state == TriggerState::Answered)
        };
        for query in self.queries.iter().filter(is_told) {
            let Some(read_at) = query.old_reading() else { continue };
            let text = format!(
                "KEDA is told a number that was read {} ago, because max_age is {}",
                span(read_at.age.as_secs_f64()),
                span(query.max_age.as_secs_f64())
            );
            let remedy =
                "What changed since then is seen when the reading is that old: lower `max_age` if it is too late.";
            let (weight, word, subject) = (Weight::Note, "old", Subject::Query(&query.name));
            problems.push(Problem { weight, word, subject, since: None, text: text.into(), remedy: Some(remedy) });
        }
        for query in &self.queries {
            let Some((total, keys)) = query.short else { continue };
            let keys =
                plural(keys, "key is told fewer Jobs than it has rows", "keys are told fewer Jobs than they have rows");
            let text = format!("{keys}: the budget of {total} is used up").into();
            let remedy = "The Jobs of other keys have to end first, or raise `total` of its `budget`.";
            let (weight, word, subject) = (Weight::Note, "budget", Subject::Query(&query.name));
            problems.push(Problem { weight, word, subject, since: None, text, remedy: Some(remedy) });
        }
        let all_silent = self.is_all_silent();
        let of_silence = match all_silent {
            true => remedy::of_silence(self.connection),
            false => remedy::OF_ONE_SILENCE,
        };
        for state in [TriggerState::Refused, TriggerState::Failing, TriggerState::Silent] {
            let weight = if state == TriggerState::Silent { Weight::Note } else { Weight::Bad };
            // A trigger that fails because its query fails is no problem of its own.
            let is_told = |trigger: &&Trigger| state == TriggerState::Failing && self.is_failing(&trigger.query);
            let triggers = self.triggers.iter().filter(|trigger| trigger.state == state);
            let mut triggers = triggers.filter(|trigger| !is_told(trigger));
            for trigger in triggers.by_ref().take(if state == TriggerState::Refused { NAMED } else { 2 }) {
                let Trigger { namespace, name, query, .. } = trigger;
                let (text, remedy) = match state {
                    TriggerState::Silent if all_silent => ("KEDA has stopped asking", Some(of_silence)),
                    TriggerState::Silent => ("KEDA has stopped asking, and asks for others here", Some(of_silence)),
                    _ => {
                        let (code, text) =
                            (trigger.code.unwrap_or_default(), trigger.error.as_deref().unwrap_or_default());
                        (text, remedy::of_status(code, text))
                    }
                };
                let (subject, since, text) =
                    (Subject::Trigger { namespace, name, query }, Some(trigger.since), text.into());
                problems.push(Problem { weight, word: state.word(), subject, since, text, remedy });
            }
            match triggers.count() {
                0 => {}
                more => {
                    let (word, subject) = (state.word(), Subject::MoreTriggers(more, state));
                    problems.push(Problem { weight, word, subject, since: None, text: "".into(), remedy: None });
                }
            }
        }
        if all_silent {
            let since = self.triggers.iter().map(|trigger| trigger.asked_at).min_by_key(|asked_at| asked_at.age);
            let fate = match self.connection {
                Some(Connection::Ended { at, by: EndedBy::Peer }) => {
                    format!("; its connection ended at {}, and no new one came", day_and_time(at, &self.process.now))
                }
                Some(Connection::Ended { at, by: EndedBy::Clapometer }) => {
                    format!(
                        "; clapometer ended the connection at {}, and no new one came",
                        day_and_time(at, &self.process.now)
                    )
                }
                Some(Connection::Open) => "; its connection stayed open".to_owned(),
                None => String::new(),
            };
            let (text, subject) = (format!("no trigger at all is asked for{fate}").into(), Subject::Keda);
            let remedy = Some(remedy::of_silence(self.connection));
            problems.insert(0, Problem { weight: Weight::Bad, word: "silent", subject, since, text, remedy });
        }
        problems.sort_by_key(|problem| problem.weight);
        problems
    }

    fn problems_of_files(&self) -> Vec<Problem<'_>> {
        let mut problems = Vec::new();
        if self.files.is_rejected {
            // The problem began with the first of the rejected reloads in a row.
            let rejected = self.reloads.iter().take_while(|reload| reload.result == ReloadResult::Rejected);
            let since = rejected.last().map(|reload| reload.at);
            let text = self.reloads.first().and_then(|latest| latest.faults.first()).map_or("", String::as_str).into();
            let remedy = Some(
                "Correct the file: a restart would fail with it. The log and `clapometer check` have every fault.",
            );
            let (weight, word, subject) = (Weight::Bad, "rejected", Subject::Configuration);
            problems.push(Problem { weight, word, subject, since, text, remedy });
        }
        for file in &self.files.rejected {
            let of_file =
                |fault: &&String| fault.strip_prefix(file.as_str()).is_some_and(|rest| rest.starts_with(": "));
            let told = self.reloads.iter().find_map(|reload| Some((reload.at, reload.faults.iter().find(of_file)?)));
            let (since, text) = told.map_or((None, ""), |(at, fault)| (Some(at), fault.as_str()));
            let remedy = Some(match file.ends_with(".yaml") {
                true => {
                    "Its team has to correct it. Its last good version is served, but none after a restart. The log has every fault."
                }
                false => "The directory cannot be listed: look at the volume, and at the log.",
            });
            let (weight, word, subject, text) = (Weight::Bad, "rejected", Subject::QueryFile(file), text.into());
            problems.push(Problem { weight, word, subject, since, text, remedy });
        }
        for (key, days) in &self.files.certificates {
            let (weight, text) = match days {
                ..0 => (Weight::Bad, "it has expired: KEDA cannot connect, and a ScaledJob does not say so".to_owned()),
                0 => (Weight::Warning, "it expires within a day".to_owned()),
                days => (Weight::Warning, format!("it expires in {days} days")),
            };
            let remedy = Some("Renew it: a new file is read by itself. cert-manager: `kubectl describe certificate`.");
            let (word, subject, text) = ("ending", Subject::Certificate(key), text.into());
            problems.push(Problem { weight, word, subject, since: None, text, remedy });
        }
        problems
    }
}

impl Query {
    /// Returns the time of a reading that is told again although it is old, because `max_age` lets it.
    pub(super) fn old_reading(&self) -> Option<&Moment> {
        let has_one = self.value.is_some() || self.keys.is_some();
        let is_old = |read_at: &&Moment| read_at.age > OLD && read_at.age <= self.max_age;
        self.read_at.as_ref().filter(is_old).filter(|_| has_one && self.state == QueryState::Good)
    }

    /// Returns the number of the minute of the history in which a reload changed it.
    pub(super) fn changed_minute(&self) -> Option<usize> {
        let minutes_ago = usize::try_from(self.changed_at?.age.as_secs() / 60).ok()?;
        self.history.len().checked_sub(1 + minutes_ago)
    }
}

impl Database {
    /// Returns whether the database answers as a standby now, and answered as a primary before.
    fn is_on_standby(&self) -> bool {
        self.state != DatabaseState::Down && self.has_left_primary
    }

    /// Returns whether the database answers, but the notifications that its queries wait for do not arrive.
    fn is_deaf(&self) -> bool {
        self.state != DatabaseState::Down && self.notifications == Some(false)
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
