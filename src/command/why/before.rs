//! What was before a reload or a deployment changed a trigger: its query, its numbers, and what KEDA was told.

use time::OffsetDateTime;

use super::{
    story::{State, Story},
    timeline::other_numbers,
};
use crate::{
    config::part_of_key,
    recorder::{Change, Event, History, Incident, ONE_POLL, Polls, REPLACED_WITHIN, TriggerHistory, predecessor},
    terminal::text::{number, printable},
};

impl Story<'_> {
    /// Returns the trigger whose place a trigger has taken within the time that is shown.
    pub(super) fn predecessor<'a>(&self, trigger: &TriggerHistory, history: &'a History) -> Option<&'a TriggerHistory> {
        if trigger.first_asked_at < history.from {
            return None;
        }
        let polls: Vec<Polls> = history.triggers.iter().map(TriggerHistory::polls).collect();
        predecessor(&trigger.polls(), &polls, history.now).map(|number| &history.triggers[number])
    }

    /// Returns whether another trigger had taken the place of a trigger by the moment, or taken it back.
    pub(super) fn is_replaced(&self, trigger: &TriggerHistory, history: &History) -> bool {
        let mut later = history.triggers.iter().filter(|other| other.first_asked_at <= self.at);
        let takes_it = |other: &TriggerHistory| {
            self.predecessor(other, history).is_some_and(|before| std::ptr::eq(before, trigger))
                || self.takes_back(other, trigger)
        };
        later.any(takes_it)
    }

    /// Returns whether a deployment was undone, so that a trigger is asked for again in the place of another one.
    fn takes_back(&self, trigger: &TriggerHistory, other: &TriggerHistory) -> bool {
        let left_at = other.last_asked_at;
        let is_change = |change: &Change| matches!(change.event, Event::Metadata { .. }) && change.at <= self.at;
        let mut changes = trigger.changes.iter().filter(|change| is_change(change));
        !std::ptr::eq(trigger, other)
            && trigger.query == other.query
            && trigger.first_asked_at < other.first_asked_at
            && changes.any(|change| left_at < change.at + ONE_POLL && change.at - left_at <= REPLACED_WITHIN)
    }

    /// Returns since when the triggers whose place a trigger has taken had the same activity without a break.
    pub(super) fn activity_before(&self, state: &State<'_>, history: &History) -> Option<OffsetDateTime> {
        let is_active = state.is_active()?;
        let (mut trigger, mut since) = (state.trigger, None);
        let mut latest = state.activity?;
        while let Some(before) = self.predecessor(trigger, history).filter(|_| is_first(trigger, latest)) {
            let earlier = Story { at: trigger.first_asked_at, begins_at: trigger.first_asked_at, ..*self };
            let known = State::of(before, earlier.at);
            if known.has_failed() || known.is_active() != Some(is_active) {
                break;
            }
            latest = known.activity?;
            since = Some(earlier.activity_since(before, latest));
            trigger = before;
        }
        since
    }

    /// Names the keys of the trigger's metadata that the latest deployment changed.
    pub(super) fn deployment(&self, state: &State<'_>, history: &History) -> Option<String> {
        let trigger = state.trigger;
        let of_keys = trigger.changes.iter().rev().filter(|change| change.at <= self.at).find_map(|change| {
            let Event::Metadata { keys } = &change.event else { return None };
            Some((change.at, format!("changed {} of the trigger's metadata", printable(keys))))
        });
        let other_query = self.predecessor(trigger, history).filter(|before| before.query != trigger.query);
        let of_query = other_query.map(|before| {
            let changed = format!(
                "changed the trigger's query, which was {} until {}, to {}",
                printable(&before.query),
                self.time(before.last_asked_at),
                printable(&trigger.query)
            );
            (trigger.first_asked_at, changed)
        });
        let has_lost_it = || {
            state.error().is_some_and(|(code, _)| code == "InvalidArgument")
                && self.reload(state, history, false).is_none()
        };
        let of_metadata = self
            .predecessor(trigger, history)
            .filter(|before| before.query == trigger.query && has_lost_it())
            .map(|before| {
                let changed = format!(
                    "changed the trigger's metadata, which was right until {},",
                    self.time(before.last_asked_at)
                );
                (trigger.first_asked_at, changed)
            });
        let (at, changed) = of_keys.or(of_query).or(of_metadata)?;
        let numbers = match other_numbers(self.predecessor(trigger, history), trigger).as_str() {
            numbers if at == trigger.first_asked_at && !numbers.is_empty() => format!(": {numbers}"),
            _ => String::new(),
        };
        let before = self.told_before(trigger, at, history);
        Some(format!("A deployment {changed} at {}{numbers}.{before}", self.time(at)))
    }

    /// Names the latest reload that changed a trigger's query or, if it was told an error, one of its databases. An
    /// outage has no cause in a query.
    pub(super) fn reload(&self, state: &State<'_>, history: &History, is_outage: bool) -> Option<String> {
        let trigger = state.trigger;
        let databases = trigger.databases.iter().filter(|_| state.error().is_some());
        let mut names: Vec<String> = databases.map(|database| format!("databases.{}", part_of_key(database))).collect();
        if !is_outage {
            names.push(format!("queries.{}", part_of_key(&trigger.query)));
        }
        let is_of = |key: &str| {
            let is_of = |name: &String| key.strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', ' ']));
            names.iter().any(is_of)
        };
        let past = history.incidents.iter().rev().filter(|happening| happening.at <= self.at);
        let (at, keys, all) = past.into_iter().find_map(|happening| {
            let Incident::Reload { changed } = &happening.incident else { return None };
            let all: Vec<&str> = changed.split(", ").map(|key| key.split(" and ").next().unwrap_or(key)).collect();
            let keys: Vec<&str> = all.iter().copied().filter(|key| is_of(key)).collect();
            (!keys.is_empty()).then_some((happening.at, keys, all))
        })?;
        let told = format!("A reload {} at {}.", what_a_reload_did(&keys, &all), self.time(at));
        let effect = match state.value {
            Some(change) if matches!(change.event, Event::Value { .. }) && change.at < at => {
                match keys.iter().any(|key| key.contains(".max_age")) {
                    true => " The value has not changed since: a reading is told again until it is `max_age` old."
                        .to_owned(),
                    false => " The value has not changed since.".to_owned(),
                }
            }
            Some(change) if change.at < at => " KEDA was told an error before that already.".to_owned(),
            _ => self.told_before(trigger, at, history),
        };
        Some(told + &effect)
    }

    /// Says what KEDA was told last before a time, by the trigger or by what was asked for in its place until then.
    fn told_before(&self, trigger: &TriggerHistory, at: OffsetDateTime, history: &History) -> String {
        let before = self.predecessor(trigger, history);
        let is_of = |one: &TriggerHistory| {
            std::ptr::eq(one, trigger)
                || before.is_some_and(|before| std::ptr::eq(one, before))
                || one.last_asked_at < at + ONE_POLL && (one.target.is_none() || self.takes_back(trigger, one))
        };
        let latest = |one: &TriggerHistory, is_wanted: fn(&Change) -> bool| {
            one.changes.iter().rev().find(|change| change.at < at && is_wanted(change)).cloned()
        };
        let told = history.triggers.iter().filter(|one| is_of(one));
        let told = told.filter_map(|one| Some((latest(one, is_value)?, one)));
        let Some((change, one)) = told.max_by_key(|(change, _)| change.at) else { return String::new() };
        let since = self.time(change.at);
        match change.event {
            Event::Value { value } => {
                let target = one.target.map_or_else(String::new, |target| format!(" / {}", number(target)));
                let activity =
                    latest(one, |change| matches!(change.event, Event::Activity { .. } | Event::Pushed { .. }));
                let is_inactive = activity.is_some_and(|change| {
                    matches!(change.event, Event::Activity { active: false } | Event::Pushed { active: false })
                });
                let inactive = if is_inactive && value > 0.0 { ", and inactive" } else { "" };
                format!(" Before that, KEDA was told {}{target}, since {since}{inactive}.", number(value))
            }
            Event::NoValue { code, .. } | Event::Refusal { code, .. } => {
                format!(" Before that, KEDA was told an error, {code}, since {since}.")
            }
            _ => String::new(),
        }
    }
}

/// Returns whether a change of the activity is the first answer of its kind.
fn is_first(trigger: &TriggerHistory, change: &Change) -> bool {
    let is_of_activity = |event: &Event| {
        matches!(
            event,
            Event::Activity { .. } | Event::Pushed { .. } | Event::NoActivity { .. } | Event::NoValue { .. }
        )
    };
    let first = trigger.changes.iter().find(|change| is_of_activity(&change.event));
    first.is_some_and(|first| std::ptr::eq(first, change))
}

fn is_value(change: &Change) -> bool {
    matches!(change.event, Event::Value { .. } | Event::NoValue { .. } | Event::Refusal { .. })
}

/// Says what a reload did to the keys of a trigger: a query or a database is added or removed, and the other keys are
/// changed.
fn what_a_reload_did(keys: &[&str], all: &[&str]) -> String {
    let (whole, changed): (Vec<&str>, Vec<&str>) = keys.iter().partition(|key| as_a_whole(key).is_some());
    let mut deeds = Vec::new();
    for (deed, section, name) in whole.into_iter().filter_map(as_a_whole) {
        let added =
            all.iter().filter_map(|key| as_a_whole(key)).filter(|(other, of, _)| (*other, *of) == ("added", section));
        let added: Vec<&str> = added.map(|(.., name)| name).collect();
        let beside = match deed == "removed" && !added.is_empty() {
            true => format!(" (and added {})", printable(&added.join(", "))),
            false => String::new(),
        };
        let kind = if section == "queries" { "query" } else { "database" };
        deeds.push(format!("{deed} the {kind} {}{beside}", printable(name)));
    }
    if !changed.is_empty() {
        deeds.push(format!("changed {}", printable(&changed.join(", "))));
    }
    deeds.join(" and ")
}

/// Returns what happened to a query or a database as a whole, with its section and its name.
fn as_a_whole(key: &str) -> Option<(&'static str, &str, &str)> {
    let (key, deed) = match key.strip_suffix(" added") {
        Some(key) => (key, "added"),
        None => (key.strip_suffix(" removed")?, "removed"),
    };
    let (section, name) = key.split_once('.')?;
    Some((deed, section, name.trim_matches('"')))
}
