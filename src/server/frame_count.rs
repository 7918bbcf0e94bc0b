//! Counts the frames that make HTTP/2 look at every stream of a connection.
//!
//! A change of settings concerns all streams, and so does GOAWAY: HTTP/2 looks at each for a frame of 15 bytes. With
//! 20,000 streams, what is read of such frames at once would keep every other client waiting for seconds.

/// The bytes of the preface, with which a connection begins.
const PREFACE: usize = 24;

/// The bytes of a frame's head: three of its length, one of its kind.
const HEAD: usize = 9;

/// The kinds of frames that concern every stream (RFC 9113, sections 6.5 and 6.8).
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// The frames of one connection, as its bytes come.
#[derive(Debug)]
pub(super) struct FrameCount {
    /// The bytes until the next head.
    rest: usize,
    head: [u8; HEAD],
    /// The bytes of that head which have come.
    filled: usize,
}

impl FrameCount {
    pub(super) fn new() -> Self {
        Self { rest: PREFACE, head: [0; HEAD], filled: 0 }
    }

    /// Takes the next bytes, and returns how many frames begin in them that concern every stream.
    pub(super) fn count_of_all_streams(&mut self, mut bytes: &[u8]) -> usize {
        let mut count = 0;
        loop {
            let (_, after) = bytes.split_at(self.rest.min(bytes.len()));
            self.rest -= bytes.len() - after.len();
            if after.is_empty() {
                return count;
            }
            let (part, after) = after.split_at(after.len().min(HEAD - self.filled));
            self.head[self.filled..][..part.len()].copy_from_slice(part);
            self.filled += part.len();
            bytes = after;
            if self.filled == HEAD {
                self.filled = 0;
                let [high, middle, low, kind, ..] = self.head;
                self.rest = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                count += usize::from(matches!(kind, SETTINGS | GOAWAY));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, 0, 0, 0, 0, 0];
        // The payload looks like heads of settings.
        [&head[..], &vec![SETTINGS; payload]].concat()
    }

    #[test]
    fn frames_are_counted_wherever_the_bytes_are_cut() {
        let frames = [frame(SETTINGS, 6), frame(0, 70_000), frame(GOAWAY, 8), frame(6, 8), frame(SETTINGS, 0)].concat();
        let bytes = [&[SETTINGS; PREFACE], &frames[..]].concat();
        for size in [1, 2, 8, 9, 10, 23, 24, 25, 1_000, bytes.len()] {
            let mut frames = FrameCount::new();
            let count: usize = bytes.chunks(size).map(|piece| frames.count_of_all_streams(piece)).sum();
            assert_eq!(count, 3, "in pieces of {size}");
        }
    }
}
