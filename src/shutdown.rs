//! How things end: one word to everybody who must end with something, and word of what must not.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};

/// Says that it is over, once.
#[derive(Debug)]
pub struct Ending(watch::Sender<bool>);

/// Hears that it is over.
#[derive(Debug, Clone)]
pub struct Ended(watch::Receiver<bool>);

impl Ending {
    /// Nothing has ended yet.
    pub fn new() -> (Self, Ended) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Ended(receiver))
    }

    /// Tells everybody, now and later.
    pub fn end(&self) {
        self.0.send_replace(true);
    }
}

impl Ended {
    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is over; an [`Ending`] that is gone has ended, too.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|over| *over).await;
    }
}

/// Runs background tasks that the process cannot do without.
#[derive(Debug, Clone)]
pub struct Supervisor(mpsc::UnboundedSender<&'static str>);

/// Hears which supervised task has failed.
#[derive(Debug)]
pub struct Failures(mpsc::UnboundedReceiver<&'static str>);

impl Supervisor {
    /// A supervisor, and where its failures are heard.
    pub fn new() -> (Self, Failures) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), Failures(receiver))
    }

    /// Spawns a task that may end when its work is done, but must not panic.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let failures = self.0.clone();
        tokio::spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                // Nobody hears it in a test that does not listen; the panic has been printed.
                let _ = failures.send(name);
            }
        });
    }
}

impl Failures {
    /// Waits for the name of a task that has failed; for ever if none does.
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
