//! One Job: it claims a clap, runs its work and records the outcome.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub mod claim;
pub mod ended;
pub mod identity;
pub mod interrupt;
pub mod lease;
pub mod outcome;
pub(super) mod program;
pub mod work;

pub(super) use self::program::{EXECUTE, execute};
use self::{
    claim::{Claimed, PATIENCE, claim},
    ended::Ended,
    lease::{Event, GONE, Lease, Terms},
    outcome::{Outcome, RetryBy},
    work::{Running, Work},
};
use super::{
    status::{AttemptOutcome, Status},
    store::{Attempt, Backoff, Failure, Job, Request, Store},
    transaction::Error,
};

/// The shortest time for which recording an end is tried, even when the lease is nearly over. The fencing token makes a
/// late record harmless.
const SETTLE: Duration = Duration::from_secs(5);

/// The pause between two tries to read a request, or to record an end.
const RETRY: Duration = Duration::from_millis(250);

/// The most times that a request is read before it counts as one that cannot be read.
const READS: usize = 3;

/// The exit code that is recorded for an attempt whose request cannot be read (EX_IOERR of sysexits.h).
const UNREADABLE: i32 = 74;

/// Kubernetes' own back-off between the pods of a Job: 10 s, doubled each time, at most six minutes.
const POD_BACKOFF_BASE: Duration = Duration::from_secs(10);
const POD_BACKOFF_CAP: Duration = Duration::from_secs(360);

/// The time that a pod may take from its creation to its claim.
const POD_START: Duration = Duration::from_secs(60);

/// The rules of one Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The lease and its heartbeat.
    pub terms: Terms,
    /// The longest that an attempt may take. A longer one counts as a failure.
    pub timeout: Option<Duration>,
    /// The time from SIGTERM to SIGKILL.
    pub grace: Duration,
    /// The Job that retries.
    pub retry_by: RetryBy,
    /// The `backoffLimit` of a Job that retries.
    pub job_retries: u32,
    /// The time for which a failed clap stays reserved for the same Job's next pod. The default is Kubernetes' own
    /// back-off and [`POD_START`].
    pub reserve: Option<Duration>,
    /// The time from the first failure to the next attempt. Each further failure doubles it.
    pub backoff: Duration,
    /// The longest time from a failure to the next attempt.
    pub backoff_cap: Duration,
    /// The exit codes after which another attempt is pointless.
    pub permanent_exit_codes: Vec<i32>,
    /// The most interruptions that cost a clap no attempt.
    pub max_interruptions: i32,
    /// The work for each row.
    pub work: Work,
}

/// The reason why the worker asks the work to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Interrupted,
    TimedOut,
    Cancelled,
}

/// The end of an attempt.
enum End {
    /// The work ended, by itself or because it was asked to.
    Ended(Ended, Option<Stop>),
    /// The clap was lost, and the work was killed.
    Lost(String),
    /// The program has recorded its own success.
    Recorded,
    /// The database did not let the request be read. That costs the clap nothing.
    Unreachable(String),
}

/// Runs one Job to its end. Returns the outcome, and the attempt if the Job had one.
pub async fn run(
    store: &mut Store,
    job: &Job,
    rules: &Rules,
    interrupt: &CancellationToken,
) -> (Outcome, Option<Attempt>) {
    match claim(store, job, rules.terms, interrupt).await {
        Ok(Claimed::Attempt(attempt, lease)) => {
            // Every line of the log from here on has these fields.
            let span = tracing::info_span!(
                "attempt",
                clap.id = attempt.id,
                iteration = attempt.iteration,
                session = attempt.token.get(),
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
        Err(error) if error.is_passing() => (Outcome::Unreachable(told(store, &error)), None),
        Err(error @ Error::Collision(_)) => (Outcome::Lost(error.to_string()), None),
        Err(error) => (Outcome::Misconfigured(told(store, &error)), None),
    }
}

/// Returns an error on one line, with what a person may do about it.
fn told(store: &Store, error: &Error) -> String {
    let reason = store.explain(error);
    error.advice().map_or_else(|| reason.clone(), |advice| format!("{reason} -> {advice}"))
}

async fn run_attempt(
    store: &mut Store,
    rules: &Rules,
    attempt: &Attempt,
    mut lease: Lease,
    interrupt: &CancellationToken,
) -> Outcome {
    let not_started = |stop| End::Ended(Ended::not_started("not started".to_owned()), Some(stop));
    let confirmed = tokio::select! {
        biased;
        () = interrupt.cancelled() => Err(not_started(Stop::Interrupted)),
        confirmed = lease.confirm(store, attempt) => confirmed.map_err(end_of),
    };
    let request = match confirmed {
        Err(end) => Err(end),
        Ok(()) => tokio::select! {
            biased;
            () = interrupt.cancelled() => Err(not_started(Stop::Interrupted)),
            request = read(store, attempt, &mut lease) => request,
        },
    };
    let end = match request.map(|request| rules.work.start(attempt, &request)) {
        Err(end) => end,
        Ok(Ok(mut running)) => work(store, rules, attempt, &mut lease, &mut running, interrupt).await,
        Ok(Err(error)) => End::Ended(Ended::not_started(format!("cannot start the program: {error}")), None),
    };
    let (ended, stop) = match end {
        End::Ended(ended, stop) => (ended, stop),
        End::Lost(reason) => return Outcome::Lost(reason),
        End::Recorded => return Outcome::Success,
        End::Unreachable(reason) => {
            let verdict = Verdict::NotStarted(reason, rules.backoff(attempt));
            return match settle(store, rules, attempt, &verdict, settle_by(&lease)).await {
                Outcome::Misconfigured(reason) => Outcome::Unreachable(reason),
                other => other,
            };
        }
    };
    let verdict = Verdict::new(ended, stop, rules, attempt);
    settle(store, rules, attempt, &verdict, settle_by(&lease)).await
}

/// Returns the time until which an end is tried to be recorded.
fn settle_by(lease: &Lease) -> Instant {
    lease.deadline().max(Instant::now() + SETTLE)
}

/// Returns the request, and reads it first if the claim has not.
///
/// A request that cannot be read fails the attempt, so that it costs its attempts and no more. What is the database's
/// fault, such as a lock on the table, costs nothing: an error counts only if it is about a value, or if the row can be
/// found without its payload. Otherwise the worker gives up once [`PATIENCE`] is over, as a claim does.
async fn read(store: &mut Store, attempt: &Attempt, lease: &mut Lease) -> Result<Request, End> {
    if let Some(request) = &attempt.request {
        return Ok(request.clone());
    }
    let give_up = Instant::now() + PATIENCE;
    let mut unreadable = 0;
    loop {
        let error = match store.request(attempt, lease.halfway()).await {
            Ok(Some(request)) => return Ok(request),
            Ok(None) => return Err(End::Lost(GONE.to_owned())),
            Err(error) => error,
        };
        if error.is_about_a_value() {
            unreadable += 1;
        } else if !error.is_passing() {
            // A grant that is missing, for example, is not the request's fault.
            return Err(End::Ended(Ended::not_started(error.to_string()), None));
        } else if store.is_there(attempt, lease.halfway()).await.unwrap_or(false) {
            unreadable += 1;
        } else if Instant::now() >= give_up {
            return Err(End::Unreachable(format!("the table of requests does not answer: {error}")));
        }
        if unreadable == READS {
            let error = format!("the request cannot be read: {error}");
            return Err(End::Ended(Ended { exit_code: UNREADABLE, error, never_started: false }, None));
        }
        sleep_until(lease.halfway().min(Instant::now() + RETRY)).await;
        lease.confirm(store, attempt).await.map_err(end_of)?;
    }
}

/// Returns the end of an attempt whose work was not started.
fn end_of(event: Event) -> End {
    match event {
        Event::CancelRequested => End::Ended(Ended::not_started("not started".to_owned()), Some(Stop::Cancelled)),
        Event::Lost(reason) => End::Lost(reason),
        Event::Recorded => End::Recorded,
    }
}

/// Waits for the end of the work: renews the lease meanwhile, and asks the work to stop if it must.
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
    let mut recorded = false;
    loop {
        let asked = tokio::select! {
            () = running.ended() => {
                if recorded {
                    return End::Recorded;
                }
                // No heartbeat is sent meanwhile, and nothing can change any more how the work has ended.
                return End::Ended(running.last_words(lease.deadline()).await, stop);
            }
            event = lease.keep(store, attempt), if !recorded => match event {
                Event::Lost(reason) => {
                    running.kill();
                    // The wait is bounded: a process in an uninterruptible sleep must not keep the Job alive.
                    let _ = timeout(SETTLE, running.ended()).await;
                    return End::Lost(reason);
                }
                Event::Recorded => {
                    recorded = true;
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

/// The end that is to be recorded.
#[derive(Debug, PartialEq)]
enum Verdict {
    Success,
    Failed(Failure, Backoff),
    /// The program could not be started. That is the Job's fault, and costs the clap nothing.
    NotStarted(String, Backoff),
    Interrupted,
    Cancelled,
}

impl Verdict {
    /// An exit code of zero is success, also after SIGTERM from outside: the work may have been about to finish. After
    /// the timeout, or an operator's cancellation, the exit code does not count.
    fn new(ended: Ended, stop: Option<Stop>, rules: &Rules, attempt: &Attempt) -> Self {
        let Ended { exit_code, error, never_started } = ended;
        match (exit_code, stop) {
            (_, None | Some(Stop::TimedOut)) if never_started => Self::NotStarted(error, rules.backoff(attempt)),
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

    /// Returns the same with a question mark for each character beyond ASCII, if there is one.
    fn in_ascii(&self) -> Option<Self> {
        let ascii = |text: &str| text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
        match self {
            Self::Failed(failure, backoff) if !failure.error.is_ascii() => {
                let error = ascii(&failure.error);
                Some(Self::Failed(Failure { error, ..*failure }, *backoff))
            }
            Self::NotStarted(error, backoff) if !error.is_ascii() => Some(Self::NotStarted(ascii(error), *backoff)),
            _ => None,
        }
    }

    /// Returns the outcome that the attempt's row has once this is recorded.
    fn recorded_as(&self) -> AttemptOutcome {
        match self {
            Self::Success => AttemptOutcome::Success,
            Self::Failed(..) => AttemptOutcome::Failed,
            Self::NotStarted(..) | Self::Interrupted => AttemptOutcome::Interrupted,
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
            Self::NotStarted(error, _) => Outcome::Misconfigured(error.clone()),
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

/// Records the end. Tries again until it is confirmed, and gives up at `by`.
async fn settle(store: &mut Store, rules: &Rules, attempt: &Attempt, verdict: &Verdict, by: Instant) -> Outcome {
    let mut in_ascii = None;
    loop {
        let verdict = in_ascii.as_ref().unwrap_or(verdict);
        let recorded = match verdict {
            Verdict::Success => store.succeed(attempt, by).await,
            Verdict::Failed(failure, backoff) => store.fail(attempt, failure, backoff, by).await,
            Verdict::NotStarted(error, backoff) => store.not_started(attempt, error, backoff, by).await,
            Verdict::Interrupted => store.release(attempt, rules.max_interruptions, by).await,
            Verdict::Cancelled => store.cancelled(attempt, by).await,
        };
        let reason = match recorded {
            Ok(Some(status)) => return verdict.outcome(status, rules.retry_by),
            Ok(None) => match store.settled(attempt.token, by).await {
                // An earlier try was committed, and its answer was lost; or the program recorded its own success.
                Ok(Some((outcome, status))) if outcome == verdict.recorded_as() => {
                    return verdict.outcome(status, rules.retry_by);
                }
                Ok(Some((AttemptOutcome::Success, _))) => return Outcome::Success,
                Ok(Some((outcome, status))) => {
                    return Outcome::Lost(format!("the attempt was recorded as {outcome}; the clap is {status}"));
                }
                Ok(None) => return Outcome::Lost(GONE.to_owned()),
                Err(error) => error,
            },
            Err(error) => error,
        };
        match reason {
            // A database in another encoding than UTF-8 may have no character for what the program has said.
            Error::Rejected { .. } if in_ascii.is_none() && verdict.in_ascii().is_some() => {
                in_ascii = verdict.in_ascii()
            }
            error if error.is_passing() && Instant::now() + RETRY < by => sleep(RETRY).await,
            error => return Outcome::Lost(format!("the end could not be recorded: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{
        store::FencingToken,
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
        Attempt { id: 1, iteration: 1, max_attempts: 5, token: FencingToken::draw(), request: None, job_attempts }
    }

    fn verdict(exit_code: i32, stop: Option<Stop>) -> Verdict {
        Verdict::new(
            Ended { exit_code, error: String::new(), never_started: false },
            stop,
            &rules(RetryBy::Queue),
            &attempt(1),
        )
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
    fn a_program_that_was_never_started_is_the_jobs_fault() {
        let verdict = |stop| {
            Verdict::new(Ended::not_started("no interpreter".to_owned()), stop, &rules(RetryBy::Queue), &attempt(1))
        };
        for stop in [None, Some(Stop::TimedOut)] {
            let verdict = verdict(stop);
            assert!(matches!(verdict, Verdict::NotStarted(..)), "{verdict:?}");
            assert_eq!(verdict.outcome(Status::Failed, RetryBy::Queue).exit_code(), 78);
        }
        assert_eq!(verdict(Some(Stop::Interrupted)), Verdict::Interrupted);
        assert_eq!(verdict(Some(Stop::Cancelled)), Verdict::Cancelled);
    }

    #[test]
    fn only_a_listed_exit_code_is_permanent() {
        for (exit_code, stop, expected) in [(65, None, true), (1, None, false), (65, Some(Stop::TimedOut), false)] {
            let Verdict::Failed(failure, _) = verdict(exit_code, stop) else { panic!("{exit_code}: must fail") };
            assert_eq!(failure.permanent, expected, "{exit_code}");
        }
    }
}
