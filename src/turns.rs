//! Turns: what many tasks want to do at the same moment is done a few at a time, and the runtime serves others in between.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{sync::Semaphore, task::yield_now};

/// The turns of many tasks, in rounds. Between two rounds the runtime looks at its sockets and runs what else is ready, so that
/// another call waits for one round at each of its steps, and not for all tasks.
///
/// A task that waits for its turn need not be polled when it comes, as a stream is not whose peer takes nothing: it keeps
/// nobody from the turns of the next round.
pub struct Turns(Arc<Rounds>);

struct Rounds {
    /// The turns of a round.
    size: usize,
    /// Those that are left of this round.
    left: Semaphore,
    /// True while a task begins round after round.
    has_next: AtomicBool,
}

impl Turns {
    /// Makes rounds of so many turns.
    pub fn new(size: usize) -> Self {
        Self(Arc::new(Rounds { size, left: Semaphore::new(size), has_next: AtomicBool::new(false) }))
    }

    /// Waits for a turn. It lasts until the task waits for something else.
    ///
    /// # Cancel safety
    /// Safe: a turn that was not waited for to the end is another task's.
    pub async fn take(&self) {
        let rounds = &self.0;
        // Those who gave up while it was their turn have given it back, of whatever round it was.
        rounds.left.forget_permits(rounds.left.available_permits().saturating_sub(rounds.size));
        rounds.left.acquire().await.expect("nobody closes it").forget();
        if rounds.left.available_permits() == 0 && !rounds.has_next.swap(true, Ordering::AcqRel) {
            tokio::spawn(begin_rounds(Arc::clone(rounds)));
        }
    }
}

/// Begins the next round whenever the sockets have been looked at, until nobody waits for a turn.
async fn begin_rounds(rounds: Arc<Rounds>) {
    loop {
        yield_now().await;
        // Those who wait take them from here.
        rounds.left.add_permits(rounds.size.saturating_sub(rounds.left.available_permits()));
        if rounds.left.available_permits() == 0 {
            continue;
        }
        rounds.has_next.store(false, Ordering::Release);
        // On a runtime of several threads the last one may have been taken before that.
        if rounds.left.available_permits() > 0 || rounds.has_next.swap(true, Ordering::AcqRel) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, time::Duration};

    use futures_util::FutureExt;
    use tokio::time::timeout;

    use super::*;

    const ROUND: usize = 64;
    const PATIENCE: Duration = Duration::from_secs(10);

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
    async fn tasks_that_do_not_come_for_their_turns_hold_up_nobody() {
        let turns = Turns::new(ROUND);
        for _ in 0..ROUND {
            turns.take().await;
        }
        let mut absent: Vec<_> = (0..3 * ROUND).map(|_| Box::pin(turns.take())).collect();
        for waiting in &mut absent {
            assert!(waiting.now_or_never().is_none());
        }
        timeout(PATIENCE, turns.take()).await.expect("a turn after those of the others");
        drop(absent);
        for _ in 0..10 * ROUND {
            timeout(PATIENCE, turns.take()).await.expect("a turn");
            assert!(turns.0.left.available_permits() < ROUND, "what was given back adds to no round");
        }
    }
}
