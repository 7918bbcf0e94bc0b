//! The queries of an operator: a statement, how its row is read, and who may use it.
//!
//! No I/O. [`sql`] looks at a statement without running it; [`value`] reads the parameters that a
//! trigger gives.

pub mod sql;
pub mod value;

use std::time::Duration;

pub use self::value::Value;
use crate::scaling::{Activation, Divisor, Rounding, Target};

/// The words for what [`is_metric_name`] accepts.
pub(crate) const METRIC_NAME: &str = "1 to 63 letters, digits, '-', '_' and '.', with a letter or digit at either end";

/// The reserved name of the query that has no database, never fails and never scales. A ScaledJob for it keeps KEDA's
/// connection open.
pub const KEEPER: &str = "keeper";

/// One entry of `queries`.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Its key in `queries`; also the metric's name.
    pub name: String,
    /// The keys of its databases. Where there are several, its numbers are the sums over all of them.
    pub databases: Vec<String>,
    /// The statement as the operator wrote it.
    pub sql: String,
    /// The column that is reported; the only column where absent.
    pub value_column: Option<String>,
    /// The column that is compared with the activation threshold, undivided; the reported value where absent.
    pub activity_column: Option<String>,
    /// The column (timestamptz) that says when the numbers change by the clock alone.
    pub next_change: Option<String>,
    /// The number that the value is divided by.
    pub divide_by: Divisor,
    /// The rounding of the quotient. Where absent it follows from the divisor in effect, see [`Rounding::default_for`].
    pub rounding: Option<Rounding>,
    /// The target for triggers that set none.
    pub target: Target,
    /// The threshold for triggers that set none.
    pub activation: Activation,
    /// Bound as `$1`, `$2`... in this order.
    pub parameters: Vec<Parameter>,
    /// The key column of a grouped query.
    pub group_by: Option<String>,
    /// The meaning of a NULL number.
    pub on_null: Absent,
    /// The meaning of a missing row.
    pub on_no_row: Absent,
    /// The statement's own limit.
    pub timeout: Duration,
    /// A reading this young is shared; zero: only calls that overlap share.
    pub max_age: Duration,
    /// The channel on which the database says that the numbers may have changed.
    pub notify: Option<Notify>,
    /// The namespaces whose triggers may use it.
    pub namespaces: Namespaces,
    /// The number of Jobs that the keys of a grouped query share.
    pub budget: Option<Budget>,
    /// The preset that its statement is, whose rows have the columns [`STALLED`] and [`UNKNOWN`], too.
    pub preset: Option<PresetQuery>,
}

impl Query {
    /// Returns the keys of its databases as one text, for a label or a message.
    pub fn database_names(&self) -> String {
        self.databases.join(",")
    }
}

/// The column of a preset with the number of rows that nobody gets until a person or another process does something.
pub const STALLED: &str = "stalled";

/// The column of a preset with the number of rows in a state that it does not know.
pub const UNKNOWN: &str = "unknown";

/// A query's preset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresetQuery {
    /// Its name.
    pub name: &'static str,
    /// The versions of the library that it expects, as a message names them.
    pub expects: String,
    /// The thing that stalled rows wait for, in a sentence.
    pub stalled: &'static str,
    /// The statement that says whether the configured queue has ever been seen.
    pub seen: Option<String>,
    /// The statement that lists the queues that there are, for a queue that was never seen.
    pub queues: Option<String>,
}

/// `budget` of a grouped query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// The most that all keys together are told, unless they hold more.
    pub total: u64,
    /// The column with a key's weight; all weigh the same where absent.
    pub weight_column: Option<String>,
    /// The column (timestamptz) with the time since which a key has had no new slot.
    pub since_column: Option<String>,
}

/// The meaning of a number that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// It is a fault.
    Error,
    /// It is zero, because the operator said so.
    Zero,
}

/// A declared parameter of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// `<name>` of the trigger's `param.<name>`.
    pub name: String,
    /// The type as which its text is parsed and bound.
    pub kind: ParameterKind,
}

/// The types that a parameter can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterKind {
    /// Any text without a zero byte.
    Text,
    /// A 64-bit integer.
    Bigint,
    /// A finite double.
    Double,
    /// `true` or `false`.
    Boolean,
    /// A UUID in its canonical form.
    Uuid,
    /// An RFC 3339 time.
    Timestamptz,
}

/// `notify` of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// The channel to LISTEN on.
    pub channel: String,
    /// The age at which a reading is stale although no notification came. Absent where the channel tells only of some
    /// changes: a reading gets no older than `max_age` then.
    pub resync: Option<Duration>,
}

/// The Kubernetes namespaces whose triggers may use a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespaces {
    /// `["*"]`.
    All,
    /// Only these.
    Only(Vec<String>),
}

impl Namespaces {
    /// Returns whether triggers of this namespace may use the query.
    pub fn allow(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|name| name == namespace),
        }
    }
}

/// Returns whether a text can be the name of a metric: `^[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$`, which
/// is what Kubernetes takes for a metric's name.
pub fn is_metric_name(name: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    bytes.len() <= 63
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}
