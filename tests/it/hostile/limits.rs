//! Two peers that fill every budget of docs/limits.md at once, over TLS: the process stays within the memory that the
//! chart gives it, and another client is answered.

use std::{
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Instant,
};

use clapometer::proto::ScaledObjectRef;
use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;

use super::{
    MANY_STREAMS, Victim,
    encrypted::Strangers,
    frames::{self, grpc},
    held::{ALL, HeldConnection, OtherClient, PATIENCE},
};
use crate::{
    support::{
        admin,
        certificates::Certificates,
        cluster::Cluster,
        database::{Access, Database},
        executable::Running,
        fixture::{Fixture, named},
        grpc::{Scaler, trigger},
        memory_limit::MemoryLimit,
        skip::skip_everywhere,
        wait,
    },
    tls::{Mount, client, files},
};

pub(super) const PEERS: [[u8; 4]; 2] = [[127, 0, 0, 2], [127, 0, 0, 3]];

/// The contract's numbers, and how they are shared here.
const STREAMS: u32 = 50_000;
const WAITING: u32 = 1_000;
const GAUGES: u32 = 10_000;
const CONNECTIONS: usize = 1_000;
const NEWCOMERS: usize = 512;
const ADMIN_CONNECTIONS: usize = 512;
const TOO_MANY: usize = 16;
const NAMESPACES: u32 = 4;

/// The connections of one peer that carry its streams. The good client has one of all places, and so has the test's
/// own.
const STREAMING: usize = 2;
const CALLING: usize = CONNECTIONS / PEERS.len() - STREAMING - 1;

/// The sum of docs/limits.md has so many bytes for each connection that carries calls, and for each handshake.
const OF_ONE_SERVED: u64 = 96 * 1024;
const OF_A_NEWCOMER: u64 = 80 * 1024;

/// Bytes of a stream's request, and of the parameter that makes its gauge another one.
const REQUEST: usize = 32 * 1024 * 1024 / 51_000;
const PARAMETER: usize = 200;

/// Bytes of a request that is not complete: with those of all connections the budget of requests is full.
const BEGUN: usize = 44 * 1024;

/// Readings of a grouped query with parameters: with ten thousand keys each, they are more than may be kept.
const GROUPED: u32 = 48;

/// Triggers that are polled within two seconds, in a release build, and triggers that are refused.
const POLLED: u32 = 7 * 1024;
const REFUSED: u32 = 500;

/// Answers of each peer that are not taken.
const UNTAKEN: usize = 1_500;

/// Streams that a connection opens at a time, and calls that are made at a time.
pub(super) const AT_ONCE: usize = 100;

/// Pages that nobody takes.
const PAGES: [&str; 5] = ["/", "/?state=refused", "/api/status", "/metrics", "/api/triggers/default/claps"];

/// A request that may be incomplete for a minute, and those that are begun between two looks at the other client.
const LASTING: &str = "/grpc.health.v1.Health/Check";
const BEGUN_AT_ONCE: usize = 50;

/// The answers to the other client that show that it is answered.
const ANSWERS: usize = 3;

const MIB: u64 = 1024 * 1024;

/// Header fields that HTTP/2 remembers for the connection: as many as its table of 4 KiB holds, of the shortest.
fn remembered() -> Vec<u8> {
    (0..110u8).flat_map(|number| [0x40, 2, b'a' + number / 26, b'a' + number % 26, 1, b'v']).collect()
}

/// Returns this trigger of one of the namespaces under a long name of its own.
fn numbered(trigger: ScaledObjectRef, number: u32) -> ScaledObjectRef {
    let namespace = format!("{:a>63}", number % NAMESPACES);
    named(&ScaledObjectRef { namespace, ..trigger }, format!("{number:a>100}"))
}

/// Returns the trigger of a stream. Ten thousand of them have a gauge of their own, the others share one, and the last
/// wait for their query.
fn streaming(number: u32) -> ScaledObjectRef {
    let has_own_gauge = number < GAUGES - GROUPED - NAMESPACES;
    let reference = if has_own_gauge {
        trigger("flooded", &[("param.queue", &format!("{number:0PARAMETER$}"))])
    } else {
        trigger(if number < STREAMS { "shared" } else { "unknown" }, &[])
    };
    let mut reference = numbered(reference, number);
    let kept = reference.namespace.len() + reference.name.len() + PARAMETER * usize::from(has_own_gauge);
    let texts: usize = reference.scaler_metadata.iter().map(|(key, value)| key.len() + value.len() + 8).sum();
    let rest = REQUEST.saturating_sub(kept + texts + "scalerAddress".len() + 16);
    reference.scaler_metadata.insert("scalerAddress".to_owned(), "a".repeat(rest));
    reference
}

/// Opens all streams, and waits for the first message of each that has one.
async fn open_streams(callers: &mut [HeldConnection]) {
    let mut numbers = 0..STREAMS + WAITING;
    while !numbers.is_empty() {
        for caller in &mut *callers {
            let calls = numbers.by_ref().take(AT_ONCE);
            let bytes: Vec<u8> =
                calls.flat_map(|number| caller.call("StreamIsActive", &[], &grpc(&streaming(number)), false)).collect();
            caller.say(&bytes).await;
        }
    }
    wait::first("the first message of each stream", PATIENCE, async || {
        let count = |counter: fn(&HeldConnection) -> &AtomicUsize| {
            callers.iter().map(|caller| counter(caller).load(Ordering::Relaxed)).sum::<usize>()
        };
        assert_eq!(count(|caller| &caller.ends), 0, "there is no room for as many streams");
        (count(|caller| &caller.messages) >= usize::try_from(STREAMS).unwrap()).then_some(())
    })
    .await;
}

/// Reads the grouped query for as many parameters as have a place.
async fn read_groups(scaler: &Scaler) {
    let key = format!("{:k>40}", 7);
    for number in 0..GROUPED {
        let mut reference = trigger("grouped", &[("param.queue", &number.to_string()), ("param.key", &key)]);
        reference.namespace = format!("{:a>63}", number % NAMESPACES);
        let value = wait::first("ten thousand keys", PATIENCE, async || scaler.value(&reference).await.ok()).await;
        assert_eq!(value, 7.0);
    }
}

/// Polls triggers that are answered from a gauge that is there, and others that are refused.
async fn poll(scaler: &Scaler) {
    for first in (0..POLLED + REFUSED).step_by(AT_ONCE) {
        let numbers = first..(first + u32::try_from(AT_ONCE).unwrap()).min(POLLED + REFUSED);
        let polls = numbers.map(async |number| {
            let query = if number < POLLED { "shared" } else { "unknown" };
            let polled = scaler.value(&numbered(trigger(query, &[]), number)).await;
            assert_eq!(
                polled.map_err(|status| status.code()),
                if number < POLLED { Ok(3.0) } else { Err(Code::PermissionDenied) }
            );
        });
        join_all(polls).await;
    }
}

/// Returns the limit of the chart, in bytes.
fn limit_of_the_chart() -> u64 {
    let values = fs::read_to_string("deploy/helm/clapometer/values.yaml").unwrap();
    let (_, limits) = values.split_once("  limits:\n    memory: ").expect("the chart limits the memory");
    limits.split_once("Mi").and_then(|(mebibytes, _)| mebibytes.parse::<u64>().ok()).expect("a number of MiB") * MIB
}

/// Reads the counter of a limit.
async fn reached(fixture: &Fixture, limit: &str) -> f64 {
    fixture.metric("clapometer_limit_reached_total", &format!("limit=\"{limit}\"")).await.unwrap_or_default()
}

fn configuration(mount: &Mount, database: &Access) -> String {
    // The other client's readings do not wait for those of the peers: tests/it/tenants.rs is about that.
    let (own, flooded) = (database.yaml("own"), database.yaml("flooded"));
    let count = "SELECT count(*) FROM jobs";
    format!(
        "server: {{tls: {{cert: {0}/tls.crt, key: {0}/tls.key}}}}
databases:\n{own}{flooded}queries:
  jobs: {{sql: '{count} WHERE queue = $1', parameters: {{queue: text}}, database: own, max_age: 0s}}
  flooded: {{sql: '{count} WHERE queue = $1', parameters: {{queue: text}}, database: flooded, max_age: 1h}}
  shared: {{sql: '{count}', database: flooded, max_age: 1h}}
  grouped:
    sql: \"SELECT lpad(n::text, 40, 'k') AS key, n AS size FROM generate_series(1, 10000) AS n WHERE $1 <> ''\"
    parameters: {{queue: text}}
    group_by: key
    value_column: size
    database: flooded
    max_age: 1h
",
        mount.path().display()
    )
}

/// The connections of the peers that do not stay for long.
struct Passing<'peers> {
    strangers: &'peers Strangers,
    admin: SocketAddr,
}

impl Passing<'_> {
    /// Begins as many handshakes as there may be at once, and some more, so that the first give way.
    async fn newcomers(&self) -> Vec<TcpStream> {
        join_all((0..NEWCOMERS + TOO_MANY).map(|number| self.strangers.begin(PEERS[number % PEERS.len()]))).await
    }

    /// Asks for pages over as many connections as there may be at once and some more, and takes none of them.
    async fn readers(&self) -> Vec<TcpStream> {
        let mut readers = Vec::new();
        for number in 0..ADMIN_CONNECTIONS + TOO_MANY {
            readers.push(self.reader(number, PAGES[number / PEERS.len() % PAGES.len()]).await);
        }
        readers
    }

    /// Takes the first byte of ever newer pages, until as many are kept as there may be.
    async fn half_read(&self, fixture: &Fixture) -> Vec<TcpStream> {
        let is_full = AtomicBool::new(false);
        let read = async |path: &str| {
            let mut readers = Vec::new();
            for number in 0.. {
                if is_full.load(Ordering::Relaxed) {
                    break;
                }
                let mut socket = self.reader(number, &path.replace("NUMBER", &number.to_string())).await;
                // Its connection may have given way.
                let _ = timeout(PATIENCE, socket.read_u8()).await.expect("a page, or the end");
                readers.push(socket);
            }
            readers
        };
        let watch = async {
            let is_reached = async || (reached(fixture, "pages").await > 0.0).then_some(());
            wait::first("the limit of pages", PATIENCE, is_reached).await;
            is_full.store(true, Ordering::Relaxed);
        };
        let (pages, states, metrics, ()) =
            tokio::join!(read("/?find=NUMBER"), read("/api/status?NUMBER"), read("/metrics"), watch);
        pages.into_iter().chain(states).chain(metrics).collect()
    }

    /// Asks for a page.
    async fn reader(&self, number: usize, path: &str) -> TcpStream {
        let mut socket = frames::connect_from(PEERS[number % PEERS.len()], self.admin).await;
        let _ = socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: admin\r\n\r\n").as_bytes()).await;
        socket
    }
}

/// Opens the connections that carry calls. Every second one takes no answers.
async fn open_callers(strangers: &Strangers) -> Vec<HeldConnection> {
    let mut callers = Vec::new();
    for number in 0..PEERS.len() * CALLING {
        let window = if (number / PEERS.len()).is_multiple_of(2) { ALL } else { 0 };
        let mut caller = HeldConnection::over(strangers.connect(PEERS[number % PEERS.len()]).await, window).await;
        let call = caller.call("GetMetricSpec", &remembered(), &grpc(&Victim::trigger()), false);
        caller.say(&call).await;
        callers.push(caller);
    }
    callers
}

/// Asks on over connections that take no answers.
async fn ask_on(callers: &mut [HeldConnection]) {
    let takes_none = |number: usize| PEERS.len() * (2 * (number % (CALLING / 2)) + 1) + number % PEERS.len();
    for number in 0..PEERS.len() * UNTAKEN {
        let caller = &mut callers[takes_none(number)];
        let call = caller.call("GetMetricSpec", &[], &grpc(&Victim::trigger()), false);
        caller.say(&call).await;
    }
}

/// Tells how long each step takes.
struct Steps(Instant);

impl Steps {
    fn done(&mut self, step: &str, other: &OtherClient, process: &Running) {
        let (took, slowest) = (self.0.elapsed(), other.slowest());
        let resident = process.memory("VmRSS") / MIB;
        println!("{step}: {took:.1?}, {resident} MiB, another client's slowest answer took {slowest:.1?}");
        self.0 = Instant::now();
    }
}

#[tokio::test]
async fn all_budgets_full_at_once_over_tls_stay_within_the_memory_of_the_chart_and_another_client_is_answered() {
    let _alone = MANY_STREAMS.lock().await;
    let database = Database::empty(Cluster::shared().await).await;
    let table = "CREATE TABLE jobs (queue text); GRANT SELECT ON jobs TO scaler;
        INSERT INTO jobs SELECT 'mail' FROM generate_series(1, 3)";
    database.execute(table).await;
    let servers = Certificates::generate();
    let mount = Mount::new();
    mount.swap(&files(&servers.server, &servers.authority));
    let most = limit_of_the_chart();
    // Before the process, which has to end before it is dropped.
    let limit = MemoryLimit::new(most);
    let mut fixture = Fixture::configured(&configuration(&mount, &database.scaler())).await;
    let (address, admin) = (fixture.serving.grpc, fixture.serving.admin);
    let process = &fixture.serving.process;
    let limit = limit.as_ref().filter(|limit| limit.hold(process.pid()).is_ok());
    let strangers = Strangers::new(&servers.authority, address);
    let passing = Passing { strangers: &strangers, admin };
    let scaler = client(address, &servers.authority, None);
    let other = OtherClient::start(move || client(address, &servers.authority, None), Victim::trigger());
    other.is_answered(ANSWERS).await;
    let mut steps = Steps(Instant::now());

    let before = process.memory("VmRSS");
    let mut callers = open_callers(&strangers).await;
    other.is_answered(ANSWERS).await;
    let connected = process.memory("VmRSS");
    steps.done("connections", &other, process);
    drop(passing.newcomers().await);
    other.is_answered(ANSWERS).await;
    let shaking = process.memory("VmHWM");
    steps.done("handshakes", &other, process);
    let (of_one, of_newcomer) = (
        (connected - before) / u64::try_from(callers.len()).unwrap(),
        (shaking - connected) / u64::try_from(NEWCOMERS).unwrap(),
    );
    println!("{} KiB for each that carries calls, {} KiB for each handshake", of_one / 1024, of_newcomer / 1024);
    assert!(of_one <= OF_ONE_SERVED, "{of_one} bytes for each connection that carries calls");
    assert!(of_newcomer <= OF_A_NEWCOMER, "{of_newcomer} bytes for each handshake");

    let mut streams = Vec::new();
    for source in PEERS.iter().cycle().take(PEERS.len() * STREAMING) {
        streams.push(HeldConnection::over(strangers.connect(*source).await, ALL).await);
    }
    open_streams(&mut streams).await;
    steps.done("streams", &other, process);
    read_groups(&scaler).await;
    steps.done("groups", &other, process);
    poll(&scaler).await;
    steps.done("polls", &other, process);

    ask_on(&mut callers).await;
    for some in callers.chunks_mut(BEGUN_AT_ONCE) {
        for caller in some {
            caller.begin(LASTING, BEGUN).await;
        }
        other.is_answered(1).await;
    }
    steps.done("requests", &other, process);
    let gave_way = reached(&fixture, "new_connections").await;
    let mut readers = passing.readers().await;
    other.is_answered(1).await;
    readers.extend(passing.half_read(&fixture).await);
    other.is_answered(1).await;
    steps.done("pages", &other, process);
    let newcomers = passing.newcomers().await;
    other.is_answered(ANSWERS).await;
    steps.done("all", &other, process);
    let (resident, of_group) = (process.memory("VmHWM"), limit.map(MemoryLimit::peak));
    println!("{} MiB resident at most, {:?} MiB with the kernel's", resident / MIB, of_group.map(|bytes| bytes / MIB));
    assert_eq!(admin::metric(admin, "clapometer_streams").await, f64::from(STREAMS + WAITING));
    assert!(admin::metric(admin, "clapometer_gauges").await >= f64::from(GAUGES - GROUPED - NAMESPACES));
    for full in ["requests", "admin_connections", "pages"] {
        assert!(reached(&fixture, full).await > 0.0, "the limit of {full} was not reached");
    }
    assert!(reached(&fixture, "new_connections").await > gave_way, "there were fewer handshakes than there may be");
    assert!(resident < most, "{resident} bytes are resident");
    match (limit, of_group) {
        (Some(limit), Some(peak)) => {
            assert_eq!(limit.kills(), 0);
            assert!(peak < most, "{peak} bytes of process and kernel");
        }
        _ => skip_everywhere("the kernel's part of a memory limit: it takes root and control groups"),
    }
    other.is_answered(ANSWERS).await;
    other.end();
    assert!(fixture.serving.process.ended().is_none(), "the process has ended");
    drop((streams, callers, readers, newcomers));
}
