//! The reading that each trigger's latest GetMetrics used.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::reading::Reading;

/// The number of entries below which it is not worth looking for expired ones.
const FEW: usize = 64;

/// Readings by trigger, each for a limited time.
#[derive(Debug)]
pub(super) struct LastPolls {
    life: Duration,
    by_trigger: HashMap<u64, (Arc<Reading>, Instant)>,
    sweep_at: usize,
}

impl LastPolls {
    pub(super) fn new(life: Duration) -> Self {
        Self { life, by_trigger: HashMap::new(), sweep_at: FEW }
    }

    pub(super) fn pin(&mut self, trigger: u64, reading: &Arc<Reading>, now: Instant) {
        if self.by_trigger.len() >= self.sweep_at {
            let life = self.life;
            self.by_trigger.retain(|_, (_, pinned_at)| now.duration_since(*pinned_at) < life);
            self.sweep_at = FEW.max(2 * self.by_trigger.len());
        }
        self.by_trigger.insert(trigger, (Arc::clone(reading), now));
    }

    /// Returns the pinned reading, unless it was pinned too long ago or an attempt has failed since.
    pub(super) fn pinned(&self, trigger: u64, now: Instant, failed_at: Option<Instant>) -> Option<Arc<Reading>> {
        let (reading, pinned_at) = self.by_trigger.get(&trigger)?;
        let holds = now.duration_since(*pinned_at) < self.life && failed_at.is_none_or(|failed| failed < *pinned_at);
        holds.then(|| Arc::clone(reading))
    }
}
