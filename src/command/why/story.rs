//! The answers of the processes as sentences.

use std::time::Duration;

use time::OffsetDateTime;

use super::{ask::Answered, object, outlook::Outlook};
use crate::{
    keda::scaled_job::ScalerAnswer,
    recorder::{Change, Event, History, ONE_POLL, TriggerHistory},
    terminal::{
        reading_width,
        style::{ColorChoice, Style},
        text::{number, plural, printable, span, wrapped},
    },
};

/// The time by which a process's clock may be behind without a remark: its answer was written a moment ago.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(2);

/// The difference of two clocks that is not mentioned in a report about now: an answer may take this long.
const ANSWER: Duration = Duration::from_secs(10);

/// The number of the latest errors in a row that are told after the first one.
const LATER_ERRORS: usize = 2;

/// The age of a process up to which the report may say that it cannot know what was before.
const YOUNG: Duration = Duration::from_secs(600);

/// The age of a process at which its triggers have got their first answers: two of KEDA's default polling intervals.
const AT_THE_START: Duration = Duration::from_secs(60);

/// The advice on where to look for what a process does not know.
const ELSEWHERE: &str = "Look at the other pods, at the metrics, and at `kubectl logs --previous`; `kubectl describe pod` has the restarts and their causes.";

/// The question that was asked: an object, and a moment.
pub(super) struct Story<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// The beginning of the moment, which may be a whole minute.
    pub(super) begins_at: OffsetDateTime,
    /// Its end, in the zone in which all times are shown.
    pub(super) at: OffsetDateTime,
    pub(super) is_now: bool,
    pub(super) outlook: Option<Outlook>,
}

/// The value and the activity that a trigger had been told at the moment.
pub(super) struct State<'a> {
    pub(super) trigger: &'a TriggerHistory,
    pub(super) value: Option<&'a Change>,
    pub(super) activity: Option<&'a Change>,
}

impl Story<'_> {
    /// Tells what each process knows. Those that KEDA asked come first.
    pub(super) fn page(&self, answered: &[Answered], colors: ColorChoice) -> String {
        let heading = format!("{}/{}", self.namespace, self.name);
        let moment = if self.is_now { "now, " } else { "" };
        let time = match self.begins_at < self.at {
            true => format!("from {} to {}", self.full_time(self.begins_at), self.time(self.at)),
            false => format!("at {moment}{}", self.full_time(self.at)),
        };
        let mut lines = vec![format!("{} {time}", colors.paint(Style::Heading, &heading))];
        let mut asked: Vec<(&str, &History)> = Vec::new();
        let mut never: Vec<(&str, &History)> = Vec::new();
        let mut away = Vec::new();
        for Answered { address, history } in answered {
            match history {
                Ok(history) if history.triggers.is_empty() => never.push((address, history)),
                Ok(history) => asked.push((address, history)),
                Err(problem) => away.push((address, problem)),
            }
        }
        let was_asked = !asked.is_empty();
        for (address, history) in asked {
            lines.push(String::new());
            // Now is now by the process's own clock.
            let own = history.at.to_offset(self.at.offset());
            let (begins_at, at) = if self.is_now { (own, own) } else { (self.begins_at, self.at) };
            Story { begins_at, at, ..*self }.tell(address, history, self.at, colors, &mut lines);
        }
        let advice = (!was_asked && !never.is_empty()).then(|| self.advice(&never));
        for (address, history) in never {
            let since = self.time(history.remembers_since);
            let text = format!("{address} was not asked for it since {since}. It remembers nothing before.");
            lines.push(format!("\n{}", wrapped(&text, reading_width()).join("\n")));
        }
        for (address, problem) in &away {
            let problem = printable(problem);
            let text = format!("{address} does not answer, so that what it was asked is unknown: {problem}.");
            lines.push(format!("\n{}", wrapped(&text, reading_width()).join("\n")));
        }
        if let Some(advice) = advice {
            lines.push(String::new());
            self.say(&advice, &mut lines);
        }
        if away.len() == answered.len() {
            lines.push(String::new());
            self.say(
                "No process answers. Is --admin-address that of admin.listen (9091)? In a cluster, `kubectl port-forward` brings a pod's admin port here.",
                &mut lines,
            );
        }
        lines.join("\n") + "\n"
    }

    /// Says where to look when no process was asked for the object.
    fn advice(&self, never: &[(&str, &History)]) -> String {
        let others = match never.iter().map(|(_, history)| history.others_asked).sum() {
            0 => "Nor does KEDA ask for other objects here: it may ask another pod, or not reach this one.".to_owned(),
            asked => format!(
                "KEDA does ask for {}, so that its operator reaches clapometer.",
                plural(asked, "trigger of another object", "triggers of other objects")
            ),
        };
        let near = never.iter().flat_map(|(_, history)| &history.near_objects);
        let mut near: Vec<&str> = near.map(String::as_str).filter(|name| object(name).is_ok()).collect();
        near.sort_unstable();
        near.dedup();
        let meant = match near.split_last() {
            Some((last, [])) => format!("Did you mean {last}? "),
            Some((last, others)) => format!("Did you mean {} or {last}? ", others.join(", ")),
            None => String::new(),
        };
        format!(
            "{others} {meant}Is the name right, and the object not paused? `kubectl -n {} get scaledjobs,scaledobjects` has all \
             names. Does the trigger's `scalerAddress` lead here? Were all pods of clapometer asked (--admin-address)? A call \
             that did not arrive (address, network, TLS) is only in the log of KEDA's operator.",
            self.namespace
        )
    }

    /// Tells what one process knows.
    fn tell(
        &self,
        address: &str,
        history: &History,
        asked_at: OffsetDateTime,
        colors: ColorChoice,
        lines: &mut Vec<String>,
    ) {
        let since = self.time(history.remembers_since);
        lines.push(format!("{}, which remembers since {since}", colors.paint(Style::Heading, address)));
        let started = self.time(history.started_at);
        if history.started_at > self.at {
            self.say(&format!("The process started after that, at {started}, so it cannot know. {ELSEWHERE}"), lines);
        } else if history.remembers_since > self.at {
            self.say(&format!("It has forgotten what was before {since}, so it cannot know. {ELSEWHERE}"), lines);
        }
        if history.now + CLOCK_DIFFERENCE < self.at {
            self.say(&format!("By its clock that is still to come: it is {} there.", self.time(history.now)), lines);
        }
        let difference = (history.now - asked_at).unsigned_abs();
        if self.is_now && difference > ANSWER {
            let side = if history.now > asked_at { "ahead of" } else { "behind" };
            let difference = span(difference.as_secs_f64());
            self.say(
                &format!("Its clock is {difference} {side} this machine's. Its times are by its own clock."),
                lines,
            );
        }
        let states = self.states(history);
        let standstill = self.told_of_standstill(&states, history);
        standstill.iter().for_each(|text| self.say(text, lines));
        let (silent, present): (Vec<&State<'_>>, Vec<&State<'_>>) =
            states.iter().partition(|state| self.silence(state.trigger, history).is_some());
        let may_be_older = match (present.is_empty(), silent.iter().max_by_key(|state| state.trigger.last_asked_at)) {
            (true, Some(state)) => {
                self.say(&self.told_of_silence(state, history), lines);
                standstill.is_none() && state.trigger.connection.is_none()
            }
            (true, None) => {
                let first = history.triggers.iter().map(|trigger| trigger.first_asked_at).min();
                let first = first.map_or_else(|| "never".to_owned(), |first| format!("at {}", self.time(first)));
                match history.remembers_since > self.at {
                    true => self.say(&format!("KEDA first asked it for the object {first}."), lines),
                    false => self.say(&format!("KEDA had not asked for it: it first did {first}."), lines),
                }
                standstill.is_none()
            }
            (false, _) => {
                let mut may_be_older = false;
                for state in &present {
                    self.say(&self.told(state, history), lines);
                    let causes = self.causes(state, history);
                    may_be_older |= state.may_be_older(standstill.is_some() || !causes.is_empty(), history);
                    causes.iter().for_each(|cause| self.say(cause, lines));
                }
                let removed = silent.iter().filter_map(|state| self.told_of_removal(state, &present, history));
                removed.for_each(|text| self.say(&text, lines));
                may_be_older
            }
        };
        self.tell_before(&states, history, lines);
        let is_young = history.started_at <= self.at && self.at - history.started_at < YOUNG;
        if is_young && (may_be_older || self.begins_at < history.started_at) {
            self.say(&format!("The process started at {started}, and cannot know what was before. {ELSEWHERE}"), lines);
        }
        if let Some(outlook) = self.outlook.as_ref().filter(|_| !self.is_in_standstill(history)) {
            let answers: Vec<ScalerAnswer> = present.iter().filter_map(|state| state.answer()).collect();
            let has_failed = present.iter().any(|state| state.has_failed());
            if has_failed || !answers.is_empty() {
                self.say(&outlook.told(&answers, has_failed), lines);
            } else if let Some(silence) = silent.first().and_then(|state| self.silence(state.trigger, history)) {
                self.say(outlook.of_silence(silence.has_ended()), lines);
            }
        }
        self.list(history, colors, lines);
    }

    /// Returns the same question about an earlier moment.
    pub(super) fn earlier(&self, at: OffsetDateTime) -> Story<'_> {
        let at = at.to_offset(self.at.offset());
        Story { at, begins_at: at, ..*self }
    }

    /// Returns what the triggers had been told at the moment, without those that something newer had replaced.
    pub(super) fn states<'a>(&self, history: &'a History) -> Vec<State<'a>> {
        let known = history.triggers.iter().filter(|trigger| trigger.first_asked_at <= self.at);
        let known = known.filter(|trigger| !self.is_replaced(trigger, history));
        let states: Vec<State<'a>> = known.map(|trigger| State::of(trigger, self.at)).collect();
        let is_replaced = |one: &State<'_>| {
            states.iter().filter(|other| other.is_refused() != one.is_refused()).any(|other| {
                let (Some(own), Some(began)) = (one.value, other.value) else { return false };
                // An answer after a refusal is recorded even if it is the same as before: without one there was none.
                // A refusal is over once something else was answered in a later poll.
                if other.is_refused() { began.at > own.at } else { began.at > one.trigger.last_asked_at + ONE_POLL }
            })
        };
        let replaced: Vec<bool> = states.iter().map(is_replaced).collect();
        states.into_iter().zip(replaced).filter(|(_, is_replaced)| !is_replaced).map(|(state, _)| state).collect()
    }

    /// Says what a trigger had been told.
    pub(super) fn told(&self, state: &State<'_>, history: &History) -> String {
        let State { trigger, value, activity } = state;
        let name = match alike(trigger, history) {
            Some((number, count)) => format!("{} (trigger {number} of {count})", trigger.query),
            None => trigger.query.clone(),
        };
        let rhythm = match trigger.interval_seconds {
            Some(seconds) => format!("KEDA asked for {name} about every {}", span(seconds)),
            None => format!("KEDA asked for {name}"),
        };
        let since = |change: &Change| format!("since {}", self.time(change.at));
        let value_told = match value.map(|change| (change, &change.event)) {
            Some((change, Event::Value { value })) => {
                let target = trigger.target.map_or_else(String::new, |target| format!(" / {}", number(target)));
                format!(" and was told {}{target} (value / target), {}", number(*value), since(change))
            }
            Some((change, Event::NoValue { .. })) => {
                let errors = errors_of_row(trigger, change).into_iter().filter_map(|change| match &change.event {
                    Event::NoValue { code, text } => {
                        Some(format!("{}: {code}, \"{}\"", since(change), printable(text)))
                    }
                    _ => None,
                });
                let errors = errors.collect::<Vec<_>>().join("; then, ");
                format!(" and was told an error instead of a value, {errors}")
            }
            Some((change, Event::Refusal { code, text })) => {
                let (query, text) = (printable(&trigger.query), printable(text));
                return format!("The trigger of the query {query} was refused, {}: {code}, \"{text}\".", since(change));
            }
            _ => String::new(),
        };
        let activity_told = match activity.map(|change| (change, &change.event)) {
            Some((change, Event::Activity { active } | Event::Pushed { active })) => {
                let word = if *active { "active" } else { "inactive" };
                let earlier = self.activity_before(state, history).map_or_else(String::new, |at| {
                    format!(", and before the change of the trigger since {}", self.time(at))
                });
                format!("; {word} since {}{earlier}", self.time(self.activity_since(trigger, change)))
            }
            // KEDA does not ask for the activity after an error.
            Some((change, Event::NoActivity { code, text })) if value_told.is_empty() || state.answer().is_some() => {
                format!("; for the activity it was told an error, {}: {code}, \"{}\"", since(change), printable(text))
            }
            _ => String::new(),
        };
        let activity_told = if state.has_failed() { String::new() } else { activity_told };
        format!("{rhythm}{value_told}{activity_told}.")
    }

    /// Returns since when a trigger is told values again, if it was told an error before. Its activity, too, is known
    /// since then only.
    fn answered_since(&self, trigger: &TriggerHistory) -> Option<OffsetDateTime> {
        let past = || trigger.changes.iter().filter(|change| change.at <= self.at);
        let failed_at = past().rev().find(|change| is_failure(change))?.at;
        past()
            .find(|change| change.at > failed_at && matches!(change.event, Event::Value { .. }))
            .map(|change| change.at)
    }

    /// Returns since when a trigger is known to have the activity of a change.
    pub(super) fn activity_since(&self, trigger: &TriggerHistory, change: &Change) -> OffsetDateTime {
        self.answered_since(trigger).map_or(change.at, |at| at.max(change.at))
    }

    /// Adds a sentence, broken into lines.
    pub(super) fn say(&self, text: &str, lines: &mut Vec<String>) {
        lines.extend(wrapped(text, reading_width().saturating_sub(2)).into_iter().map(|line| format!("  {line}")));
    }

    /// Returns a time, with its day if that is not the moment's.
    pub(super) fn time(&self, at: OffsetDateTime) -> String {
        let local = at.to_offset(self.at.offset());
        let time = format!("{:02}:{:02}:{:02}", local.hour(), local.minute(), local.second());
        if local.date() == self.at.date() { time } else { format!("{} {time}", local.date()) }
    }

    fn full_time(&self, at: OffsetDateTime) -> String {
        let zone = match at.offset() {
            offset if offset.is_utc() => "UTC".to_owned(),
            offset => {
                let (hours, minutes, _) = offset.as_hms();
                let sign = if offset.is_negative() { '-' } else { '+' };
                format!("{sign}{:02}:{:02}", hours.unsigned_abs(), minutes.unsigned_abs())
            }
        };
        format!("{} {:02}:{:02}:{:02} {zone}", at.date(), at.hour(), at.minute(), at.second())
    }
}

impl<'a> State<'a> {
    pub(super) fn of(trigger: &'a TriggerHistory, at: OffsetDateTime) -> Self {
        let latest = |is_wanted: fn(&Event) -> bool| {
            trigger.changes.iter().rev().find(|change| change.at <= at && is_wanted(&change.event))
        };
        let value =
            latest(|event| matches!(event, Event::Value { .. } | Event::NoValue { .. } | Event::Refusal { .. }));
        let activity =
            latest(|event| matches!(event, Event::Activity { .. } | Event::Pushed { .. } | Event::NoActivity { .. }));
        Self { trigger, value, activity }
    }

    /// Returns whether what it was told may have begun before the process started.
    fn may_be_older(&self, is_explained: bool, history: &History) -> bool {
        let Some(value) = self.value else { return !is_explained };
        let is_first = !self.trigger.changes.iter().any(|change| change.at < value.at && is_of_value(change));
        is_first && (!is_explained || value.at - history.started_at < AT_THE_START)
    }

    fn is_refused(&self) -> bool {
        matches!(self.value.map(|change| &change.event), Some(Event::Refusal { .. }))
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.value.map(|change| &change.event), Some(Event::NoValue { .. } | Event::Refusal { .. }))
    }

    /// Returns the activity that it was told.
    pub(super) fn is_active(&self) -> Option<bool> {
        match self.activity?.event {
            Event::Activity { active } | Event::Pushed { active } => Some(active),
            _ => None,
        }
    }

    /// Returns the code and the text of the error that it was told.
    pub(super) fn error(&self) -> Option<(&'a str, &'a str)> {
        self.failed().map(|(_, code, text)| (code, text))
    }

    /// Returns since when it was told an error, with its code and text.
    pub(super) fn failed(&self) -> Option<(OffsetDateTime, &'a str, &'a str)> {
        [self.value, self.activity].into_iter().flatten().find_map(|change| match &change.event {
            Event::NoValue { code, text } | Event::NoActivity { code, text } | Event::Refusal { code, text } => {
                Some((change.at, code.as_str(), text.as_str()))
            }
            _ => None,
        })
    }

    /// Returns the answers to a poll, if both were good.
    fn answer(&self) -> Option<ScalerAnswer> {
        match (&self.value?.event, &self.activity?.event, self.trigger.target) {
            (Event::Value { value }, Event::Activity { active } | Event::Pushed { active }, Some(target)) => {
                Some(ScalerAnswer { value: *value, target, active: *active })
            }
            _ => None,
        }
    }
}

pub(super) fn is_failure(change: &Change) -> bool {
    matches!(change.event, Event::NoValue { .. } | Event::Refusal { .. })
}

/// Returns whether a change is one of the value: a number, or an error instead of one.
pub(super) fn is_of_value(change: &Change) -> bool {
    matches!(change.event, Event::Value { .. }) || is_failure(change)
}

/// Returns the errors that a trigger was told in a row up to the latest one: the first, and the last few.
pub(super) fn errors_of_row<'a>(trigger: &'a TriggerHistory, latest: &Change) -> Vec<&'a Change> {
    let told = trigger.changes.iter().rev().skip_while(|change| !std::ptr::eq(*change, latest));
    let values = told.filter(|change| is_of_value(change));
    let mut errors: Vec<&Change> = values.take_while(|change| matches!(change.event, Event::NoValue { .. })).collect();
    errors.reverse();
    if errors.len() > LATER_ERRORS + 1 {
        errors.drain(1..errors.len() - LATER_ERRORS);
    }
    errors
}

/// Returns the number of a trigger among those that asked for the same query at the same time, in the order in which
/// they first asked, and how many they are; none if it was alone. They differ in parameters, which nobody tells.
pub(super) fn alike(trigger: &TriggerHistory, history: &History) -> Option<(usize, usize)> {
    let is_alike = |other: &&TriggerHistory| {
        let is_same = other.query == trigger.query && other.target.is_some() && trigger.target.is_some();
        // One that changed and changed back is one trigger, too.
        let is_version = !std::ptr::eq(*other, trigger) && is_changed(other) && is_changed(trigger);
        is_same
            && !is_version
            && other.first_asked_at <= trigger.last_asked_at
            && trigger.first_asked_at <= other.last_asked_at
    };
    let alike: Vec<&TriggerHistory> = history.triggers.iter().filter(is_alike).collect();
    let number = alike.iter().position(|other| std::ptr::eq(*other, trigger))? + 1;
    (alike.len() > 1).then_some((number, alike.len()))
}

/// Returns whether a deployment changed the metadata of a trigger.
fn is_changed(trigger: &TriggerHistory) -> bool {
    trigger.changes.iter().any(|change| matches!(change.event, Event::Metadata { .. }))
}

/// Says which queries hold the connections of a pool.
pub(super) fn held(held_by: &str) -> String {
    if held_by.is_empty() { String::new() } else { format!("most of the time they are held by {held_by}") }
}
