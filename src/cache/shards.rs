//! The databases of a query, and the sum of their readings.
//!
//! A sum has every part or is none: a database that does not answer must never make it smaller.

use std::{collections::HashMap, sync::Arc};

use tokio::{sync::watch, time::Instant};

use super::reader::QueryReader;
use crate::{
    fault::{Fault, Unusable},
    metrics::QueryLabels,
    query::Query,
    reading::{ChannelState, MAXIMUM_KEY_BYTES, MAXIMUM_KEYS, Numbers, Reading, Rows},
};

/// One database of a query, and what the query has for it alone.
pub(super) struct Shard {
    pub(super) reader: Arc<dyn QueryReader>,
    pub(super) labels: QueryLabels,
    pub(super) channel: Option<watch::Receiver<ChannelState>>,
}

/// The latest reading of each database, in the order of the query; none of one whose latest attempt failed.
pub(super) type Parts = Vec<Option<Arc<Reading>>>;

/// The fault of a sum, and its origin for the log.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    pub(super) detail: String,
    /// The database, or all of them if the fault is of their sum.
    pub(super) labels: QueryLabels,
}

impl Shard {
    pub(super) fn new(query: &Query, reader: Arc<dyn QueryReader>) -> Self {
        let labels = QueryLabels { query: query.name.clone(), database: reader.database().to_owned() };
        let channel = reader.channel();
        Self { reader, labels, channel }
    }
}

/// Adds up readings of the same query. The sum is as old as the oldest, and changes by the clock with the first.
///
/// # Errors
/// Together they have too many keys, or a number is too large.
///
/// # Panics
/// Panics if there is none, or if only some are grouped: all are of the same query.
pub fn sum(parts: &[Arc<Reading>]) -> Result<Arc<Reading>, Fault> {
    if let [only] = parts {
        return Ok(Arc::clone(only));
    }
    let rows = match &parts[0].rows {
        Rows::One(_) => Rows::One(
            parts
                .iter()
                .try_fold(None, |sum, part| match part.rows {
                    Rows::One(numbers) => plus(sum, numbers).map(Some),
                    Rows::ByKey(_) => unreachable!("a plain query has one row in each database"),
                })?
                .expect("there is at least one part"),
        ),
        Rows::ByKey(_) => Rows::ByKey(sum_by_key(parts)?),
    };
    Ok(Arc::new(Reading {
        rows,
        sent_at: parts.iter().map(|part| part.sent_at).fold(parts[0].sent_at, Instant::min),
        changes_at: parts.iter().filter_map(|part| part.changes_at).min(),
        stalled: parts.iter().filter_map(|part| part.stalled).reduce(|a, b| a + b),
        short_keys: parts.iter().filter_map(|part| part.short_keys).reduce(|a, b| a + b),
    }))
}

fn sum_by_key(parts: &[Arc<Reading>]) -> Result<HashMap<Box<str>, Numbers>, Fault> {
    let mut sums: HashMap<Box<str>, Numbers> = HashMap::new();
    let mut bytes = 0;
    for part in parts {
        let Rows::ByKey(rows) = &part.rows else { unreachable!("a grouped query has keys in each database") };
        for (key, numbers) in rows {
            if let Some(sum) = sums.get_mut(key) {
                *sum = plus(Some(*sum), *numbers)?;
                continue;
            }
            bytes += key.len();
            if sums.len() == MAXIMUM_KEYS || bytes > MAXIMUM_KEY_BYTES {
                return Err(Fault::Unusable(Unusable::TooManyKeys));
            }
            sums.insert(key.clone(), *numbers);
        }
    }
    Ok(sums)
}

/// Returns whether a number is zero now and was above zero `before`; true if nothing is known of before.
pub(super) fn has_become_zero(before: Option<&Reading>, now: &Reading) -> bool {
    let is_zero = |number: f64| number <= 0.0;
    let has_become_zero = |before: Numbers, now: Numbers| {
        let activities = before.activity.zip(now.activity);
        (is_zero(now.value) && !is_zero(before.value))
            || activities.is_some_and(|(before, now)| is_zero(now) && !is_zero(before))
    };
    match (before.map(|reading| &reading.rows), &now.rows) {
        (Some(Rows::One(before)), Rows::One(now)) => has_become_zero(*before, *now),
        (Some(Rows::ByKey(before)), Rows::ByKey(now)) => {
            let absent = Numbers { value: 0.0, activity: Some(0.0) };
            before.iter().any(|(key, numbers)| has_become_zero(*numbers, now.get(key).copied().unwrap_or(absent)))
        }
        _ => true,
    }
}

fn plus(sum: Option<Numbers>, numbers: Numbers) -> Result<Numbers, Fault> {
    let Some(sum) = sum else { return Ok(numbers) };
    let value = sum.value + numbers.value;
    let activity = sum.activity.zip(numbers.activity).map(|(a, b)| a + b);
    if value.is_infinite() || activity.is_some_and(f64::is_infinite) {
        return Err(Fault::Unusable(Unusable::Infinite));
    }
    Ok(Numbers { value, activity })
}

#[cfg(test)]
mod tests;
