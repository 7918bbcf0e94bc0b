//! The kind of server that a database's readings must come from, and whether a session still leads to one.
//!
//! The numbers of a standby may be old, and behind a pooler a session outlives a failover. So a server is asked for its
//! kind when a session is opened, and again in the round trip of each reading.

use std::{fmt, time::Duration};

use tokio_postgres::SimpleQueryMessage;

use crate::{
    conninfo::{Connection, SessionAttrs},
    fault::Fault,
};

/// The question to a server about itself: whether it is a standby; whether it is read-only; its lag in seconds.
///
/// `default_transaction_read_only` counts where the server or the database sets it. The scaler's role is made
/// with it (deploy/postgres/roles.sql), which says nothing about the server.
///
/// A standby that has replayed all that it has received has no lag while it receives; `status` is NULL without the
/// privileges of `pg_read_all_stats`. Otherwise its lag is the age of the latest transaction that it has replayed.
///
/// A receiver that has just connected is `streaming` before it has heard how much the primary has written meanwhile. It
/// starts with one time for both messages (`WalReceiverMain` in walreceiver.c); the first message brings the primary's
/// end.
const SERVER_STATE: &str = "\
SELECT pg_is_in_recovery(), \
CASE WHEN current_setting('default_transaction_read_only') = 'off' THEN false \
ELSE NOT EXISTS (SELECT FROM pg_catalog.pg_db_role_setting AS s JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole \
WHERE r.rolname = session_user AND array_to_string(s.setconfig, ' ') LIKE '%default_transaction_read_only=%') END, \
CASE WHEN NOT pg_is_in_recovery() THEN 0 \
WHEN EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver AS w \
WHERE w.status = 'streaming' AND w.last_msg_send_time <> w.last_msg_receipt_time \
AND pg_last_wal_replay_lsn() >= greatest(pg_last_wal_receive_lsn(), w.latest_end_lsn)) THEN 0 \
ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END";

/// The kind of server that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirement {
    attrs: SessionAttrs,
    /// The time by which a standby may be behind; zero: any time.
    max_lag: Duration,
}

/// The facts that a server said about itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ServerState {
    pub(super) is_standby: bool,
    is_read_only: bool,
    /// Absent where a standby does not know.
    pub(super) lag: Option<f64>,
}

/// The reason why a server is not the one that is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mismatch {
    /// It is of another kind.
    Kind {
        /// The kind that is asked for.
        wanted: SessionAttrs,
        /// True if it is a standby.
        is_standby: bool,
        /// True if its transactions are read-only by default.
        is_read_only: bool,
    },
    /// It did not say what it is.
    Unknown,
    /// It is a standby that is too far behind.
    Lag {
        /// The time by which it is behind, in seconds; absent where it does not know.
        seconds: Option<f64>,
        /// The time by which it may be behind.
        max_lag: Duration,
    },
}

impl Requirement {
    /// Puts together what a connection and the database's `max_lag` ask for.
    pub fn new(connection: &Connection, max_lag: Duration) -> Self {
        Self { attrs: connection.target_session_attrs, max_lag }
    }

    /// Returns the statement that asks the server; none where any server will do.
    pub(super) fn statement(self) -> Option<&'static str> {
        (self.attrs != SessionAttrs::Any || !self.max_lag.is_zero()).then_some(SERVER_STATE)
    }

    /// Returns whether a server is as good as any other: the host's place in the list counts for `any`, a standby for
    /// `prefer-standby`, which accepts a primary, too.
    pub(super) fn prefers(self, place: usize, state: Option<ServerState>) -> bool {
        match self.attrs {
            SessionAttrs::Any => place == 0,
            SessionAttrs::PreferStandby => state.is_some_and(|state| state.is_standby),
            SessionAttrs::ReadWrite | SessionAttrs::ReadOnly | SessionAttrs::Primary | SessionAttrs::Standby => true,
        }
    }

    /// Returns whether a primary will do only where there is no standby.
    pub(super) fn prefers_standbys(self) -> bool {
        self.attrs == SessionAttrs::PreferStandby
    }

    /// Returns the connection that leads to a preferred server only.
    pub(super) fn preferred(self, mut connection: Connection) -> Connection {
        match self.attrs {
            SessionAttrs::Any => connection.addresses.truncate(1),
            SessionAttrs::PreferStandby => connection.target_session_attrs = SessionAttrs::Standby,
            SessionAttrs::ReadWrite | SessionAttrs::ReadOnly | SessionAttrs::Primary | SessionAttrs::Standby => {}
        }
        connection
    }

    /// Checks what a server said.
    ///
    /// # Errors
    /// The reason why it is not the one that is asked for.
    pub(super) fn check(self, state: ServerState) -> Result<(), Mismatch> {
        let is_of_the_kind = match self.attrs {
            SessionAttrs::Any | SessionAttrs::PreferStandby => true,
            SessionAttrs::ReadWrite => !state.is_standby && !state.is_read_only,
            SessionAttrs::ReadOnly => state.is_standby || state.is_read_only,
            SessionAttrs::Primary => !state.is_standby,
            SessionAttrs::Standby => state.is_standby,
        };
        if !is_of_the_kind {
            let ServerState { is_standby, is_read_only, lag: _ } = state;
            return Err(Mismatch::Kind { wanted: self.attrs, is_standby, is_read_only });
        }
        // A transaction from the future says that the two servers' clocks differ, and nothing about its age.
        let is_recent = state.lag.is_some_and(|seconds| seconds.abs() <= self.max_lag.as_secs_f64());
        if self.max_lag.is_zero() || !state.is_standby || is_recent {
            return Ok(());
        }
        Err(Mismatch::Lag { seconds: state.lag, max_lag: self.max_lag })
    }
}

impl ServerState {
    /// Reads the answer to [`Requirement::statement`], the only row among the messages; none if there is none.
    pub(super) fn read(messages: &[SimpleQueryMessage]) -> Option<Self> {
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })?;
        Some(Self {
            is_standby: row.try_get(0).ok()?? == "t",
            is_read_only: row.try_get(1).ok()?? == "t",
            lag: row.try_get(2).ok()?.and_then(|seconds| seconds.parse().ok()),
        })
    }
}

impl Mismatch {
    /// The fault of a reading that meets such a server.
    pub fn fault(self) -> Fault {
        match self {
            Self::Kind { .. } | Self::Unknown => Fault::WrongServer,
            Self::Lag { .. } => Fault::Lagging,
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind { wanted, is_standby, is_read_only } => {
                let found = match (is_standby, is_read_only) {
                    (true, _) => "a standby",
                    (false, true) => "a primary whose default_transaction_read_only is on",
                    (false, false) => "a primary",
                };
                write!(f, "the server is {found}, and target_session_attrs is {}", wanted.name())
            }
            Self::Unknown => f.write_str("the server does not say whether it is a standby"),
            Self::Lag { seconds: Some(seconds), max_lag } if *seconds < 0.0 => {
                let ahead = seconds.abs();
                write!(
                    f,
                    "the primary's clock is {ahead:.1} s ahead of the standby's, and max_lag is {max_lag:?}: set the clocks"
                )
            }
            Self::Lag { seconds: Some(seconds), max_lag } => {
                write!(f, "the standby's replay is {seconds:.1} s behind, and max_lag is {max_lag:?}")
            }
            Self::Lag { seconds: None, max_lag } => {
                write!(f, "the standby does not know how far its replay is behind, and max_lag is {max_lag:?}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIMARY: ServerState = ServerState { is_standby: false, is_read_only: false, lag: Some(0.0) };
    const STANDBY: ServerState = ServerState { is_standby: true, is_read_only: true, lag: Some(3.0) };

    fn accepts(attrs: SessionAttrs, state: ServerState) -> bool {
        Requirement { attrs, max_lag: Duration::ZERO }.check(state).is_ok()
    }

    #[test]
    fn each_kind_is_accepted_by_who_asks_for_it() {
        let read_only_primary = ServerState { is_read_only: true, ..PRIMARY };
        for (attrs, expected) in [
            (SessionAttrs::Any, [true, true, true]),
            (SessionAttrs::PreferStandby, [true, true, true]),
            (SessionAttrs::ReadWrite, [true, false, false]),
            (SessionAttrs::ReadOnly, [false, true, true]),
            (SessionAttrs::Primary, [true, true, false]),
            (SessionAttrs::Standby, [false, false, true]),
        ] {
            let found = [PRIMARY, read_only_primary, STANDBY].map(|state| accepts(attrs, state));
            assert_eq!(found, expected, "{attrs:?}");
        }
    }

    #[test]
    fn a_standby_whose_lag_is_unknown_is_behind() {
        let asked = |seconds| Requirement { attrs: SessionAttrs::Any, max_lag: Duration::from_secs(seconds) };
        assert_eq!(asked(3).check(STANDBY), Ok(()));
        assert!(asked(2).check(STANDBY).is_err());
        let unknown = ServerState { lag: None, ..STANDBY };
        assert!(asked(3_600).check(unknown).is_err());
        assert_eq!(asked(0).check(unknown), Ok(()));
        let from_the_future = ServerState { lag: Some(-3_600.0), ..STANDBY };
        assert!(asked(60).check(from_the_future).is_err(), "with such clocks an hour of lag would be none");
        assert_eq!(asked(1).check(PRIMARY), Ok(()));
    }
}
