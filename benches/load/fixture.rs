//! The fixture of the load: tables whose content is known, the real server, and observation of both.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rustix::process::Pid;
use tokio::task::JoinHandle;

use crate::{
    fleet::Kind,
    proto::ScaledObjectRef,
    request::Trigger,
    support::{
        cluster::Cluster,
        database::{Database, connect},
        executable::{Executable, Serving},
    },
};

/// The pool's size, which is the default, too.
pub(crate) const POOL: i64 = 4;

/// A reading's life.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(1);

/// The pause between two counts of the sessions.
const LOOK: Duration = Duration::from_millis(50);

/// Makes the table `queue` with this many queues, each of the length that [`length`] returns.
pub(crate) async fn queues(database: &Database<'_>, count: u32) {
    let statements = format!(
        "CREATE TABLE queue (name text PRIMARY KEY, length bigint NOT NULL);
         INSERT INTO queue SELECT 'q' || n, (n * 37) % 1000 FROM generate_series(0, {}) AS n;
         GRANT SELECT ON queue TO scaler;
         ANALYZE queue",
        count - 1
    );
    database.execute(&statements).await;
}

/// Returns the length of the queue of that number.
fn length(queue: u32) -> u32 {
    (queue * 37) % 1000
}

/// Returns the configuration of a server for [`queues`]: `depth` asks for one, `depths` for all at once.
pub(crate) fn configuration(database: &Database<'_>) -> String {
    let access = database.scaler().with("pool_size", POOL).yaml("claps");
    format!(
        "databases:\n{access}queries:\n\
        \x20 depth:\n    sql: SELECT length FROM queue WHERE name = $1\n    parameters: {{queue: text}}\n\
        \x20 depths:\n    sql: SELECT name, length FROM queue\n    value_column: length\n    group_by: name\n"
    )
}

/// Starts the real server.
pub(crate) async fn server(configuration: &str) -> Serving {
    Executable::serve(configuration).variable("RUST_LOG", "info").serving().await
}

/// Returns this many triggers on this many queues: every fifth has a threshold above its queue's
/// length, every third divides by two, every fourth asks the grouped query; targets differ.
pub(crate) fn triggers(count: u32, queues: u32) -> Vec<Trigger> {
    (0..count)
        .map(|number| {
            let queue = number % queues;
            let length = length(queue);
            let (query, parameter) = if number % 4 == 3 { ("depths", "param.name") } else { ("depth", "param.queue") };
            let divisor = if number % 3 == 1 { 2 } else { 1 };
            let activation = if number % 5 == 4 { 1_000 } else { 0 };
            let target = 1 + number % 7;
            let value = length.div_ceil(divisor);
            let metadata = [
                ("query", query.to_owned()),
                ("targetQueryValue", target.to_string()),
                ("activationTargetQueryValue", activation.to_string()),
                ("divideBy", divisor.to_string()),
                (parameter, format!("q{queue}")),
            ];
            Trigger {
                reference: reference(number, metadata),
                query: query.to_owned(),
                value,
                target,
                is_active: value > activation,
            }
        })
        .collect()
}

/// Returns this many triggers, each on a queue of its own, all of one query.
pub(crate) fn same(count: u32, query: &str, parameter: &str) -> Vec<Trigger> {
    (0..count)
        .map(|queue| {
            let metadata =
                [("query", query.to_owned()), ("targetQueryValue", "5".to_owned()), (parameter, format!("q{queue}"))];
            Trigger {
                reference: reference(queue, metadata),
                query: query.to_owned(),
                value: length(queue),
                target: 5,
                is_active: length(queue) > 0,
            }
        })
        .collect()
}

/// Returns what KEDA sends for the object of that number, of twenty namespaces.
pub(crate) fn reference<'a>(number: u32, metadata: impl IntoIterator<Item = (&'a str, String)>) -> ScaledObjectRef {
    let address = ("scalerAddress", "clapometer.keda.svc.cluster.local:9090".to_owned());
    ScaledObjectRef {
        name: format!("worker-{number}"),
        namespace: format!("team-{}", number % 20),
        scaler_metadata: metadata.into_iter().chain([address]).map(|(key, value)| (key.to_owned(), value)).collect(),
    }
}

/// Makes a fleet of them: half ScaledJobs, half ScaledObjects, of which every other is pushed to.
pub(crate) fn fleet(triggers: Vec<Trigger>) -> Vec<(Kind, Trigger)> {
    let kinds = [Kind::ScaledJob, Kind::ScaledObject, Kind::ScaledJob, Kind::Pushed];
    kinds.into_iter().cycle().zip(triggers).collect()
}

/// Counts a database's sessions until it is dropped.
pub(crate) struct Sessions {
    most: Arc<AtomicI64>,
    task: JoinHandle<()>,
}

impl Sessions {
    /// Begins to count, on a session in another database.
    pub(crate) async fn watch(database: &Database<'_>) -> Self {
        let client = connect(&database.cluster().superuser("postgres")).await;
        let name = database.name().to_owned();
        let most = Arc::new(AtomicI64::new(0));
        let highest = Arc::clone(&most);
        let task = tokio::spawn(async move {
            let statement = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
            loop {
                let row = client.query_one(statement, &[&name]).await.expect("a superuser may look");
                highest.fetch_max(row.get(0), Ordering::Relaxed);
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { most, task }
    }

    /// Returns the greatest number so far.
    pub(crate) fn most(&self) -> i64 {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the transactions that ended in a database, by PostgreSQL's statistics; complete once its sessions have
/// ended.
pub(crate) async fn transactions(cluster: &Cluster, database: &str) -> i64 {
    let client = connect(&cluster.superuser("postgres")).await;
    let statement = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1";
    client.query_one(statement, &[&database]).await.expect("a superuser may look").get(0)
}

/// Returns the time on a CPU of the sessions that are in a database now.
pub(crate) async fn sessions_cpu(database: &Database<'_>) -> Duration {
    let client = connect(&database.cluster().superuser("postgres")).await;
    let statement = "SELECT pid FROM pg_stat_activity WHERE datname = $1";
    let rows = client.query(statement, &[&database.name()]).await.expect("a superuser may look");
    let of = |pid: i32| -> u64 {
        let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok()).unwrap_or_default()
    };
    Duration::from_nanos(rows.iter().map(|row| of(row.get(0))).sum())
}

/// The resources that a process uses, from /proc.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Resident now, KiB.
    pub(crate) resident: u64,
    /// Resident at most so far, KiB.
    pub(crate) peak: u64,
    /// Open descriptors.
    pub(crate) descriptors: usize,
    /// Threads.
    pub(crate) threads: usize,
    /// Time on a CPU, of all threads.
    pub(crate) cpu: Duration,
}

impl Usage {
    /// Reads the resources of a process.
    ///
    /// # Panics
    /// When it is gone.
    pub(crate) fn read(pid: Pid) -> Self {
        let directory = format!("/proc/{}", pid.as_raw_nonzero());
        let status = fs::read_to_string(format!("{directory}/status")).expect("the process is there");
        let kibibytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel tells");
            line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
        };
        let count = |part: &str| fs::read_dir(format!("{directory}/{part}")).expect("the process is there").count();
        let of_thread = |thread: fs::DirEntry| -> u64 {
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok()).unwrap_or_default()
        };
        let threads = fs::read_dir(format!("{directory}/task")).expect("the process is there");
        Self {
            resident: kibibytes("VmRSS:"),
            peak: kibibytes("VmHWM:"),
            descriptors: count("fd"),
            threads: count("task"),
            cpu: Duration::from_nanos(threads.flatten().map(of_thread).sum()),
        }
    }
}
