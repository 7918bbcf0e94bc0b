//! The world around the workers: KEDA's arithmetic, a Job controller, and what goes wrong.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clapometer::keda::{
    scaled_job::{Calculation, Jobs, ScaledJob, ScalerAnswer, Strategy},
    version::Version,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::{
    books::{self, Faults, Verdict},
    effects::Effects,
};
use crate::{
    batch::ground::queue,
    support::{
        cluster::{Cluster, Settings},
        database::{Access, Database},
        executable::{Executable, Running},
        tempdir,
    },
};

/// Of the workers; short, so that takeovers are frequent.
const LEASE: &str = "3s";
const BEAT: &str = "600ms";
/// The time for which a worker may stand still and still be sure to stop its work before the lease ends.
const STALL: Duration = Duration::from_millis(800);
/// Pauses are longer than a lease.
const PAUSE_MILLISECONDS: std::ops::Range<u64> = 3_500..5_500;
const GRACE: &str = "500ms";
/// From a Job's deletion to SIGKILL; the worker needs the program's grace and a moment to give back.
const DELETION_GRACE: Duration = Duration::from_millis(1_500);
const POLL: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(25);
const MOST_JOBS: i64 = 8;
const BACKOFF_LIMIT: u32 = 4;
/// `podFailurePolicy`: exit codes that fail the Job at once.
const FAIL_JOB: [i32; 5] = [2, 10, 11, 12, 78];
/// After the last fault everything must end within this.
const DRAIN: Duration = Duration::from_secs(150);

/// The program of every row; what it does is appended to a file.
const PROGRAM: &str = r#"
say() { echo "$1 $CLAP_ID $CLAP_SESSION_ID" >> "$EFFECTS"; }
say S
case $CLAP_PAYLOAD in
    *poison*) kill -9 $PPID; exec sleep 5 ;;
    *permanent*) exit 65 ;;
    *fail*) exit 1 ;;
    *flaky*) [ $((CLAP_ITERATION % 3)) = 0 ] || exit 1 ;;
esac
i=0
while [ $i -lt $CLAP_DURATION_SECONDS ]; do sleep 0.1; say T; i=$((i + 1)); done
say E
"#;

/// The Job that retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetryBy {
    Queue,
    Job,
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) retry_by: RetryBy,
    pub(super) strategy: Strategy,
    pub(super) seed: u64,
    pub(super) claps: u32,
}

/// A pod under way.
struct Pod {
    name: String,
    process: Running,
    resume_at: Option<Instant>,
    kill_at: Option<Instant>,
}

/// A Job and its pods, those that are there by mistake included.
struct Job {
    uid: String,
    pods: Vec<Pod>,
    pods_made: usize,
    failures: u32,
    next_pod_at: Option<Instant>,
    over: bool,
}

/// The counts of what was done to it all.
#[derive(Debug, Default)]
struct Tally {
    worker_kills: usize,
    server_kills: usize,
    held_commits: usize,
    pauses: usize,
    deletions: usize,
    duplicates: usize,
    stalls: usize,
    jobs: usize,
    exit_codes: BTreeMap<i32, usize>,
}

/// The whole of it.
pub(super) struct World<'a> {
    plan: Plan,
    access: Access,
    database: &'a Database<'a>,
    effects: PathBuf,
    random: StdRng,
    jobs: Vec<Job>,
    faults: Faults,
    tally: Tally,
    client: Option<Client>,
}

impl World<'_> {
    /// Runs until every clap is over, then judges.
    ///
    /// # Panics
    /// When an invariant is broken, or the end does not come.
    pub(super) async fn run(plan: Plan) {
        let cluster = Cluster::with_settings(Settings::default().durable()).await;
        let database = queue(&cluster).await;
        let mut random = StdRng::seed_from_u64(plan.seed);
        database.execute(&requests(plan.claps, &mut random)).await;
        let mut access = database.owner();
        // By the Unix socket, where nobody computes SCRAM: the processors are for the work.
        access.host = cluster.socket_directory().display().to_string();
        let mut world = World {
            plan,
            access,
            database: &database,
            effects: tempdir::new("chaos").join("effects"),
            random,
            jobs: Vec::new(),
            faults: Faults::default(),
            tally: Tally::default(),
            client: None,
        };
        let started = Instant::now();
        let faults_until = started + Duration::from_millis(u64::from(plan.claps) * 400);
        let killing = kill_server_until(&cluster, faults_until, plan.seed);
        let holding = hold_commits_until(&cluster, faults_until, plan.seed);
        let ((), server_kills, held_commits) = tokio::join!(world.live(faults_until), killing, holding);
        world.tally.server_kills = server_kills;
        world.tally.held_commits = held_commits;
        world.conclude(started.elapsed()).await;
    }

    async fn live(&mut self, faults_until: Instant) {
        let mut next_poll = Instant::now();
        let mut next_fault = Instant::now() + Duration::from_secs(1);
        let mut last_look = Instant::now();
        loop {
            let now = Instant::now();
            self.notice_stall(now - last_look);
            last_look = now;
            self.control(now);
            if now >= next_poll {
                if self.poll().await {
                    return;
                }
                next_poll = Instant::now() + POLL;
                last_look = Instant::now();
            }
            if now >= next_fault && now < faults_until {
                self.inject(now);
                next_fault = now + Duration::from_millis(self.random.random_range(100..900));
            }
            assert!(now < faults_until + DRAIN, "claps are not over {DRAIN:?} after the last fault: {}", self.told());
            sleep(LOOK).await;
        }
    }

    /// A machine that stands still stops every worker, whatever the test wants.
    fn notice_stall(&mut self, since_last_look: Duration) {
        if since_last_look > STALL {
            self.tally.stalls += 1;
            let pods: Vec<String> = self.jobs.iter().flat_map(|job| &job.pods).map(|pod| pod.name.clone()).collect();
            self.faults.injected += pods.len();
            self.faults.paused_pods.extend(pods);
        }
    }

    /// One look of the Job controller: pods that have ended, pods to be made, kills and resumptions that are due.
    fn control(&mut self, now: Instant) {
        let mut to_start = Vec::new();
        for (index, job) in self.jobs.iter_mut().enumerate() {
            let mut ended = Vec::new();
            job.pods.retain_mut(|pod| {
                if pod.resume_at.is_some_and(|at| now >= at) {
                    pod.process.signal(Signal::CONT);
                    pod.resume_at = None;
                }
                if pod.kill_at.is_some_and(|at| now >= at) {
                    pod.process.signal(Signal::KILL);
                }
                let status = pod.process.ended();
                ended.extend(status.map(|status| (status, pod.name.clone())));
                status.is_none()
            });
            for (status, pod) in ended {
                if status.code().is_some_and(|code| code != 75) {
                    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than that");
                    self.faults.pods_that_hold_nothing.insert(pod, since_1970.as_secs_f64());
                }
                let code = status.code().unwrap_or(137);
                *self.tally.exit_codes.entry(code).or_default() += 1;
                if job.over {
                    continue;
                }
                job.failures += u32::from(code != 0);
                if code == 0 || FAIL_JOB.contains(&code) || job.failures > BACKOFF_LIMIT {
                    job.over = true;
                } else {
                    // Kubernetes waits 10 s, doubled each time; the shape is what matters here.
                    job.next_pod_at = Some(now + Duration::from_millis(100 << job.failures));
                }
            }
            if !job.over && job.pods.is_empty() && job.next_pod_at.is_some_and(|at| now >= at) {
                job.next_pod_at = None;
                to_start.push(index);
            }
        }
        for index in to_start {
            self.start_pod(index);
        }
        self.jobs.retain(|job| !job.over || !job.pods.is_empty());
    }

    /// One poll of KEDA's, which creates Jobs; true once every clap is over.
    async fn poll(&mut self) -> bool {
        let Some((outstanding, waiting_for_accurate, claimable, over)) = self.numbers().await else { return false };
        if over {
            return true;
        }
        let accurate = matches!(self.plan.strategy, Strategy::Accurate);
        let value = if accurate { waiting_for_accurate } else { outstanding };
        let scaled_job = ScaledJob {
            min_replica_count: 0,
            max_replica_count: Some(MOST_JOBS),
            strategy: self.plan.strategy,
            calculation: Calculation::Max,
            keda: Version::NEWEST,
        };
        let unfinished: Vec<&Job> = self.jobs.iter().filter(|job| !job.over).collect();
        let count = |jobs: usize| i64::try_from(jobs).expect("few Jobs");
        let jobs = Jobs {
            unfinished: count(unfinished.len()),
            pending: count(unfinished.iter().filter(|job| job.pods.is_empty()).count()),
        };
        let answer = ScalerAnswer { value, target: 1.0, active: claimable > 0.0 };
        for _ in 0..scaled_job.decide(&[answer], jobs).created {
            self.tally.jobs += 1;
            let uid = format!("job-{}-{}", self.plan.seed, self.tally.jobs);
            let job = Job { uid, pods: Vec::new(), pods_made: 0, failures: 0, next_pod_at: None, over: false };
            self.jobs.push(job);
            self.start_pod(self.jobs.len() - 1);
        }
        false
    }

    /// Returns what the view says, for either strategy, and whether every clap is over; nothing while the server is
    /// away.
    async fn numbers(&mut self) -> Option<(f64, f64, f64, bool)> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            let driver = self.access.driver();
            let connecting = driver.connect(tokio_postgres::NoTls);
            let (client, connection) = tokio::time::timeout(POLL, connecting).await.ok()?.ok()?;
            tokio::spawn(connection);
            self.client = Some(client);
        }
        let sql = "SELECT (claimable + held)::float8, (claimable + reserved)::float8, claimable::float8,
                          claimable + held + waiting = 0 FROM clap_backlog";
        let asking = self.client.as_ref()?.query_one(sql, &[]);
        let row = tokio::time::timeout(POLL, asking).await.ok()?.ok()?;
        Some((row.get(0), row.get(1), row.get(2), row.get(3)))
    }

    fn start_pod(&mut self, index: usize) {
        let job = &mut self.jobs[index];
        job.pods_made += 1;
        let name = format!("{}-{}", job.uid, job.pods_made);
        let retry_by = match self.plan.retry_by {
            RetryBy::Queue => "queue",
            RetryBy::Job => "job",
        };
        let options = ["work", "--lease", LEASE, "--beat", BEAT, "--grace", GRACE, "--retry-by", retry_by];
        let timing = ["--reserve", "4s", "--backoff", "200ms", "--backoff-cap", "2s", "--", "sh", "-c", PROGRAM];
        let process = Executable::postgres_batch(options.into_iter().chain(timing))
            .variables(self.access.environment())
            .variable("EFFECTS", self.effects.to_str().expect("ours is ASCII"))
            .variable("JOB_UID", &job.uid)
            .variable("POD_NAME", &name)
            .start();
        job.pods.push(Pod { name, process, resume_at: None, kill_at: None });
    }

    /// Does something bad to a pod or a Job.
    fn inject(&mut self, now: Instant) {
        let living: Vec<(usize, usize)> = self
            .jobs
            .iter()
            .enumerate()
            .filter(|(_, job)| !job.over)
            .flat_map(|(index, job)| (0..job.pods.len()).map(move |pod| (index, pod)))
            .filter(|(job, pod)| self.jobs[*job].pods[*pod].resume_at.is_none())
            .collect();
        let Some((index, pod)) = living.choose(&mut self.random).copied() else { return };
        match self.random.random_range(0..100) {
            0..50 => {
                self.jobs[index].pods[pod].process.signal(Signal::KILL);
                self.tally.worker_kills += 1;
                self.faults.injected += 1;
            }
            50..65 => {
                let pod = &mut self.jobs[index].pods[pod];
                pod.process.signal(Signal::STOP);
                pod.resume_at = Some(now + Duration::from_millis(self.random.random_range(PAUSE_MILLISECONDS)));
                self.faults.paused_pods.insert(pod.name.clone());
                self.tally.pauses += 1;
                self.faults.injected += 1;
            }
            65..82 => {
                let job = &mut self.jobs[index];
                job.over = true;
                for pod in &mut job.pods {
                    pod.process.signal(Signal::TERM);
                    pod.kill_at = Some(now + DELETION_GRACE);
                }
                self.tally.deletions += 1;
                self.faults.injected += self.jobs[index].pods.len();
            }
            _ => {
                self.tally.duplicates += 1;
                self.start_pod(index);
            }
        }
    }

    /// Waits for the last pods, and holds everything against the invariants.
    async fn conclude(mut self, took: Duration) {
        for pod in self.jobs.drain(..).flat_map(|job| job.pods) {
            pod.process.signal(Signal::CONT);
            pod.process.finish(Duration::from_secs(30)).await;
        }
        let text = fs::read_to_string(&self.effects).unwrap_or_default();
        let client = self.database.connect().await;
        // A poison row kills its own worker; a killed server may keep every worker from its lease.
        let poisoned = "SELECT count(*) FROM clap_attempt JOIN make_it_clap m ON m.id = clap_id WHERE m.payload ->> 'kind' = 'poison'";
        let poisoned: i64 = client.query_one(poisoned, &[]).await.unwrap().get(0);
        let most_jobs = usize::try_from(MOST_JOBS).expect("few Jobs");
        self.faults.injected +=
            usize::try_from(poisoned).unwrap() + (self.tally.server_kills + self.tally.held_commits) * most_jobs;
        let verdict = books::judge(&client, &Effects::read(&text), &self.faults).await;
        let Verdict { violations, statuses, lost_attempts, done_again } = verdict;
        println!(
            "chaos: {} in {took:.0?}: {}; ended {statuses:?}, {lost_attempts} attempts lost their worker, \
             {done_again} claps were done more than once, {} invariants broken",
            self.plan_told(),
            self.told(),
            violations.len()
        );
        let terminal: i64 = statuses.values().sum();
        assert_eq!(terminal, i64::from(self.plan.claps), "claps were lost");
        assert!(violations.is_empty(), "seed {}:\n{}", self.plan.seed, violations.join("\n"));
        let faults = self.tally.worker_kills + self.tally.pauses + self.tally.deletions + self.tally.server_kills;
        assert!(faults > 0 && lost_attempts > 0, "nothing went wrong, so that nothing was shown");
    }

    fn plan_told(&self) -> String {
        let Plan { retry_by, strategy, seed, claps } = self.plan;
        format!("seed {seed}, {claps} claps, {retry_by:?}/{strategy:?}")
    }

    fn told(&self) -> String {
        let Tally { worker_kills, server_kills, held_commits, pauses, deletions, duplicates, stalls, jobs, exit_codes } =
            &self.tally;
        format!(
            "{jobs} Jobs, {worker_kills} workers and {server_kills} servers killed, {pauses} pauses, \
             COMMITs held up {held_commits} times, \
             {deletions} Jobs deleted, {duplicates} duplicate pods, {stalls} stalls, exit codes {exit_codes:?}"
        )
    }
}

/// Kills the postmaster every nine seconds or so, and starts it again; says how often.
async fn kill_server_until(cluster: &Cluster, until: Instant, seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed + 1);
    let mut kills = 0;
    loop {
        sleep(Duration::from_millis(random.random_range(6_000..12_000))).await;
        if Instant::now() >= until {
            return kills;
        }
        cluster.kill().await;
        sleep(Duration::from_millis(random.random_range(0..500))).await;
        cluster.start().await;
        kills += 1;
    }
}

/// Lets every COMMIT of the workers wait for a standby that is not there, for up to four seconds at a time; says how
/// often.
async fn hold_commits_until(cluster: &Cluster, until: Instant, seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed + 2);
    let mut holds = 0;
    while Instant::now() < until {
        sleep(Duration::from_millis(random.random_range(3_000..9_000))).await;
        if wait_for_standby(cluster, "nobody").await {
            holds += 1;
            sleep(Duration::from_millis(random.random_range(200..4_000))).await;
        }
        // The server may be away, and comes back as it was configured last.
        while !wait_for_standby(cluster, "").await {
            sleep(Duration::from_millis(100)).await;
        }
    }
    holds
}

/// Names the standby that COMMITs wait for; says whether the server took it.
async fn wait_for_standby(cluster: &Cluster, name: &str) -> bool {
    let Ok((client, connection)) = cluster.superuser("postgres").connect(tokio_postgres::NoTls).await else {
        return false;
    };
    tokio::spawn(connection);
    let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'");
    client.batch_execute(&set).await.is_ok() && client.batch_execute("SELECT pg_reload_conf()").await.is_ok()
}

/// The rows: two thirds succeed, the others flake, fail, kill their worker or fail for good.
fn requests(claps: u32, random: &mut StdRng) -> String {
    let rows: Vec<String> = (0..claps)
        .map(|_| {
            let kind = match random.random_range(0..100) {
                0..65 => "ok",
                65..85 => "flaky",
                85..93 => "fail",
                93..97 => "poison",
                _ => "permanent",
            };
            format!("({}, '{{\"kind\": \"{kind}\"}}')", random.random_range(3..25))
        })
        .collect();
    format!("INSERT INTO make_it_clap (duration_seconds, payload) VALUES {}", rows.join(", "))
}
