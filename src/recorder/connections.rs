//! The connections over which the scaler is asked, and how they ended: they tell an operator that is away from one that
//! hangs.

use std::collections::VecDeque;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::{Connection, EndedBy, LATELY, Recorder, Tenths, tenths_of};

/// The most ends that are remembered: those of two connections that are renewed every ten minutes, for a day.
const MOST_ENDS: usize = 288;

/// The connections of the present.
#[derive(Debug, Clone, Copy, Default)]
pub struct Present {
    /// Since when the scaler is asked over one that is open: of several, the one that began first.
    pub open_since: Option<Instant>,
    /// The end of the latest one over which it was asked for a minute or longer.
    pub latest_end: Option<(Instant, EndedBy)>,
}

/// All that is known of connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// The times at which the open ones began to ask.
    open: Vec<Tenths>,
    /// Those that have ended, in the order of their ends.
    ended: VecDeque<Ended>,
}

#[derive(Debug, Clone, Copy)]
struct Ended {
    asked_since: Tenths,
    at: Tenths,
    by: EndedBy,
}

impl Recorder {
    /// Records that the scaler is asked over a connection for the first time.
    pub fn connection_asks(&self, since: Instant) {
        let since = self.clock.tenths(since);
        self.lock().connections.open.push(since);
    }

    /// Records the end of a connection over which the scaler was asked. A person who looks stays for less than a
    /// minute, and is forgotten.
    pub fn connection_ended(&self, since: Instant, by: EndedBy, now: Instant) {
        let (asked_since, at) = (self.clock.tenths(since), self.clock.tenths(now));
        let connections = &mut self.lock().connections;
        if let Some(index) = connections.open.iter().position(|open| *open == asked_since) {
            connections.open.swap_remove(index);
        }
        if at.saturating_sub(asked_since) < tenths_of(LATELY) {
            return;
        }
        if connections.ended.len() >= MOST_ENDS {
            connections.ended.pop_front();
        }
        connections.ended.push_back(Ended { asked_since, at, by });
    }

    /// Returns which connections there are now.
    pub fn connections(&self, now: Instant) -> Present {
        let store = self.lock();
        let Connections { open, ended } = &store.connections;
        let instant = |at| self.clock.instant(at, now);
        Present {
            open_since: open.iter().min().map(|since| instant(*since)),
            latest_end: ended.back().map(|end| (instant(end.at), end.by)),
        }
    }
}

impl Connections {
    /// Returns what became of the connection over which KEDA had asked, while it did not ask from `since` to `until`.
    pub(super) fn fate(
        &self,
        (since, until): (Tenths, Tenths),
        longest_pause: Tenths,
        wall: impl Fn(Tenths) -> OffsetDateTime,
    ) -> Option<Connection> {
        let had_asked = |asked_since: Tenths| asked_since <= since;
        let asks_again = |asked_since: Tenths| until.saturating_sub(asked_since) >= tenths_of(LATELY);
        let is_open = self.open.iter().any(|asked_since| had_asked(*asked_since) || asks_again(*asked_since));
        // The clients of one operator end together.
        let end = self.ended.iter().rev().find(|end| had_asked(end.asked_since) && end.at >= since);
        let stayed_open = end.is_some_and(|end| end.at > until.min(since.saturating_add(longest_pause)));
        match end {
            _ if is_open || stayed_open => Some(Connection::Open),
            end => end.map(|end| Connection::Ended { at: wall(end.at), by: end.by }),
        }
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize) {
        (self.open.len(), self.ended.len())
    }
}
