//! The state of a database, for the status page.

use tokio::time::Instant;

use super::{Cause, Database, ListenFailure};
use crate::{fault::Fault, reading::Breaker};

/// The state of a database, as far as it is known. It has no address, no user and no text of the server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DatabaseState {
    /// The outcome of the latest statement or connect; none before the first.
    pub outcome: Option<Result<(), Fault>>,
    /// The reason why no session can be opened, if that is what failed last.
    pub cause: Option<Cause>,
    /// The time since which outcomes are of this kind.
    pub since: Instant,
    /// The breaker, which says whether statements are sent.
    pub breaker: Breaker,
    /// True if readings come from a standby; none before the first session.
    pub is_standby: Option<bool>,
    /// True if readings came from a primary before, and nobody asked for a standby.
    pub has_left_primary: bool,
    /// The time at which the role's `search_path` last changed, if it did.
    pub path_changed_at: Option<Instant>,
    /// The time since which readings have to wait for a connection, if they do.
    pub crowded_since: Option<Instant>,
    /// True if its role can do more than read; none before the first session.
    pub is_privileged: Option<bool>,
    /// True if notifications are known to arrive; none if no query waits for them.
    pub hears: Option<bool>,
    /// The reason why they do not, if that is known.
    pub listen_failure: Option<ListenFailure>,
}

impl Database {
    /// Returns what is known of it.
    pub fn state(&self) -> DatabaseState {
        let (outcome, since) = self.health.outcome();
        let is_set = |value: i64| value != 0;
        let (privileged, hears) = (&self.metrics.role_privileged, &self.metrics.listen_up);
        DatabaseState {
            outcome,
            cause: self.health.cause(),
            since,
            breaker: *self.health.breaker().borrow(),
            is_standby: *self.observed.is_standby().borrow(),
            has_left_primary: self.observed.has_left_primary(),
            path_changed_at: self.observed.path_changed_at(),
            crowded_since: *self.observed.crowded_since.borrow(),
            is_privileged: privileged.get(&self.labels).map(|gauge| is_set(gauge.get())),
            hears: hears.get(&self.labels).map(|gauge| is_set(gauge.get())),
            listen_failure: *self.observed.listen_failure.borrow(),
        }
    }
}
