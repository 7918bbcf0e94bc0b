//! Turns: what many tasks want to do at the same moment is done a few at a time, and the runtime serves others in between.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::{sync::Semaphore, task::yield_now};

/// The turns of many tasks, in rounds. Between two rounds the runtime looks at its sockets and runs what else is ready, so that
/// another call waits for one round at each of its steps, and not for all tasks.
pub struct Turns {
    round: usize,
    /// Those that are left of this round.
    left: Semaphore,
    /// The turns that were taken, of all rounds.
    taken: AtomicUsize,
}

/// Begins the next round when it is dropped.
struct NextRound<'a>(&'a Turns);

impl Turns {
    /// Makes rounds of so many turns.
    pub fn new(round: usize) -> Self {
        Self { round, left: Semaphore::new(round), taken: AtomicUsize::new(0) }
    }

    /// Waits for a turn. It lasts until the task waits for something else.
    ///
    /// # Cancel safety
    /// Safe: a turn that is given up is as good as taken.
    pub async fn take(&self) {
        self.left.acquire().await.expect("nobody closes it").forget();
        let is_last = (self.taken.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(self.round);
        if is_last {
            // Also if the task ends while it waits.
            let _next = NextRound(self);
            yield_now().await;
        }
    }
}

impl Drop for NextRound<'_> {
    fn drop(&mut self) {
        self.0.left.add_permits(self.0.round);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;

    const ROUND: usize = 64;

    #[tokio::test]
    async fn what_is_ready_waits_for_a_round_and_not_for_all() {
        const CROWD: usize = 100 * ROUND;
        let (turns, ran) = (Arc::new(Turns::new(ROUND)), Arc::<AtomicUsize>::default());
        for _ in 0..CROWD {
            let (turns, ran) = (Arc::clone(&turns), Arc::clone(&ran));
            tokio::spawn(async move {
                turns.take().await;
                ran.fetch_add(1, Ordering::Relaxed);
            });
        }
        let (mut before, mut looks) = (0, 0);
        while before < CROWD {
            yield_now().await;
            let now = ran.load(Ordering::Relaxed);
            assert!(now - before <= 2 * ROUND, "{} tasks ran before this", now - before);
            (before, looks) = (now, looks + 1);
        }
        assert!(looks >= CROWD / ROUND / 2, "{looks}");
    }

    #[tokio::test]
    async fn a_task_that_ends_in_the_last_turn_of_a_round_holds_up_nobody() {
        let turns = Turns::new(ROUND);
        for _ in 1..ROUND {
            turns.take().await;
        }
        assert!(turns.take().now_or_never().is_none(), "it waits for the sockets");
        assert!(turns.take().now_or_never().is_some(), "it has ended, and the next round has begun");
    }
}
