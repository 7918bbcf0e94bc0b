//! The heartbeat, and when to stop believing that a clap is ours.
//!
//! The lease ends on the database's clock. A worker's own clock is only trusted to measure how
//! long ago it *sent* the beat that was confirmed: the database cannot have granted less than a
//! lease from then on.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::batch::{
    status::AttemptOutcome,
    store::{Attempt, Store},
};

/// How long before the end of the lease we stop, so that the work is dead when somebody else may start it.
pub const MARGIN: Duration = Duration::from_secs(1);

/// How soon a beat that failed is tried again, at the most.
const RETRY: Duration = Duration::from_millis(250);

/// How long a clap is ours after each beat, and how often we beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// From a beat to the moment when anybody may take over.
    pub lease: Duration,
    /// From beat to beat; three must fit into a lease.
    pub heartbeat: Duration,
}

/// What the worker believes about its lease.
#[derive(Debug)]
pub struct Lease {
    terms: Terms,
    deadline: Instant,
    next_heartbeat: Instant,
}

/// Why [`Lease::keep`] returns.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The clap is not ours any more, or may not be; says why. The work must be killed.
    Lost(String),
    /// An operator asked to cancel.
    CancelRequested,
    /// The program booked its own success, in its own transaction.
    Booked,
}

impl Lease {
    /// The lease of a claim or beat that was sent at `sent_at` and confirmed.
    pub fn granted(terms: Terms, sent_at: Instant) -> Self {
        Self { terms, deadline: sent_at + terms.lease - MARGIN, next_heartbeat: sent_at + terms.heartbeat }
    }

    /// Until then the clap is ours for certain.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Beats until something happens.
    ///
    /// A beat that finds no answer is repeated until the deadline.
    ///
    /// # Cancel safety
    /// A dropped beat may still reach the database; the deadline then errs on the early side.
    pub async fn keep(&mut self, store: &mut Store, attempt: &Attempt) -> Event {
        loop {
            sleep_until(self.next_heartbeat.min(self.deadline)).await;
            let sent_at = Instant::now();
            if sent_at >= self.deadline {
                return Event::Lost("the lease ran out before a heartbeat was confirmed".to_owned());
            }
            match store.renew(attempt, self.terms.lease, self.deadline).await {
                Ok(Some(cancel_requested)) => {
                    *self = Self::granted(self.terms, sent_at);
                    if cancel_requested {
                        return Event::CancelRequested;
                    }
                }
                Ok(None) => return fenced(store, attempt, self.deadline).await,
                Err(error) if error.is_passing() => self.next_heartbeat = Instant::now() + RETRY.min(self.terms.heartbeat),
                Err(error) => return Event::Lost(error.to_string()),
            }
        }
    }
}

/// No row answered to our session: who has the clap?
async fn fenced(store: &mut Store, attempt: &Attempt, by: Instant) -> Event {
    match store.settled(attempt.session, by).await {
        Ok(Some((AttemptOutcome::Success, _))) => Event::Booked,
        Ok(Some((outcome, status))) => Event::Lost(format!("the attempt was booked {outcome}; the clap is {status}")),
        Ok(None) => Event::Lost("the clap was deleted".to_owned()),
        Err(error) => Event::Lost(format!("no row answered to the session, and its attempt cannot be read: {error}")),
    }
}
