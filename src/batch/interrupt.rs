//! SIGTERM and SIGINT, told to whoever waits or asks.

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Whether the process was asked to end.
#[derive(Debug, Clone)]
pub struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Listens from now on; the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// The operating system's, if a handler cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (asked, receiver) = watch::channel(false);
        // Ends with the process: it owns nothing but the two listeners.
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if asked.send(true).is_err() {
                    return;
                }
            }
        });
        Ok(Self(receiver))
    }

    /// Whether a signal has come.
    pub fn requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for a signal; returns at once if one has come already.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn wait(&mut self) {
        if self.0.wait_for(|asked| *asked).await.is_err() {
            std::future::pending().await
        }
    }
}
