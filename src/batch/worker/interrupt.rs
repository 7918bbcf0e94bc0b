//! SIGTERM and SIGINT, which ask the worker to stop.

use tokio::signal::unix::{SignalKind, signal};

use crate::shutdown::{Ended, Ending};

/// Catches the signals from now on, so that they no longer end the process by themselves.
///
/// # Errors
/// The operating system's error, if a handler cannot be installed.
pub fn listen() -> std::io::Result<Ended> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (asked, interrupted) = Ending::new();
    // The first signal is enough; a second one changes nothing.
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        asked.end();
    });
    Ok(interrupted)
}
