//! Two peers that fill every budget of docs/limits.md at once: the process stays within the memory that the chart gives it,
//! and another client is answered.

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
};

use clapometer::proto::ScaledObjectRef;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    MANY_STREAMS, Victim,
    frames::{self, HEADERS, frame, grpc},
    held::{ALL, HeldConnection, OtherClient, PATIENCE},
};
use crate::support::{
    admin,
    cluster::Cluster,
    database::Database,
    fixture::{Fixture, named},
    grpc::{Scaler, trigger},
    memory_limit::MemoryLimit,
    skip::skip_everywhere,
    wait,
};

pub(super) const PEERS: [[u8; 4]; 2] = [[127, 0, 0, 2], [127, 0, 0, 3]];

/// The contract's numbers, and how they are shared here.
const STREAMS: u32 = 50_000;
const GAUGES: u32 = 10_000;
const CONNECTIONS: usize = 1_000;
const NEWCOMERS: usize = 512;
const ADMIN_CONNECTIONS: usize = 512;
const NAMESPACES: u32 = 4;

/// The connections of one peer that carry its streams. The good client has one of all places.
const STREAMING: usize = 2;
const CALLING: usize = CONNECTIONS / PEERS.len() - STREAMING - 1;

/// Bytes of a stream's request, and of the parameter that makes its gauge another one.
const REQUEST: usize = 32 * 1024 * 1024 / 50_000;
const PARAMETER: usize = 200;

/// Bytes of a request that is not complete: with those of all connections the budget of requests is full.
const BEGUN: usize = 44 * 1024;

/// Readings of a grouped query with parameters: with ten thousand keys each, they are more than may be kept.
const GROUPED: u32 = 48;

/// Answers of each peer that are not taken.
const UNTAKEN: usize = 1_500;

/// Streams that a connection opens at a time.
pub(super) const AT_ONCE: usize = 100;

/// Pages that nobody takes.
const PAGES: [&str; 4] = ["/", "/?state=refused", "/api/status", "/metrics"];

/// The rounds of requests, and the answers to the other client in each.
const ROUNDS: usize = 4;
const ANSWERS: usize = 5;

const MIB: u64 = 1024 * 1024;

/// Header fields that HTTP/2 remembers for the connection: as many as its table of 4 KiB holds, of the shortest.
pub(super) fn remembered() -> Vec<u8> {
    (0..110u8).flat_map(|number| [0x40, 2, b'a' + number / 26, b'a' + number % 26, 1, b'v']).collect()
}

/// Returns the trigger of a stream. Ten thousand of them have a gauge of their own, the others share one.
fn streaming(number: u32) -> ScaledObjectRef {
    let has_own_gauge = number < GAUGES - GROUPED - NAMESPACES;
    let mut reference = if has_own_gauge {
        trigger("flooded", &[("param.queue", &format!("{number:0PARAMETER$}"))])
    } else {
        trigger("shared", &[])
    };
    reference.namespace = format!("{:a>63}", number % NAMESPACES);
    reference = named(&reference, format!("{number:a>100}"));
    let kept = reference.namespace.len() + reference.name.len() + PARAMETER * usize::from(has_own_gauge);
    let texts: usize = reference.scaler_metadata.iter().map(|(key, value)| key.len() + value.len() + 8).sum();
    let rest = REQUEST.saturating_sub(kept + texts + "scalerAddress".len() + 16);
    reference.scaler_metadata.insert("scalerAddress".to_owned(), "a".repeat(rest));
    reference
}

/// Opens all streams, and waits for the first message of each.
async fn open_streams(callers: &mut [HeldConnection]) {
    let mut numbers = 0..STREAMS;
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

#[tokio::test]
async fn all_budgets_full_at_once_stay_within_the_memory_of_the_chart_and_another_client_is_answered() {
    let _alone = MANY_STREAMS.lock().await;
    let database = Database::empty(Cluster::shared().await).await;
    let table = "CREATE TABLE jobs (queue text); GRANT SELECT ON jobs TO scaler;
        INSERT INTO jobs SELECT 'mail' FROM generate_series(1, 3)";
    database.execute(table).await;
    // The other client's readings do not wait for those of the peers: tests/it/tenants.rs is about that.
    let (own, flooded) = (database.scaler().yaml("own"), database.scaler().yaml("flooded"));
    let count = "SELECT count(*) FROM jobs";
    let configuration = format!(
        "databases:\n{own}{flooded}queries:
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
"
    );
    let most = limit_of_the_chart();
    // Before the process, which has to end before it is dropped.
    let limit = MemoryLimit::new(most);
    let mut fixture = Fixture::configured(&configuration).await;
    let (address, admin) = (fixture.serving.grpc, fixture.serving.admin);
    let limit = limit.as_ref().filter(|limit| limit.hold(fixture.serving.process.pid()).is_ok());
    assert_eq!(fixture.scaler.value(&Victim::trigger()).await.unwrap(), 3.0);

    let mut streams = Vec::new();
    for source in PEERS.iter().cycle().take(PEERS.len() * STREAMING) {
        streams.push(HeldConnection::new(*source, address, ALL).await);
    }
    open_streams(&mut streams).await;
    read_groups(&fixture.scaler).await;
    let other = OtherClient::start(move || Scaler::at(address));

    let mut callers = Vec::new();
    for number in 0..PEERS.len() * CALLING {
        // Every second one takes no answers.
        let window = if (number / PEERS.len()).is_multiple_of(2) { ALL } else { 0 };
        let mut caller = HeldConnection::new(PEERS[number % PEERS.len()], address, window).await;
        let call = caller.call("GetMetricSpec", &remembered(), &grpc(&Victim::trigger()), false);
        caller.say(&call).await;
        callers.push(caller);
    }

    let mut others: Vec<TcpStream> = Vec::new();
    let half_a_head = frame(HEADERS, 0, 1, &frames::fields(&[("a", &"b".repeat(15_000))]));
    for number in 0..NEWCOMERS {
        let mut socket = frames::open_from(PEERS[number % PEERS.len()], address).await;
        let _ = socket.write_all(&half_a_head).await;
        others.push(socket);
    }
    // They answer no ping, and so do not stay for long.
    wait::first("all connections", PATIENCE, async || {
        (admin::metric(admin, "clapometer_grpc_connections").await >= 1_500.0).then_some(())
    })
    .await;

    for number in 0..ADMIN_CONNECTIONS {
        let mut socket = frames::connect_from(PEERS[number % PEERS.len()], admin).await;
        let path = PAGES[number / PEERS.len() % PAGES.len()];
        let _ = socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: admin\r\n\r\n").as_bytes()).await;
        others.push(socket);
    }
    for round in 0..ROUNDS {
        for caller in &mut callers {
            caller.begin(BEGUN).await;
        }
        if round == 0 {
            let takes_none = |number: usize| PEERS.len() * (2 * (number % (CALLING / 2)) + 1) + number % PEERS.len();
            for number in 0..PEERS.len() * UNTAKEN {
                let caller = &mut callers[takes_none(number)];
                let call = caller.call("GetMetricSpec", &[], &grpc(&Victim::trigger()), false);
                caller.say(&call).await;
            }
        }
        other.is_answered(ANSWERS).await;
    }

    let process = &fixture.serving.process;
    let (resident, of_group) = (process.memory("VmHWM"), limit.map(MemoryLimit::peak));
    println!("{} MiB resident at most, {:?} MiB with the kernel's", resident / MIB, of_group.map(|bytes| bytes / MIB));
    assert_eq!(admin::metric(admin, "clapometer_streams").await, f64::from(STREAMS));
    assert!(admin::metric(admin, "clapometer_gauges").await >= f64::from(GAUGES - GROUPED - NAMESPACES));
    assert!(reached(&fixture, "requests").await > 0.0, "the budget of requests is not full");
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
    drop((streams, callers, others));
}
