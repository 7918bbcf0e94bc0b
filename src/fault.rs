//! The faults of a reading, as a closed set.
//!
//! No driver types and no gRPC types: [`crate::postgres`] classifies errors as faults, and
//! [`crate::scaler`] turns them into status codes. KEDA writes a fault's `Display` into a Kubernetes
//! Event: the text is fixed for each reason, so that events aggregate, and has no SQL, host, user,
//! value or duration. Details are logged where the fault is classified.

use std::fmt;

/// A reason why there is no reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operator has switched the database off (`enabled: false`).
    Disabled,
    /// No session can be opened: DNS, TCP, TLS, authentication, start-up, credentials that cannot be read.
    Unreachable,
    /// The role may do more than read, and `require_unprivileged_role` is set.
    PrivilegedRole,
    /// The server is not of the kind that `target_session_attrs` asks for.
    WrongServer,
    /// The standby is further behind than `max_lag` allows.
    Lagging,
    /// The connection broke while a statement was under way.
    ConnectionLost,
    /// The server said that it cannot serve now (SQLSTATE classes 08, 53, 57P, 58, XX, 25P03).
    ServerUnavailable(SqlState),
    /// No statement is sent while the database keeps failing.
    BreakerOpen,
    /// There was no answer before our deadline.
    DeadlineExceeded,
    /// The server's statement timeout ended the statement, or a cancel (57014).
    StatementTimeout,
    /// The server's lock timeout ended the statement (55P03).
    LockTimeout,
    /// A serialisation failure or a deadlock (40001, 40P01) came twice.
    Conflict(SqlState),
    /// The server rejected the query with any other SQLSTATE: it cannot work as it is.
    Rejected(SqlState),
    /// The answer is not one finite number from zero up.
    Unusable(Unusable),
    /// A limit of our own was reached.
    Exhausted(Limit),
    /// A panic ended this attempt; the process goes on.
    Bug,
}

/// A reason why an answer is not usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// The number is NULL, and `on_null` is `error`.
    Null,
    /// There is no row, and `on_no_row` is `error`.
    NoRow,
    /// There is more than one row.
    SeveralRows,
    /// The number is NaN.
    NotANumber,
    /// The number is infinite.
    Infinite,
    /// The number is below zero.
    Negative,
    /// A column is not of the type that the wrapper asked for.
    WrongType,
    /// The query reads statistics that PostgreSQL masks for the role.
    Masked,
    /// A preset met rows in a state that it does not know.
    UnknownState,
    /// A grouped query returned a NULL key.
    NullKey,
    /// A grouped query returned a key twice.
    RepeatedKey,
    /// A grouped query returned more keys than fit into a reading.
    TooManyKeys,
    /// A number that a budget cannot share.
    NotShareable,
    /// There are more keys than the budget has Jobs, and no `since_column` that says which key comes next.
    NoSinceColumn,
}

/// A limit of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The number of cached queries: all of them are watched or in flight.
    Cache,
    /// The quota of one namespace in the cache.
    NamespaceQuota,
    /// The open streams of one trigger.
    TriggerStreams,
    /// The open streams of the process.
    Streams,
}

/// A five-character SQLSTATE.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// Accepts five upper-case letters and digits.
    pub fn new(code: &str) -> Option<Self> {
        let bytes: [u8; 5] = code.as_bytes().try_into().ok()?;
        bytes.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()).then_some(Self(bytes))
    }

    /// Returns the code's text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked to be ASCII by the constructor")
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kind of a fault; the scaler has one gRPC code for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The database cannot serve now: UNAVAILABLE.
    Unavailable,
    /// The answer took too long: DEADLINE_EXCEEDED.
    TooSlow,
    /// The query or its answer must be corrected: FAILED_PRECONDITION.
    Precondition,
    /// A limit of our own was reached: RESOURCE_EXHAUSTED.
    Exhausted,
    /// A bug of ours: INTERNAL.
    Bug,
}

impl Fault {
    /// The faults whose text is always the same: all but those that name an SQLSTATE.
    pub const FIXED: [Self; 29] = [
        Self::Disabled,
        Self::Unreachable,
        Self::PrivilegedRole,
        Self::WrongServer,
        Self::Lagging,
        Self::ConnectionLost,
        Self::BreakerOpen,
        Self::DeadlineExceeded,
        Self::StatementTimeout,
        Self::LockTimeout,
        Self::Unusable(Unusable::Null),
        Self::Unusable(Unusable::NoRow),
        Self::Unusable(Unusable::SeveralRows),
        Self::Unusable(Unusable::NotANumber),
        Self::Unusable(Unusable::Infinite),
        Self::Unusable(Unusable::Negative),
        Self::Unusable(Unusable::WrongType),
        Self::Unusable(Unusable::Masked),
        Self::Unusable(Unusable::UnknownState),
        Self::Unusable(Unusable::NullKey),
        Self::Unusable(Unusable::RepeatedKey),
        Self::Unusable(Unusable::TooManyKeys),
        Self::Unusable(Unusable::NotShareable),
        Self::Unusable(Unusable::NoSinceColumn),
        Self::Exhausted(Limit::Cache),
        Self::Exhausted(Limit::NamespaceQuota),
        Self::Exhausted(Limit::TriggerStreams),
        Self::Exhausted(Limit::Streams),
        Self::Bug,
    ];

    /// Returns the kind.
    pub fn kind(self) -> Kind {
        match self {
            Self::Disabled
            | Self::Unreachable
            | Self::PrivilegedRole
            | Self::WrongServer
            | Self::Lagging
            | Self::ConnectionLost
            | Self::ServerUnavailable(_)
            | Self::BreakerOpen
            | Self::Conflict(_) => Kind::Unavailable,
            Self::DeadlineExceeded | Self::StatementTimeout | Self::LockTimeout => Kind::TooSlow,
            Self::Rejected(_) | Self::Unusable(_) => Kind::Precondition,
            Self::Exhausted(_) => Kind::Exhausted,
            Self::Bug => Kind::Bug,
        }
    }

    /// Returns the reasons for which a reading of a query can fail.
    pub fn reasons(is_grouped: bool) -> impl Iterator<Item = &'static str> + Clone {
        let fixed = Self::FIXED.into_iter().filter(move |fault| match fault {
            Self::Unusable(Unusable::SeveralRows) => !is_grouped,
            Self::Unusable(
                Unusable::NullKey
                | Unusable::RepeatedKey
                | Unusable::TooManyKeys
                | Unusable::NotShareable
                | Unusable::NoSinceColumn,
            ) => is_grouped,
            // Only the readings of a grouped query are large.
            Self::Exhausted(Limit::Cache) => is_grouped,
            Self::Exhausted(_) => false,
            _ => true,
        });
        fixed.map(Self::reason).chain(["server_unavailable", "conflict", "rejected"])
    }

    /// Returns PostgreSQL's code, if the fault names one.
    pub fn sqlstate(self) -> Option<SqlState> {
        match self {
            Self::ServerUnavailable(state) | Self::Conflict(state) | Self::Rejected(state) => Some(state),
            _ => None,
        }
    }

    /// Returns a label from a closed set, for metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Unreachable => "unreachable",
            Self::PrivilegedRole => "privileged_role",
            Self::WrongServer => "wrong_server",
            Self::Lagging => "lagging",
            Self::ConnectionLost => "connection_lost",
            Self::ServerUnavailable(_) => "server_unavailable",
            Self::BreakerOpen => "breaker_open",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::StatementTimeout => "statement_timeout",
            Self::LockTimeout => "lock_timeout",
            Self::Conflict(_) => "conflict",
            Self::Rejected(_) => "rejected",
            Self::Unusable(unusable) => unusable.reason(),
            Self::Exhausted(_) => "exhausted",
            Self::Bug => "bug",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("the query's database is disabled in the scaler's configuration"),
            Self::Unreachable => f.write_str("the database cannot be reached"),
            Self::PrivilegedRole => {
                f.write_str("the database role is more privileged than the scaler's configuration allows")
            }
            Self::WrongServer => {
                f.write_str("the database server is not of the kind that the scaler's configuration asks for")
            }
            Self::Lagging => {
                f.write_str("the database is a standby further behind than the scaler's configuration allows")
            }
            Self::ConnectionLost => f.write_str("the connection to the database broke"),
            Self::ServerUnavailable(state) => write!(f, "the database cannot serve now (SQLSTATE {state})"),
            Self::BreakerOpen => f.write_str("the database has failed repeatedly; waiting for it to return"),
            Self::DeadlineExceeded => f.write_str("the database did not answer in time"),
            Self::StatementTimeout => f.write_str("the query exceeded its statement timeout (SQLSTATE 57014)"),
            Self::LockTimeout => f.write_str("the query waited too long for a lock (SQLSTATE 55P03)"),
            Self::Conflict(state) => write!(f, "the query conflicted with other transactions (SQLSTATE {state})"),
            Self::Rejected(state) => write!(f, "the database rejected the query (SQLSTATE {state})"),
            Self::Unusable(unusable) => f.write_str(unusable.text()),
            Self::Exhausted(limit) => f.write_str(limit.text()),
            Self::Bug => f.write_str("the scaler has a bug; its log has the rest"),
        }
    }
}

impl std::error::Error for Fault {}

impl Unusable {
    fn reason(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::NoRow => "no_row",
            Self::SeveralRows => "several_rows",
            Self::NotANumber => "not_a_number",
            Self::Infinite => "infinite",
            Self::Negative => "negative",
            Self::WrongType => "wrong_type",
            Self::Masked => "masked",
            Self::UnknownState => "unknown_state",
            Self::NullKey => "null_key",
            Self::RepeatedKey => "repeated_key",
            Self::TooManyKeys => "too_many_keys",
            Self::NotShareable => "not_shareable",
            Self::NoSinceColumn => "no_since_column",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Null => "the query returned NULL",
            Self::NoRow => "the query returned no row",
            Self::SeveralRows => "the query returned several rows",
            Self::NotANumber => "the query returned NaN",
            Self::Infinite => "the query returned an infinite number",
            Self::Negative => "the query returned a negative number",
            Self::WrongType => "the query returned a column that is no number",
            Self::Masked => "the query reads statistics that PostgreSQL masks for the scaler's role",
            Self::UnknownState => "the queue has rows in a state that the query's preset does not know",
            Self::NullKey => "the grouped query returned a NULL key",
            Self::RepeatedKey => "the grouped query returned a key twice",
            Self::TooManyKeys => "the grouped query returned more than 10000 keys, or 4 MiB of them",
            Self::NotShareable => {
                "a budget needs whole numbers, no more claimable than outstanding, and weights that are finite and above 0"
            }
            Self::NoSinceColumn => "the budget's total is smaller than the number of keys, and it has no since_column",
        }
    }
}

impl Limit {
    fn text(self) -> &'static str {
        match self {
            Self::Cache => "the scaler holds as many distinct queries and parameters as it can",
            Self::NamespaceQuota => "this namespace holds its share of the scaler's distinct queries and parameters",
            Self::TriggerStreams => "this trigger has as many open streams as it may have",
            Self::Streams => "the scaler has as many open streams as it may have",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Returns whether the text of a fault is always the same. A fault that is new has to get its place here, and in
    /// [`Fault::FIXED`] if it is.
    fn is_fixed(fault: Fault) -> bool {
        match fault {
            Fault::ServerUnavailable(_) | Fault::Conflict(_) | Fault::Rejected(_) => false,
            Fault::Disabled
            | Fault::Unreachable
            | Fault::PrivilegedRole
            | Fault::WrongServer
            | Fault::Lagging
            | Fault::ConnectionLost
            | Fault::BreakerOpen
            | Fault::DeadlineExceeded
            | Fault::StatementTimeout
            | Fault::LockTimeout
            | Fault::Unusable(
                Unusable::Null
                | Unusable::NoRow
                | Unusable::SeveralRows
                | Unusable::NotANumber
                | Unusable::Infinite
                | Unusable::Negative
                | Unusable::WrongType
                | Unusable::Masked
                | Unusable::UnknownState
                | Unusable::NullKey
                | Unusable::RepeatedKey
                | Unusable::TooManyKeys
                | Unusable::NotShareable
                | Unusable::NoSinceColumn,
            )
            | Fault::Exhausted(Limit::Cache | Limit::NamespaceQuota | Limit::TriggerStreams | Limit::Streams)
            | Fault::Bug => true,
        }
    }

    #[test]
    fn every_fault_with_a_fixed_text_is_listed_once() {
        assert!(Fault::FIXED.into_iter().all(is_fixed));
        let texts: BTreeSet<_> = Fault::FIXED.into_iter().map(|fault| fault.to_string()).collect();
        assert_eq!(texts.len(), Fault::FIXED.len());
    }

    #[test]
    fn every_reason_of_a_reading_is_known_beforehand() {
        let state = SqlState::new("57P01").expect("a code");
        let possible: BTreeSet<_> = Fault::FIXED
            .into_iter()
            .chain([Fault::ServerUnavailable(state), Fault::Conflict(state), Fault::Rejected(state)])
            .map(Fault::reason)
            .collect();
        let (of_one_row, of_groups) = (Fault::reasons(false), Fault::reasons(true));
        assert!(of_one_row.clone().any(|reason| reason == "several_rows") && of_one_row.clone().count() == 23);
        assert!(of_groups.clone().any(|reason| reason == "null_key") && of_groups.clone().count() == 28);
        assert_eq!(of_one_row.chain(of_groups).collect::<BTreeSet<_>>(), possible);
    }

    #[test]
    fn a_sqlstate_is_five_upper_case_letters_and_digits() {
        assert_eq!(SqlState::new("57P01").expect("a code").as_str(), "57P01");
        for bad in ["", "5701", "57p01", "57P011", "57-01", "é7P0"] {
            assert!(SqlState::new(bad).is_none(), "{bad}");
        }
    }
}
