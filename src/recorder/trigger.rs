//! The record of what one trigger was told last.

use super::{
    Answer, Asker, LOOKING, TRIGGER_BYTES, TenantName, Tenths,
    log::{Packed, Unpacked},
    texts::Texts,
};

/// Calls within this time belong to one poll.
const ONE_POLL: Tenths = 10;

/// The shortest pause between two polls that can be a silence: three of KEDA's default polling intervals.
const SHORTEST_SILENCE: Tenths = 900;

/// The number of usual pauses after which a pause counts as a silence.
const PAUSES: Tenths = 3;

/// One trigger.
#[derive(Debug)]
pub(super) struct Trigger {
    /// Its number in the log.
    pub(super) number: u32,
    /// The hash of its object's names.
    pub(super) object: u64,
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    pub(super) query: Box<str>,
    pub(super) target: Option<f64>,
    pub(super) activation: Option<f64>,
    pub(super) divide_by: Option<f64>,
    /// The tenant whose quota it counts for.
    pub(super) payer: TenantName,
    pub(super) began_at: Tenths,
    pub(super) asked_at: Tenths,
    /// The latest time for which others were asked for in its place: when it left, and when it returned.
    pub(super) returned: Option<(Tenths, Tenths)>,
    /// The usual pause between two polls; 0 before the second one.
    pub(super) pause: Tenths,
    pub(super) value: Told,
    pub(super) activity: Told,
    /// The number of the trouble that it has.
    pub(super) trouble: Option<u32>,
}

/// An answer that it was given, and since when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    pub(super) packed: Packed,
    pub(super) since: Tenths,
}

impl Trigger {
    pub(super) fn new(number: u32, object: u64, asker: &Asker<'_>, payer: TenantName, at: Tenths) -> Self {
        let nothing = Told { packed: Packed::NOTHING, since: at };
        Self {
            number,
            object,
            namespace: asker.namespace.into(),
            name: asker.name.into(),
            query: asker.query.into(),
            target: asker.target,
            activation: asker.activation,
            divide_by: asker.divide_by,
            payer,
            began_at: at,
            asked_at: at,
            returned: None,
            pause: 0,
            value: nothing,
            activity: nothing,
            trouble: None,
        }
    }

    /// Returns whether it is KEDA that asks for it, and no person who looks.
    pub(super) fn is_of_keda(&self) -> bool {
        *self.name != *LOOKING
    }

    /// Returns whether it asks for the same query with the same target, activation and divisor.
    pub(super) fn is_same(&self, asker: &Asker<'_>) -> bool {
        (self.target, self.activation, self.divide_by) == (asker.target, asker.activation, asker.divide_by)
            && *self.query == *asker.query
    }

    /// Records a request, and returns the time of the one before if the pause was a silence.
    pub(super) fn asked(&mut self, at: Tenths) -> Option<Tenths> {
        let before = self.asked_at;
        let pause = at.saturating_sub(before);
        self.asked_at = self.asked_at.max(at);
        if pause < ONE_POLL {
            return None;
        }
        let is_silence = pause > self.longest_pause();
        self.pause = match self.pause {
            0 => pause.min(SHORTEST_SILENCE),
            // A longer interval between polls is learnt from a few silences.
            usual if is_silence => pause.min(2 * usual),
            usual => (3 * usual).saturating_add(pause) / 4,
        };
        is_silence.then_some(before)
    }

    /// Returns the longest pause between two polls that is no silence.
    pub(super) fn longest_pause(&self) -> Tenths {
        self.pause.saturating_mul(PAUSES).max(SHORTEST_SILENCE)
    }

    /// Records a request and returns true if nothing has changed: it is told the same as before, and in time.
    pub(super) fn is_told_again(&mut self, answer: Answer<'_>, at: Tenths, texts: &Texts) -> bool {
        let told = match answer {
            Answer::Value(_) | Answer::NoValue(_) | Answer::Refused(_) => self.value,
            Answer::Active(_) | Answer::NoActivity(_) | Answer::Pushed(_) => self.activity,
        };
        let is_same = match (told.packed.unpacked(), answer) {
            (Unpacked::Value(before), Answer::Value(value)) => before == value,
            // A poll that says the same as a stream is no change, nor the other way round.
            (
                Unpacked::Active(before) | Unpacked::Pushed(before),
                Answer::Active(is_active) | Answer::Pushed(is_active),
            ) => before == is_active,
            (Unpacked::NoValue(text), Answer::NoValue(cause))
            | (Unpacked::NoActivity(text), Answer::NoActivity(cause))
            | (Unpacked::Refused(text), Answer::Refused(cause)) => texts.get(text) == Some(cause),
            _ => false,
        };
        if !is_same {
            return false;
        }
        if matches!(answer, Answer::Pushed(_)) {
            return true;
        }
        if at.saturating_sub(self.asked_at) > self.longest_pause() {
            return false;
        }
        self.asked(at);
        true
    }

    /// Returns whether this is what it was told last.
    pub(super) fn is_told(&self, packed: Packed) -> bool {
        self.value.packed == packed || self.activity.packed == packed
    }

    /// Notes what it is told now, and returns the text that it does not quote any more.
    pub(super) fn tell(&mut self, packed: Packed, at: Tenths) -> Option<u32> {
        let told = match packed.unpacked() {
            Unpacked::Active(_) | Unpacked::Pushed(_) | Unpacked::NoActivity(_) => &mut self.activity,
            _ => &mut self.value,
        };
        if told.packed == packed {
            // It was told the same before a silence.
            return packed.text();
        }
        std::mem::replace(told, Told { packed, since: at }).packed.text()
    }

    /// Returns whether the latest value or activity that it was told is an error.
    pub(super) fn is_failing(&self) -> bool {
        [self.value, self.activity].iter().any(|told| told.packed.text().is_some())
    }

    /// Forgets what it was told, and returns the texts that it quoted.
    pub(super) fn interrupt(&mut self) -> impl Iterator<Item = u32> + use<> {
        let told = [&mut self.value, &mut self.activity];
        told.map(|told| std::mem::replace(&mut told.packed, Packed::NOTHING).text()).into_iter().flatten()
    }

    /// Returns the bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        TRIGGER_BYTES + self.namespace.len() + self.name.len() + self.query.len()
    }
}
