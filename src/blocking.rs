//! Runs blocking work, each piece on a thread of its own, so that it does not delay the thread that serves.
//!
//! The runtime's own blocking pool panics if the system cannot start a thread, and waits for its threads at shutdown.
//! Here a thread that cannot be started is an error, and a thread that hangs is left behind.

use std::{
    io,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    thread,
    time::Duration,
};

use nix::sys::signal::SigSet;
use tokio::{runtime, sync::oneshot};

/// The time for which the runtime's blocking pool keeps an idle thread.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// Builds a runtime of one thread. A second worker thread costs the scaler 1.5 times the CPU per request, and more
/// when many streams wake at once.
///
/// The runtime resolves names on its blocking pool. If the system cannot start a thread, this work waits for an idle
/// thread of the pool, and panics if the pool has none. So one thread is started now, and kept.
///
/// A process inherits which signals are blocked. With SIGTERM or SIGCHLD among them it would neither stop nor see that
/// its program has ended, so that none stays blocked.
///
/// # Errors
/// The runtime cannot be built.
pub fn runtime() -> io::Result<runtime::Runtime> {
    SigSet::empty().thread_set_mask()?;
    let runtime = runtime::Builder::new_current_thread().enable_all().thread_keep_alive(FOR_EVER).build()?;
    if thread::Builder::new().spawn(|| ()).is_ok_and(|probe| probe.join().is_ok()) {
        // There was room a moment ago. If there is none now, names wait as above.
        let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(runtime.spawn_blocking(|| ()))));
    }
    Ok(runtime)
}

/// Runs `work` on a thread with this name, and returns its result.
///
/// # Errors
/// The thread cannot be started, or `work` has panicked.
///
/// # Cancel safety
/// The thread goes on without the caller, and its result is dropped.
pub async fn run<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    let work = move || {
        // The caller may have given up.
        let _ = done.send(work());
    };
    thread::Builder::new().name(name.to_owned()).spawn(work)?;
    result.await.map_err(|_| io::Error::other("the thread has panicked"))
}

/// Runs `work` as [`run`] does, or on this thread if none can be started: a short delay for other tasks is better than
/// leaving the work undone.
///
/// # Panics
/// Panics if `work` panics.
pub async fn run_or_here<T: Send + 'static>(name: &str, work: impl Fn() -> T + Send + Sync + 'static) -> T {
    let work = Arc::new(work);
    let of_thread = Arc::clone(&work);
    match run(name, move || of_thread()).await {
        Ok(result) => result,
        Err(_) => work(),
    }
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
