//! The changes of one tenant, in their order, 16 bytes each.

use std::collections::VecDeque;

use super::{Answer, Tenths};

/// The number of changes that are allocated, and forgotten, together.
const CHUNK: usize = 64;

/// The bytes of a chunk, and of its place in the queue, which is up to half empty.
const CHUNK_BYTES: usize = CHUNK * size_of::<Entry>() + 4 * size_of::<Vec<Entry>>();

/// One change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) at: Tenths,
    /// The number of its trigger.
    pub(super) trigger: u32,
    pub(super) packed: Packed,
}

/// A change, packed. A value is never negative, so that the sign bit tells everything else from it: the byte of the
/// sign says what it is, and the lower half is a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packed(u64);

/// A change, unpacked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Unpacked {
    /// Nothing is known.
    Nothing,
    Value(f64),
    Active(bool),
    Pushed(bool),
    /// The number of a text.
    NoValue(u32),
    NoActivity(u32),
    Refused(u32),
    /// KEDA asked again, which it had not done since this time.
    Silence(Tenths),
    /// The metadata changed; the number of the text that names the keys.
    Changed(u32),
}

impl Packed {
    pub(super) const NOTHING: Self = Self::tagged(0x80, 0);

    const ACTIVE: u8 = 0x81;
    const PUSHED: u8 = 0x82;
    const NO_VALUE: u8 = 0x83;
    const NO_ACTIVITY: u8 = 0x84;
    const REFUSED: u8 = 0x85;
    const SILENCE: u8 = 0x86;
    const CHANGED: u8 = 0x87;

    /// Packs an answer; `text` is the number of its text where it has one.
    pub(super) fn of(answer: Answer<'_>, text: u32) -> Self {
        match answer {
            // The absolute value of -0.0 is 0.0.
            Answer::Value(value) => Self(value.abs().to_bits()),
            Answer::Active(is_active) => Self::tagged(Self::ACTIVE, u32::from(is_active)),
            Answer::Pushed(is_active) => Self::tagged(Self::PUSHED, u32::from(is_active)),
            Answer::NoValue(_) => Self::tagged(Self::NO_VALUE, text),
            Answer::NoActivity(_) => Self::tagged(Self::NO_ACTIVITY, text),
            Answer::Refused(_) => Self::tagged(Self::REFUSED, text),
        }
    }

    /// Packs that KEDA asked again, which it had not done since `since`.
    pub(super) fn silence(since: Tenths) -> Self {
        Self::tagged(Self::SILENCE, since)
    }

    /// Packs that the metadata changed; `text` is the number of the text that names the keys.
    pub(super) fn changed(text: u32) -> Self {
        Self::tagged(Self::CHANGED, text)
    }

    pub(super) fn unpacked(self) -> Unpacked {
        let [tag, _, _, _, number @ ..] = self.0.to_be_bytes();
        let number = u32::from_be_bytes(number);
        match tag {
            0..=0x7F => Unpacked::Value(f64::from_bits(self.0)),
            Self::ACTIVE => Unpacked::Active(number == 1),
            Self::PUSHED => Unpacked::Pushed(number == 1),
            Self::NO_VALUE => Unpacked::NoValue(number),
            Self::NO_ACTIVITY => Unpacked::NoActivity(number),
            Self::REFUSED => Unpacked::Refused(number),
            Self::SILENCE => Unpacked::Silence(number),
            Self::CHANGED => Unpacked::Changed(number),
            _ => Unpacked::Nothing,
        }
    }

    /// Returns the number of its text, if it has one.
    pub(super) fn text(self) -> Option<u32> {
        match self.unpacked() {
            Unpacked::NoValue(text)
            | Unpacked::NoActivity(text)
            | Unpacked::Refused(text)
            | Unpacked::Changed(text) => Some(text),
            _ => None,
        }
    }

    const fn tagged(tag: u8, number: u32) -> Self {
        let [a, b, c, d] = number.to_be_bytes();
        Self(u64::from_be_bytes([tag, 0, 0, 0, a, b, c, d]))
    }
}

/// The changes, in chunks.
#[derive(Debug, Default)]
pub(super) struct Log {
    chunks: VecDeque<Vec<Entry>>,
}

impl Log {
    /// Adds a change, and returns the bytes that this takes.
    pub(super) fn push(&mut self, entry: Entry) -> usize {
        if let Some(last) = self.chunks.back_mut().filter(|chunk| chunk.len() < CHUNK) {
            last.push(entry);
            return 0;
        }
        let mut chunk = Vec::with_capacity(CHUNK);
        chunk.push(entry);
        self.chunks.push_back(chunk);
        CHUNK_BYTES
    }

    /// Takes the oldest changes out, and returns them with the bytes that they took.
    pub(super) fn pop(&mut self) -> Option<(Vec<Entry>, usize)> {
        let oldest = self.chunks.pop_front()?;
        if self.chunks.len() < self.chunks.capacity() / 4 {
            self.chunks.shrink_to(2 * self.chunks.len());
        }
        Some((oldest, CHUNK_BYTES))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Returns the time of the oldest change.
    pub(super) fn began_at(&self) -> Option<Tenths> {
        self.chunks.front()?.first().map(|entry| entry.at)
    }

    /// Returns whether all changes of the oldest chunk came before `time`.
    pub(super) fn ends_before(&self, time: Tenths) -> bool {
        self.chunks.front().and_then(|chunk| chunk.last()).is_some_and(|entry| entry.at < time)
    }

    /// Returns all changes, the oldest first.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.chunks.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::Cause;

    #[test]
    fn what_is_packed_comes_out_again() {
        let cause = Cause { code: "Unavailable", text: "" };
        for (answer, expected) in [
            (Answer::Value(0.0), Unpacked::Value(0.0)),
            (Answer::Value(-0.0), Unpacked::Value(0.0)),
            (Answer::Value(0.001), Unpacked::Value(0.001)),
            (Answer::Value(f64::MAX), Unpacked::Value(f64::MAX)),
            (Answer::Active(true), Unpacked::Active(true)),
            (Answer::Pushed(false), Unpacked::Pushed(false)),
            (Answer::NoValue(cause), Unpacked::NoValue(u32::MAX)),
            (Answer::NoActivity(cause), Unpacked::NoActivity(u32::MAX)),
            (Answer::Refused(cause), Unpacked::Refused(u32::MAX)),
        ] {
            assert_eq!(Packed::of(answer, u32::MAX).unpacked(), expected);
        }
        assert_eq!(Packed::silence(7).unpacked(), Unpacked::Silence(7));
        assert_eq!((Packed::changed(7).unpacked(), Packed::changed(7).text()), (Unpacked::Changed(7), Some(7)));
        assert_eq!(Packed::NOTHING.unpacked(), Unpacked::Nothing);
        assert_eq!(size_of::<Entry>(), 16);
    }
}
