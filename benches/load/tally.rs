//! The results of many calls: counts, latencies, a table for people and JSON for programs.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{client::Failure, request::Outcome};

/// Latencies are held to three digits up to this.
const LONGEST: Duration = Duration::from_secs(120);

/// Wrong answers and refusals that are quoted; the others are only counted.
const QUOTED: usize = 5;

/// Outcomes and latencies of calls.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    pub(crate) right: u64,
    pub(crate) wrong: u64,
    /// The first few wrong answers and refusals.
    pub(crate) quotes: Vec<String>,
    /// Calls without an answer, by status or by what broke.
    pub(crate) failed: BTreeMap<String, u64>,
    latency: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1_000, nanoseconds(LONGEST), 3).expect("the bounds are sound");
        Self { right: 0, wrong: 0, quotes: Vec::new(), failed: BTreeMap::new(), latency }
    }
}

impl Tally {
    /// Adds one call.
    pub(crate) fn add(&mut self, outcome: Outcome, took: Duration) {
        self.latency.saturating_record(nanoseconds(took));
        match outcome {
            Outcome::Right => self.right += 1,
            Outcome::Wrong(instead) => {
                self.wrong += 1;
                if self.quotes.len() < QUOTED {
                    self.quotes.push(instead);
                }
            }
            Outcome::Failed(Failure::Refused(code, message)) => {
                *self.failed.entry(format!("{code:?}")).or_default() += 1;
                if self.quotes.len() < QUOTED {
                    self.quotes.push(format!("{code:?}: {message}"));
                }
            }
            Outcome::Failed(Failure::Broken(what)) => *self.failed.entry(what).or_default() += 1,
        }
    }

    /// Adds the calls of another tally.
    pub(crate) fn merge(&mut self, other: Self) {
        let Self { right, wrong, quotes, failed, latency } = other;
        self.right += right;
        self.wrong += wrong;
        self.quotes.extend(quotes);
        self.quotes.truncate(QUOTED);
        for (what, count) in failed {
            *self.failed.entry(what).or_default() += count;
        }
        self.latency.add(latency).expect("both have the same bounds");
    }

    /// Returns the number of calls.
    pub(crate) fn calls(&self) -> u64 {
        self.latency.len()
    }

    /// Returns the latency that this share (0 to 1) of the calls did not exceed.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        Duration::from_nanos(self.latency.value_at_quantile(share))
    }

    /// Returns JSON for programs; latencies are in seconds.
    pub(crate) fn json(&self) -> Value {
        json!({
            "right": self.right,
            "wrong": self.wrong,
            "failed": self.failed,
            "seconds": {
                "p50": self.quantile(0.5).as_secs_f64(),
                "p99": self.quantile(0.99).as_secs_f64(),
                "p99.9": self.quantile(0.999).as_secs_f64(),
                "max": self.quantile(1.0).as_secs_f64(),
            },
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut failed = String::new();
        for (what, count) in &self.failed {
            write!(failed, " {what}: {count}")?;
        }
        write!(
            f,
            "{:>9} right {:>3} wrong {:>5} failed   p50 {:>9.1?}  p99 {:>9.1?}  p99.9 {:>9.1?}  max {:>9.1?}{failed}",
            self.right,
            self.wrong,
            self.failed.values().sum::<u64>(),
            self.quantile(0.5),
            self.quantile(0.99),
            self.quantile(0.999),
            self.quantile(1.0),
        )
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns a count as a double, for ratios.
pub(crate) fn real(count: u64) -> f64 {
    // Beyond 2^32 our counts do not go; a ratio would hardly show it.
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
