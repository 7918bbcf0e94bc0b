//! Supervision of the background tasks that the process needs.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::sync::mpsc;

/// Spawns the background tasks that the process cannot run without.
#[derive(Debug, Clone)]
pub struct Supervisor(mpsc::UnboundedSender<&'static str>);

/// Receives the names of supervised tasks that have failed.
#[derive(Debug)]
pub struct Failures(mpsc::UnboundedReceiver<&'static str>);

impl Supervisor {
    /// Creates a supervisor and the receiver of its failures.
    pub fn new() -> (Self, Failures) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), Failures(receiver))
    }

    /// Spawns a task that may end when its work is done, but must not panic.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let failures = self.0.clone();
        tokio::spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                // A test may have dropped the receiver. The panic itself has been printed.
                let _ = failures.send(name);
            }
        });
    }
}

impl Failures {
    /// Waits until a task fails, and returns its name. Never returns if all tasks end well.
    pub async fn next(&mut self) -> &'static str {
        match self.0.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_named_and_one_that_ends_is_not() {
        let (supervisor, mut failures) = Supervisor::new();
        supervisor.spawn("done", async {});
        supervisor.spawn("broken", async { panic!("on purpose") });
        assert_eq!(failures.next().await, "broken");
    }
}
