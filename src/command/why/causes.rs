//! The causes of what a trigger was told, and of a silence, as sentences that say what to do.

use time::OffsetDateTime;

use super::story::{State, Story, held};
use crate::{
    reading::stalled_rows,
    recorder::{DroppedState, Event, History, Incident, RejectedFile, Served, TriggerHistory},
    remedy,
    terminal::text::{number, plural, printable},
};

/// The number of the latest causes of one outage that are told after the first one.
const LATER_CAUSES: usize = 2;

impl Story<'_> {
    /// Says why a trigger had been told this, and what to do about it, as far as that is known.
    pub(super) fn causes(&self, state: &State<'_>, history: &History) -> Vec<String> {
        let outage = match state.failed() {
            Some((since, "Unavailable" | "DeadlineExceeded", _)) => self.outage(state.trigger, since, history),
            _ => Vec::new(),
        };
        let reload = self.reload(state, history, !outage.is_empty());
        let mut causes = match state.error() {
            _ if !outage.is_empty() => outage,
            Some(_) if self.is_of_standstill(state, history) => Vec::new(),
            Some((code, text)) => {
                let rejected = self.of_file(code, history).into_iter();
                rejected.chain(remedy::of_status(code, text).map(str::to_owned)).collect()
            }
            None => {
                let of_threshold = of_threshold(state).into_iter();
                let of_path = self.of_path(state, history).into_iter();
                let of_notifications = of_notifications(state, history).map(|at| {
                    format!(
                        "A change came without a notification at {}, so that numbers are seen late: is the NOTIFY trigger of the \
                         table gone or disabled? `clapometer notify-sql` makes it again.",
                        self.time(at)
                    )
                });
                let of_divisor = of_divisor(state).into_iter();
                let of_value =
                    of_stalled(state).into_iter().chain(of_value(state)).chain(of_divisor).chain(of_threshold);
                of_value.chain(of_path).chain(of_notifications).collect()
            }
        };
        causes.extend(self.of_standby(state, history));
        causes.extend(self.of_pool(state, history));
        causes.extend(reload);
        causes.extend(self.deployment(state, history));
        if causes.is_empty() {
            causes.extend(self.of_zero(state));
        }
        causes
    }

    /// Tells the causes of an outage that had not ended when the trigger began to be told its error, or by the moment.
    /// The first one comes first, because others often follow from it: a breaker that tries, a server that is asked
    /// while it restarts.
    fn outage(&self, trigger: &TriggerHistory, since: OffsetDateTime, history: &History) -> Vec<String> {
        let of_database = |database: &String| {
            let mut causes: Vec<(OffsetDateTime, &str, Option<&str>)> = Vec::new();
            let mut ended_at = None;
            for happening in history.incidents.iter().filter(|happening| happening.at <= self.at) {
                match &happening.incident {
                    Incident::DatabaseUp { database: name } if name == database && happening.at <= since => {
                        causes.clear()
                    }
                    Incident::Dropped { database: name, state: DroppedState::Down, .. } if name == database => {
                        causes.clear();
                    }
                    // The trigger is told the error until its next poll.
                    Incident::DatabaseUp { database: name } if name == database => ended_at = Some(happening.at),
                    Incident::DatabaseDown { .. } if self.passes(happening.at, trigger, history) => {}
                    Incident::DatabaseDown { database: name, reason, step } if name == database => {
                        let (reason, step) = (reason.as_str(), step.as_deref());
                        if ended_at.take().is_some() {
                            causes.clear();
                        }
                        if causes.iter().all(|(_, known, known_step)| (*known, *known_step) != (reason, step)) {
                            causes.push((happening.at, reason, step));
                        }
                    }
                    _ => {}
                }
            }
            if causes.len() > LATER_CAUSES + 1 {
                causes.drain(1..causes.len() - LATER_CAUSES);
            }
            let latest = causes.len().saturating_sub(1);
            let mut later = history.incidents.iter().filter(|happening| happening.at > self.at);
            let end = later.find_map(|happening| match &happening.incident {
                Incident::DatabaseUp { database: name } if name == database => Some(Some(happening.at)),
                Incident::Dropped { database: name, state: DroppedState::Down, .. } if name == database => Some(None),
                _ => None,
            });
            let lasts = self.is_now && ended_at.is_none() && end.is_none();
            let ended_at = ended_at.or(end.flatten());
            let told = causes.into_iter().enumerate().map(|(index, (at, reason, step))| {
                let at = self.time(at);
                let failed = match (index, ended_at) {
                    (0, Some(until)) => format!("Database {database} failed from {at} to {}", self.time(until)),
                    (0, None) if lasts => format!("Database {database} has failed since {at}"),
                    (0, None) => format!("Database {database} had failed at {at}"),
                    _ if lasts && index == latest => format!("Now, since {at}, it fails for another reason"),
                    _ => format!("It failed for another reason at {at}"),
                };
                // What was found is told in the present.
                let then = if index == 0 && ended_at.is_some() { "While it failed: " } else { "" };
                match step {
                    Some(step) => format!("{failed}. {then}{}", printable(step)),
                    None => {
                        let remedy = remedy::of_reason(reason).unwrap_or_default();
                        format!("{failed}: {}. {remedy}", remedy::reason_in_words(reason))
                    }
                }
            });
            told.collect::<Vec<_>>()
        };
        trigger.databases.iter().flat_map(of_database).collect()
    }

    /// Returns the latest incident of a kind before the moment, in a database of a trigger, if nothing has ended it.
    /// `which` says of an incident whether it begins the state or ends it.
    fn lasting<'a>(
        &self,
        trigger: &TriggerHistory,
        history: &'a History,
        which: fn(&Incident) -> Option<(&String, bool)>,
    ) -> Option<(OffsetDateTime, &'a Incident)> {
        let mut ended: Vec<&String> = Vec::new();
        history.incidents.iter().rev().filter(|happening| happening.at <= self.at).find_map(|happening| {
            let (database, begins) = which(&happening.incident)?;
            if !begins {
                ended.push(database);
            }
            let lasts = trigger.databases.contains(database) && !ended.contains(&database);
            lasts.then_some((happening.at, &happening.incident))
        })
    }

    /// Says that a value came from a standby.
    fn of_standby(&self, state: &State<'_>, history: &History) -> Option<String> {
        let trigger = state.trigger;
        if state.error().is_some() {
            return None;
        }
        let left = self.lasting(trigger, history, |incident| match incident {
            Incident::Standby { database } => Some((database, true)),
            Incident::Primary { database } | Incident::Dropped { database, state: DroppedState::Standby, .. } => {
                Some((database, false))
            }
            _ => None,
        });
        if let Some((at, Incident::Standby { database })) = left {
            return Some(format!(
                "Readings of {database} have come from a standby since {}, and came from a primary before, so that the value may be \
                 old. After a failover, list all hosts, with `target_session_attrs: read-write`.",
                self.time(at)
            ));
        }
        // What they come from now, they came from at the moment, unless that changed since.
        let changed = |database: &&String| {
            history.incidents.iter().any(|happening| match &happening.incident {
                Incident::Standby { database: name } | Incident::Primary { database: name } => name == *database,
                _ => false,
            })
        };
        let standbys: Vec<&str> =
            trigger.standbys.iter().filter(|database| !changed(database)).map(String::as_str).collect();
        let names = standbys.join(" and ");
        (!standbys.is_empty())
            .then(|| format!("Readings of {names} come from a standby: they are as old as its replay."))
    }

    /// Says that readings had to wait for a connection.
    fn of_pool(&self, state: &State<'_>, history: &History) -> Option<String> {
        let full = self.lasting(state.trigger, history, |incident| match incident {
            Incident::PoolFull { database, .. } => Some((database, true)),
            Incident::PoolFree { database } => Some((database, false)),
            _ => None,
        });
        let (at, Incident::PoolFull { database, held_by }) = full? else { return None };
        // A new value did not wait for long.
        if state.error().is_none() && state.value.is_some_and(|value| value.at > at) {
            return None;
        }
        let held = match held(held_by).as_str() {
            "" => String::new(),
            held => format!("; {held}"),
        };
        Some(format!(
            "Readings of {database} have had to wait for a connection since {}{held}. Raise `pool_size` of the database, or make \
             what holds them cheaper.",
            self.time(at)
        ))
    }

    /// Names the query file that is not served, or not as it is now, if a trigger is refused and there is one.
    fn of_file(&self, code: &str, history: &History) -> Option<String> {
        let past = history.incidents.iter().rev().filter(|happening| happening.at <= self.at);
        // The queries of a file that is mended are added.
        let is_mended =
            |incident: &Incident| matches!(incident, Incident::Reload { changed } if changed.contains(" added"));
        let mut since = past.take_while(|happening| code == "PermissionDenied" && !is_mended(&happening.incident));
        let mut known: Vec<&str> = Vec::new();
        since.find_map(|happening| {
            let Incident::ReloadRejected { fault, file: Some(RejectedFile { name, served }) } = &happening.incident
            else {
                return None;
            };
            if known.contains(&name.as_str()) {
                return None;
            }
            known.push(name);
            let (name, at, fault) = (printable(name), self.time(happening.at), printable(fault));
            match served {
                Served::Nothing => Some(format!(
                    "None of the queries of {name} was served after it was rejected at {at} ({fault}): is this query one of them?"
                )),
                Served::LastGood => Some(format!(
                    "The query file {name} was rejected at {at} ({fault}), and its last good version stayed in force: is this query new \
                     in the file?"
                )),
                Served::OtherQueries => None,
            }
        })
    }

    /// Says that PostgreSQL counted nothing where it had counted rows before, and nothing here explains it.
    fn of_zero(&self, state: &State<'_>) -> Option<String> {
        let zero = state.value.filter(|change| matches!(change.event, Event::Value { value } if value == 0.0))?;
        let before = state.trigger.changes.iter().rev().find_map(|change| match change.event {
            Event::Value { value } if value > 0.0 && change.at < zero.at => Some(number(value)),
            _ => None,
        })?;
        let reasons = match state.trigger.is_grouped {
            true => "there is no row of its key any more, or the rows have another key now: was the queue renamed?",
            false => {
                "the rows are done, or the query does not find them any more: did a state, a queue or a table get another name?"
            }
        };
        Some(format!(
            "PostgreSQL has counted nothing since {}, and {before} before, and neither the query nor the trigger changed in the time \
             that is shown: {reasons}",
            self.time(zero.at)
        ))
    }

    /// Says that names of tables may mean others than before.
    fn of_path(&self, state: &State<'_>, history: &History) -> Option<String> {
        let other = self.lasting(state.trigger, history, |incident| match incident {
            Incident::SearchPath { database } => Some((database, true)),
            Incident::SearchPathSet { database } => Some((database, false)),
            _ => None,
        });
        let (at, Incident::SearchPath { database }) = other? else { return None };
        Some(format!(
            "The search_path of the role in {database} changed at {}, so that the names of tables may mean others: set \
             `search_path` of the database, or name schemas in the query.",
            self.time(at)
        ))
    }
}

/// Says that a value is not the number of the query itself.
fn of_divisor(state: &State<'_>) -> Option<String> {
    let divisor = state.trigger.divide_by.filter(|divisor| *divisor != 1.0)?;
    Some(format!(
        "The value is what the query returned, divided by {} (`divideBy`, or `divide_by` of the query).",
        number(divisor)
    ))
}

/// Says that there are rows which no worker gets, and which are not counted.
fn of_stalled(state: &State<'_>) -> Option<String> {
    let stalled = state.trigger.stalled.as_ref()?;
    Some(format!(
        "Now {} in its queue, and counted in neither number, because no worker gets them: {}.",
        stalled_rows(stalled.rows),
        stalled.step
    ))
}

/// Says what may lower a value although there is no error.
fn of_value(state: &State<'_>) -> Option<String> {
    let trigger = state.trigger;
    let is_zero = matches!(state.value.map(|change| &change.event), Some(Event::Value { value }) if *value == 0.0);
    if is_zero && trigger.silent_keys > 0 {
        let keys = plural(trigger.silent_keys, "key that is asked for is", "keys that are asked for are");
        let text = "in no answer, and counts as zero: is the trigger's key spelt right? The log names it.";
        return Some(format!("Of its query {keys} {text}"));
    }
    trigger.budget.map(|total| match trigger.short_keys {
        0 => format!(
            "Its query shares {total} Jobs among its keys, so that a value may be less than the rows of its key. Now no key is told fewer."
        ),
        keys => format!(
            "Its query shares {total} Jobs among its keys, and they are used up: now {}. The Jobs of other keys have to end \
             first, or raise `total` of its `budget`.",
            plural(keys, "key is told fewer than it has rows", "keys are told fewer than they have rows")
        ),
    })
}

/// Says why a trigger with a value is inactive.
fn of_threshold(state: &State<'_>) -> Option<String> {
    let value = match state.value?.event {
        Event::Value { value } if value > 0.0 => number(value),
        _ => return None,
    };
    let (Event::Activity { active: false } | Event::Pushed { active: false }) = state.activity?.event else {
        return None;
    };
    Some(match state.trigger.activation {
        Some(activation) if activation > 0.0 => format!(
            "It is inactive with a value of {value}, so that KEDA starts nothing for it: its activity does not exceed its \
             `activationTargetQueryValue` (`activation` of the query) of {}.",
            number(activation)
        ),
        _ => format!(
            "It is inactive with a value of {value}, so that KEDA starts nothing new: the query's activity is 0. Its rows are held, \
             or wait."
        ),
    })
}

/// Returns when a change of a trigger's query came without a notification, the last time that is known. It is found
/// after the moment at which the number was old.
fn of_notifications(state: &State<'_>, history: &History) -> Option<OffsetDateTime> {
    history.incidents.iter().rev().find_map(|happening| match &happening.incident {
        Incident::Unannounced { query, .. } if *query == state.trigger.query => Some(happening.at),
        _ => None,
    })
}
