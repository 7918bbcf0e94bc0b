//! The servers, the ways to them and the scaler that the faults strike.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::Mutex, task::JoinHandle};
use tokio_postgres::{Client, NoTls};

use crate::support::{
    clock::Clock,
    cluster::{Cluster, Settings},
    database::{Access, Database},
    executable::{Executable, Serving},
    grpc::{Scaler, trigger},
    memory_limit::MemoryLimit,
    pooler::Pooler,
    processes,
    proxy::{Mode, Proxy},
    resolver::Resolver,
    wait,
};

/// The lag that the standby may have which the query `replica` asks.
pub(super) const MAX_LAG: Duration = Duration::from_secs(1);

/// The bytes that the scaler's control group has, a third of what the chart gives a pod: one peer that floods takes a
/// part of each budget.
pub(super) const MEMORY: u64 = 256 * 1024 * 1024;

/// The configuration's queries; `active` is whether the number is odd.
const QUERIES: &str = "
  strict: {sql: 'SELECT n, n % 2 AS odd FROM truth', database: claps, value_column: n, activity_column: odd, max_age: 0s}
  shared: {sql: 'SELECT n, n % 2 AS odd FROM truth WHERE true', database: claps, value_column: n, activity_column: odd, max_age: 500ms}
  own: {sql: 'SELECT n, n % 2 AS odd FROM truth WHERE $1 >= 0', database: claps, parameters: {n: double}, value_column: n, activity_column: odd, max_age: 0s}
  listening: {sql: 'SELECT n, n % 2 AS odd FROM truth WHERE n > 0', database: claps, value_column: n, activity_column: odd, max_age: 500ms, notify: {channel: truth, resync: 2s}}
  pooled: {sql: 'SELECT n, n % 2 AS odd FROM truth', database: pooled, value_column: n, activity_column: odd, max_age: 0s}
  replica: {sql: 'SELECT n, n % 2 AS odd FROM truth', database: replica, value_column: n, activity_column: odd, max_age: 0s}
";

/// A primary with a wire to it that breaks, a standby, a pooler before the primary, and a scaler.
pub(super) struct Testbed {
    pub(super) primary: &'static Cluster,
    pub(super) standby: Cluster,
    /// True if the two have changed places.
    has_failed_over: AtomicBool,
    /// Taken by whoever holds a replay or makes a standby a primary.
    replay: Mutex<()>,
    /// Absent where there is no PgBouncer: then its database is the primary itself.
    pub(super) pooler: Option<Pooler>,
    /// The way of the pooler's other clients.
    pooled: Access,
    pub(super) dbname: String,
    pub(super) wires: Wires,
    pub(super) resolver: Resolver,
    /// The clocks of the scaler's host and of the primary's.
    pub(super) scaler_clock: Clock,
    pub(super) server_clock: Clock,
    pub(super) serving: Serving,
    pub(super) scaler: Scaler,
    /// Another scaler on the same databases.
    pub(super) second: Serving,
    /// A session that holds what a fault needs to be held.
    pub(super) held: Mutex<Option<Client>>,
    /// The task that stops the scaler for most of the time.
    pub(super) throttle: Mutex<Option<JoinHandle<()>>>,
    /// The task of many clients.
    pub(super) crowd: Mutex<Option<JoinHandle<()>>>,
    writer: Mutex<Option<Client>>,
    /// Absent where there are no control groups to be had. Its process ends before it.
    pub(super) memory_limit: Option<MemoryLimit>,
}

impl Testbed {
    pub(super) async fn new() -> Self {
        let (scaler_clock, server_clock) = (Clock::new(), Clock::new());
        let settings = Settings::default().durable().set("max_connections", 40).by_clock(server_clock.clone());
        // It lives for as long as the test process: its databases and sessions refer to it.
        let primary: &'static Cluster = Box::leak(Box::new(Cluster::with_settings(settings).await));
        let database = Database::empty(primary).await;
        let table = "CREATE TABLE truth AS SELECT 1::int AS n; GRANT SELECT ON truth TO scaler;
            GRANT pg_read_all_stats TO scaler";
        database.execute(table).await;
        let standby = primary.standby().await;
        let pooler = Pooler::before(&database.scaler(), 4).await;
        let pooled = pooler.as_ref().map_or(database.scaler(), |pooler| database.scaler().by_way_of(pooler.address()));
        let wires = Wires::to(primary).await;
        let resolver = Resolver::new(wires.now().address().ip());
        let both = database.scaler().at("database.test,127.0.0.1");
        let ports = format!("'{},{}'", wires.now().address().port(), standby.port());
        let replica = database.scaler().by_way_of(SocketAddr::from(([127, 0, 0, 1], standby.port())));
        let databases = [
            both.with("port", ports).yaml("claps"),
            pooled.clone().with("target_session_attrs", "read-write").yaml("pooled"),
            replica.with("max_lag", format!("{}s", MAX_LAG.as_secs())).yaml("replica"),
        ];
        let configuration = format!("databases:\n{}queries:{QUERIES}", databases.concat());
        let start = async || {
            // Root has a way around limits.
            let executable = scaler_clock.used_by(resolver.used_by(Executable::serve(&configuration)));
            let serving = executable.unprivileged().serving().await;
            let scaler = Scaler::at(serving.grpc);
            for query in ["strict", "pooled", "replica"] {
                scaler.reaches(&trigger(query, &[]), 1.0, Duration::from_secs(10)).await;
            }
            (serving, scaler)
        };
        let ((serving, scaler), (second, _)) = (start().await, start().await);
        let dbname = database.name().to_owned();
        let (replay, held, throttle, crowd, writer) = Default::default();
        let memory_limit = MemoryLimit::new(MEMORY).filter(|limit| limit.hold(serving.process.pid()).is_ok());
        let has_failed_over = AtomicBool::new(false);
        Self {
            primary,
            standby,
            has_failed_over,
            replay,
            pooler,
            pooled,
            dbname,
            wires,
            resolver,
            scaler_clock,
            server_clock,
            serving,
            scaler,
            second,
            held,
            throttle,
            crowd,
            writer,
            memory_limit,
        }
    }

    /// # Panics
    /// Panics if there is none: faults that need it are not possible then.
    pub(super) fn pooler(&self) -> &Pooler {
        self.pooler.as_ref().expect("PgBouncer is there")
    }

    /// Writes the number, and returns whether it is known to be written.
    pub(super) async fn commit(&self, number: u32) -> bool {
        let mut writer = self.writer.lock().await;
        if writer.as_ref().is_none_or(Client::is_closed) {
            *writer = self.session().await;
        }
        let Some(client) = writer.as_ref() else { return false };
        // A write that was given up may still wait for a lock, and must not take effect after a later one: the journal
        // takes its number for gone.
        let statement = format!("UPDATE truth SET n = {number} WHERE n < {number}; NOTIFY truth");
        let written = tokio::time::timeout(Duration::from_secs(1), client.batch_execute(&statement)).await;
        let is_known = matches!(written, Ok(Ok(())));
        if !is_known {
            *writer = None;
        }
        is_known
    }

    /// A superuser's session on what is the primary now, past the wire that breaks; none if there is none to be had.
    pub(super) async fn session(&self) -> Option<Client> {
        let primary = if self.has_failed_over.load(Ordering::Relaxed) { &self.standby } else { self.primary };
        let config = primary.superuser(&self.dbname);
        let opened = tokio::time::timeout(Duration::from_secs(1), config.connect(NoTls)).await;
        let (client, connection) = opened.ok()?.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// Runs statements, for which the database must be there.
    pub(super) async fn execute(&self, statements: &str) {
        let client = self.session().await.expect("the database is there");
        client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// Lets the scaler have nothing more of a resource: numbers from zero on are above the limit.
    pub(super) fn exhaust(&self, resource: &str) {
        self.limit(resource, "0");
    }

    pub(super) fn give_back(&self, resource: &str) {
        let hard = processes::prlimit(
            self.serving.process.pid(),
            &["--raw", "--noheadings", "--output=HARD", &format!("--{resource}")],
        );
        self.limit(resource, hard.trim());
    }

    fn limit(&self, resource: &str, soft: &str) {
        processes::prlimit(self.serving.process.pid(), &[&format!("--{resource}={soft}:")]);
    }

    /// Sets the clock of the primary's host off by so many seconds, and sees that the server goes by it.
    pub(super) async fn step_server_clock(&self, seconds: i32) {
        self.server_clock.is_off_by(seconds.into());
        let right = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs_f64();
        let client = self.session().await.expect("the database is there");
        let row = client
            .query_one("SELECT extract(epoch FROM clock_timestamp())::float8", &[])
            .await
            .expect("it may be asked");
        let off = row.get::<_, f64>(0) - right - f64::from(seconds);
        assert!(off.abs() < f64::from(seconds.abs()) / 2.0, "the server's clock is {off} s off what it was set to");
    }

    pub(super) async fn end_sessions(&self) {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'scaler'";
        self.execute(end).await;
    }

    /// Makes the standby the primary, while the pooler and the wire still lead to the old one, whose replay stands
    /// still.
    pub(super) async fn fail_over(&self) {
        let _is_alone = self.replay.lock().await;
        self.standby.resume_replay().await;
        self.primary.switch_over_to(&self.standby).await;
        self.has_failed_over.store(true, Ordering::Relaxed);
        self.primary.receives_from(&self.standby).await;
        self.primary.pause_replay().await;
    }

    pub(super) async fn fail_back(&self) {
        let _is_alone = self.replay.lock().await;
        self.primary.resume_replay().await;
        self.standby.switch_over_to(self.primary).await;
        self.has_failed_over.store(false, Ordering::Relaxed);
    }

    /// Holds the standby's replay, or lets it go on, while it is a standby.
    pub(super) async fn hold_replay(&self, is_held: bool) {
        let _is_alone = self.replay.lock().await;
        match (self.has_failed_over.load(Ordering::Relaxed), is_held) {
            (true, _) => {}
            (false, true) => self.standby.pause_replay().await,
            (false, false) => self.standby.resume_replay().await,
        }
    }

    /// Leaves a table of the same name and a path to it in the sessions of the pooler.
    pub(super) async fn leave_behind(&self) {
        let left = "BEGIN; CREATE TEMPORARY TABLE IF NOT EXISTS truth AS SELECT 0 AS n";
        let mut clients = Vec::new();
        // All at once, so that each gets another session of the pooler's.
        for _ in 0..3 {
            // After a fault PgBouncer refuses for a second.
            let client = wait::first("the pooler serves", Duration::from_secs(20), async || {
                let (client, connection) = self.pooled.driver().connect(NoTls).await.ok()?;
                tokio::spawn(connection);
                client.batch_execute(left).await.ok().map(|()| client)
            });
            clients.push(client.await);
        }
        for client in clients {
            client.batch_execute("COMMIT; SET search_path = pg_temp").await.expect("everybody may");
        }
    }
}

/// Two ways to the database, on two addresses with one port; one of them is in use.
pub(super) struct Wires {
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

    pub(super) fn now(&self) -> &Proxy {
        &self.proxies[self.in_use.load(Ordering::Relaxed)]
    }

    /// Breaks the way that is in use, and returns the other one, which is in use from now on.
    pub(super) fn swap(&self) -> &Proxy {
        self.now().set(Mode::Blackhole);
        self.in_use.fetch_xor(1, Ordering::Relaxed);
        // It may be the one that an earlier swap has broken.
        self.now().set(Mode::Pass);
        self.now()
    }
}
