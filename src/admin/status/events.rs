//! The latest events: the episodes that the flight recorder knows, as the page tells them.

use super::{
    Database, DatabaseState, Event, Role,
    clock::{Clock, DAY, Moment},
};
use crate::{
    recorder::{Episode, Incident, Matter, Recorder, Trouble},
    remedy,
};

/// Returns the latest events, the latest first, of which the start of the process is the first that it knows.
pub(super) fn latest(recorder: &Recorder, databases: &[Database], started_at: Moment, clock: &Clock) -> Vec<Event> {
    let episodes = recorder.episodes().into_iter().map(|episode| event(episode, databases, clock));
    let start = Event {
        word: "started",
        text: "this process started, and knows nothing of the time before: metrics and `kubectl logs --previous` may"
            .to_owned(),
        ..nothing(started_at, Some(started_at))
    };
    episodes.chain(Some(start).filter(|start| start.at.age < DAY)).collect()
}

fn nothing(at: Moment, until: Option<Moment>) -> Event {
    let text = String::new();
    Event { at, until, word: "", database: None, namespace: None, name: None, query: None, others: 0, text }
}

fn event(episode: Episode, databases: &[Database], clock: &Clock) -> Event {
    let at = clock.moment(episode.began_at);
    let until = episode.ended_at.map(|ended_at| clock.moment(ended_at));
    match episode.matter {
        Matter::Triggers { trouble, code, text, namespace, name, query, others } => {
            let (word, text) = match trouble {
                Trouble::Refused => ("refused", format!("{code}: {text}")),
                Trouble::Failing => ("failing", format!("{code}: {text}")),
                Trouble::Silent => ("silent", "KEDA did not ask".to_owned()),
                Trouble::Changed => ("changed", format!("the metadata changed: {text}")),
            };
            let (namespace, name, query) = (Some(namespace), Some(name), Some(query));
            Event { word, namespace, name, query, others, text, ..nothing(at, until) }
        }
        Matter::Incident(incident) => {
            let (word, database, query, text) = in_words(incident);
            let known = database.as_ref().and_then(|name| databases.iter().find(|database| database.name == *name));
            // A reload makes a database anew, and then there is no word of the end.
            let until = until.or_else(|| known.filter(|known| !known.is(word)).map(|known| later(known.since, at)));
            Event { until, word, database, query, text, ..nothing(at, until) }
        }
    }
}

/// Returns the word for an incident, its database, its query, and a text.
fn in_words(incident: Incident) -> (&'static str, Option<String>, Option<String>, String) {
    let of = |word, database: String, text: String| (word, Some(database), None, text);
    match incident {
        Incident::DatabaseDown { database, reason, step } => {
            of("down", database, step.unwrap_or_else(|| remedy::reason_in_words(&reason)))
        }
        Incident::Standby { database } => of("standby", database, "readings came from a standby".to_owned()),
        Incident::Deaf { database, reason } => of("deaf", database, format!("notifications did not arrive ({reason})")),
        Incident::PoolFull { database, held_by } => {
            let by = if held_by.is_empty() { held_by } else { format!(", held most of the time by {held_by}") };
            of("full", database, format!("readings waited for a connection{by}"))
        }
        Incident::SearchPath { database } => {
            of("path", database, "the search_path of the role changed: names of tables may mean others".to_owned())
        }
        Incident::Unannounced { query, database } => {
            ("unheard", Some(database), Some(query), "a change came without a notification".to_owned())
        }
        Incident::Standstill { .. } => {
            ("still", None, None, "this process stood still: it had no CPU, or was paused".to_owned())
        }
        Incident::DatabaseUp { database }
        | Incident::Primary { database }
        | Incident::Hearing { database }
        | Incident::PoolFree { database }
        | Incident::Dropped { database, .. }
        | Incident::SearchPathSet { database } => of("", database, String::new()),
        Incident::Reload { changed } => ("reload", None, None, changed),
        Incident::ReloadRejected { fault, .. } => ("reload", None, None, fault),
    }
}

/// Returns the later of two moments.
fn later(one: Moment, other: Moment) -> Moment {
    if one.age < other.age { one } else { other }
}

impl Database {
    /// Returns whether it is in the state that an event names.
    fn is(&self, word: &str) -> bool {
        match word {
            "down" => self.state == DatabaseState::Down,
            "standby" => self.role == Some(Role::Standby),
            "deaf" => self.notifications == Some(false),
            "full" => self.crowded_since.is_some(),
            _ => true,
        }
    }
}
