//! The signals that ask the worker to stop: SIGTERM, SIGINT, SIGHUP and SIGQUIT.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Catches the signals from now on, so that they no longer end the process by themselves.
///
/// # Errors
/// The operating system's error, if a handler cannot be installed.
pub fn listen() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    let interrupted = CancellationToken::new();
    let token = interrupted.clone();
    // The first signal is enough; a second one changes nothing.
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
            _ = quit.recv() => {}
        }
        token.cancel();
    });
    Ok(interrupted)
}
