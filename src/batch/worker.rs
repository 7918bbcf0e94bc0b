//! One Job's life: claim, work, settle.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub mod claim;
pub mod identity;
pub mod interrupt;
pub mod lease;
pub mod outcome;
pub(super) mod program;
pub mod work;

pub(super) use self::program::{EXECUTE, execute};
use self::{
    claim::{Claimed, claim},
    lease::{Event, Lease, Terms},
    outcome::{Outcome, RetryBy},
    work::{Ended, Running, Work},
};
use super::{
    status::{AttemptOutcome, Status},
    store::{Attempt, Backoff, Failure, Job, Store},
    transaction::Error,
};

/// The least time that booking an end is tried for, even when the lease is nearly over: the token protects the books.
const SETTLE: Duration = Duration::from_secs(5);

/// Between two tries to book an end.
const RETRY: Duration = Duration::from_millis(250);

/// Kubernetes' own back-off between the pods of a Job: 10 s, doubled, at most six minutes.
const POD_BACKOFF_BASE: Duration = Duration::from_secs(10);
const POD_BACKOFF_CAP: Duration = Duration::from_secs(360);

/// What a pod may take from its creation to its claim.
const POD_START: Duration = Duration::from_secs(60);

/// What a program that was never started is said to have exited with: a shell's "cannot execute", and death by SIGTERM.
const NOT_STARTED_CODE: i32 = 126;
const SIGTERM_CODE: i32 = 143;

/// The rules of one Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Lease and heartbeat.
    pub terms: Terms,
    /// The longest an attempt may take; it counts as a failure.
    pub timeout: Option<Duration>,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// Who retries.
    pub retry_by: RetryBy,
    /// `backoffLimit` of the Job, where it retries.
    pub job_retries: u32,
    /// How long a failed clap is kept for the same Job's next pod; Kubernetes' own back-off and [`POD_START`] if absent.
    pub reserve: Option<Duration>,
    /// From a failure to the next attempt; doubled by each further failure.
    pub backoff: Duration,
    /// The longest that gets.
    pub backoff_cap: Duration,
    /// Exit codes after which trying again is pointless.
    pub permanent_exit_codes: Vec<i32>,
    /// How many interruptions cost a clap no attempt.
    pub max_interruptions: i32,
    /// What is done per row.
    pub work: Work,
}

/// Why the work was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Interrupted,
    TimedOut,
    Cancelled,
}

/// How the work came to its end.
enum End {
    /// It ended; asked to or not.
    Ended(Ended, Option<Stop>),
    /// The clap was lost, and the work killed.
    Lost(String),
    /// The program booked its own success.
    Booked,
}

/// Runs one Job to its end; the claim is returned with the outcome if there was one.
pub async fn run(
    store: &mut Store,
    job: &Job,
    rules: &Rules,
    interrupt: &CancellationToken,
) -> (Outcome, Option<Attempt>) {
    match claim(store, job, rules.terms, interrupt).await {
        Ok(Claimed::Attempt(attempt, lease)) => {
            // The fields of every line from here on.
            let span = tracing::info_span!(
                "attempt",
                clap.id = attempt.id,
                iteration = attempt.iteration,
                session = attempt.session.get(),
                job = job.name.as_deref().unwrap_or(&job.uid),
                pod = job.pod,
            );
            span.in_scope(|| tracing::info!("claimed"));
            (run_attempt(store, rules, &attempt, lease, interrupt).instrument(span).await, Some(attempt))
        }
        Ok(Claimed::Settled { id, status }) => (Outcome::AlreadySettled { id, status }, None),
        Ok(Claimed::Nothing) => (Outcome::NothingToDo, None),
        Ok(Claimed::Interrupted) => (Outcome::Interrupted, None),
        Ok(Claimed::Unknown(reason)) => (Outcome::Lost(format!("a claim may have been committed: {reason}")), None),
        Err(Error::Unavailable(reason) | Error::Unanswered(reason)) => (Outcome::Unreachable(reason), None),
        Err(error) => (Outcome::Misconfigured(error.to_string()), None),
    }
}

async fn run_attempt(
    store: &mut Store,
    rules: &Rules,
    attempt: &Attempt,
    mut lease: Lease,
    interrupt: &CancellationToken,
) -> Outcome {
    let end = if attempt.cancel_requested {
        End::Ended(Ended { exit_code: SIGTERM_CODE, error: "not started".to_owned() }, Some(Stop::Cancelled))
    } else if interrupt.is_cancelled() {
        End::Ended(Ended { exit_code: SIGTERM_CODE, error: "not started".to_owned() }, Some(Stop::Interrupted))
    } else {
        match rules.work.start(attempt) {
            Ok(mut running) => work(store, rules, attempt, &mut lease, &mut running, interrupt).await,
            Err(error) => End::Ended(
                Ended { exit_code: NOT_STARTED_CODE, error: format!("cannot start the program: {error}") },
                None,
            ),
        }
    };
    let (ended, stop) = match end {
        End::Ended(ended, stop) => (ended, stop),
        End::Lost(reason) => return Outcome::Lost(reason),
        End::Booked => return Outcome::Success,
    };
    let verdict = Verdict::new(ended, stop, rules, attempt);
    settle(store, rules, attempt, &verdict, lease.deadline().max(Instant::now() + SETTLE)).await
}

/// Watches over the work: beats, and passes on whatever asks it to stop.
async fn work(
    store: &mut Store,
    rules: &Rules,
    attempt: &Attempt,
    lease: &mut Lease,
    running: &mut Running,
    interrupt: &CancellationToken,
) -> End {
    let started = Instant::now();
    let mut stop = None;
    let mut kill_at = started;
    let mut booked = false;
    loop {
        let asked = tokio::select! {
            () = running.ended() => {
                if booked {
                    return End::Booked;
                }
                // Nobody beats meanwhile, and nothing that asks the work to stop now can change how it has ended.
                return End::Ended(running.last_words(lease.deadline()).await, stop);
            }
            event = lease.keep(store, attempt), if !booked => match event {
                Event::Lost(reason) => {
                    running.kill();
                    // Bounded: a process in an uninterruptible wait must not keep the Job alive.
                    let _ = timeout(SETTLE, running.ended()).await;
                    return End::Lost(reason);
                }
                Event::Booked => {
                    booked = true;
                    continue;
                }
                Event::CancelRequested => Stop::Cancelled,
            },
            () = interrupt.cancelled(), if stop.is_none() => Stop::Interrupted,
            () = over(rules.timeout.map(|timeout| started + timeout)), if stop.is_none() => Stop::TimedOut,
            () = sleep_until(kill_at), if stop.is_some() => {
                running.kill();
                kill_at = Instant::now() + rules.grace;
                continue;
            }
        };
        if stop.is_none() {
            tracing::info!(reason = ?asked, "asking the work to stop");
            stop = Some(asked);
            kill_at = Instant::now() + rules.grace;
            running.terminate();
        }
    }
}

async fn over(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// What is to be booked.
#[derive(Debug, PartialEq)]
enum Verdict {
    Success,
    Failed(Failure, Backoff),
    Interrupted,
    Cancelled,
}

impl Verdict {
    /// An exit code of zero is success, also after SIGTERM from outside: the work may have been about to finish. After
    /// the rules' own limit, or an operator's cancel, how the work ends counts no more.
    fn new(ended: Ended, stop: Option<Stop>, rules: &Rules, attempt: &Attempt) -> Self {
        let Ended { exit_code, error } = ended;
        match (exit_code, stop) {
            (0, None | Some(Stop::Interrupted)) => Self::Success,
            (_, Some(Stop::Interrupted)) => Self::Interrupted,
            (_, Some(Stop::Cancelled)) => Self::Cancelled,
            (_, Some(Stop::TimedOut)) => {
                let error = format!("timed out after {:?}; {error}", rules.timeout.unwrap_or_default());
                Self::Failed(Failure { exit_code, error, permanent: false }, rules.backoff(attempt))
            }
            (_, None) => {
                let permanent = rules.permanent_exit_codes.contains(&exit_code);
                Self::Failed(Failure { exit_code, error, permanent }, rules.backoff(attempt))
            }
        }
    }

    /// What its attempt's row says once it is booked.
    fn booked_as(&self) -> AttemptOutcome {
        match self {
            Self::Success => AttemptOutcome::Success,
            Self::Failed(..) => AttemptOutcome::Failed,
            Self::Interrupted => AttemptOutcome::Interrupted,
            Self::Cancelled => AttemptOutcome::Cancelled,
        }
    }

    fn outcome(&self, status: Status, retry_by: RetryBy) -> Outcome {
        match self {
            Self::Success => Outcome::Success,
            Self::Interrupted if status == Status::Dead => {
                Outcome::Dead { error: "interrupted, and neither interruptions nor attempts are left".to_owned() }
            }
            Self::Interrupted => Outcome::Interrupted,
            Self::Cancelled => Outcome::Cancelled,
            Self::Failed(Failure { error, .. }, _) if status == Status::Dead => Outcome::Dead { error: error.clone() },
            Self::Failed(Failure { error, .. }, _) => Outcome::Failed { retry_by, error: error.clone() },
        }
    }
}

impl Rules {
    fn backoff(&self, attempt: &Attempt) -> Backoff {
        let reserve = match self.retry_by {
            RetryBy::Job if attempt.job_attempts <= self.job_retries => {
                let kept = || {
                    let doubled = POD_BACKOFF_BASE.saturating_mul(1 << attempt.job_attempts.saturating_sub(1).min(16));
                    doubled.min(POD_BACKOFF_CAP) + POD_START
                };
                self.reserve.unwrap_or_else(kept)
            }
            RetryBy::Job | RetryBy::Queue => Duration::ZERO,
        };
        Backoff { reserve, base: self.backoff, cap: self.backoff_cap }
    }
}

/// Books the end, again and again until it is confirmed or `by` has come.
async fn settle(store: &mut Store, rules: &Rules, attempt: &Attempt, verdict: &Verdict, by: Instant) -> Outcome {
    loop {
        let booked = match verdict {
            Verdict::Success => store.succeed(attempt, by).await,
            Verdict::Failed(failure, backoff) => store.fail(attempt, failure, backoff, by).await,
            Verdict::Interrupted => store.release(attempt, rules.max_interruptions, by).await,
            Verdict::Cancelled => store.cancelled(attempt, by).await,
        };
        let reason = match booked {
            Ok(Some(status)) => return verdict.outcome(status, rules.retry_by),
            Ok(None) => match store.settled(attempt.session, by).await {
                // An earlier try was committed and its answer lost; or the program booked its own success.
                Ok(Some((outcome, status))) if outcome == verdict.booked_as() => {
                    return verdict.outcome(status, rules.retry_by);
                }
                Ok(Some((AttemptOutcome::Success, _))) => return Outcome::Success,
                Ok(Some((outcome, status))) => {
                    return Outcome::Lost(format!("the attempt was booked {outcome}; the clap is {status}"));
                }
                Ok(None) => return Outcome::Lost("the clap was deleted".to_owned()),
                Err(error) => error,
            },
            Err(error) => error,
        };
        match reason {
            error if error.is_passing() && Instant::now() + RETRY < by => sleep(RETRY).await,
            error => return Outcome::Lost(format!("the end could not be booked: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{
        store::SessionId,
        worker::work::{Ending, FinalState},
    };

    fn rules(retry_by: RetryBy) -> Rules {
        Rules {
            terms: Terms { lease: Duration::from_secs(60), heartbeat: Duration::from_secs(15) },
            timeout: Some(Duration::from_secs(1)),
            grace: Duration::from_secs(20),
            retry_by,
            job_retries: 4,
            reserve: None,
            backoff: Duration::from_secs(15),
            backoff_cap: Duration::from_secs(3600),
            permanent_exit_codes: vec![65],
            max_interruptions: 10,
            work: Work::Wait(Ending { final_state: FinalState::Success, fail_first: 0 }),
        }
    }

    fn attempt(job_attempts: u32) -> Attempt {
        Attempt {
            id: 1,
            iteration: 1,
            max_attempts: 5,
            session: SessionId::draw(),
            cancel_requested: false,
            duration: Duration::ZERO,
            payload: "{}".to_owned(),
            request_key: None,
            requested_at: "2026-01-01T00:00:00.000000Z".to_owned(),
            job_attempts,
        }
    }

    fn verdict(exit_code: i32, stop: Option<Stop>) -> Verdict {
        Verdict::new(Ended { exit_code, error: String::new() }, stop, &rules(RetryBy::Queue), &attempt(1))
    }

    #[test]
    fn a_clap_is_reserved_for_its_job_until_the_jobs_last_try() {
        let reserve = |retry_by, number| rules(retry_by).backoff(&attempt(number)).reserve.as_secs();
        assert_eq!((1..=6).map(|n| reserve(RetryBy::Job, n)).collect::<Vec<_>>(), [70, 80, 100, 140, 0, 0]);
        assert_eq!(reserve(RetryBy::Queue, 1), 0);
    }

    #[test]
    fn exit_code_zero_is_success_unless_the_limit_or_an_operator_stopped_the_work() {
        for stop in [None, Some(Stop::Interrupted)] {
            assert_eq!(verdict(0, stop), Verdict::Success);
        }
        assert_eq!(verdict(0, Some(Stop::Cancelled)), Verdict::Cancelled);
        let Verdict::Failed(failure, _) = verdict(0, Some(Stop::TimedOut)) else { panic!("must fail") };
        assert!(failure.error.starts_with("timed out after 1s") && !failure.permanent, "{failure:?}");
    }

    #[test]
    fn a_program_that_was_interrupted_has_not_failed() {
        assert_eq!(verdict(143, Some(Stop::Interrupted)), Verdict::Interrupted);
        assert_eq!(verdict(65, Some(Stop::Interrupted)), Verdict::Interrupted);
        assert_eq!(verdict(137, Some(Stop::Cancelled)), Verdict::Cancelled);
    }

    #[test]
    fn only_a_listed_exit_code_is_permanent() {
        for (exit_code, stop, expected) in [(65, None, true), (1, None, false), (65, Some(Stop::TimedOut), false)] {
            let Verdict::Failed(failure, _) = verdict(exit_code, stop) else { panic!("{exit_code}: must fail") };
            assert_eq!(failure.permanent, expected, "{exit_code}");
        }
    }
}
