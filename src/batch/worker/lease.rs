//! The heartbeat, and the time at which a worker must stop believing that a clap is its own.
//!
//! The lease ends on the database's clock. A worker uses its own clock only to measure how long ago it *sent* the last
//! heartbeat that was confirmed: the database cannot have granted less than a lease from then on.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::batch::{
    status::AttemptOutcome,
    store::{Attempt, Store},
};

/// The time before the end of the lease at which a worker kills its work, so that the work is dead when another worker
/// may start it.
pub const MARGIN: Duration = Duration::from_secs(1);

/// The reason for a clap whose row is not there any more.
pub(super) const GONE: &str = "the clap is gone: somebody deleted it, or a failover forgot the claim";

/// The longest wait before a failed heartbeat is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// The length of a lease, and the interval at which it is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The time from a heartbeat to the moment when any worker may take over.
    pub lease: Duration,
    /// The time from one heartbeat to the next; three must fit into a lease.
    pub heartbeat: Duration,
}

/// A lease as its worker sees it.
#[derive(Debug)]
pub struct Lease {
    terms: Terms,
    deadline: Instant,
    next_heartbeat: Instant,
}

/// The answer to a heartbeat that is more than a lease renewed.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The clap belongs to somebody else, or may do so; the text says why. The work must be killed.
    Lost(String),
    /// An operator has asked to cancel the clap.
    CancelRequested,
    /// The program has recorded its own success, in its own transaction.
    Recorded,
}

impl Lease {
    /// Returns the lease after a claim or a heartbeat that was sent at `sent_at` and confirmed.
    pub fn granted(terms: Terms, sent_at: Instant) -> Self {
        Self { terms, deadline: sent_at + terms.lease - MARGIN, next_heartbeat: sent_at + terms.heartbeat }
    }

    /// Returns the time until which the clap certainly belongs to this worker.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Returns the time at which half of what is left of the lease is over: for what must leave time for a heartbeat.
    pub fn halfway(&self) -> Instant {
        let now = Instant::now();
        now + self.deadline.saturating_duration_since(now) / 2
    }

    /// Renews the lease until there is an [`Event`].
    ///
    /// A heartbeat without an answer is repeated until the deadline.
    ///
    /// # Cancel safety
    /// A dropped heartbeat may still reach the database. The deadline is then earlier than necessary,
    /// which is safe.
    pub async fn keep(&mut self, store: &mut Store, attempt: &Attempt) -> Event {
        loop {
            sleep_until(self.next_heartbeat.min(self.deadline)).await;
            if let Err(event) = self.confirm(store, attempt).await {
                return event;
            }
        }
    }

    /// Sends heartbeats until one is confirmed.
    ///
    /// The first heartbeat is sent before the program is started. Until it is committed, the attempt does not count: a
    /// worker that never learned of its claim must not use up the row's attempts.
    ///
    /// # Errors
    /// The event, if the work must not go on.
    pub async fn confirm(&mut self, store: &mut Store, attempt: &Attempt) -> Result<(), Event> {
        loop {
            let sent_at = Instant::now();
            if sent_at >= self.deadline {
                return Err(Event::Lost("the lease ran out before a heartbeat was confirmed".to_owned()));
            }
            match store.renew(attempt, self.terms.lease, self.deadline).await {
                Ok(Some(cancel_requested)) => {
                    *self = Self::granted(self.terms, sent_at);
                    return if cancel_requested { Err(Event::CancelRequested) } else { Ok(()) };
                }
                Ok(None) => return Err(fenced(store, attempt, self.deadline).await),
                Err(error) if error.is_passing() => {
                    sleep_until(self.deadline.min(Instant::now() + RETRY.min(self.terms.heartbeat))).await;
                }
                Err(error) => return Err(Event::Lost(error.to_string())),
            }
        }
    }
}

/// Finds out why no row has this worker's token any more.
async fn fenced(store: &mut Store, attempt: &Attempt, by: Instant) -> Event {
    match store.settled(attempt.token, by).await {
        Ok(Some((AttemptOutcome::Success, _))) => Event::Recorded,
        Ok(Some((outcome, status))) => {
            Event::Lost(format!("the attempt was recorded as {outcome}; the clap is {status}"))
        }
        Ok(None) => Event::Lost(GONE.to_owned()),
        Err(error) => {
            Event::Lost(format!("no running clap has this worker's token, and the attempt cannot be read: {error}"))
        }
    }
}
