//! What an operator wants counted: a statement, how its row is read, and who may use it.
//!
//! No I/O. [`sql`] looks at a statement without running it; [`value`] reads the parameters that a
//! trigger gives.

pub mod sql;
pub mod value;

use std::time::Duration;

pub use self::value::Value;
use crate::scaling::{Activation, Divisor, Rounding, Target};

/// What [`is_metric_name`] takes, for messages.
pub(crate) const METRIC_NAME: &str = "1 to 63 letters, digits, '-', '_' and '.', with a letter or digit at either end";

/// The reserved name of the query that has no database, never fails and never scales. A ScaledJob for it keeps KEDA's
/// connection open.
pub const KEEPER: &str = "keeper";

/// One entry of `queries`.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Its key in `queries`; also the metric's name.
    pub name: String,
    /// The key of its database.
    pub database: String,
    /// The statement as the operator wrote it.
    pub sql: String,
    /// The column that is reported; the only column where absent.
    pub value_column: Option<String>,
    /// The column that is compared with the activation threshold, undivided; the reported value where absent.
    pub activity_column: Option<String>,
    /// The column (timestamptz) that tells when the numbers change by the clock alone.
    pub next_change: Option<String>,
    /// What the value is divided by.
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
    /// What a NULL number means.
    pub on_null: Absent,
    /// What a missing row means.
    pub on_no_row: Absent,
    /// The statement's own limit.
    pub timeout: Duration,
    /// A reading this young is shared; zero: only calls that overlap share.
    pub max_age: Duration,
    /// Where the database tells that the numbers may have changed.
    pub notify: Option<Notify>,
    /// Who may use it.
    pub namespaces: Namespaces,
}

/// What a number that is not there means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// A fault.
    Error,
    /// Zero: the operator said so.
    Zero,
}

/// A declared parameter of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// `<name>` of the trigger's `param.<name>`.
    pub name: String,
    /// How its text is parsed and bound.
    pub kind: ParameterKind,
}

/// The types that a parameter can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// What a missed wake-up costs at most.
    pub resync: Duration,
}

/// Which Kubernetes namespaces' triggers may use a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespaces {
    /// `["*"]`.
    All,
    /// These, and no others.
    Only(Vec<String>),
}

impl Namespaces {
    /// Whether triggers of this namespace may use the query.
    pub fn allow(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|name| name == namespace),
        }
    }
}

/// Whether a name can name a metric: `^[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$`, which
/// is what Kubernetes takes for a metric's name.
pub fn is_metric_name(name: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    bytes.len() <= 63
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}
