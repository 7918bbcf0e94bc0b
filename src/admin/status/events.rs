//! The latest events: the episodes that the flight recorder knows, as the page tells them.

use std::time::Duration;

use super::{
    Database, DatabaseState, Event, Role, Trigger, TriggerState,
    clock::{Clock, DAY, Moment},
};
use crate::{
    recorder::{Episode, Incident, Matter, OtherQuery, Recorder, Trouble},
    remedy,
};

/// The most events of triggers that ask for another query, the most of lasting silences, and the most of one namespace
/// among each.
const MOST: usize = 16;
const MOST_OF_A_NAMESPACE: usize = MOST / 4;

/// What happens to several triggers within this time is one event: four of KEDA's default polling intervals.
const TOGETHER: Duration = Duration::from_secs(120);

/// Returns the latest events, the latest first, of which the start of the process is the first that it knows.
pub(super) fn latest(
    recorder: &Recorder,
    other_queries: &[OtherQuery],
    triggers: &[Trigger],
    databases: &[Database],
    started_at: Moment,
    clock: &Clock,
) -> Vec<Event> {
    let episodes = recorder.episodes().into_iter().map(|episode| event(episode, databases, clock));
    let others = grouped(other_queries.iter().map(|other| of_other_query(other, clock)));
    let silent = triggers.iter().filter(|trigger| trigger.state == TriggerState::Silent);
    let silent = grouped(silent.map(of_lasting_silence));
    let mut episodes: Vec<Event> = episodes.chain(others).chain(silent).collect();
    episodes.sort_by_key(|event| event.at.age);
    let start = Event {
        word: "started",
        text: "this process started, and knows nothing of the time before".to_owned(),
        ..nothing(started_at, Some(started_at))
    };
    episodes.into_iter().chain(Some(start).filter(|start| start.at.age < DAY)).collect()
}

fn of_other_query(other: &OtherQuery, clock: &Clock) -> Event {
    let OtherQuery { at, namespace, name, query, before } = other;
    let (at, text) = (clock.moment(*at), format!("the query changed from {before} to {query}"));
    let (namespace, name, query) = (Some(namespace.clone()), Some(name.clone()), Some(query.clone()));
    Event { word: "changed", namespace, name, query, text, ..nothing(at, Some(at)) }
}

/// Returns the event of a trigger that KEDA does not ask for. The recorder knows silences that are over.
fn of_lasting_silence(trigger: &Trigger) -> Event {
    let Trigger { namespace, name, query, asked_at, .. } = trigger;
    let (namespace, name, query) = (Some(namespace.clone()), Some(name.clone()), Some(query.clone()));
    let text = "KEDA does not ask any more".to_owned();
    Event { word: "silent", namespace, name, query, text, ..nothing(*asked_at, None) }
}

/// Joins what happened to several triggers at the same time, and leaves out the oldest of too many.
fn grouped(events: impl Iterator<Item = Event>) -> Vec<Event> {
    let mut latest_first: Vec<Event> = events.collect();
    latest_first.sort_by_key(|event| event.at.age);
    let mut groups: Vec<Event> = Vec::new();
    for event in latest_first {
        let is_same = |known: &&mut Event| known.text == event.text && event.at.age < known.at.age + TOGETHER;
        if let Some(known) = groups.iter_mut().find(is_same) {
            known.others += 1;
            continue;
        }
        let of_namespace = groups.iter().filter(|known| known.namespace == event.namespace).count();
        if groups.len() < MOST && of_namespace < MOST_OF_A_NAMESPACE {
            groups.push(event);
        }
    }
    groups
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
                Trouble::Failing => {
                    let state = remedy::past_state(&text).map_or_else(String::new, |state| format!(": {state}"));
                    ("failing", format!("{code}: {text}{state}"))
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_happens_to_many_triggers_at_once_is_one_event_and_a_namespace_has_few() {
        tokio::time::advance(DAY).await;
        let clock = Clock::now(&Recorder::default());
        let silent = |namespace: &str, minutes_ago: u64| {
            let asked_at = clock.moment(clock.instant() - Duration::from_secs(60 * minutes_ago));
            let (namespace, text) = (Some(namespace.to_owned()), "KEDA does not ask any more".to_owned());
            Event { word: "silent", namespace, text, ..nothing(asked_at, None) }
        };
        let told = |events: Vec<Event>| -> Vec<(u64, usize)> {
            grouped(events.into_iter()).iter().map(|event| (event.at.age.as_secs() / 60, event.others)).collect()
        };
        assert_eq!(told(vec![silent("a", 31), silent("b", 5), silent("a", 30)]), [(5, 0), (30, 1)]);
        let of_one = (0..10).map(|number| silent("a", 10 * number + 10));
        let of_many = (0..40).map(|number| silent(&number.to_string(), 10 * number + 15));
        assert_eq!(told(of_one.clone().collect()), [(10, 0), (20, 0), (30, 0), (40, 0)]);
        assert_eq!(told(of_one.chain(of_many).collect()).len(), MOST);
    }
}
