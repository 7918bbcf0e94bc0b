//! The part of Kubernetes: Jobs, their pods, back-off and the pod failure policy. Each pod is a real process.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use clapometer::keda::scaled_job;
use rand::{Rng, seq::IndexedRandom};
use rustix::process::Signal;

use super::board::Census;
use crate::support::executable::{Executable, Finished, Running};

/// The letters of generated names in Kubernetes.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// The `backoffLimit` of our manifests: the number of pods of a Job that may fail.
const BACKOFF_LIMIT: u32 = 4;
/// The exit codes that fail a Job at once by the `podFailurePolicy` of our manifests.
const FAIL_JOB: [i32; 5] = [2, 10, 11, 12, 78];
/// The back-off of a Job. Kubernetes begins with ten seconds and doubles them, which is too slow to watch.
const BACK_OFF: Duration = Duration::from_secs(1);
/// The time from a pod's end until KEDA sees the Job complete; one to three seconds on a real cluster.
const COMPLETION: Duration = Duration::from_millis(1_500);
/// The time from a Job's creation until its pod runs, in milliseconds. It is short: there is no image to pull.
const POD_START: std::ops::Range<u64> = 200..900;

/// The Jobs that KEDA has created, by name.
pub(crate) struct Jobs {
    jobs: BTreeMap<String, Job>,
    template: Vec<(&'static str, String)>,
    idle: usize,
    pods: usize,
    peak: i64,
}

/// A Job.
pub(crate) struct Job {
    uid: String,
    variables: Vec<(&'static str, String)>,
    state: State,
    failures: u32,
}

/// The state of a Job's pod.
enum State {
    Starting(Instant),
    Running(Running),
    BackOff(Instant),
    Ending { since: Instant, complete: bool },
    Complete,
    Failed,
}

/// An event for the board.
pub(crate) enum Event {
    /// A pod has ended: the worker's last line, and the consequence for the Job.
    Ended { job: String, report: serde_json::Value, consequence: &'static str },
    /// A pod was killed; the Job starts a new one.
    Killed { job: String },
}

impl Jobs {
    /// No Jobs yet; `template` are the environment variables of every pod.
    pub(crate) fn new(template: Vec<(&'static str, String)>) -> Self {
        Self { jobs: BTreeMap::new(), template, idle: 0, pods: 0, peak: 0 }
    }

    /// Creates a Job with further variables of its own.
    pub(crate) fn create(&mut self, variables: Vec<(&'static str, String)>) {
        let mut random = rand::rng();
        let suffix: Vec<u8> = (0..5).map(|_| *LETTERS.choose(&mut random).expect("there are letters")).collect();
        let name = format!("postgres-batch-{}", String::from_utf8(suffix).expect("they are ASCII"));
        let uid = format!("{:032x}", random.random::<u128>());
        let start = Instant::now() + Duration::from_millis(random.random_range(POD_START));
        self.jobs.insert(name, Job { uid, variables, state: State::Starting(start), failures: 0 });
        self.peak = self.peak.max(self.seen_by_keda().unfinished);
    }

    /// Brings the Jobs up to date: starts pods that are due, and judges those that have ended.
    pub(crate) async fn proceed(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for (name, job) in &mut self.jobs {
            match &mut job.state {
                State::Starting(at) | State::BackOff(at) if *at <= Instant::now() => {
                    job.state = State::Running(job.start_pod(name, &self.template));
                    self.pods += 1;
                }
                State::Running(process) => {
                    if process.ended().is_none() {
                        continue;
                    }
                    let State::Running(process) = std::mem::replace(&mut job.state, State::Failed) else { continue };
                    // It has ended; a busy machine takes its time to pass on the last line.
                    let finished = process.finish(Duration::from_secs(60)).await;
                    let report = serde_json::from_str(finished.output.lines().last().unwrap_or_default());
                    let report: serde_json::Value = report.unwrap_or_default();
                    self.idle += usize::from(report["outcome"] == "NOTHING_TO_DO");
                    let consequence = job.judge(&finished);
                    events.push(if report.is_null() {
                        Event::Killed { job: name.clone() }
                    } else {
                        Event::Ended { job: name.clone(), report, consequence }
                    });
                }
                State::Ending { since, complete } if since.elapsed() >= COMPLETION => {
                    job.state = if *complete { State::Complete } else { State::Failed };
                }
                _ => {}
            }
        }
        events
    }

    /// Sends SIGKILL to the pod of this Job, if it has one that runs.
    pub(crate) fn kill(&self, name: &str) {
        if let Some(Job { state: State::Running(process), .. }) = self.jobs.get(name) {
            process.signal(Signal::KILL);
        }
    }

    /// Returns the counts that KEDA would see. Its own view, an informer's, is less than a second old, too.
    pub(crate) fn seen_by_keda(&self) -> scaled_job::Jobs {
        let mut seen = scaled_job::Jobs::default();
        for job in self.jobs.values() {
            let (unfinished, pending) = match job.state {
                State::Starting(_) | State::BackOff(_) => (1, 1),
                // A pod that has failed is neither running nor has it succeeded.
                State::Ending { complete, .. } => (1, i64::from(!complete)),
                State::Running(_) => (1, 0),
                State::Complete | State::Failed => (0, 0),
            };
            seen.unfinished += unfinished;
            seen.pending += pending;
        }
        seen
    }

    /// Counts the Jobs of each kind.
    pub(crate) fn census(&self) -> Census {
        let mut census = Census::default();
        for job in self.jobs.values() {
            let kind = match job.state {
                State::Starting(_) | State::BackOff(_) => &mut census.starting,
                State::Running(_) | State::Ending { .. } => &mut census.running,
                State::Complete => &mut census.complete,
                State::Failed => &mut census.failed,
            };
            *kind += 1;
        }
        census
    }

    /// Returns the number of Jobs created.
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Returns the number of pods that found nothing to do.
    pub(crate) fn idle(&self) -> usize {
        self.idle
    }

    /// Returns the number of pods started.
    pub(crate) fn pods(&self) -> usize {
        self.pods
    }

    /// Returns the largest number of Jobs that were unfinished at the same time.
    pub(crate) fn peak(&self) -> i64 {
        self.peak
    }
}

impl Job {
    fn start_pod(&self, name: &str, template: &[(&'static str, String)]) -> Running {
        Executable::postgres_batch(["work"])
            .variables(template.to_vec())
            .variables(self.variables.clone())
            .variable("JOB_UID", &self.uid)
            .variable("JOB_NAME", name)
            .variable("POD_NAME", format!("{name}-{}", self.failures))
            .start()
    }

    /// The Job controller's verdict on a pod that has ended.
    fn judge(&mut self, finished: &Finished) -> &'static str {
        let (state, consequence) = match finished.code() {
            Some(0) => (State::Ending { since: Instant::now(), complete: true }, "Job complete"),
            Some(code) if FAIL_JOB.contains(&code) => {
                (State::Ending { since: Instant::now(), complete: false }, "Job failed by the pod failure policy")
            }
            _ if self.failures >= BACKOFF_LIMIT => {
                (State::Ending { since: Instant::now(), complete: false }, "Job failed, its backoffLimit is spent")
            }
            _ => {
                self.failures += 1;
                (State::BackOff(Instant::now() + BACK_OFF), "Job in back-off")
            }
        };
        self.state = state;
        consequence
    }
}
