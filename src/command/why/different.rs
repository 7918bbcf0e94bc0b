//! What was different when the moment began, and the errors that were told meanwhile.

use time::OffsetDateTime;

use super::story::{State, Story, errors_of_row, is_failure, is_of_value};
use crate::recorder::{Change, Event, History, TriggerHistory};

/// The most rows of errors that are told with their causes.
const MOST_ROWS: usize = 4;

impl Story<'_> {
    /// Tells what was different when the moment began, and the errors that were told meanwhile. Of a report about now:
    /// those of the time that is shown.
    pub(super) fn tell_before(&self, states: &[State<'_>], history: &History, lines: &mut Vec<String>) {
        let from = if self.is_now { history.from } else { self.begins_at };
        let rows = history.triggers.iter().flat_map(|trigger| beginnings_of_rows(trigger, from, self.at));
        let mut moments: Vec<OffsetDateTime> = rows.collect();
        moments.sort_unstable();
        match self.is_now {
            true => drop(moments.drain(..moments.len().saturating_sub(MOST_ROWS))),
            false => moments.truncate(MOST_ROWS),
        }
        let mut told: Vec<&Change> = states.iter().filter_map(|state| state.value).collect();
        for at in [self.begins_at].into_iter().chain(moments) {
            for before in self.earlier(at).states(history) {
                let Some(value) = before.value else { continue };
                let is_known = |known: &&Change| {
                    std::ptr::eq(*known, value) || is_of_row(before.trigger, value, known) || is_alike(value, known)
                };
                if !told.iter().any(is_known) {
                    self.tell_different(before.trigger, value, at, history, lines);
                    told.push(value);
                }
            }
        }
    }

    /// Tells what a trigger had been told at an earlier moment. Of errors in a row: all, with the causes of each.
    fn tell_different(
        &self,
        trigger: &TriggerHistory,
        value: &Change,
        at: OffsetDateTime,
        history: &History,
        lines: &mut Vec<String>,
    ) {
        let later = trigger.changes.iter().filter(|change| (value.at..=self.at).contains(&change.at));
        let later = later.filter(|change| is_of_value(change));
        let latest = later.take_while(|change| matches!(change.event, Event::NoValue { .. })).last();
        let mut row = latest.map(|latest| errors_of_row(trigger, latest)).unwrap_or_default();
        if row.is_empty() {
            row.push(value);
        }
        let until = ended_at(trigger, value, history).filter(|until| *until <= self.at);
        let time = match until {
            Some(until) => format!("from {} to {}", self.time(row[0].at), self.time(until)),
            None => format!("at {}", self.time(at)),
        };
        self.say(&format!("It was different {time}:"), lines);
        let mut told = String::new();
        let mut causes: Vec<String> = Vec::new();
        for (index, change) in row.iter().enumerate() {
            let is_asked_about = row.get(index + 1).is_none_or(|next| at < next.at);
            let earlier = self.earlier(if is_asked_about { at.max(change.at) } else { change.at });
            let state = State::of(trigger, earlier.at);
            told = earlier.told(&state, history);
            for cause in earlier.causes(&state, history) {
                if !causes.contains(&cause) {
                    causes.push(cause);
                }
            }
        }
        self.say(&told, lines);
        causes.iter().for_each(|cause| self.say(cause, lines));
    }
}

/// Returns when each row of errors began that a trigger was told within a time, or went on in it with another error.
fn beginnings_of_rows(
    trigger: &TriggerHistory,
    from: OffsetDateTime,
    until: OffsetDateTime,
) -> impl Iterator<Item = OffsetDateTime> {
    let told = trigger.changes.iter().filter(move |change| from < change.at && change.at < until);
    let mut was_failure = false;
    let begins = move |change: &&Change| !std::mem::replace(&mut was_failure, is_failure(change)) && is_failure(change);
    told.filter(|change| is_of_value(change)).filter(begins).map(|change| change.at)
}

/// Returns whether two answers differ only as numbers do all the time.
fn is_alike(one: &Change, other: &Change) -> bool {
    match (&one.event, &other.event) {
        (Event::Value { value }, Event::Value { value: known }) => (*value == 0.0) == (*known == 0.0),
        _ => false,
    }
}

/// Returns whether two errors are of one row: the trigger was told no value between them.
fn is_of_row(trigger: &TriggerHistory, one: &Change, other: &Change) -> bool {
    let (first, last) = if one.at <= other.at { (one, other) } else { (other, one) };
    let of_trigger = |change: &Change| trigger.changes.iter().any(|known| std::ptr::eq(known, change));
    let is_value = |change: &&Change| matches!(change.event, Event::Value { .. });
    of_trigger(first)
        && of_trigger(last)
        && is_failure(first)
        && is_failure(last)
        && !trigger.changes.iter().filter(is_value).any(|change| first.at < change.at && change.at < last.at)
}

/// Returns when a trigger was told a value after an error. One that was refused is another trigger once it is mended.
fn ended_at(trigger: &TriggerHistory, error: &Change, history: &History) -> Option<OffsetDateTime> {
    let is_refusal = matches!(error.event, Event::Refusal { .. });
    let after = if is_refusal { trigger.last_asked_at } else { error.at };
    let triggers = history.triggers.iter().filter(|one| is_refusal || std::ptr::eq(*one, trigger));
    let values = triggers.flat_map(|one| &one.changes).filter(|change| matches!(change.event, Event::Value { .. }));
    values.map(|change| change.at).filter(|at| is_failure(error) && *at > after).min()
}
