//! The claim. One fast statement takes over a clap that is due, or takes a request. If it finds nothing, the worker
//! marks dead claps, resumes, takes over, and takes a fresh request, in this order.
//!
//! After a lost answer the worker either finds its claim, or voids the token of the claim, which can then never be
//! committed. If neither can be confirmed in time, the result is [`Claimed::Unknown`].

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::lease::{Lease, Terms};
use crate::batch::{
    status::Status,
    store::{Attempt, Claim, FencingToken, Job, PreviousClap, Store},
    transaction::Error,
};

/// The time for which a worker tries to reach the database before it gives up and leaves the rest to Kubernetes'
/// back-off.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The pause between two tries to reach the database.
const RETRY: Duration = Duration::from_millis(250);

/// The pause before this Job's clap is looked up again while another session writes to it.
const CONTENDED: Duration = Duration::from_millis(50);

/// The most batches of claps that a claim marks as dead before it goes on to those that it may take.
const MOST_MARKED: usize = 10;

/// The result of a claim.
#[derive(Debug)]
pub enum Claimed {
    /// An attempt, and the lease on it.
    Attempt(Attempt, Lease),
    /// This Job had its clap before; a Job gets only one.
    Settled {
        /// The clap's id.
        id: i64,
        /// The clap's state.
        status: Status,
    },
    /// No clap is due, and no request waits.
    Nothing,
    /// A signal came first, and nothing is held.
    Interrupted,
    /// The answer to a claim was lost, and the database stayed away: the claim may have been committed, or may still
    /// be.
    Unknown(String),
}

/// The result of one round of statements.
enum Found {
    Claimed(Claimed),
    /// Another pod may hold this Job's clap for this long.
    Busy(Duration),
}

/// Claims one clap, and waits while another pod of the same Job holds it.
///
/// # Errors
/// A passing error ([`Error::is_passing`]) once the database could not be reached for [`PATIENCE`]; any other
/// error at once.
pub async fn claim(
    store: &mut Store,
    job: &Job,
    terms: Terms,
    interrupt: &CancellationToken,
) -> Result<Claimed, Error> {
    let mut round = Round { store, job, terms, token: FencingToken::draw(), unanswered: None, reads: true };
    let mut give_up = Instant::now() + PATIENCE;
    loop {
        if interrupt.is_cancelled() {
            return round.withdraw(give_up).await;
        }
        let pause = match round.run(give_up, interrupt).await {
            Ok(Found::Claimed(claimed)) => return Ok(claimed),
            Ok(Found::Busy(pause)) => {
                give_up = Instant::now() + pause + PATIENCE;
                pause
            }
            // Another pod of this Job was first: the next round finds its clap.
            Err(Error::Collision(reason)) if Instant::now() + CONTENDED < give_up => {
                tracing::debug!(reason, "collided");
                CONTENDED
            }
            Err(error) if error.is_passing() && Instant::now() + RETRY < give_up => RETRY,
            Err(error) => return round.given_up(error),
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = interrupt.cancelled() => {}
        }
    }
}

/// The statements of a claim.
struct Round<'a> {
    store: &'a mut Store,
    job: &'a Job,
    terms: Terms,
    token: FencingToken,
    /// The time at which the latest claim was sent, if its answer was lost and its result is not known yet.
    unanswered: Option<Instant>,
    /// True as long as claims read the request that they take. One that cannot be read, because of its size or of the
    /// database's encoding, would stop all others: after an error it is read apart.
    reads: bool,
}

impl Round<'_> {
    async fn run(&mut self, by: Instant, interrupt: &CancellationToken) -> Result<Found, Error> {
        if let Some(claimed) = self.resolve(by).await? {
            return Ok(Found::Claimed(claimed));
        }
        if self.reads {
            self.reads = false;
            match self.first_of(&[Claim::Fast], by, interrupt).await {
                Ok(Some(claimed)) => return Ok(Found::Claimed(claimed)),
                Ok(None) => self.reads = true,
                Err(error) if error.is_about_a_value() => {
                    tracing::warn!(%error, "a request may be impossible to read; claiming without reading");
                }
                Err(error) => return Err(error),
            }
        }
        for _ in 0..MOST_MARKED {
            let dead = self.store.mark_dead(self.job, by).await?;
            if dead.is_empty() {
                break;
            }
            for (id, reason) in dead {
                tracing::warn!(clap.id = id, "marked dead: {reason}");
            }
        }
        let fresh = if self.reads { Claim::Fresh } else { Claim::Unread };
        if let Some(claimed) = self.first_of(&[Claim::Resume, Claim::TakeOver, fresh], by, interrupt).await? {
            return Ok(Found::Claimed(claimed));
        }
        if let Some(previous) = self.store.previous_clap(self.job, by).await? {
            return Ok(judged(&previous));
        }
        let odd = self.store.mend_pending(by).await?;
        if odd > 0 {
            tracing::warn!(requests = odd, "requests were marked as pending although they have a clap; mended");
            return Ok(Found::Busy(Duration::ZERO));
        }
        Ok(Found::Claimed(Claimed::Nothing))
    }

    /// Tries these ways in their order, until one finds a clap.
    async fn first_of(
        &mut self,
        claims: &[Claim],
        by: Instant,
        interrupt: &CancellationToken,
    ) -> Result<Option<Claimed>, Error> {
        for claim in claims {
            if interrupt.is_cancelled() {
                return Ok(Some(Claimed::Interrupted));
            }
            let sent_at = Instant::now();
            let found = self.store.claim(*claim, self.job, self.token, self.terms.lease, by).await;
            self.unanswered = matches!(found, Err(Error::Unanswered(_))).then_some(sent_at);
            if let Some(attempt) = found? {
                return Ok(Some(Claimed::Attempt(attempt, Lease::granted(self.terms, sent_at))));
            }
        }
        Ok(None)
    }

    /// Finds the claim whose answer was lost, or makes sure that it can never be committed. Does nothing if no answer
    /// was lost.
    async fn resolve(&mut self, by: Instant) -> Result<Option<Claimed>, Error> {
        let Some(sent_at) = self.unanswered else { return Ok(None) };
        let found = self.store.find_by_token(self.job, self.token, by).await?;
        self.unanswered = None;
        if let Some(attempt) = found {
            tracing::info!(clap.id = attempt.id, "found a claim whose answer was lost");
            return Ok(Some(Claimed::Attempt(attempt, Lease::granted(self.terms, sent_at))));
        }
        self.token = FencingToken::draw();
        Ok(None)
    }

    /// Ends after an interrupt. If a claim whose answer was lost is found, it is returned, and the caller gives it
    /// back.
    async fn withdraw(&mut self, by: Instant) -> Result<Claimed, Error> {
        match self.resolve(by).await {
            Ok(found) => Ok(found.unwrap_or(Claimed::Interrupted)),
            Err(error) => self.given_up(error),
        }
    }

    /// Returns the result of a claim that gives up after an error.
    fn given_up(&self, error: Error) -> Result<Claimed, Error> {
        if self.unanswered.is_some() { Ok(Claimed::Unknown(error.to_string())) } else { Err(error) }
    }
}

/// Decides what to do if a Job finds nothing to claim but had a clap before.
fn judged(previous: &PreviousClap) -> Found {
    let PreviousClap { id, status, mine, spent, lease } = *previous;
    match status {
        Status::Running if mine => Found::Busy(lease + CONTENDED),
        Status::Failed if mine && !spent => Found::Busy(CONTENDED),
        _ => Found::Claimed(Claimed::Settled { id, status }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn previous(status: Status, mine: bool) -> PreviousClap {
        PreviousClap { id: 1, status, mine, spent: false, lease: Duration::from_secs(7) }
    }

    #[test]
    fn a_second_pod_waits_for_the_first_ones_lease() {
        let Found::Busy(pause) = judged(&previous(Status::Running, true)) else { panic!("must wait") };
        assert!(pause >= Duration::from_secs(7));
    }

    #[test]
    fn a_clap_that_went_to_another_job_is_settled_for_this_one() {
        for status in [Status::Running, Status::Failed, Status::Success, Status::Dead] {
            assert!(matches!(judged(&previous(status, false)), Found::Claimed(Claimed::Settled { .. })), "{status}");
        }
    }
}
