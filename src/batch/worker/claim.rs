//! How a Job comes to its clap: quick; if that finds nothing, bury, own, due, new, in this order.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::lease::{Lease, Terms};
use crate::batch::{
    status::Status,
    store::{Attempt, Claim, Job, PreviousClap, SessionId, Store},
    transaction::Error,
};

/// For how long a database that cannot be reached is tried before the Job gives up; Kubernetes' back-off takes over.
const PATIENCE: Duration = Duration::from_secs(15);

/// Between two tries at a database that cannot be reached.
const RETRY: Duration = Duration::from_millis(250);

/// Before another look at a clap of ours that somebody else is writing to at this moment.
const CONTENDED: Duration = Duration::from_millis(50);

/// What there was for this Job.
#[derive(Debug)]
pub enum Claimed {
    /// An attempt, and the lease on it.
    Attempt(Attempt, Lease),
    /// This Job had its clap: one Job, one clap.
    Settled {
        /// The clap.
        id: i64,
        /// Its state.
        status: Status,
    },
    /// No clap is due and no request waits.
    Nothing,
    /// SIGTERM came first; nothing is held.
    Interrupted,
    /// The answer to a claim was lost, and the database stayed away: who has the clap is for others to find out.
    Unknown(String),
}

/// What one round of statements found.
enum Found {
    Claimed(Claimed),
    /// Our clap is busy elsewhere for that long.
    Busy(Duration),
}

/// Claims one clap, waiting while another pod of the same Job holds it.
///
/// # Errors
/// One that is passing once the database could not be reached for [`PATIENCE`], any other at once.
pub async fn claim(
    store: &mut Store,
    job: &Job,
    terms: Terms,
    interrupt: &CancellationToken,
) -> Result<Claimed, Error> {
    let mut round = Round { store, job, terms, session: SessionId::draw(), doubtful: false };
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
            // Another pod of this Job was first, or our own claim whose answer was lost: the next round finds which.
            Err(Error::Collision(reason)) => {
                tracing::debug!(reason, "collided");
                round.doubtful = true;
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

/// The statements of a claim, and whether one of them may have been committed unseen.
struct Round<'a> {
    store: &'a mut Store,
    job: &'a Job,
    terms: Terms,
    session: SessionId,
    doubtful: bool,
}

impl Round<'_> {
    async fn run(&mut self, by: Instant, interrupt: &CancellationToken) -> Result<Found, Error> {
        if self.doubtful {
            if let Some(claimed) = self.find_by_session(by).await? {
                return Ok(Found::Claimed(claimed));
            }
            self.doubtful = false;
        }
        if let Some(claimed) = self.first_of(&[Claim::Fast], by, interrupt).await? {
            return Ok(Found::Claimed(claimed));
        }
        for id in self.store.mark_dead(by).await? {
            tracing::warn!(clap.id = id, "marked dead: its lease expired on the last attempt");
        }
        if let Some(claimed) = self.first_of(&[Claim::Resume, Claim::TakeOver, Claim::Fresh], by, interrupt).await? {
            return Ok(Found::Claimed(claimed));
        }
        let standing = self.store.previous_clap(self.job, by).await?;
        Ok(standing.map_or(Found::Claimed(Claimed::Nothing), |standing| judged(&standing)))
    }

    /// Claims in the first of these ways that finds a clap.
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
            let found = self.store.claim(*claim, self.job, self.session, self.terms.lease, by).await;
            self.doubtful = matches!(found, Err(Error::Unanswered(_)));
            if let Some(attempt) = found? {
                return Ok(Some(Claimed::Attempt(attempt, Lease::granted(self.terms, sent_at))));
            }
        }
        Ok(None)
    }

    /// Finds out whether the claim whose answer was lost was committed. Its lease may be old: the
    /// beat renews it, or finds that the clap has gone to somebody else.
    async fn find_by_session(&mut self, by: Instant) -> Result<Option<Claimed>, Error> {
        let Some(attempt) = self.store.find_by_session(self.job, self.session, by).await? else { return Ok(None) };
        let sent_at = Instant::now();
        if self.store.renew(&attempt, self.terms.lease, by).await?.is_none() {
            self.session = SessionId::draw();
            return Ok(None);
        }
        tracing::info!(clap.id = attempt.id, "found a claim whose answer was lost");
        Ok(Some(Claimed::Attempt(attempt, Lease::granted(self.terms, sent_at))))
    }

    /// Ends without a clap; one that was claimed unseen is handed to the caller, who gives it back.
    async fn withdraw(&mut self, by: Instant) -> Result<Claimed, Error> {
        if !self.doubtful {
            return Ok(Claimed::Interrupted);
        }
        match self.find_by_session(by).await {
            Ok(found) => Ok(found.unwrap_or(Claimed::Interrupted)),
            Err(error) => self.given_up(error),
        }
    }

    /// What an error means after which there is no further try.
    fn given_up(&self, error: Error) -> Result<Claimed, Error> {
        if self.doubtful { Ok(Claimed::Unknown(error.to_string())) } else { Err(error) }
    }
}

/// No claim was possible, and this Job has been seen before: what now?
fn judged(standing: &PreviousClap) -> Found {
    let PreviousClap { id, status, mine, spent, lease } = *standing;
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
