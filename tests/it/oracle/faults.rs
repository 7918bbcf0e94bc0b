//! The named faults, each made for real, with what the contract (section 7 of the design) demands of the answers.

use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rustix::process::{self, Pid, Resource, Rlimit, Signal};
use tokio::{sync::Mutex, task::JoinHandle, time::sleep};
use tokio_postgres::{Client, NoTls};
use tonic::Code;

use crate::support::{
    cluster::{Cluster, SCALER_PASSWORD, Settings},
    database::Database,
    executable::{Executable, Serving},
    grpc::{Scaler, trigger},
    processes,
    proxy::{Mode, Proxy},
    resolver::Resolver,
};

/// The duration of an observed fault. One that is silent lasts long enough for calls of 2.5 s to run into it, and into
/// the breaker that it opens.
const OBSERVED: Duration = Duration::from_secs(1);
const OBSERVED_IN_SILENCE: Duration = Duration::from_secs(5);

/// The configuration's queries; `active` is whether the number is odd.
pub(super) const QUERIES: &str = "
  strict: {sql: 'SELECT n, n % 2 AS odd FROM truth', value_column: n, activity_column: odd, max_age: 0s}
  shared: {sql: 'SELECT n, n % 2 AS odd FROM truth WHERE true', value_column: n, activity_column: odd, max_age: 500ms}
  own: {sql: 'SELECT n, n % 2 AS odd FROM truth WHERE $1 >= 0', parameters: {n: double}, value_column: n, activity_column: odd, max_age: 0s}
  listening: {sql: 'SELECT n, n % 2 AS odd FROM truth WHERE n > 0', value_column: n, activity_column: odd, max_age: 500ms, notify: {channel: truth, resync: 2s}}
";

/// A PostgreSQL, a wire to it that breaks, and a scaler.
pub(super) struct Testbed {
    cluster: &'static Cluster,
    dbname: String,
    wires: Wires,
    resolver: Resolver,
    pub(super) serving: Serving,
    pub(super) scaler: Scaler,
    /// Another scaler on the same database.
    replica: Serving,
    /// A session that holds what a fault needs to be held.
    held: Mutex<Option<Client>>,
    /// The task that stops the scaler for most of the time.
    throttle: Mutex<Option<JoinHandle<()>>>,
    /// The scaler's usual limit of descriptors, while another one is in force.
    descriptors: Mutex<Option<Rlimit>>,
    writer: Mutex<Option<Client>>,
}

impl Testbed {
    pub(super) async fn new() -> Self {
        let settings = Settings::default().durable().set("max_connections", 40);
        // It lives for as long as the test process: its databases and sessions refer to it.
        let cluster: &'static Cluster = Box::leak(Box::new(Cluster::with_settings(settings).await));
        let database = Database::empty(cluster).await;
        database.execute("CREATE TABLE truth AS SELECT 1::int AS n; GRANT SELECT ON truth TO scaler").await;
        let wires = Wires::to(cluster).await;
        let resolver = Resolver::new(wires.now().address().ip());
        let access = database.scaler().by_way_of(wires.now().address()).at("database.test").yaml("claps");
        let configuration = format!("databases:\n{access}queries:{QUERIES}");
        let start = async || {
            let serving = resolver.used_by(Executable::serve(&configuration)).serving().await;
            let scaler = Scaler::at(serving.grpc);
            scaler.reaches(&trigger("strict", &[]), 1.0, Duration::from_secs(10)).await;
            (serving, scaler)
        };
        let ((serving, scaler), (replica, _)) = (start().await, start().await);
        let dbname = database.name().to_owned();
        let (held, throttle, descriptors, writer) = Default::default();
        Self { cluster, dbname, wires, resolver, serving, scaler, replica, held, throttle, descriptors, writer }
    }

    /// Writes the number, and returns whether it is known to be written.
    pub(super) async fn commit(&self, number: u32) -> bool {
        let mut writer = self.writer.lock().await;
        if writer.as_ref().is_none_or(Client::is_closed) {
            *writer = self.session().await;
        }
        let Some(client) = writer.as_ref() else { return false };
        let statement = format!("UPDATE truth SET n = {number}; NOTIFY truth");
        let written = tokio::time::timeout(Duration::from_secs(1), client.batch_execute(&statement)).await;
        let is_known = matches!(written, Ok(Ok(())));
        if !is_known {
            *writer = None;
        }
        is_known
    }

    /// A superuser's session, past the wire that breaks; none if there is none to be had.
    async fn session(&self) -> Option<Client> {
        let config = self.cluster.superuser(&self.dbname);
        let opened = tokio::time::timeout(Duration::from_secs(1), config.connect(NoTls)).await;
        let (client, connection) = opened.ok()?.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// Runs statements, for which the database must be there.
    async fn execute(&self, statements: &str) {
        let client = self.session().await.expect("the database is there");
        client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// Lets the scaler open no further descriptor: numbers from zero on are above the limit.
    async fn take_descriptors(&self) {
        let none = Rlimit { current: Some(0), ..process::getrlimit(Resource::Nofile) };
        let pid = self.serving.process.pid();
        let usual = process::prlimit(Some(pid), Resource::Nofile, none).expect("a soft limit may be lowered");
        *self.descriptors.lock().await = Some(usual);
    }

    async fn give_descriptors_back(&self) {
        let usual = self.descriptors.lock().await.take().expect("they were taken");
        let pid = self.serving.process.pid();
        process::prlimit(Some(pid), Resource::Nofile, usual).expect("a soft limit may be raised again");
    }

    async fn end_sessions(&self) {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'scaler'";
        self.execute(end).await;
    }
}

/// Two ways to the database, on two addresses with one port; one of them is in use.
struct Wires {
    proxies: [Proxy; 2],
    in_use: AtomicUsize,
}

impl Wires {
    async fn to(cluster: &Cluster) -> Self {
        let target = SocketAddr::from(([127, 0, 0, 1], cluster.port()));
        loop {
            let first = Proxy::to(target).await;
            let second = SocketAddr::from(([127, 0, 0, 2], first.address().port()));
            // The port may be in use on the other address: then another one is tried.
            if let Ok(second) = Proxy::bound_to(second, target).await {
                return Self { proxies: [first, second], in_use: AtomicUsize::new(0) };
            }
        }
    }

    fn now(&self) -> &Proxy {
        &self.proxies[self.in_use.load(Ordering::Relaxed)]
    }

    /// Breaks the way that is in use, and returns the other one, which is in use from now on.
    fn swap(&self) -> &Proxy {
        self.now().set(Mode::Blackhole);
        self.in_use.fetch_xor(1, Ordering::Relaxed);
        // It may be the one that an earlier swap has broken.
        self.now().set(Mode::Pass);
        self.now()
    }
}

/// A fault of a database, of the way to it, or of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Blackhole,
    Reset,
    Close,
    Truncate,
    Slow,
    Frozen,
    Stopped,
    Restarted,
    Killed,
    SessionsEnded,
    StatementsCancelled,
    TableLocked,
    TableRenamed,
    ColumnRenamed,
    TypeChanged,
    GrantRevoked,
    RowSecurity,
    PasswordChanged,
    LoginForbidden,
    ConnectionLimit,
    DatabaseClosed,
    TooComplex,
    Reloaded,
    ScalerPaused,
    ReplicaPaused,
    CpuThrottled,
    DescriptorsExhausted,
    ResolverSilent,
    NameMoved,
}

const NONE: &[Code] = &[];
const LOST: &[Code] = &[Code::Unavailable];
const LATE: &[Code] = &[Code::DeadlineExceeded, Code::Unavailable];
const SLOW: &[Code] = &[Code::DeadlineExceeded];
const WRONG: &[Code] = &[Code::FailedPrecondition];

impl Fault {
    pub(super) const ALL: [Self; 29] = [
        Self::Blackhole,
        Self::Reset,
        Self::Close,
        Self::Truncate,
        Self::Slow,
        Self::Frozen,
        Self::Stopped,
        Self::Restarted,
        Self::Killed,
        Self::SessionsEnded,
        Self::StatementsCancelled,
        Self::TableLocked,
        Self::TableRenamed,
        Self::ColumnRenamed,
        Self::TypeChanged,
        Self::GrantRevoked,
        Self::RowSecurity,
        Self::PasswordChanged,
        Self::LoginForbidden,
        Self::ConnectionLimit,
        Self::DatabaseClosed,
        Self::TooComplex,
        Self::Reloaded,
        Self::ScalerPaused,
        Self::ReplicaPaused,
        Self::CpuThrottled,
        Self::DescriptorsExhausted,
        Self::ResolverSilent,
        Self::NameMoved,
    ];

    /// Returns its name, the codes that it may cause, and whether there must be one.
    fn contract(self) -> (&'static str, &'static [Code], Must) {
        use Must::{Fail, MayFail};
        match self {
            Self::Blackhole => ("wire-blackhole", LATE, Fail),
            Self::Reset => ("wire-reset", LOST, Fail),
            Self::Close => ("wire-closed", LOST, Fail),
            Self::Truncate => ("wire-truncated", LOST, Fail),
            Self::Slow => ("wire-slow", LATE, Fail),
            Self::Frozen => ("server-frozen", LATE, Fail),
            Self::Stopped => ("server-stopped", LOST, Fail),
            Self::Restarted => ("server-restarted", LOST, MayFail),
            Self::Killed => ("server-killed", LOST, Fail),
            Self::SessionsEnded => ("sessions-ended", LOST, MayFail),
            Self::StatementsCancelled => ("statements-cancelled", SLOW, MayFail),
            Self::TableLocked => ("table-locked", SLOW, Fail),
            Self::TableRenamed => ("table-renamed", WRONG, Fail),
            Self::ColumnRenamed => ("column-renamed", WRONG, Fail),
            Self::TypeChanged => ("column-type-changed", WRONG, Fail),
            Self::GrantRevoked => ("grant-revoked", WRONG, Fail),
            Self::RowSecurity => ("row-security", WRONG, Fail),
            Self::PasswordChanged => ("password-changed", LOST, Fail),
            Self::LoginForbidden => ("login-forbidden", LOST, Fail),
            Self::ConnectionLimit => ("connections-exhausted", LOST, Fail),
            Self::DatabaseClosed => ("database-closed", LOST, Fail),
            Self::TooComplex => ("statement-too-complex", WRONG, Fail),
            Self::Reloaded => ("configuration-reloaded", NONE, MayFail),
            Self::ScalerPaused => ("scaler-paused", LATE, MayFail),
            Self::ReplicaPaused => ("replica-paused", NONE, MayFail),
            Self::CpuThrottled => ("cpu-throttled", LATE, MayFail),
            Self::DescriptorsExhausted => ("descriptors-exhausted", LOST, Fail),
            Self::ResolverSilent => ("resolver-silent", LATE, Fail),
            Self::NameMoved => ("name-moved", LATE, MayFail),
        }
    }

    fn lasts(self) -> Duration {
        match self {
            Self::Blackhole | Self::Slow | Self::Frozen | Self::ResolverSilent => OBSERVED_IN_SILENCE,
            _ => OBSERVED,
        }
    }

    pub(super) fn name(self) -> &'static str {
        self.contract().0
    }

    pub(super) async fn strike(self, testbed: &Testbed) {
        match self {
            Self::Blackhole => testbed.wires.now().set(Mode::Blackhole),
            Self::Reset => testbed.wires.now().set(Mode::Reset),
            Self::Close => testbed.wires.now().set(Mode::Close),
            Self::Truncate => testbed.wires.now().set(Mode::Truncate(40)),
            Self::Slow => testbed.wires.now().set(Mode::Slow(Duration::from_millis(1_300))),
            Self::Frozen => testbed.cluster.freeze(),
            Self::Stopped => testbed.cluster.stop().await,
            Self::Restarted => testbed.cluster.restart().await,
            Self::Killed => testbed.cluster.kill().await,
            Self::SessionsEnded => testbed.end_sessions().await,
            Self::StatementsCancelled => {
                testbed.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'scaler'").await;
            }
            Self::TableLocked => {
                let client = testbed.session().await.expect("the database is there");
                client.batch_execute("BEGIN; LOCK TABLE truth IN ACCESS EXCLUSIVE MODE").await.unwrap();
                *testbed.held.lock().await = Some(client);
            }
            Self::TableRenamed => testbed.execute("ALTER TABLE truth RENAME TO elsewhere").await,
            Self::ColumnRenamed => testbed.execute("ALTER TABLE truth RENAME COLUMN n TO m").await,
            Self::TypeChanged => testbed.execute("ALTER TABLE truth ALTER COLUMN n TYPE text").await,
            Self::GrantRevoked => testbed.execute("REVOKE SELECT ON truth FROM scaler").await,
            Self::RowSecurity => testbed.execute("ALTER TABLE truth ENABLE ROW LEVEL SECURITY").await,
            Self::PasswordChanged => {
                testbed.execute("ALTER ROLE scaler PASSWORD 'canary-another-password'").await;
                testbed.end_sessions().await;
            }
            Self::LoginForbidden => {
                testbed.execute("ALTER ROLE scaler NOLOGIN").await;
                testbed.end_sessions().await;
            }
            Self::ConnectionLimit => {
                testbed.execute("ALTER ROLE scaler CONNECTION LIMIT 0").await;
                testbed.end_sessions().await;
            }
            Self::DatabaseClosed => {
                testbed.execute(&format!("ALTER DATABASE {} CONNECTION LIMIT 0", testbed.dbname)).await;
                testbed.end_sessions().await;
            }
            Self::TooComplex => {
                let statements = "ALTER TABLE truth RENAME TO held;
                    CREATE FUNCTION deep() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN deep(); END';
                    CREATE VIEW truth AS SELECT n FROM held WHERE deep() > 0;
                    GRANT SELECT ON truth TO scaler";
                testbed.execute(statements).await;
            }
            Self::Reloaded => testbed.serving.process.signal(Signal::HUP),
            Self::ScalerPaused => testbed.serving.process.signal(Signal::STOP),
            Self::ReplicaPaused => testbed.replica.process.signal(Signal::STOP),
            Self::CpuThrottled => {
                *testbed.throttle.lock().await = Some(tokio::spawn(throttle(testbed.serving.process.pid())));
            }
            Self::DescriptorsExhausted => {
                testbed.take_descriptors().await;
                testbed.end_sessions().await;
            }
            Self::ResolverSilent => {
                testbed.resolver.fall_silent();
                testbed.end_sessions().await;
            }
            Self::NameMoved => {
                let moved = testbed.wires.swap();
                testbed.resolver.answer(moved.address().ip());
            }
        }
    }

    pub(super) async fn heal(self, testbed: &Testbed) {
        match self {
            Self::Blackhole | Self::Reset | Self::Close | Self::Truncate | Self::Slow => {
                testbed.wires.now().set(Mode::Pass)
            }
            Self::Frozen => testbed.cluster.thaw(),
            Self::Stopped | Self::Killed => testbed.cluster.start().await,
            Self::Restarted | Self::SessionsEnded | Self::StatementsCancelled | Self::Reloaded => {}
            Self::TableLocked => {
                let held = testbed.held.lock().await.take();
                held.expect("it was locked").batch_execute("ROLLBACK").await.unwrap();
            }
            Self::TableRenamed => testbed.execute("ALTER TABLE elsewhere RENAME TO truth").await,
            Self::ColumnRenamed => testbed.execute("ALTER TABLE truth RENAME COLUMN m TO n").await,
            Self::TypeChanged => testbed.execute("ALTER TABLE truth ALTER COLUMN n TYPE int USING n::int").await,
            Self::GrantRevoked => testbed.execute("GRANT SELECT ON truth TO scaler").await,
            Self::RowSecurity => testbed.execute("ALTER TABLE truth DISABLE ROW LEVEL SECURITY").await,
            Self::PasswordChanged => testbed.execute(&format!("ALTER ROLE scaler PASSWORD '{SCALER_PASSWORD}'")).await,
            Self::LoginForbidden => testbed.execute("ALTER ROLE scaler LOGIN").await,
            Self::ConnectionLimit => testbed.execute("ALTER ROLE scaler CONNECTION LIMIT -1").await,
            Self::DatabaseClosed => {
                testbed.execute(&format!("ALTER DATABASE {} CONNECTION LIMIT -1", testbed.dbname)).await;
            }
            Self::TooComplex => {
                testbed.execute("DROP VIEW truth; DROP FUNCTION deep(); ALTER TABLE held RENAME TO truth").await;
            }
            Self::ScalerPaused => testbed.serving.process.signal(Signal::CONT),
            Self::ReplicaPaused => testbed.replica.process.signal(Signal::CONT),
            Self::CpuThrottled => {
                let throttle = testbed.throttle.lock().await.take().expect("it was throttled");
                throttle.abort();
                // It may have been aborted before it let the scaler go on, and must not stop it once more.
                let _ = throttle.await;
                testbed.serving.process.signal(Signal::CONT);
            }
            Self::DescriptorsExhausted => testbed.give_descriptors_back().await,
            Self::ResolverSilent => testbed.resolver.answer(testbed.wires.now().address().ip()),
            // The old address never comes back.
            Self::NameMoved => {}
        }
    }
}

/// Lets a process run for five milliseconds in a hundred, as a CPU quota does.
async fn throttle(pid: Pid) {
    loop {
        processes::signal(pid, Signal::STOP);
        sleep(Duration::from_millis(95)).await;
        processes::signal(pid, Signal::CONT);
        sleep(Duration::from_millis(5)).await;
    }
}

/// The demand on whether an error is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Must {
    Fail,
    MayFail,
}

/// The observations of one fault.
pub(super) struct Observed {
    fault: Fault,
    codes: BTreeSet<&'static str>,
    noticed: Option<Duration>,
    recovered: Duration,
    wrong: Vec<String>,
}

/// Makes a fault and asks all the time, until it is over and there is a right answer.
pub(super) async fn observe(testbed: &Testbed, fault: Fault) -> Observed {
    let probe = trigger("strict", &[]);
    let right = testbed.scaler.value(&probe).await.expect("the last fault is over");
    let mut observed =
        Observed { fault, codes: BTreeSet::new(), noticed: None, recovered: Duration::ZERO, wrong: Vec::new() };
    let (_, allowed, _) = fault.contract();
    let start = Instant::now();
    fault.strike(testbed).await;
    let mut healed: Option<Instant> = None;
    loop {
        if healed.is_none() && start.elapsed() >= fault.lasts() {
            fault.heal(testbed).await;
            healed = Some(Instant::now());
        }
        let answer = if fault == Fault::ScalerPaused && healed.is_none() {
            // The scaler itself stands still, and is not asked.
            sleep(fault.lasts().saturating_sub(start.elapsed())).await;
            continue;
        } else {
            testbed.scaler.value(&probe).await
        };
        match (answer, healed) {
            (Ok(value), _) if value != right => observed.wrong.push(format!("the lie {value}")),
            (Ok(_), Some(since)) => {
                observed.recovered = since.elapsed();
                return observed;
            }
            (Ok(_), None) => {}
            (Err(status), _) => {
                observed.codes.insert(name(status.code()));
                observed.noticed.get_or_insert(start.elapsed());
                if !allowed.contains(&status.code()) {
                    observed.wrong.push(format!("{status:?}"));
                }
                if healed.is_some_and(|since| since.elapsed() > Duration::from_secs(20)) {
                    observed.recovered = Duration::from_secs(20);
                    return observed;
                }
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

impl Observed {
    /// Returns the violations of the contract.
    pub(super) fn complaint(&self, recovery: Duration) -> Option<String> {
        let (fault, _, must) = self.fault.contract();
        let mut complaints = self.wrong.clone();
        if must == Must::Fail && self.codes.is_empty() {
            complaints.push("no error at all".to_owned());
        }
        if self.recovered >= recovery {
            complaints.push(format!("recovered after {:?}", self.recovered));
        }
        (!complaints.is_empty()).then(|| format!("{fault}: {}", complaints.join(", ")))
    }
}

impl fmt::Display for Observed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (fault, allowed, must) = self.fault.contract();
        let mut required: Vec<&str> = allowed.iter().map(|code| name(*code)).collect();
        if must == Must::MayFail {
            required.push("OK");
        }
        let mut seen: Vec<&str> = self.codes.iter().copied().collect();
        if seen.is_empty() {
            seen.push("OK");
        }
        let noticed = self.noticed.map_or("-".to_owned(), |after| format!("{after:.0?}"));
        let recovered = format!("{:.0?}", self.recovered);
        let (required, seen) = (required.join(" "), seen.join(" "));
        write!(formatter, "{fault:<26} {required:<32} {seen:<32} {noticed:>10} {recovered:>10}")
    }
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Unavailable => "UNAVAILABLE",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        _ => "another",
    }
}
