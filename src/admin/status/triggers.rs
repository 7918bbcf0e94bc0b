//! The triggers, as the page tells them: what KEDA was told about each, and the effect of that in words.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::{
    Event, Trigger, TriggerChange, TriggerState, Variant,
    clock::{Clock, Moment},
};
use crate::{
    keda::scaled_object::replicas,
    metrics::{self, Numbers, Thresholds, VariantState},
    recorder::{LOOKING, OtherQuery},
    terminal::text::number,
};

/// The time within which another value follows from other metadata: a poll asks for it with both.
const SAME_POLL: Duration = Duration::from_secs(5);

/// Sorts triggers that need a person first. Names that were made up come last among the refused: they were never
/// served, and were asked for once. Among the answered those come first whose value starts nothing.
pub(super) fn all(mut states: Vec<metrics::TriggerState>, clock: &Clock) -> Vec<Trigger> {
    let now = clock.instant();
    // A person who looks is no trigger of KEDA's.
    states.retain(|state| state.labels.name != LOOKING);
    states.sort_by_cached_key(|state| {
        let requests: u64 = state.codes.iter().map(|(_, count)| count).sum();
        let is_known = state.was_served || requests > 2;
        let is_held = state.variants.iter().any(VariantState::is_held);
        let labels = &state.labels;
        let names = (labels.namespace.clone(), labels.name.clone(), labels.query.clone());
        (state_of(state, now), !is_known, !is_held, names)
    });
    states.into_iter().map(|state| trigger(state, clock)).collect()
}

/// Adds the old and the new numbers to the events of metadata that changed, as far as they are known.
pub(super) fn explain_changes(events: &mut [Event], triggers: &[Trigger]) {
    for event in events.iter_mut().filter(|event| event.word == "changed") {
        let Event { namespace: Some(namespace), name: Some(name), query: Some(query), .. } = &event else { continue };
        let is_of = |trigger: &&Trigger| {
            (&trigger.namespace, &trigger.name, &trigger.query) == (namespace, name, query)
                && trigger.changed.as_ref().is_some_and(|changed| is_near(&changed.at, &event.at))
        };
        if let Some(text) = triggers.iter().find(is_of).and_then(Trigger::change_in_words) {
            event.text = format!("the metadata changed: {text}");
        }
    }
}

/// Notes for each trigger that it asked for another query before, unless its metadata changed again since.
pub(super) fn note_other_queries(triggers: &mut [Trigger], others: &[OtherQuery], clock: &Clock) {
    let mut latest: HashMap<(&str, &str, &str), &OtherQuery> = HashMap::new();
    // They come with the latest first.
    for other in others {
        latest.entry((&other.namespace, &other.name, &other.query)).or_insert(other);
    }
    for trigger in triggers {
        let Some(OtherQuery { at, query, before, .. }) =
            latest.get(&(trigger.namespace.as_str(), trigger.name.as_str(), trigger.query.as_str()))
        else {
            continue;
        };
        let at = clock.moment(*at);
        if trigger.changed.as_ref().is_none_or(|change| change.at.age > at.age) {
            let numbers = format!("query {before} to {query}");
            trigger.changed = Some(TriggerChange { at, keys: "query".to_owned(), numbers });
        }
    }
}

impl Trigger {
    /// Returns what changed in its metadata, and how the value changed with it.
    fn change_in_words(&self) -> Option<String> {
        let TriggerChange { at, keys, numbers } = self.changed.as_ref()?;
        let numbers = if numbers.is_empty() { String::new() } else { format!(" ({numbers})") };
        let follows = self.value_since.is_some_and(|since| since.age <= at.age && is_near(&since, at));
        let told = self.value_before.zip(self.value).filter(|_| follows && self.variants.is_empty());
        let told = told
            .map(|(before, since)| format!("; KEDA was told {} before, and {} since", number(before), number(since)));
        Some(format!("{keys}{numbers}{}", told.unwrap_or_default()))
    }
}

fn is_near(one: &Moment, other: &Moment) -> bool {
    one.age.abs_diff(other.age) < SAME_POLL
}

fn state_of(state: &metrics::TriggerState, now: Instant) -> TriggerState {
    match state {
        state if state.is_silent(now) => TriggerState::Silent,
        metrics::TriggerState { refusal: Some(_), .. } => TriggerState::Refused,
        metrics::TriggerState { fault: Some(_), .. } => TriggerState::Failing,
        metrics::TriggerState { answered_since: Some(_), .. } => TriggerState::Answered,
        _ => TriggerState::Waiting,
    }
}

fn trigger(state: metrics::TriggerState, clock: &Clock) -> Trigger {
    let shown = state_of(&state, clock.instant());
    let told = match (&state.refusal, &state.fault) {
        (Some(refusal), _) => Some((refusal.code, Some(refusal.text.to_string()), refusal.since)),
        (None, Some(told)) => Some((told.code, Some(told.fault.to_string()), told.since)),
        (None, None) => state.answered_since.map(|since| ("OK", None, since)),
    };
    let since = match shown {
        TriggerState::Silent => state.asked_at,
        _ => told.as_ref().map_or(state.asked_at, |(_, _, since)| *since),
    };
    let changed = changed(&state, clock);
    let is_held = state.variants.iter().any(VariantState::is_held);
    let (code, error) = told.map_or((None, None), |(code, error, _)| (Some(code), error));
    // One that a refused trigger has replaced is not asked for any more.
    let is_asked =
        |variant: &&VariantState| state.refusal.as_ref().is_none_or(|refusal| variant.asked_at > refusal.since);
    let mut variants: Vec<Variant> = state.variants.iter().filter(is_asked).map(variant).collect();
    let effect = match (&mut variants[..], state.refusal.is_some()) {
        ([only], false) => {
            let effect = only.effect.take();
            variants.clear();
            effect
        }
        _ => None,
    };
    Trigger {
        namespace: state.labels.namespace.clone(),
        name: state.labels.name.clone(),
        query: state.labels.query.clone(),
        state: shown,
        since: clock.moment(since),
        asked_at: clock.moment(state.asked_at),
        value: state.value,
        value_since: state.value_since.map(|since| clock.moment(since)),
        value_before: state.value_before,
        active: state.is_active,
        target: one(state.thresholds.iter().map(|thresholds| thresholds.target)),
        activation: one(state.thresholds.iter().map(|thresholds| thresholds.activation)),
        effect,
        is_held,
        changed,
        variants,
        code,
        error,
        requests: state.codes.into_iter().collect(),
    }
}

fn variant(state: &VariantState) -> Variant {
    let VariantState { value, is_active, numbers, fault, .. } = *state;
    let is_answered = value.is_some() || is_active.is_some();
    Variant {
        value,
        active: is_active,
        target: numbers.thresholds.map(|thresholds| thresholds.target),
        activation: numbers.thresholds.map(|thresholds| thresholds.activation),
        effect: effect(state),
        code: fault.map(|told| told.code).or(is_answered.then_some("OK")),
        error: fault.map(|told| told.fault.to_string()),
    }
}

/// Says what the numbers that KEDA was told come to, where they do not say it themselves.
fn effect(state: &VariantState) -> Option<String> {
    let VariantState { value: Some(value), is_active, activity, numbers, fault: None, .. } = *state else {
        return None;
    };
    // What a stream said since is not of the poll that told the value.
    let is_active = is_active.filter(|_| activity.is_some());
    let Numbers { thresholds: Some(Thresholds { target, activation }), divide_by } = numbers else { return None };
    let divided = divide_by.filter(|divisor| *divisor != 1.0 && value > 0.0);
    let divided = divided.map(|divisor| format!("the number of the query, divided by {}", number(divisor)));
    let starts_nothing = "KEDA starts no Job for it, and wakes no ScaledObject";
    let activity = activity.map_or_else(|| "its activity".to_owned(), number);
    let effect = match is_active {
        Some(true) if value == 0.0 => Some("active with a value of 0: no Job, and the least replicas".to_owned()),
        Some(true) if target != 1.0 => Some(match replicas(value, target) {
            1 => "worth 1 Job or replica".to_owned(),
            many => format!("worth {many} Jobs or replicas"),
        }),
        Some(false) if activation > 0.0 && (value > 0.0 || activity != "0") => {
            Some(format!("{activity} is not above activation {}: {starts_nothing}", number(activation)))
        }
        Some(false) if value > 0.0 => Some(format!("its rows are held or wait, the activity is 0: {starts_nothing}")),
        _ => None,
    };
    let told: Vec<String> = divided.into_iter().chain(effect).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// Says what changed in the metadata, with the old and the new numbers.
fn changed(state: &metrics::TriggerState, clock: &Clock) -> Option<TriggerChange> {
    let metrics::Changed { at, before, after, keys, .. } = state.changed.as_ref()?;
    let of = |name: &str, pick: fn(&Numbers) -> Option<f64>| {
        let (before, after) = (pick(before.as_ref()?)?, pick(after)?);
        (before != after).then(|| format!("{name} {} to {}", number(before), number(after)))
    };
    let numbers = [
        of("target", |numbers| numbers.thresholds.map(|thresholds| thresholds.target)),
        of("activation", |numbers| numbers.thresholds.map(|thresholds| thresholds.activation)),
        of("divisor", |numbers| numbers.divide_by),
    ];
    let numbers = numbers.into_iter().flatten().collect::<Vec<_>>().join(", ");
    Some(TriggerChange { at: clock.moment(*at), keys: keys.to_string(), numbers })
}

/// Returns the number that all of these are.
fn one(mut numbers: impl Iterator<Item = f64>) -> Option<f64> {
    let first = numbers.next()?;
    numbers.all(|number| number == first).then_some(first)
}
