//! The calls of a poll.

use std::time::Duration;

/// The calls of a poll, in KEDA's order. KEDA makes none after one that fails.
pub(super) const CALLS: [&str; 3] = ["GetMetricSpec", "GetMetrics", "IsActive"];

/// A call with its answer, in words.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) rpc: &'static str,
    pub(super) answer: String,
    pub(super) took: Duration,
}
