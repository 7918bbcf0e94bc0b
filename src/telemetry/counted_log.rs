//! Counts what happens often when somebody floods a port, and says once a minute how often it was.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The pause between two lines.
const PAUSE: Duration = Duration::from_secs(60);

/// The events of one kind since the last line about them.
#[derive(Debug, Default)]
pub struct CountedLog(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    events: u64,
    logged_at: Option<Instant>,
}

impl CountedLog {
    /// Counts an event. Returns the number for a line of the log if one is due.
    pub fn count(&self) -> Option<u64> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.events += 1;
        let now = Instant::now();
        if counted.logged_at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            return None;
        }
        counted.logged_at = Some(now);
        Some(std::mem::take(&mut counted.events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_a_minute_says_how_many_there_were() {
        let log = CountedLog::default();
        assert_eq!([log.count(), log.count(), log.count()], [Some(1), None, None]);
        tokio::time::advance(PAUSE).await;
        assert_eq!([log.count(), log.count()], [Some(3), None]);
    }
}
