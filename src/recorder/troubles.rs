//! The latest troubles of all triggers together: what began, for how many of them, and when it was over.
//!
//! They are few, however many triggers there are: what many triggers are told at the same time is one trouble. A
//! namespace has at most a quarter of the places, and so have the triggers together that were never answered.

use std::collections::VecDeque;

use super::{Answer, Cause, TenantName, Tenths, trigger::Trigger};

/// The most troubles that are remembered, and the most of one namespace.
const MOST: usize = 64;
const MOST_OF_A_TENANT: usize = MOST / 4;

/// Troubles that begin, or come back, within this time of each other are one: four of KEDA's default polling intervals.
pub(super) const TOGETHER: Tenths = 1_200;

/// The most bytes of a text.
const LONGEST_TEXT: usize = 200;

/// The kinds of trouble that a trigger has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It was refused.
    Refused,
    /// It was told an error.
    Failing,
    /// KEDA did not ask for it.
    Silent,
    /// Its metadata changed; the text names the keys.
    Changed,
}

/// The latest troubles.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// In the order in which they began.
    list: VecDeque<Entry>,
    next: u32,
}

/// One trouble of one trigger or of many.
#[derive(Debug)]
pub(super) struct Entry {
    number: u32,
    payer: TenantName,
    pub(super) trouble: Trouble,
    pub(super) code: &'static str,
    pub(super) text: Box<str>,
    /// The trigger that had it first.
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    pub(super) query: Box<str>,
    /// The most triggers that had it at the same time.
    pub(super) triggers: usize,
    /// The number of those that have it now.
    open: usize,
    pub(super) began_at: Tenths,
    joined_at: Tenths,
    told_at: Tenths,
    ended_at: Option<Tenths>,
    /// The pause after which it is over although no trigger was answered: none is asked for any more.
    longest_pause: Tenths,
}

impl Troubles {
    /// Returns all of them, in the order in which they began.
    pub(super) fn all(&self) -> impl Iterator<Item = &Entry> {
        self.list.iter()
    }

    /// Records an answer that a trigger was given, and has noted.
    pub(super) fn follow(&mut self, trigger: &mut Trigger, answer: Answer<'_>, at: Tenths) {
        if !trigger.is_of_keda() {
            return;
        }
        let (trouble, cause) = match answer {
            Answer::Refused(cause) => (Trouble::Refused, cause),
            Answer::NoValue(cause) | Answer::NoActivity(cause) => (Trouble::Failing, cause),
            Answer::Value(_) | Answer::Active(_) | Answer::Pushed(_) => {
                if !trigger.is_failing() {
                    self.leave(trigger.trouble.take(), at);
                }
                return;
            }
        };
        let present = trigger.trouble.and_then(|number| self.get_mut(number));
        if present.is_some_and(|entry| entry.is(trouble, cause)) {
            return self.told_again(trigger, at);
        }
        self.leave(trigger.trouble.take(), at);
        let entry = self.entry(trouble, cause, trigger, at);
        (entry.open, entry.ended_at) = (entry.open + 1, None);
        entry.triggers = entry.triggers.max(entry.open);
        trigger.trouble = Some(entry.number);
        self.told_again(trigger, at);
    }

    /// Records that a trigger has its trouble still.
    fn told_again(&mut self, trigger: &Trigger, at: Tenths) {
        if let Some(entry) = trigger.trouble.and_then(|number| self.get_mut(number)) {
            entry.told_at = entry.told_at.max(at);
            entry.longest_pause = entry.longest_pause.max(trigger.longest_pause());
        }
    }

    /// Records a trouble that is over.
    pub(super) fn passed(&mut self, trouble: Trouble, text: &str, trigger: &Trigger, (from, until): (Tenths, Tenths)) {
        if !trigger.is_of_keda() {
            return;
        }
        let entry = self.entry(trouble, Cause { code: "", text }, trigger, until);
        entry.began_at = entry.began_at.min(from);
        entry.triggers += 1;
        entry.ended_at = Some(until);
    }

    /// Returns the entry that a trigger joins, and makes it if there is none.
    fn entry(&mut self, trouble: Trouble, cause: Cause<'_>, trigger: &Trigger, at: Tenths) -> &mut Entry {
        let is_same = |entry: &Entry| {
            let is_near = at.saturating_sub(entry.joined_at) < TOGETHER;
            let lasts = entry.ended_at(at).is_none_or(|ended_at| at.saturating_sub(ended_at) < TOGETHER);
            entry.is(trouble, cause) && (is_near || lasts && entry.query == trigger.query)
        };
        let index = match self.list.iter().rposition(is_same) {
            Some(index) => index,
            None => {
                self.make_room(&trigger.payer);
                let number = self.next;
                self.next = self.next.wrapping_add(1);
                self.list.push_back(Entry::new(number, trouble, cause, trigger, at));
                self.list.len() - 1
            }
        };
        let entry = &mut self.list[index];
        entry.joined_at = at;
        entry
    }

    fn make_room(&mut self, payer: &TenantName) {
        let mut of_payer = self.list.iter().enumerate().filter(|(_, entry)| entry.payer == *payer);
        let (oldest, count) = (of_payer.next().map(|(index, _)| index), of_payer.count() + 1);
        match oldest {
            Some(index) if count >= MOST_OF_A_TENANT => drop(self.list.remove(index)),
            _ if self.list.len() >= MOST => drop(self.list.pop_front()),
            _ => {}
        }
    }

    /// Records that a trigger does not have a trouble any more.
    pub(super) fn leave(&mut self, number: Option<u32>, at: Tenths) {
        if let Some(entry) = number.and_then(|number| self.get_mut(number)) {
            entry.open = entry.open.saturating_sub(1);
            if entry.open == 0 {
                entry.ended_at = Some(at);
            }
        }
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut Entry> {
        self.list.iter_mut().find(|entry| entry.number == number)
    }
}

impl Entry {
    fn new(number: u32, trouble: Trouble, cause: Cause<'_>, trigger: &Trigger, at: Tenths) -> Self {
        Self {
            number,
            payer: trigger.payer.clone(),
            trouble,
            code: cause.code,
            text: cause.text[..cause.text.floor_char_boundary(LONGEST_TEXT)].into(),
            namespace: trigger.namespace.clone(),
            name: trigger.name.clone(),
            query: trigger.query.clone(),
            triggers: 0,
            open: 0,
            began_at: at,
            joined_at: at,
            told_at: at,
            ended_at: None,
            longest_pause: trigger.longest_pause(),
        }
    }

    /// Returns whether it is the same trouble. An outage has several texts, one after the other.
    fn is(&self, trouble: Trouble, cause: Cause<'_>) -> bool {
        let is_outage = trouble == Trouble::Failing && cause.code == "Unavailable";
        let text = &cause.text[..cause.text.floor_char_boundary(LONGEST_TEXT)];
        self.trouble == trouble && self.code == cause.code && (is_outage || *self.text == *text)
    }

    /// Returns the time of its end, if it is over.
    pub(super) fn ended_at(&self, now: Tenths) -> Option<Tenths> {
        let is_unasked = now.saturating_sub(self.told_at) > self.longest_pause;
        self.ended_at.or_else(|| is_unasked.then_some(self.told_at))
    }
}
