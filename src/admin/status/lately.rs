//! What changed lately: all may be well, and be something else than before.

use std::{borrow::Cow, time::Duration};

use serde::{Serialize, Serializer};

use super::{
    Event, Query, Reload, ReloadResult, Status,
    clock::{Clock, Moment},
};
use crate::{
    config::NO_CHANGE,
    terminal::text::{number, plural},
};

/// The time for which a change is told.
const LATELY: Duration = Duration::from_secs(1_800);

/// The minutes after which a new trend of a value may be no accident, and those before that it is compared with.
const FELL: usize = 5;
const BEFORE_IT_FELL: usize = 10;
const STOOD: usize = 15;
const BEFORE_IT_STOOD: usize = 15;

/// The time between a reload and the minute of a trend that may follow from it.
const SAME_MINUTE: Duration = Duration::from_secs(120);

/// The most minutes for which nobody has asked.
const UNREAD: usize = 2;

/// Something that changed.
#[derive(Serialize)]
pub(super) struct Change<'a> {
    pub(super) at: Moment,
    /// Its end, if it had a duration.
    pub(super) until: Option<Moment>,
    /// A word for it, as in the tables.
    pub(super) word: &'static str,
    /// The thing that it is about.
    pub(super) subject: Subject<'a>,
    /// The number of other triggers that it happened to at the same time.
    pub(super) others: usize,
    pub(super) text: Cow<'a, str>,
}

pub(super) enum Subject<'a> {
    Configuration,
    Process,
    Database(&'a str),
    Query(&'a str),
    Trigger { namespace: &'a str, name: &'a str },
}

/// A trend of a query's value within the last hour that may be no accident.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Trend {
    /// It is 0, and was above 0 in each of so many minutes before, lastly this number.
    Fell { since: Moment, minutes: usize, from: f64 },
    /// It stands at this number, and changed nearly each minute before.
    Stands { since: Moment, at: f64 },
}

impl Serialize for Subject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&match self {
            Self::Configuration => Cow::from("configuration"),
            Self::Process => "this process".into(),
            Self::Database(name) => format!("database {name}").into(),
            Self::Query(name) => format!("query {name}").into(),
            Self::Trigger { namespace, name } => format!("trigger {namespace}/{name}").into(),
        })
    }
}

impl Status {
    /// Returns what changed lately and may be the reason of something, then the troubles that are over, then the
    /// start. In each part the latest comes first.
    pub(super) fn changes(&self) -> Vec<Change<'_>> {
        let has_changed =
            |reload: &&Reload| reload.result == ReloadResult::Applied && reload.changed.as_deref() != Some(NO_CHANGE);
        let reloads = self.reloads.iter().filter(has_changed).map(|reload| Change {
            at: reload.at,
            until: None,
            word: "reload",
            subject: Subject::Configuration,
            others: 0,
            text: format!("changed {}", reload.changed.as_deref().unwrap_or_default()).into(),
        });
        let is_recent = |change: &Change<'_>| change.until.unwrap_or(change.at).age < LATELY;
        let changes = self.events.iter().filter_map(of_event).chain(reloads).filter(is_recent);
        let trends = self.queries.iter().filter_map(|query| Some(of_trend(query, query.trend.as_ref()?)));
        let mut changes: Vec<Change<'_>> = changes.chain(trends).collect();
        changes.sort_by_key(|change| (change.word == "started", change.until.is_some(), change.at.age));
        changes
    }

    /// Returns a sentence without a full stop for the time when nothing needs a person.
    pub(super) fn quiet_headline(&self) -> String {
        if self.triggers.is_empty() {
            return "KEDA has not asked yet".to_owned();
        }
        let changes = self.changes();
        let mut things: Vec<String> = Vec::new();
        for change in &changes {
            let count = |is_same: fn(&Subject<'_>) -> bool| {
                changes.iter().filter(|one| is_same(&one.subject)).map(|one| 1 + one.others).sum::<usize>()
            };
            let thing = match change.subject {
                Subject::Configuration => "the configuration".to_owned(),
                Subject::Process if change.word == "started" => "this process started".to_owned(),
                Subject::Process => "this process stood still".to_owned(),
                Subject::Database(_) => {
                    plural(count(|subject| matches!(subject, Subject::Database(_))), "database", "databases")
                }
                Subject::Query(_) => plural(count(|subject| matches!(subject, Subject::Query(_))), "query", "queries"),
                Subject::Trigger { .. } => {
                    plural(count(|subject| matches!(subject, Subject::Trigger { .. })), "trigger", "triggers")
                }
            };
            if !things.contains(&thing) {
                things.push(thing);
            }
        }
        match things.is_empty() {
            true => "All is well".to_owned(),
            false => format!("Nothing fails now. Changed lately: {}", things.join(", ")),
        }
    }
}

/// Returns an event that changed something, or a trouble that is over. What lasts is a problem.
fn of_event(event: &Event) -> Option<Change<'_>> {
    let until = match event.word {
        "changed" | "started" => None,
        "still" => event.until,
        "down" | "standby" | "full" | "failing" | "refused" | "silent" => Some(event.until?),
        _ => return None,
    };
    let subject = match (&event.namespace, &event.name, &event.database) {
        (Some(namespace), Some(name), _) => Subject::Trigger { namespace, name },
        (.., Some(database)) => Subject::Database(database),
        _ => Subject::Process,
    };
    let Event { at, word, others, .. } = *event;
    Some(Change { at, until, word, subject, others, text: event.text.as_str().into() })
}

fn of_trend<'a>(query: &'a Query, trend: &Trend) -> Change<'a> {
    let (at, word, text) = match trend {
        Trend::Fell { since, minutes, from } => {
            let text = format!(
                "0 since about {}, and above 0 in each of the {minutes} minutes before, lastly {}. Are the rows done, \
                 or did a state, a queue or a table get another name?",
                since.hour_and_minute(),
                number(*from)
            );
            (*since, "fell", text)
        }
        Trend::Stands { since, at } => {
            let text = format!(
                "{} at most in each minute since about {}, and another number in nearly each minute before. Does \
                 anything add or take rows, and does a standby replay?",
                number(*at),
                since.hour_and_minute()
            );
            (*since, "stands", text)
        }
    };
    let is_near = |changed_at: &&Moment| changed_at.age.abs_diff(at.age) < SAME_MINUTE;
    let reload = query.changed_at.as_ref().filter(is_near).map_or_else(String::new, |changed_at| {
        format!(" A reload changed the query or its database at {}.", changed_at.time_of_day())
    });
    Change { at, until: None, word, subject: Subject::Query(&query.name), others: 0, text: (text + &reload).into() }
}

impl Trend {
    /// Returns the trend that the greatest values of the last minutes show, if they show one.
    pub(super) fn of(history: &[Option<f64>], clock: &Clock) -> Option<Self> {
        let known: Vec<(usize, f64)> =
            history.iter().enumerate().filter_map(|(minute, value)| Some((minute, (*value)?))).collect();
        let (latest, present) = *known.last()?;
        let changed_at = known.iter().rposition(|(_, value)| *value != present)? + 1;
        let (before, run) = known.split_at(changed_at);
        let (since, from) = (run.first()?.0, before.last()?.1);
        if latest + UNREAD + 1 < history.len() || before.len() < BEFORE_IT_FELL {
            return None;
        }
        let ago = Duration::from_secs(60) * u32::try_from(history.len() - 1 - since).ok()?;
        let since = clock.moment(clock.instant().checked_sub(ago)?);
        let changes = before.windows(2).filter(|pair| pair[0].1 != pair[1].1).count();
        match present {
            0.0 if run.len() >= FELL && before.iter().all(|(_, value)| *value > 0.0) => {
                Some(Self::Fell { since, minutes: before.len(), from })
            }
            at if at > 0.0
                && run.len() >= STOOD
                && before.len() >= BEFORE_IT_STOOD
                && changes * 3 >= before.len() * 2 =>
            {
                Some(Self::Stands { since, at })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::Recorder;

    #[tokio::test]
    async fn a_fall_or_a_standstill_is_a_turn_if_it_is_new() {
        let clock = Clock::now(&Recorder::default());
        let trend = |parts: &[&[f64]]| {
            let history: Vec<Option<f64>> = parts.concat().into_iter().map(Some).collect();
            Trend::of(&history, &clock)
        };
        let busy: Vec<f64> = (0..20).map(|minute| f64::from(3 + minute % 4)).collect();
        let fell = trend(&[&busy, &[0.0; 6]]).expect("it fell");
        assert!(matches!(fell, Trend::Fell { since, minutes: 20, from: 6.0 } if since.age == Duration::from_secs(300)));
        let stands = trend(&[&busy, &[17.0; 15]]).expect("it stands");
        assert!(matches!(stands, Trend::Stands { since, at: 17.0 } if since.age == Duration::from_secs(840)));
        for quiet in [
            // It was empty before, too; it is too short; there is too little before; it never moved; nobody asks.
            trend(&[&busy, &[0.0], &busy, &[0.0; 6]]),
            trend(&[&busy, &[0.0; 4]]),
            trend(&[&busy[..9], &[0.0; 6]]),
            trend(&[&busy[..14], &[17.0; 15]]),
            trend(&[&[5.0; 20], &[17.0; 20]]),
            trend(&[&[5.0; 20]]),
            trend(&[]),
        ] {
            assert_eq!(quiet, None);
        }
        let unread = busy.iter().copied().chain([0.0; 6]).map(Some).chain([None; 3]).collect::<Vec<_>>();
        assert_eq!(Trend::of(&unread, &clock), None);
        assert!(Trend::of(&unread[..28], &clock).is_some(), "a pause between two polls is no end");
    }
}
