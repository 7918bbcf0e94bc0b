//! The record of one trigger: when it was asked for, what it was told, and what it was refused for.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    REFUSED_REPLACEABLE_AFTER, RefusalNews, Refused, Standing, Thresholds, Told, TriggerId, TriggerLabels,
    fingerprint::{Fingerprint, LONGEST_LIST},
    state::{Changed, FaultTold, Numbers, RefusalTold, TriggerState, VariantState, silent_after},
};
use crate::{metrics::since_1970, recorder::shortened_list};

/// The code of a good answer.
const OK: &str = "OK";

/// The most triggers of one object on one query, and the most refusals of them, that are told apart.
const VARIANTS: usize = 8;

/// The triggers of one object are asked for within this time of each other. One that was asked for longer ago was
/// changed or removed since.
const ONE_POLL: Duration = Duration::from_secs(60);

/// The same where KEDA polls often: each trigger of a poll may wait for two deadlines.
const SLOW_POLL: Duration = Duration::from_secs(15);

/// A refusal that comes back within this time was never over: it belongs to another trigger with the same labels.
const SAME_REFUSAL: Duration = Duration::from_secs(300);

/// The least and the greatest pause between two polls: the requests of one poll come together.
const POLLS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);

/// All that is known under one set of labels.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) labels: Arc<TriggerLabels>,
    pub(super) standing: Standing,
    pub(super) began_at: Instant,
    pub(super) asked_at: Instant,
    /// `asked_at` by the wall clock, once it was scraped: an unchanged time stays the same in every scrape.
    scraped_time: Option<f64>,
    codes: Vec<(&'static str, u64)>,
    variants: Vec<Variant>,
    refusals: Vec<Refusal>,
    /// The longest of the latest pauses between two polls.
    rhythm: Duration,
    /// The latest refusal with its text, until the trigger is answered.
    refusal: Option<RefusalTold>,
    /// The time since which every answer was a good one.
    answered_since: Option<Instant>,
    /// The time since which KEDA is told the present value, and the value before it.
    value_since: Option<Instant>,
    value_before: Option<f64>,
    /// The latest value, which an error does not change.
    latest_value: Option<f64>,
    /// The latest change of its metadata.
    changed: Option<MetadataChange>,
}

/// The first request with other metadata than before.
#[derive(Debug)]
struct MetadataChange {
    at: Instant,
    /// The same in seconds since 1970.
    wall: f64,
    /// The names of the keys that changed.
    keys: Arc<str>,
    /// The numbers of the trigger that was replaced, if it is known which one that was, and those of the new one.
    before: Option<Numbers>,
    after: Numbers,
    /// True if the new metadata is refused.
    is_refused: bool,
}

/// The part of a place that a scrape shows.
pub(super) struct Row {
    pub(super) labels: Arc<TriggerLabels>,
    /// The time of the last request, in seconds since 1970.
    pub(super) asked_at: f64,
    /// The pause after which it counts as silent, in seconds.
    pub(super) silent_after: f64,
    pub(super) value: Option<f64>,
    pub(super) is_active: Option<bool>,
    pub(super) thresholds: Option<Thresholds>,
    /// The time at which its metadata changed, in seconds since 1970.
    pub(super) changed_at: Option<f64>,
    /// The answers by code.
    pub(super) codes: Vec<(&'static str, u64)>,
}

/// One of the triggers that have the same labels.
#[derive(Debug)]
struct Variant {
    hash: u64,
    began_at: Instant,
    asked_at: Instant,
    /// The latest pause between two of its polls; 0 before the second one.
    pause: Duration,
    answered_at: Option<Instant>,
    value: Option<f64>,
    is_active: Option<bool>,
    activity: Option<f64>,
    numbers: Numbers,
    fault: Option<FaultTold>,
    /// True if another one has come in its place, until it is asked for again.
    is_replaced: bool,
    /// The time at which it was asked for again after that, until the next poll.
    returned_at: Option<Instant>,
    fingerprint: Fingerprint,
}

/// A refusal that was logged. It is known by its text, because the metadata of a refused trigger may hold a secret and
/// is not hashed.
#[derive(Debug)]
struct Refusal {
    text: u64,
    began_at: Instant,
    asked_at: Instant,
    is_over: bool,
}

impl Variant {
    fn state(&self) -> VariantState {
        let Self { asked_at, value, is_active, activity, numbers, fault, .. } = *self;
        VariantState { asked_at, value, is_active, activity, numbers, fault }
    }
}

impl Place {
    pub(super) fn new(trigger: TriggerId<'_>, standing: Standing, now: Instant) -> Self {
        let labels = TriggerLabels {
            namespace: trigger.namespace.to_owned(),
            name: trigger.name.to_owned(),
            query: trigger.query.to_owned(),
        };
        Self {
            labels: Arc::new(labels),
            standing,
            began_at: now,
            asked_at: now,
            scraped_time: None,
            codes: Vec::new(),
            variants: Vec::new(),
            refusals: Vec::new(),
            rhythm: Duration::ZERO,
            refusal: None,
            answered_since: None,
            value_since: None,
            value_before: None,
            latest_value: None,
            changed: None,
        }
    }

    pub(super) fn asked_at(&mut self, now: Instant) {
        let pause = now.saturating_duration_since(self.asked_at);
        if pause > silent_after(self.rhythm) {
            // While KEDA did not ask, it was told nothing.
            self.answered_since = self.answered_since.map(|_| now);
        }
        if POLLS.contains(&pause) {
            // A long pause is forgotten within some polls, so that an outage of KEDA hides no later one for long.
            self.rhythm = pause.max(self.rhythm * 7 / 8);
        }
        self.asked_at = now;
        self.scraped_time = None;
    }

    /// Returns whether it was not asked for until a time for so long that it counts as silent, by its own rhythm.
    pub(super) fn is_missed_until(&self, until: Instant) -> bool {
        let rhythm = if self.rhythm.is_zero() { *POLLS.end() } else { self.rhythm };
        until.saturating_duration_since(self.asked_at) > silent_after(rhythm)
    }

    pub(super) fn is_of(&self, namespace: &str, name: &str) -> bool {
        self.labels.namespace == namespace && self.labels.name == name
    }

    /// Records a request of a trigger, and returns the names of the keys that changed if its metadata are new.
    pub(super) fn asked(&mut self, trigger: TriggerId<'_>, now: Instant) -> Option<Arc<str>> {
        let TriggerId { hash, thresholds, divide_by, metadata, .. } = trigger;
        let numbers = Numbers { thresholds, divide_by };
        let absence = silent_after(self.rhythm);
        if let Some(index) = self.variants.iter().position(|variant| variant.hash == hash) {
            let known = &self.variants[index];
            let others_asked_at = self.others(hash).map(|variant| variant.asked_at).max();
            // A deployment was undone if others were asked for in its place, and are not any more. One that comes back
            // soon may also go on beside the other: the next poll tells.
            let returned_at = known.returned_at.filter(|returned_at| now >= *returned_at + *POLLS.start());
            let is_beside = returned_at.zip(others_asked_at).is_some_and(|(returned_at, others)| others > returned_at);
            let is_back = match returned_at {
                Some(_) => !is_beside,
                None => others_asked_at.is_some_and(|asked_at| asked_at >= known.asked_at + absence),
            };
            let fingerprint = is_back.then(|| known.fingerprint.clone());
            let keys = fingerprint.map(|fingerprint| self.change(&fingerprint, hash, numbers, now));
            let known = &mut self.variants[index];
            let pause = now.saturating_duration_since(known.asked_at);
            known.pause = if pause >= *POLLS.start() { pause } else { known.pause };
            (known.asked_at, known.numbers) = (now, numbers);
            known.began_at = if is_back { now } else { known.began_at };
            known.returned_at = match std::mem::take(&mut known.is_replaced) && !is_back {
                true => Some(now),
                false => known.returned_at.filter(|_| returned_at.is_none()),
            };
            if is_beside {
                self.changed = None;
            }
            return keys;
        }
        // Those of the same poll are new together; of more triggers than there are places for each looks new.
        let is_crowded = self.variants.iter().filter(|variant| now < variant.asked_at + absence).count() == VARIANTS;
        let one_poll = self.one_poll();
        let is_change = !is_crowded && self.variants.iter().all(|variant| now >= variant.began_at + one_poll);
        let fingerprint = metadata.map(Fingerprint::of).unwrap_or_default();
        let keys = (is_change && !self.variants.is_empty()).then(|| self.change(&fingerprint, hash, numbers, now));
        let variant = Variant {
            hash,
            began_at: now,
            asked_at: now,
            pause: Duration::ZERO,
            answered_at: None,
            value: None,
            is_active: None,
            activity: None,
            numbers,
            fault: None,
            is_replaced: false,
            returned_at: None,
            fingerprint,
        };
        if self.variants.len() < VARIANTS {
            self.variants.push(variant);
        } else if let Some(oldest) = self.variants.iter_mut().min_by_key(|variant| variant.asked_at) {
            *oldest = variant;
        }
        keys
    }

    /// Returns the time within which a poll asks for all triggers of the object, as far as the pauses between polls
    /// tell.
    fn one_poll(&self) -> Duration {
        if self.rhythm.is_zero() { ONE_POLL } else { (2 * self.rhythm).clamp(SLOW_POLL, ONE_POLL) }
    }

    /// Returns those of the triggers that have other metadata.
    fn others(&self, hash: u64) -> impl Iterator<Item = &Variant> {
        self.variants.iter().filter(move |variant| variant.hash != hash)
    }

    /// Notes that the trigger with this hash has new metadata, and returns the names of the keys that changed. Of
    /// several that the latest poll asked for it has replaced the one that differs least.
    fn change(&mut self, fingerprint: &Fingerprint, hash: u64, after: Numbers, now: Instant) -> Arc<str> {
        let latest = self.others(hash).map(|other| other.asked_at).max().unwrap_or(now);
        let candidates = self.others(hash).filter(|other| latest.saturating_duration_since(other.asked_at) < ONE_POLL);
        let mut changes: Vec<(Vec<&str>, u64)> =
            candidates.map(|other| (fingerprint.changed(&other.fingerprint), other.hash)).collect();
        changes.sort_by_key(|(keys, _)| keys.len());
        let keys = changes.first().map_or_else(String::new, |(keys, _)| keys.join(", "));
        // It is not known which one was replaced where several differ as much.
        let replaced = match &changes[..] {
            [(_, replaced)] => Some(*replaced),
            [(least, replaced), (more, _), ..] if least.len() < more.len() => Some(*replaced),
            _ => None,
        };
        let replaced = self.variants.iter_mut().find(|variant| Some(variant.hash) == replaced);
        let before = replaced.map(|replaced| {
            replaced.is_replaced = true;
            replaced.numbers
        });
        let keys: Arc<str> = shortened_list(&keys, LONGEST_LIST).into();
        let (wall, told) = (since_1970().as_secs_f64(), Arc::clone(&keys));
        self.changed = Some(MetadataChange { at: now, wall, keys: told, before, after, is_refused: false });
        keys
    }

    /// Counts an answer and records what it told. Returns whether it is the first good one of this place.
    pub(super) fn told(&mut self, hash: u64, told: Told, now: Instant) -> bool {
        let fault = match told {
            Told::Value(_) | Told::Active { .. } => None,
            Told::NoValue(code, fault) | Told::NoActivity(code, fault) => Some((code, fault)),
        };
        let code = fault.map_or(OK, |(code, _)| code);
        let is_first = code == OK && self.count(code) == 1;
        if code != OK {
            self.count(code);
        }
        if let Some(variant) = self.variants.iter_mut().find(|variant| variant.hash == hash) {
            match told {
                Told::Value(value) => variant.value = Some(value),
                Told::NoValue(..) => variant.value = None,
                Told::Active { is_active, activity } => {
                    (variant.is_active, variant.activity) = (Some(is_active), Some(activity));
                }
                Told::NoActivity(..) => (variant.is_active, variant.activity) = (None, None),
            }
            let since = variant.fault.map_or(now, |before| before.since);
            variant.fault = fault.map(|(code, fault)| FaultTold { code, fault, since });
        }
        // An error between two equal values is no change of the value.
        if let Some(value) = self.value().filter(|value| self.latest_value != Some(*value)) {
            self.value_since = Some(now);
            self.value_before = self.latest_value.replace(value);
        }
        match fault {
            Some(_) => self.answered_since = None,
            None => self.answered_since = self.answered_since.or(Some(now)),
        }
        is_first
    }

    pub(super) fn streamed(&mut self, hash: u64, is_active: bool) {
        if let Some(variant) = self.variants.iter_mut().find(|variant| variant.hash == hash) {
            (variant.is_active, variant.activity) = (Some(is_active), None);
        }
    }

    /// Records that the trigger with this hash was answered, and returns whether that ends refusals.
    ///
    /// The first answer after a refusal began ends it: the trigger is what was refused before, or what replaced it. A
    /// trigger that has been answered all the while is another one.
    pub(super) fn answered(&mut self, hash: u64, now: Instant) -> bool {
        let variant = self.variants.iter_mut().find(|variant| variant.hash == hash);
        let before = variant.and_then(|variant| variant.answered_at.replace(now));
        let mut has_ended = false;
        for refusal in self.refusals.iter_mut().filter(|refusal| !refusal.is_over) {
            if before.is_none_or(|before| before < refusal.began_at) {
                refusal.is_over = true;
                has_ended = true;
            }
        }
        self.forget_refusal();
        has_ended
    }

    /// Ends all refusals, because the object has a new trigger that is answered. Returns whether there were any.
    pub(super) fn replaced(&mut self) -> bool {
        let mut open = self.refusals.iter_mut().filter(|refusal| !refusal.is_over).peekable();
        let has_ended = open.peek().is_some();
        open.for_each(|refusal| refusal.is_over = true);
        self.forget_refusal();
        has_ended
    }

    /// Forgets the text of the latest refusal, and the change of the metadata that led to it, unless one is not over.
    fn forget_refusal(&mut self) {
        if self.refusals.iter().all(|refusal| refusal.is_over) {
            self.refusal = None;
            self.changed.take_if(|change| change.is_refused);
        }
    }

    /// Counts a refusal and returns whether it is news, with the names of the keys that changed if other metadata was
    /// answered before.
    pub(super) fn refused(
        &mut self,
        refused: Refused<'_>,
        metadata: Option<&HashMap<String, String>>,
        now: Instant,
    ) -> (RefusalNews, Option<Arc<str>>) {
        self.count(refused.code);
        let news = self.note(refused.text, now);
        let metadata = metadata.filter(|_| news == RefusalNews::New);
        let keys = metadata.and_then(|metadata| self.refused_change(&Fingerprint::of(metadata), now));
        self.answered_since = None;
        let known = self.refusals.iter().find(|refusal| Some(refusal.text) == refused.text);
        let since = known.map(|refusal| refusal.began_at);
        match &mut self.refusal {
            Some(told) if told.is(refused) => told.since = since.unwrap_or(told.since),
            told => *told = Some(RefusalTold::new(refused, since.unwrap_or(now))),
        }
        (news, keys)
    }

    /// Notes that metadata is refused which is not that of a trigger that was asked for lately, and returns the names of
    /// the keys that changed. Keeps nothing of the metadata itself, which may hold a secret.
    fn refused_change(&mut self, fingerprint: &Fingerprint, now: Instant) -> Option<Arc<str>> {
        let latest = self.variants.iter().map(|variant| variant.asked_at).max()?;
        let lately = self.variants.iter().filter(|variant| latest < variant.asked_at + ONE_POLL);
        let keys: Arc<str> = fingerprint.refused_change(lately.map(|variant| &variant.fingerprint))?.into();
        let (wall, told, after) = (since_1970().as_secs_f64(), Arc::clone(&keys), Numbers::default());
        self.changed = Some(MetadataChange { at: now, wall, keys: told, before: None, after, is_refused: true });
        Some(keys)
    }

    fn note(&mut self, text: Option<u64>, now: Instant) -> RefusalNews {
        let Some(text) = text else { return RefusalNews::Known };
        if let Some(known) = self.refusals.iter_mut().find(|refusal| refusal.text == text) {
            let silence = now.saturating_duration_since(std::mem::replace(&mut known.asked_at, now));
            if !std::mem::take(&mut known.is_over) {
                return RefusalNews::Known;
            }
            if silence >= SAME_REFUSAL {
                known.began_at = now;
            }
            return RefusalNews::New;
        }
        let refusal = Refusal { text, began_at: now, asked_at: now, is_over: false };
        if self.refusals.len() < VARIANTS {
            self.refusals.push(refusal);
            return RefusalNews::New;
        }
        let oldest = self.refusals.iter_mut().min_by_key(|refusal| refusal.asked_at);
        let is_silent = |refusal: &&mut Refusal| now >= refusal.asked_at + REFUSED_REPLACEABLE_AFTER;
        match oldest.filter(is_silent) {
            Some(oldest) => {
                *oldest = refusal;
                RefusalNews::New
            }
            None => RefusalNews::Untracked,
        }
    }

    /// Returns the time of the last request in seconds since 1970.
    fn time_of_last_request(&mut self) -> f64 {
        let asked_at = self.asked_at;
        *self.scraped_time.get_or_insert_with(|| since_1970().saturating_sub(asked_at.elapsed()).as_secs_f64())
    }

    /// Returns the value that KEDA was told; the largest if there are several triggers, because that is what KEDA
    /// takes.
    fn value(&self) -> Option<f64> {
        self.present().filter_map(|variant| variant.value).max_by(f64::total_cmp)
    }

    /// Returns the numbers that its answers are judged by; those of the largest value if there are several triggers.
    fn thresholds(&self) -> Option<Thresholds> {
        let known = self.present().filter(|variant| variant.numbers.thresholds.is_some());
        known.max_by(|one, other| one.value.unwrap_or(0.0).total_cmp(&other.value.unwrap_or(0.0)))?.numbers.thresholds
    }

    /// Returns those of the trigger that was the last to appear.
    fn newest_thresholds(&self) -> Option<Thresholds> {
        self.variants.iter().max_by_key(|variant| variant.began_at)?.numbers.thresholds
    }

    /// Returns all of them in one order, each once.
    fn all_thresholds(&self) -> Vec<Thresholds> {
        let mut all: Vec<Thresholds> = self.present().filter_map(|variant| variant.numbers.thresholds).collect();
        all.sort_unstable_by(|a, b| a.target.total_cmp(&b.target).then(a.activation.total_cmp(&b.activation)));
        all.dedup();
        all
    }

    /// Returns whether KEDA was told that one of the triggers is active.
    fn is_active(&self) -> Option<bool> {
        self.present().filter_map(|variant| variant.is_active).max()
    }

    /// Returns a copy of what a scrape shows.
    pub(super) fn row(&mut self) -> Row {
        Row {
            labels: Arc::clone(&self.labels),
            asked_at: self.time_of_last_request(),
            silent_after: silent_after(self.rhythm).as_secs_f64(),
            value: self.value(),
            is_active: self.is_active(),
            thresholds: self.thresholds(),
            changed_at: self.changed.as_ref().map(|change| change.wall),
            codes: self.codes.clone(),
        }
    }

    /// Returns what people see of it.
    pub(super) fn state(&self) -> TriggerState {
        TriggerState {
            labels: Arc::clone(&self.labels),
            was_served: self.standing == Standing::Served,
            asked_at: self.asked_at,
            rhythm: self.rhythm,
            value: self.value(),
            value_since: self.value_since,
            value_before: self.value_before,
            is_active: self.is_active(),
            thresholds: self.all_thresholds(),
            variants: self.present().map(Variant::state).collect(),
            changed: self.changed.as_ref().zip(self.newest_thresholds()).map(|(change, thresholds)| Changed {
                at: change.at,
                before: change.before,
                after: change.after,
                thresholds,
                keys: Arc::clone(&change.keys),
            }),
            codes: self.codes.clone(),
            refusal: self.present_refusal().cloned(),
            fault: self.present().filter_map(|variant| variant.fault).min_by_key(|told| told.since),
            answered_since: self.answered_since,
        }
    }

    /// Returns the triggers that the latest poll asked for. One that is asked for less often than the others is present
    /// between its polls.
    fn present(&self) -> impl Iterator<Item = &Variant> {
        let is_present = |variant: &&Variant| self.is_of_latest_poll(variant.asked_at, variant.pause);
        self.variants.iter().filter(|variant| !variant.is_replaced).filter(is_present)
    }

    /// Returns the latest refusal, unless it is known that the latest poll was not told one.
    fn present_refusal(&self) -> Option<&RefusalTold> {
        let mut open = self.refusals.iter().filter(|refusal| !refusal.is_over).peekable();
        let is_present =
            open.peek().is_none() || open.any(|refusal| self.is_of_latest_poll(refusal.asked_at, Duration::ZERO));
        self.refusal.as_ref().filter(|_| is_present)
    }

    /// Returns whether a request belongs to the latest poll. A poll takes less time than the pause after it, unless it
    /// is slow.
    fn is_of_latest_poll(&self, asked_at: Instant, pause: Duration) -> bool {
        let of_all = if self.rhythm.is_zero() { ONE_POLL } else { (self.rhythm * 3 / 4).clamp(SLOW_POLL, ONE_POLL) };
        self.asked_at.saturating_duration_since(asked_at) < of_all.max(pause * 5 / 4)
    }

    /// Counts an answer, and returns how many there have been with this code.
    fn count(&mut self, code: &'static str) -> u64 {
        if let Some((_, count)) = self.codes.iter_mut().find(|(known, _)| *known == code) {
            *count += 1;
            return *count;
        }
        self.codes.push((code, 1));
        1
    }
}
