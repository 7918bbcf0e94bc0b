//! SIGTERM and SIGINT, told to whoever waits or asks.

use tokio::signal::unix::{SignalKind, signal};

use crate::shutdown::{Ended, Ending};

/// Listens from now on: the signals no longer end the process by themselves.
///
/// # Errors
/// The operating system's, if a handler cannot be installed.
pub fn listen() -> std::io::Result<Ended> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (asked, interrupted) = Ending::new();
    // Ends with the first signal; a second one changes nothing.
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        asked.end();
    });
    Ok(interrupted)
}
