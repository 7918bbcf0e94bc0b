//! The latest reloads of the configuration, for the status page.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;

use crate::recorder::shortened_list;

/// The number of reloads that are remembered.
const REMEMBERED: usize = 20;

/// The most faults of one reload that are remembered, and the most bytes of a text.
const FAULTS: usize = 10;
const LONGEST_TEXT: usize = 512;

/// One reload.
#[derive(Debug, Clone)]
pub(super) struct Reload {
    pub(super) at: Instant,
    pub(super) result: Reloaded,
}

/// The result of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// The new configuration is in force. Names the keys that it changed.
    Applied(String),
    /// The last good configuration stays in force. Lists the faults, without the values that were found.
    Rejected(Vec<String>),
}

/// The latest reloads.
#[derive(Debug, Default)]
pub struct ReloadLog(Mutex<VecDeque<Reload>>);

impl ReloadLog {
    /// Records a reload.
    pub fn note(&self, result: Reloaded) {
        let result = match result {
            Reloaded::Applied(changed) => Reloaded::Applied(shortened_list(&changed, LONGEST_TEXT)),
            Reloaded::Rejected(faults) => {
                let more = faults.len().saturating_sub(FAULTS);
                let mut shown: Vec<String> = faults.into_iter().take(FAULTS).map(shortened).collect();
                if more > 0 {
                    shown.push(format!("{more} more; the log has them all"));
                }
                Reloaded::Rejected(shown)
            }
        };
        let mut reloads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reloads.truncate(REMEMBERED - 1);
        reloads.push_front(Reload { at: Instant::now(), result });
    }

    /// Returns the reloads, the latest first.
    pub(super) fn latest(&self) -> Vec<Reload> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

fn shortened(text: String) -> String {
    match text.floor_char_boundary(LONGEST_TEXT) {
        end if end < text.len() => format!("{}...", &text[..end]),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_latest_are_remembered_and_none_is_long() {
        let log = ReloadLog::default();
        for number in 0..100 {
            log.note(Reloaded::Applied(format!("{number}")));
        }
        log.note(Reloaded::Rejected(vec!["é".repeat(1_000); 1_000]));
        let reloads = log.latest();
        assert_eq!(reloads.len(), REMEMBERED);
        assert_eq!(reloads[1].result, Reloaded::Applied("99".to_owned()));
        let Reloaded::Rejected(faults) = &reloads[0].result else { panic!("the latest is the first") };
        assert_eq!(faults.len(), FAULTS + 1);
        assert!(faults.iter().all(|fault| fault.len() <= LONGEST_TEXT + 3));
        assert_eq!(faults[FAULTS], "990 more; the log has them all");
    }
}
