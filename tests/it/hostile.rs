//! Hostile input, sent to the gRPC port or answered in PostgreSQL's name: other clients get right answers, nothing
//! leaks, nothing panics, the process goes on.

mod churn;
mod crowd;
mod encrypted;
pub(crate) mod frames;
pub(crate) mod held;
mod herd;
mod limits;
mod metadata;
mod places;
mod postgres;
mod scrapes;
mod unfinished;
mod unread;
mod whole;
mod wire;

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use clapometer::proto::ScaledObjectRef;
use tokio::sync::Mutex;

use crate::support::{
    admin,
    database::Database,
    fixture::Fixture,
    grpc::{Scaler, trigger},
    wait,
};

const SOON: Duration = Duration::from_secs(15);

/// The end of a connection that is not read shows by its next ping, which is sent after 20 s.
const GONE: Duration = Duration::from_secs(60);

/// The time that the kubelet gives a probe.
const PROBE: Duration = Duration::from_secs(1);

/// Bytes of memory that an attack may take. Far below the container's limit.
const GROWTH: u64 = 48 * 1024 * 1024;

/// Held by a test of fifty thousand streams: two of them at once would test the machine.
static MANY_STREAMS: Mutex<()> = Mutex::const_new(());

/// Counts the inputs of a kind.
type Count = fn() -> usize;

/// The kinds of hostile input, counted by what the tests send. Repetitions are not counted, nor the maps by the
/// thousand, of which half are right.
const KINDS: [(&str, Count); 10] = [
    ("bytes that are no HTTP/2", || wire::no_http_2().len()),
    ("frames that do not belong there", || wire::misplaced_frames().len()),
    ("requests that are not quite gRPC", || wire::not_quite_grpc().len()),
    ("messages that are no protobuf", || wire::no_protobuf().len()),
    ("floods of frames", || wire::floods().len()),
    ("half prefaces", || wire::HALF_PREFACES),
    ("requests that never end", || unfinished::REQUESTS),
    ("odd and oversized maps", || metadata::odd_maps().len()),
    ("injections by place", || metadata::injections().iter().filter(|(.., answer)| answer.is_a_refusal()).count()),
    ("lies in PostgreSQL's name", || postgres::attacks().len()),
];

/// A scaler under attack, asked at the same time by a client that does as it should.
struct Victim {
    fixture: Fixture,
    began_at: Instant,
    /// Bytes resident before the attack.
    memory: u64,
}

impl Victim {
    /// Starts one with a query `jobs` that counts a queue's rows: three in the queue `mail`.
    async fn new(database: &Database<'_>) -> Self {
        database
            .execute(
                "CREATE TABLE jobs (queue text, n bigint); GRANT SELECT ON jobs TO scaler;
                 INSERT INTO jobs SELECT 'mail', 1 FROM generate_series(1, 3)",
            )
            .await;
        let queries = "
  jobs: {sql: 'SELECT count(*) FROM jobs WHERE queue = $1', parameters: {queue: text}, max_age: 0s}
  slow: {sql: 'SELECT count(*) FROM jobs, pg_sleep(30)', max_age: 0s}
  numbered: {sql: 'SELECT count(*) FROM jobs WHERE n = $1', parameters: {n: bigint}, max_age: 0s}
";
        let fixture = Fixture::with(&database.scaler(), queries).await;
        let victim = Self { fixture, began_at: Instant::now(), memory: 0 };
        victim.answers().await;
        let memory = victim.memory("VmRSS");
        Self { memory, ..victim }
    }

    fn trigger() -> ScaledObjectRef {
        trigger("jobs", &[("param.queue", "mail")])
    }

    fn address(&self) -> SocketAddr {
        self.fixture.serving.grpc
    }

    fn scaler(&self) -> &Scaler {
        &self.fixture.scaler
    }

    /// Checks that the good client is answered, on its connection from before the attack.
    async fn answers(&self) {
        assert_eq!(self.scaler().value(&Self::trigger()).await.unwrap(), 3.0);
        assert!(self.scaler().active(&Self::trigger()).await.unwrap());
    }

    /// Probes it as the kubelet does, and returns how long that took if it was too long.
    async fn late_probe(&self) -> Option<Duration> {
        let began = Instant::now();
        assert_eq!(admin::get(self.fixture.serving.admin, "/livez").await, "ok\n");
        Some(began.elapsed()).filter(|took| *took > PROBE)
    }

    /// Waits until the log has a line with this message, of which there may be one a minute.
    async fn logs_once_a_minute(&self, message: &str) {
        wait::eventually(&format!("it logs {message:?}"), SOON, || self.fixture.logged(message) > 0).await;
        let logged = self.fixture.logged(message);
        let minutes = 1 + usize::try_from(self.began_at.elapsed().as_secs() / 60).unwrap();
        assert!(logged <= minutes, "{logged} lines in {minutes} minutes begin with {message:?}");
    }

    /// Counts the calls that were answered with OK since the start.
    async fn served(&self) -> f64 {
        let text = admin::get(self.fixture.serving.admin, "/metrics").await;
        let ok = text
            .lines()
            .filter(|line| line.starts_with("grpc_server_handled_total{") && line.contains("grpc_code=\"OK\""));
        ok.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Returns a line of `/proc/PID/status`, in bytes.
    fn memory(&self, field: &str) -> u64 {
        self.fixture.serving.process.memory(field)
    }

    /// Checks that nothing is left of an attack, and that it was survived.
    async fn is_unharmed(&mut self) {
        self.is_unharmed_but_for(GROWTH).await;
    }

    /// Checks the same of an attack that may have taken more memory for a while.
    async fn is_unharmed_but_for(&mut self, growth: u64) {
        self.answers().await;
        let admin = self.fixture.serving.admin;
        wait::first("the attacker's connections are gone", GONE, async || {
            (admin::metric(admin, "clapometer_grpc_connections").await <= 1.0).then_some(())
        })
        .await;
        wait::first("no stream is left", GONE, async || {
            (admin::metric(admin, "clapometer_streams").await == 0.0).then_some(())
        })
        .await;
        wait::until("few descriptors are left open", GONE, async || {
            let descriptors = self.fixture.serving.process.descriptors();
            if descriptors < 40 { Ok(()) } else { Err(format!("{descriptors} are")) }
        })
        .await;
        let peak = self.memory("VmHWM");
        assert!(peak < self.memory + growth, "memory grew from {} to {peak} bytes", self.memory);
        let process = &mut self.fixture.serving.process;
        assert!(process.ended().is_none(), "the process has ended");
        let log = process.errors();
        assert!(!log.contains("panicked"), "{log}");
        assert!(log.len() < 100_000, "strangers can fill the log: {} bytes", log.len());
    }
}

#[test]
fn hostile_inputs_are_as_many_as_the_documents_say() {
    let mut all = 0;
    for (kind, count) in KINDS {
        println!("{:>7} {kind}", count());
        all += count();
    }
    println!("{all:>7} hostile inputs");
    assert!(all >= 1_500, "{all}");
    let thousands = format!("{},{:03} hostile inputs", all / 1_000, all % 1_000);
    let told = fs::read_to_string("SECURITY.md").unwrap();
    assert!(told.contains(&thousands), "SECURITY.md does not tell of {thousands}");
}
