//! Notices that the process stood still: it had no processor, it was paused, or its machine was suspended.
//!
//! Calls that were under way then end in errors, and sessions that waited for too long are gone. Without a word about
//! it those errors look like the failure of a database.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    metrics::Metrics,
    recorder::{Incident, since_boot},
};

/// The pause between two looks at the clock.
const TICK: Duration = Duration::from_millis(500);

/// The shortest standstill that is told. A call waits for 2.5 s at most, so that a longer one leaves no time for its
/// answer.
const SHORTEST: Duration = Duration::from_secs(2);

/// Looks again and again, for as long as the process lives.
pub(super) async fn follow(metrics: Arc<Metrics>) {
    let mut looked_at = since_boot();
    loop {
        sleep(TICK).await;
        let now = since_boot();
        if let Some(lasted) = standstill(looked_at, now) {
            tell(lasted, &metrics);
        }
        looked_at = now;
    }
}

/// Returns the time for which the process stood still between two looks, if it did.
fn standstill(looked_at: Duration, now: Duration) -> Option<Duration> {
    let lasted = now.saturating_sub(looked_at).saturating_sub(TICK);
    (lasted >= SHORTEST).then_some(lasted)
}

fn tell(lasted: Duration, metrics: &Metrics) {
    let seconds = lasted.as_secs();
    tracing::warn!(
        lasted = ?Duration::from_secs(seconds),
        "the process stood still: it had no CPU, or was paused. What failed at this moment says nothing about the databases"
    );
    metrics.standstill.inc_by(lasted.as_secs_f64());
    metrics.recorder.happened(Incident::Standstill { seconds });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_comes_a_little_late_is_no_standstill() {
        let after = |milliseconds| {
            let before = Duration::from_secs(1_000);
            standstill(before, before + Duration::from_millis(milliseconds)).map(|lasted| lasted.as_millis())
        };
        assert_eq!([500, 2_499, 2_500, 20_700, 0].map(after), [None, None, Some(2_000), Some(20_200), None]);
    }
}
