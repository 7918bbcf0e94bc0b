//! Lets peers take turns: whatever many streams of one peer have to do at once, the others are answered meanwhile.
//!
//! The runtime runs what is ready in its order. When fifty thousand streams wake at once, each step of another client's call
//! would come after all of them. So the runtime has one task for each peer, which runs a few of the peer's own tasks at a
//! time: its connections, its calls and its streams.

use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use futures_util::{FutureExt, future::BoxFuture};
use hyper::rt::Executor;
use tokio::{sync::Notify, task::yield_now};

use crate::places::Peer;

/// The most tasks of a peer that run in a turn: a tenth of a millisecond, and long enough to be worth the change.
const TURN: usize = 16;

/// The tasks of all peers.
#[derive(Default)]
pub(super) struct Turns {
    by_peer: HashMap<Peer, Weak<Ready>>,
}

/// The tasks of one peer. They run until they end, also when this is dropped.
#[derive(Clone)]
pub(super) struct PeerTasks(Arc<Ready>);

/// The tasks of a peer that are ready to run.
#[derive(Default)]
struct Ready {
    tasks: Mutex<VecDeque<Arc<PeerTask>>>,
    /// Notified when there is a task, and when there will be none any more.
    changed: Arc<Notify>,
}

struct PeerTask {
    /// None once it has ended.
    work: Mutex<Option<BoxFuture<'static, ()>>>,
    is_ready: AtomicBool,
    of: Arc<Ready>,
}

impl Turns {
    /// Returns the tasks of a peer.
    pub(super) fn of(&mut self, peer: Peer) -> PeerTasks {
        if let Some(known) = self.by_peer.get(&peer).and_then(Weak::upgrade) {
            return PeerTasks(known);
        }
        self.by_peer.retain(|_, ready| ready.strong_count() > 0);
        let ready = Arc::<Ready>::default();
        self.by_peer.insert(peer, Arc::downgrade(&ready));
        tokio::spawn(take_turns(Arc::downgrade(&ready), Arc::clone(&ready.changed)));
        PeerTasks(ready)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for PeerTasks {
    fn execute(&self, work: F) {
        // A panic ends this task only. The panic itself has been printed.
        let work = AssertUnwindSafe(work).catch_unwind().map(|_| ()).boxed();
        let task = PeerTask { work: Mutex::new(Some(work)), is_ready: AtomicBool::new(false), of: Arc::clone(&self.0) };
        Arc::new(task).wake();
    }
}

impl Ready {
    fn tasks(&self) -> MutexGuard<'_, VecDeque<Arc<PeerTask>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the tasks of one turn. Returns whether more are ready.
    fn run_some(&self) -> bool {
        for _ in 0..TURN {
            let next = self.tasks().pop_front();
            match next {
                Some(task) => task.run(),
                None => return false,
            }
        }
        !self.tasks().is_empty()
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

impl PeerTask {
    fn run(self: Arc<Self>) {
        // First, so that it is ready again if it is woken while it runs.
        self.is_ready.store(false, Ordering::Release);
        let waker = Waker::from(Arc::clone(&self));
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &mut *work
            && running.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        {
            *work = None;
        }
    }
}

impl Wake for PeerTask {
    fn wake(self: Arc<Self>) {
        if !self.is_ready.swap(true, Ordering::AcqRel) {
            let ready = Arc::clone(&self.of);
            ready.tasks().push_back(self);
            ready.changed.notify_one();
        }
    }
}

/// Runs the tasks of one peer until it has none.
async fn take_turns(ready: Weak<Ready>, changed: Arc<Notify>) {
    loop {
        changed.notified().await;
        loop {
            let Some(ready) = ready.upgrade() else { return };
            if !ready.run_some() {
                break;
            }
            drop(ready);
            // The sockets of others are looked at as well.
            yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::atomic::AtomicUsize};

    use tokio::sync::watch;

    use super::*;

    fn peer(number: u8) -> Peer {
        Peer::from(IpAddr::from([10, 0, 0, number]))
    }

    /// Counts how often the tasks of a peer have run: each is woken by `wake`.
    fn crowd(tasks: &PeerTasks, size: usize, wake: &watch::Receiver<u32>) -> Arc<AtomicUsize> {
        let runs = Arc::<AtomicUsize>::default();
        for _ in 0..size {
            let (mut wake, runs) = (wake.clone(), Arc::clone(&runs));
            tasks.execute(async move {
                while wake.changed().await.is_ok() {
                    runs.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        runs
    }

    #[tokio::test]
    async fn a_peer_waits_for_a_turn_of_another_and_not_for_all_of_its_tasks() {
        const CROWD: usize = 1_000;
        let mut turns = Turns::default();
        let (wake, woken) = watch::channel(0);
        let of_crowd = crowd(&turns.of(peer(1)), CROWD, &woken);
        let of_other = crowd(&turns.of(peer(2)), 1, &woken);
        while !turns.by_peer.values().all(|ready| ready.upgrade().unwrap().tasks().is_empty()) {
            yield_now().await;
        }
        wake.send_replace(1);
        while of_other.load(Ordering::Relaxed) == 0 {
            yield_now().await;
        }
        let before = of_crowd.load(Ordering::Relaxed);
        assert!(before <= 2 * TURN, "{before} tasks of another peer ran before");
        while of_crowd.load(Ordering::Relaxed) < CROWD {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_task_that_panics_ends_alone_and_a_peer_without_tasks_is_forgotten() {
        let mut turns = Turns::default();
        let tasks = turns.of(peer(1));
        let (wake, woken) = watch::channel(0);
        tasks.execute(async { panic!("on purpose") });
        let runs = crowd(&tasks, 1, &woken);
        drop(tasks);
        yield_now().await;
        wake.send_replace(1);
        while runs.load(Ordering::Relaxed) == 0 {
            yield_now().await;
        }
        assert!(turns.by_peer[&peer(1)].upgrade().is_some());
        drop(wake);
        while turns.by_peer[&peer(1)].upgrade().is_some() {
            yield_now().await;
        }
        turns.of(peer(2));
        assert_eq!(turns.by_peer.len(), 1);
    }
}
