//! The numbers a query returned, and when its statement was sent.
//!
//! A leaf: [`crate::postgres`] makes readings, [`crate::cached query`] keeps the latest, and
//! [`crate::scaler`] converts one into an answer.

use std::collections::HashMap;

use tokio::time::Instant;

/// One row's numbers: finite, not negative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Numbers {
    /// The value column, undivided.
    pub value: f64,
    /// The activity column, where the query names one.
    pub activity: Option<f64>,
}

/// What one statement told.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The numbers.
    pub rows: Rows,
    /// When the statement was sent; a reading's age counts from here.
    pub sent_at: Instant,
    /// When the numbers change by the clock alone, if the query says so.
    pub changes_at: Option<Instant>,
}

/// The rows of a reading.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// A plain query's single row.
    One(Numbers),
    /// A grouped query's rows by key.
    ByKey(HashMap<Box<str>, Numbers>),
}

impl Rows {
    /// The numbers of a grouped query's key, or a plain query's.
    pub fn of(&self, key: Option<&str>) -> Option<&Numbers> {
        match (self, key) {
            (Self::One(numbers), _) => Some(numbers),
            (Self::ByKey(rows), Some(key)) => rows.get(key),
            (Self::ByKey(_), None) => None,
        }
    }
}
