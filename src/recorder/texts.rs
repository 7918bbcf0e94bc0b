//! The texts of errors, each once however many changes quote it.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
};

use super::{Cause, TenantName, log::Packed};
use crate::terminal::text::plural;

/// The bytes of a text beside its characters: its record, and its places in the tables, which are up to half empty.
const TEXT_BYTES: usize = 192;

/// The texts that are in use.
#[derive(Debug, Default)]
pub(super) struct Texts {
    hasher: RandomState,
    texts: Vec<Option<Text>>,
    free: Vec<u32>,
    /// The number of a text, by its hash.
    numbers: HashMap<u64, u32>,
}

#[derive(Debug)]
struct Text {
    code: &'static str,
    text: Box<str>,
    holders: u32,
    /// The tenant that brought it, whose quota it counts for.
    payer: TenantName,
}

impl Texts {
    /// Returns the number of a text, and the bytes that it newly takes. Its holder releases it.
    pub(super) fn hold(&mut self, cause: Cause<'_>, payer: &TenantName) -> (u32, usize) {
        let Cause { code, text } = cause;
        let hash = self.hasher.hash_one((code, text));
        if let Some(number) = self.numbers.get(&hash).copied() {
            self.get_mut(number).into_iter().for_each(|known| known.holders += 1);
            return (number, 0);
        }
        let text = Text { code, text: text.into(), holders: 1, payer: payer.clone() };
        let bytes = text.bytes();
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.texts.push(None);
                u32::try_from(self.texts.len() - 1).unwrap_or(u32::MAX)
            }
        };
        if let Some(place) = usize::try_from(number).ok().and_then(|index| self.texts.get_mut(index)) {
            *place = Some(text);
        }
        self.numbers.insert(hash, number);
        (number, bytes)
    }

    /// Notes one more holder of what `packed` quotes.
    pub(super) fn hold_again(&mut self, packed: Packed) {
        if let Some(known) = packed.text().and_then(|number| self.get_mut(number)) {
            known.holders += 1;
        }
    }

    /// Records that a holder is gone. Once there is none left, returns the tenant whose quota the text counted for, and
    /// its bytes.
    pub(super) fn release(&mut self, number: u32) -> Option<(TenantName, usize)> {
        let place = self.texts.get_mut(usize::try_from(number).ok()?)?;
        let text = place.as_mut()?;
        text.holders -= 1;
        if text.holders > 0 {
            return None;
        }
        let text = place.take()?;
        self.numbers.remove(&self.hasher.hash_one((text.code, &*text.text)));
        self.free.push(number);
        let bytes = text.bytes();
        Some((text.payer, bytes))
    }

    /// Returns the code and the text of a number.
    pub(super) fn get(&self, number: u32) -> Option<Cause<'_>> {
        let text = self.texts.get(usize::try_from(number).ok()?)?.as_ref()?;
        Some(Cause { code: text.code, text: &text.text })
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.texts.iter().all(Option::is_none)
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut Text> {
        self.texts.get_mut(usize::try_from(number).ok()?)?.as_mut()
    }
}

impl Text {
    fn bytes(&self) -> usize {
        TEXT_BYTES + self.text.len()
    }
}

/// Shortens a list such as `a, b and 3 more` to so many bytes, after a whole member. A first one that is longer is left
/// out.
pub fn shortened_list(list: &str, most: usize) -> String {
    if list.len() <= most {
        return list.to_owned();
    }
    let (members, more) =
        match list.rsplit_once(" and ").and_then(|(members, more)| Some((members, more.strip_suffix(" more")?))) {
            Some((members, more)) => (members, more.parse().unwrap_or(0)),
            None => (list, 0),
        };
    let members: Vec<&str> = members.split(", ").collect();
    for kept in (1..=members.len()).rev() {
        let text = format!("{} and {} more", members[..kept].join(", "), members.len() - kept + more);
        if text.len() <= most {
            return text;
        }
    }
    plural(members.len() + more, "key", "keys")
}
