//! Turns: what many tasks want to do at the same moment is done a few at a time, and the runtime serves others in
//! between.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::oneshot, task::yield_now};

use crate::places::Peer;

/// The turns of many tasks, in rounds. Between two rounds the runtime looks at its sockets and runs what else is ready,
/// so that another call waits for one round at each of its steps, and not for all tasks. Within the rounds each peer
/// that waits has one turn after the other peers.
///
/// A task that waits for its turn need not be polled when it comes, as a stream is not whose peer takes nothing: it
/// keeps nobody from the turns of the next round.
#[derive(Clone)]
pub struct Turns(Arc<Rounds>);

struct Rounds {
    /// The turns of a round.
    size: usize,
    round: Mutex<Round>,
}

struct Round {
    /// The turns that are left. None are while tasks wait; then a task of its own begins the next round.
    left: usize,
    /// The tasks of each peer that wait, in their order.
    waiting: HashMap<Peer, VecDeque<oneshot::Sender<()>>>,
    /// These peers, in the order of their next turns.
    peers: VecDeque<Peer>,
}

impl Turns {
    /// Makes rounds of so many turns.
    pub fn new(size: usize) -> Self {
        let round = Mutex::new(Round { left: size, waiting: HashMap::new(), peers: VecDeque::new() });
        Self(Arc::new(Rounds { size, round }))
    }

    /// Waits for a turn of this peer. It lasts until the task waits for something else.
    ///
    /// # Cancel safety
    /// Safe: a turn that was not waited for to the end is another task's, or nobody's.
    pub async fn take(&self, peer: Peer) {
        let turn = {
            let mut round = self.0.round();
            if round.left > 0 {
                round.left -= 1;
                if round.left == 0 {
                    tokio::spawn(begin_rounds(Arc::clone(&self.0)));
                }
                return;
            }
            round.wait(peer)
        };
        turn.await.expect("whoever waits is given a turn");
    }
}

impl Rounds {
    fn round(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Round {
    /// Adds a task to those that wait.
    fn wait(&mut self, peer: Peer) -> oneshot::Receiver<()> {
        let (sender, turn) = oneshot::channel();
        let tasks = self.waiting.entry(peer).or_default();
        if tasks.is_empty() {
            self.peers.push_back(peer);
        }
        tasks.push_back(sender);
        turn
    }

    /// Gives so many turns to those who wait, to each peer in turn. What is left is for those who come.
    fn begin(&mut self, turns: usize) {
        self.left = turns;
        while self.left > 0
            && let Some(peer) = self.peers.pop_front()
            && let Some(tasks) = self.waiting.get_mut(&peer)
        {
            // Whoever has given up gets none.
            let mut is_taken = false;
            while !is_taken && let Some(task) = tasks.pop_front() {
                is_taken = task.send(()).is_ok();
            }
            if tasks.is_empty() {
                self.waiting.remove(&peer);
            } else {
                self.peers.push_back(peer);
            }
            self.left -= usize::from(is_taken);
        }
    }
}

/// Begins the next round whenever the sockets have been looked at, until nobody waits for a turn.
async fn begin_rounds(rounds: Arc<Rounds>) {
    loop {
        yield_now().await;
        let mut round = rounds.round();
        round.begin(rounds.size);
        if round.left > 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::IpAddr,
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use futures_util::FutureExt;
    use tokio::time::timeout;

    use super::*;

    const ROUND: usize = 64;
    const PATIENCE: Duration = Duration::from_secs(10);

    fn peer(number: u8) -> Peer {
        Peer::from(IpAddr::from([10, 0, 0, number]))
    }

    /// Starts so many tasks of a peer, which count themselves when they have had their turn.
    fn crowd(turns: &Turns, peer: Peer, size: usize) -> Arc<AtomicUsize> {
        let ran = Arc::<AtomicUsize>::default();
        for _ in 0..size {
            let (turns, ran) = (turns.clone(), Arc::clone(&ran));
            tokio::spawn(async move {
                turns.take(peer).await;
                ran.fetch_add(1, Ordering::Relaxed);
            });
        }
        ran
    }

    #[tokio::test]
    async fn what_is_ready_waits_for_a_round_and_not_for_all() {
        const CROWD: usize = 100 * ROUND;
        let turns = Turns::new(ROUND);
        let ran = crowd(&turns, peer(1), CROWD);
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
    async fn a_task_waits_for_others_of_its_peer_and_not_for_the_crowds_of_other_peers() {
        const CROWD: usize = 100 * ROUND;
        let turns = Turns::new(ROUND);
        let crowds = [1, 2].map(|number| crowd(&turns, peer(number), CROWD));
        yield_now().await;
        for _ in 0..10 {
            timeout(PATIENCE, turns.take(peer(3))).await.expect("a turn");
        }
        let [one, two] = crowds.map(|ran| ran.load(Ordering::Relaxed));
        assert!(one + two <= 13 * ROUND, "{one} and {two} tasks of others ran before ten of this peer");
        assert!(one.abs_diff(two) <= 2 * ROUND, "the crowds have had {one} and {two} turns");
    }

    #[tokio::test]
    async fn tasks_that_do_not_come_for_their_turns_hold_up_nobody() {
        let turns = Turns::new(ROUND);
        for _ in 0..ROUND {
            turns.take(peer(1)).await;
        }
        let mut absent: Vec<_> = (0..3 * ROUND).map(|_| Box::pin(turns.take(peer(1)))).collect();
        for waiting in &mut absent {
            assert!(waiting.now_or_never().is_none());
        }
        timeout(PATIENCE, turns.take(peer(1))).await.expect("a turn after those of the others");
        drop(absent);
        for _ in 0..10 * ROUND {
            timeout(PATIENCE, turns.take(peer(1))).await.expect("a turn");
        }
        let round = turns.0.round();
        assert!(round.left <= ROUND && round.waiting.is_empty() && round.peers.is_empty(), "nothing is left of them");
    }
}
