//! Work that would hold up the thread that serves, each piece on a thread of its own.
//!
//! The runtime's own pool for such work panics where the system has no thread left, and waits for its threads when it
//! ends. Here a thread that cannot be made is an error, and one that hangs is left behind.

use std::{io, thread};

use tokio::sync::oneshot;

/// Runs `work` on a thread with this name, and returns its result.
///
/// # Errors
/// The thread cannot be made, or `work` has panicked.
///
/// # Cancel safety
/// The thread goes on without the caller, and its result is dropped.
pub async fn run<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    let work = move || {
        // Whoever asked may have given up.
        let _ = done.send(work());
    };
    thread::Builder::new().name(name.to_owned()).spawn(work)?;
    result.await.map_err(|_| io::Error::other("the thread has panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_work_is_done_on_another_thread() {
        let worker = run("worker", || thread::current().name().map(str::to_owned)).await.unwrap();
        assert_eq!(worker.as_deref(), Some("worker"));
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let panicked = run("worker", || panic!("on purpose")).await;
        assert_eq!(panicked.unwrap_err().to_string(), "the thread has panicked");
    }
}
