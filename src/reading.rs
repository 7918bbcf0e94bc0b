//! The numbers that a query returned, and what their source says about itself.
//!
//! A leaf: [`crate::postgres`] makes readings, [`crate::cache`] stores the latest, and
//! [`crate::scaler`] converts one into an answer.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::fault::Fault;

/// The time within which every unary call is answered. KEDA sets no deadline of its own, and a
/// call that hangs freezes its ScaledObject or ScaledJob for ever.
pub const CALL_DEADLINE: Duration = Duration::from_millis(2_400);

/// The time that a silent server gets beyond a statement's own limit, which it should have enforced.
pub const OVERTIME: Duration = Duration::from_millis(500);

/// The most keys of a grouped query.
pub const MAXIMUM_KEYS: usize = 10_000;

/// The most bytes of all keys together. A trigger's metadata, which has to name one, holds 64 KiB.
pub const MAXIMUM_KEY_BYTES: usize = 4 * 1024 * 1024;

/// The bytes of a key beside its characters: its allocation and its numbers, in a table that is up to half empty.
const KEY: usize = 112;

/// A reading, or its fault with a detail for the log.
pub type ReadResult = Result<Reading, (Fault, String)>;

/// The namespace on whose behalf a reading is taken; none if several namespaces use it.
pub type Tenant = Option<Arc<str>>;

/// The breaker of a database, which says whether it gets statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// Statements are sent.
    Closed,
    /// Only probes are sent.
    Open,
}

/// The state of a notification channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelState {
    /// True if notifications are known to arrive.
    pub is_healthy: bool,
    /// The latest notification, loss or return of LISTEN; a reading that was sent before it is stale.
    pub invalidated_at: Instant,
}

/// The numbers of one row: finite, not negative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Numbers {
    /// The value column, undivided.
    pub value: f64,
    /// The activity column, where the query names one.
    pub activity: Option<f64>,
}

/// The answer to one statement.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The numbers.
    pub rows: Rows,
    /// The time at which the statement was sent; a reading's age counts from it. Of several statements it is the first.
    pub sent_at: Instant,
    /// The time at which the numbers change by the clock alone, if the query says so.
    pub changes_at: Option<Instant>,
    /// The number of rows, of all keys together, that wait for a person or another process; only presets know it.
    pub stalled: Option<f64>,
    /// The number of keys that a budget leaves fewer Jobs than they have rows; only a budget knows it.
    pub short_keys: Option<usize>,
}

impl Reading {
    /// Returns the bytes of its keys; 0 for a plain query.
    pub fn bytes(&self) -> usize {
        match &self.rows {
            Rows::One(_) => 0,
            Rows::ByKey(rows) => rows.keys().map(|key| KEY + key.len()).sum(),
        }
    }
}

/// The rows of a reading.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// The single row of a plain query.
    One(Numbers),
    /// The rows of a grouped query by key.
    ByKey(HashMap<Box<str>, Numbers>),
}

impl Rows {
    /// Returns the numbers of a key of a grouped query, or those of a plain query.
    pub fn of(&self, key: Option<&str>) -> Option<&Numbers> {
        match (self, key) {
            (Self::One(numbers), _) => Some(numbers),
            (Self::ByKey(rows), Some(key)) => rows.get(key),
            (Self::ByKey(_), None) => None,
        }
    }
}

/// Says that so many rows are stalled.
pub fn stalled_rows(rows: f64) -> String {
    format!("{rows:.0} {} stalled", if rows == 1.0 { "row is" } else { "rows are" })
}
