//! Whose turn it is to use a database's connections: namespaces wait in lines of their own.
//!
//! In one line for all, a namespace with a thousand slow parameters would put everybody else's
//! reading behind a thousand of its own. So lines are served in turn, and while there is more
//! than one, none of them may hold the last connection: somebody else's reading never waits for
//! a whole statement timeout. One namespace on its own has the whole pool.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

/// A namespace that asked within this time counts as one that may ask again.
const RECENT: Duration = Duration::from_secs(600);

/// Lines that are remembered; with more of them there is more than one anyhow.
const REMEMBERED: usize = 1_000;

/// Who asks: a namespace, or none for a gauge that several of them use.
pub type Line = Option<Arc<str>>;

/// The lines before one database.
#[derive(Debug)]
pub(super) struct Turns {
    places: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    by_line: HashMap<Line, InLine>,
    /// The lines in which somebody waits, the next in turn first.
    waiting: VecDeque<Line>,
}

#[derive(Debug)]
struct InLine {
    holds: usize,
    queue: VecDeque<oneshot::Sender<Place>>,
    asked_at: Instant,
}

/// The right to use one connection; passed on when dropped.
#[derive(Debug)]
pub(super) struct Place {
    turns: Arc<Turns>,
    line: Line,
}

impl Turns {
    /// Lines before this many connections.
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { places, state: Mutex::default() })
    }

    /// Waits in this line for a connection's place.
    ///
    /// # Cancel safety
    /// Safe: a place that comes too late is passed on.
    pub(super) async fn place(self: &Arc<Self>, line: &Line) -> Place {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.lock();
            state.remember(line);
            let entry = state.by_line.entry(line.clone()).or_insert_with(InLine::new);
            entry.asked_at = Instant::now();
            entry.queue.push_back(sender);
            if entry.queue.len() == 1 {
                state.waiting.push_back(line.clone());
            }
        }
        self.serve();
        receiver.await.expect("the sender stays in its line, and `self` is held, until it is used")
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        let state = self.lock();
        state.by_line.values().flat_map(|entry| &entry.queue).filter(|sender| !sender.is_closed()).count()
    }

    /// Gives away what is free.
    fn serve(self: &Arc<Self>) {
        loop {
            let (sender, line) = {
                let mut state = self.lock();
                match state.next(self.places) {
                    Some(next) => next,
                    None => return,
                }
            };
            // Outside the lock, since a place that nobody takes comes back at once.
            drop(sender.send(Place { turns: Arc::clone(self), line }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes a place for whoever is next, if there is one for them.
    fn next(&mut self, places: usize) -> Option<(oneshot::Sender<Place>, Line)> {
        if self.taken >= places {
            return None;
        }
        let share = if self.by_line.len() > 1 { places.saturating_sub(1).max(1) } else { places };
        for _ in 0..self.waiting.len() {
            let line = self.waiting.pop_front()?;
            let Some(entry) = self.by_line.get_mut(&line) else { continue };
            // Who has given up leaves its sender behind.
            while entry.queue.front().is_some_and(oneshot::Sender::is_closed) {
                entry.queue.pop_front();
            }
            if entry.holds >= share {
                if !entry.queue.is_empty() {
                    self.waiting.push_back(line);
                }
                continue;
            }
            let Some(sender) = entry.queue.pop_front() else { continue };
            entry.holds += 1;
            self.taken += 1;
            if !entry.queue.is_empty() {
                self.waiting.push_back(line.clone());
            }
            return Some((sender, line));
        }
        None
    }

    /// Makes room for this line among those that are remembered.
    fn remember(&mut self, line: &Line) {
        if !self.by_line.contains_key(line) {
            let is_full = self.by_line.len() >= REMEMBERED;
            self.by_line.retain(|_, entry| {
                entry.holds > 0 || !entry.queue.is_empty() || (!is_full && entry.asked_at.elapsed() < RECENT)
            });
        }
    }
}

impl InLine {
    fn new() -> Self {
        Self { holds: 0, queue: VecDeque::new(), asked_at: Instant::now() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut state = self.turns.lock();
            state.taken -= 1;
            if let Some(entry) = state.by_line.get_mut(&self.line) {
                entry.holds -= 1;
            }
        }
        self.turns.serve();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn line(name: &str) -> Line {
        Some(name.into())
    }

    /// Those of the waiting that have a place now.
    fn served<F: Future<Output = Place> + Unpin>(waiting: &mut Vec<F>) -> Vec<Place> {
        let mut places = Vec::new();
        waiting.retain_mut(|waiter| match waiter.now_or_never() {
            Some(place) => {
                places.push(place);
                false
            }
            None => true,
        });
        places
    }

    #[tokio::test]
    async fn one_namespace_alone_has_every_connection() {
        let turns = Turns::new(4);
        let noisy = line("noisy");
        let mut waiting: Vec<_> = (0..9).map(|_| Box::pin(turns.place(&noisy))).collect();
        let first = served(&mut waiting);
        assert_eq!(first.len(), 4);
        drop(first);
        assert_eq!(served(&mut waiting).len(), 4);
    }

    #[tokio::test]
    async fn among_several_none_holds_the_last_connection_and_lines_take_turns() {
        let turns = Turns::new(4);
        let (noisy, quiet) = (line("noisy"), line("quiet"));
        drop(turns.place(&quiet).await);
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(turns.place(&noisy))).collect();
        let held = served(&mut waiting);
        assert_eq!(held.len(), 3);
        let one = turns.place(&quiet).now_or_never().expect("a connection is free for others");
        let two = turns.place(&quiet);
        tokio::pin!(two);
        assert!(two.as_mut().now_or_never().is_none());
        drop(held);
        assert_eq!(served(&mut waiting).len(), 2, "one of the three is the other's");
        assert!(two.now_or_never().is_some(), "it waited for one, not for a hundred");
        drop(one);
    }

    #[tokio::test]
    async fn who_gives_up_leaves_nothing_behind() {
        let turns = Turns::new(1);
        let (first, second) = (line("first"), line("second"));
        let held = turns.place(&first).await;
        for _ in 0..10 {
            assert!(turns.place(&second).now_or_never().is_none());
        }
        drop(held);
        assert!(turns.place(&first).now_or_never().is_some());
        assert_eq!(turns.lock().taken, 0);
        assert!(turns.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_thousand_namespaces_are_not_remembered_for_ever() {
        let turns = Turns::new(2);
        for name in 0..10 * REMEMBERED {
            drop(turns.place(&line(&name.to_string())).await);
        }
        assert!(turns.lock().by_line.len() <= REMEMBERED);
    }
}
