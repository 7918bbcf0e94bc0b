//! Bytes that are not gRPC, and gRPC that breaks its rules.

use std::{net::SocketAddr, time::Duration};

use clapometer::proto::{GetMetricsRequest, ScaledObjectRef};
use futures_util::future::join_all;
use prost::Message;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    SOON, Victim,
    frames::{
        self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, frame, grpc,
        say,
    },
};
use crate::support::{cluster::Cluster, database::Database, grpc::Scaler, wait};

const GET_METRICS: &str = "/externalscaler.ExternalScaler/GetMetrics";
const STREAM_IS_ACTIVE: &str = "/externalscaler.ExternalScaler/StreamIsActive";
const GRPC: &str = "application/grpc";

/// The time for which an answer is waited for that does not come.
const PATIENCE: Duration = Duration::from_millis(150);

fn request() -> GetMetricsRequest {
    GetMetricsRequest { scaled_object_ref: Some(Victim::trigger()), metric_name: "jobs".to_owned() }
}

/// A connection with one request on it.
fn conversation(headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    [
        PREFACE,
        &frame(SETTINGS, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS, 1, &frames::fields(headers)),
        &frame(DATA, END_STREAM, 1, body),
    ]
    .concat()
}

/// Says a right request, and waits until it is counted as served, once.
async fn is_served(victim: &Victim, request: &[u8]) {
    let before = victim.served().await;
    let mut socket = TcpStream::connect(victim.address()).await.unwrap();
    socket.write_all(request).await.unwrap();
    wait::first("a right request is served", SOON, async || (victim.served().await > before).then_some(())).await;
    assert_eq!(victim.served().await, before + 1.0);
}

/// Says each of these on a connection of its own, a hundred at a time.
async fn say_all(address: SocketAddr, inputs: &[Vec<u8>]) {
    for some in inputs.chunks(100) {
        wait::bounded("a hundred answers", SOON, join_all(some.iter().map(|input| say(address, input, PATIENCE))))
            .await;
    }
}

/// Returns byte sequences that are not HTTP/2, or cease to be.
pub(super) fn no_http_2() -> Vec<Vec<u8>> {
    let mut random = StdRng::seed_from_u64(5);
    let mut inputs: Vec<Vec<u8>> = [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /externalscaler.ExternalScaler/GetMetrics HTTP/1.1\r\nHost: x\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r",
        "PRI * HTTP/1.1\r\n\r\n",
        "\0\0\0\0\0\0\0\0",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    for round in 0..400 {
        let mut bytes = vec![0; random.random_range(0..3000)];
        random.fill_bytes(&mut bytes);
        // Every other one gets past the door.
        inputs.push(if round % 2 == 0 { bytes } else { [PREFACE, &frame(SETTINGS, 0, 0, &[]), &bytes].concat() });
    }
    inputs
}

#[tokio::test]
async fn bytes_that_are_no_http_2_are_not_answered() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let before = victim.served().await;
    say_all(victim.address(), &no_http_2()).await;
    assert_eq!(victim.served().await, before, "something was served");
    victim.is_unharmed().await;
}

/// Frames of every kind, with flags and lengths, on streams where they do not belong.
pub(super) fn misplaced_frames() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for kind in (0..=16).chain([0x7f, 0xff]) {
        for flags in [0, 1, 4, 8, 0x20, 0xff] {
            for stream in [0, 1, 2, 0x7fff_ffff] {
                for length in [0, 4, 5, 8, 100] {
                    let bytes = frame(kind, flags, stream, &vec![0xaa; length]);
                    inputs.push([PREFACE, &frame(SETTINGS, 0, 0, &[]), &bytes, &frame(PING, 0, 0, &[0; 8])].concat());
                }
            }
        }
    }
    inputs
}

#[tokio::test]
async fn frames_of_every_kind_where_they_do_not_belong_are_not_answered() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let before = victim.served().await;
    for some in misplaced_frames().chunks(100) {
        let closed = some.iter().map(|input| async {
            let mut socket = TcpStream::connect(victim.address()).await.unwrap();
            let _ = socket.write_all(input).await;
            let _ = socket.shutdown().await;
            let _ = socket.read_to_end(&mut Vec::new()).await;
        });
        wait::bounded("a hundred ends", SOON, join_all(closed)).await;
    }
    assert_eq!(victim.served().await, before, "something was served");
    victim.is_unharmed().await;
}

/// Right requests but for one thing each.
pub(super) fn not_quite_grpc() -> Vec<Vec<u8>> {
    let right = grpc(&request());
    let mut inputs = Vec::new();
    for content_type in [
        "",
        "text/html",
        "application/json",
        "application/grpc-web",
        "application/grpc+json",
        "application/grpcx",
        "APPLICATION/GRPC",
    ] {
        inputs.push(conversation(&frames::call(GET_METRICS, content_type), &right));
    }
    for path in
        ["", "*", "/", "/externalscaler.ExternalScaler/", "/externalscaler.ExternalScaler/Drop", "/../GetMetrics"]
    {
        inputs.push(conversation(&frames::call(path, GRPC), &right));
    }
    for (name, value) in [
        ("grpc-encoding", "gzip"),
        ("grpc-encoding", "\u{1}"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        (":path", "/again"),
        ("Upper", "case"),
        ("line", "feed\r\nx: y"),
        ("", "nameless"),
        (":unknown", "pseudo"),
    ] {
        let mut headers = frames::call(GET_METRICS, GRPC);
        headers.push((name, value));
        let body = if name == "grpc-encoding" { [&[1], &right[1..]].concat() } else { right.clone() };
        inputs.push(conversation(&headers, &body));
    }
    let long = "x".repeat(20_000);
    let mut headers = frames::call(GET_METRICS, GRPC);
    headers.push(("long", &long));
    inputs.push(conversation(&headers, &right));
    // Lengths that lie, and messages that end too soon.
    for length in [0u32, 1, 1_000_000, 0x7fff_ffff, u32::MAX] {
        let mut body = right.clone();
        body[1..5].copy_from_slice(&length.to_be_bytes());
        inputs.push(conversation(&frames::call(GET_METRICS, GRPC), &body));
    }
    for end in 0..right.len() {
        inputs.push(conversation(&frames::call(GET_METRICS, GRPC), &right[..end]));
    }
    for flag in 1..=255 {
        inputs.push(conversation(&frames::call(GET_METRICS, GRPC), &[&[flag], &right[1..]].concat()));
    }
    inputs
}

#[tokio::test]
async fn requests_that_are_not_quite_grpc_are_not_served() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    // Else the others prove nothing.
    is_served(&victim, &conversation(&frames::call(GET_METRICS, GRPC), &grpc(&request()))).await;

    let before = victim.served().await;
    say_all(victim.address(), &not_quite_grpc()).await;
    assert_eq!(victim.served().await, before, "something was served");
    victim.is_unharmed().await;
}

/// Returns messages that are not protobuf, for each of three methods.
pub(super) fn no_protobuf() -> Vec<Vec<u8>> {
    let right = request().encode_to_vec();
    let mut random = StdRng::seed_from_u64(7);
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    for _ in 0..400 {
        let mut bytes = vec![0; random.random_range(1..300)];
        random.fill_bytes(&mut bytes);
        bodies.push(bytes);
    }
    // Not UTF-8: in the namespace, the name, a key, a value, the metric's name.
    for text in ["default", "claps", "param.queue", "mail", "jobs"] {
        let at = right.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
        for byte in [0xff, 0xc0, 0x80, 0xed] {
            let mut bytes = right.clone();
            bytes[at] = byte;
            bodies.push(bytes);
        }
    }
    // Groups without end, a field of another wire type, a length beyond the end, number 0, a varint of eleven bytes.
    bodies.push(vec![0x0b; 100_000]);
    bodies.push(vec![0x08, 0x01]);
    bodies.push(vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    bodies.push(vec![0x02, 0x00]);
    bodies.push(vec![0xff; 11]);
    bodies.push(vec![0; 256 * 1024 + 1]);
    let paths = [GET_METRICS, "/externalscaler.ExternalScaler/IsActive", STREAM_IS_ACTIVE];
    paths.iter().flat_map(|path| bodies.iter().map(|body| in_pieces(path, body))).collect()
}

/// A connection with one message on it, in as many frames as it takes.
fn in_pieces(path: &str, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let framed = [&[0], &length[..], body].concat();
    let headers = frames::fields(&frames::call(path, GRPC));
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, END_HEADERS, 1, &headers)].concat();
    let pieces = framed.chunks(16_000).collect::<Vec<_>>();
    for (index, piece) in pieces.iter().enumerate() {
        bytes.extend(frame(DATA, u8::from(index + 1 == pieces.len()), 1, piece));
    }
    bytes
}

#[tokio::test]
async fn messages_that_are_no_protobuf_are_not_served() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let before = victim.served().await;
    say_all(victim.address(), &no_protobuf()).await;
    assert_eq!(victim.served().await, before, "something was served");

    // Fields that we do not know are passed over, as protobuf wants it.
    let right = request().encode_to_vec();
    let unknown = [&right[..], &[0xf8, 0x07, 0x2a, 0xfa, 0x07, 0x03, 1, 2, 3]].concat();
    is_served(&victim, &in_pieces(GET_METRICS, &unknown)).await;
    victim.is_unharmed().await;
}

/// Frames that repeat what costs most.
pub(super) struct Flood {
    beginning: Vec<u8>,
    repeated: Vec<u8>,
    times: usize,
}

/// One of each kind.
pub(super) fn floods() -> Vec<Flood> {
    let call = frames::fields(&frames::call(GET_METRICS, GRPC));
    let body = grpc(&request());
    // Rapid reset (CVE-2023-44487): a call and its end, twenty thousand times.
    let resets = (0..20_000u32).flat_map(|index| {
        let stream = 2 * index + 1;
        let opened = frame(HEADERS, END_HEADERS, stream, &call);
        [opened, frame(DATA, END_STREAM, stream, &body), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    });
    // CONTINUATION without end (CVE-2024-27316 and its relatives): 160 MB of them.
    let headers = frame(HEADERS, 0, 1, &call);
    let long = frame(CONTINUATION, 0, 1, &frames::fields(&[("a", &"b".repeat(16_000))]));
    let opened = frame(HEADERS, END_HEADERS, 1, &call);
    let flood = |beginning: &[u8], repeated, times| Flood { beginning: beginning.to_vec(), repeated, times };
    vec![
        flood(&[], resets.collect(), 1),
        flood(&headers, long, 10_000),
        flood(&headers, frame(CONTINUATION, 0, 1, &[]), 100_000),
        // Settings, pings and empty data that demand an acknowledgement, from a peer that reads nothing.
        flood(&[], frame(SETTINGS, 0, 0, &[]).repeat(100), 2_000),
        flood(&[], frame(PING, 0, 0, &[0; 8]).repeat(100), 2_000),
        flood(&opened, frame(DATA, 0, 1, &[]).repeat(100), 2_000),
    ]
}

/// Writes until all is written or the connection is closed, while the good client is answered.
async fn attack(victim: &Victim, flood: Flood) {
    let Flood { beginning, repeated, times } = flood;
    let address = victim.address();
    let writing = tokio::spawn(async move {
        let mut socket = frames::open(address).await;
        socket.write_all(&beginning).await?;
        for _ in 0..times {
            socket.write_all(&repeated).await?;
        }
        socket.shutdown().await
    });
    while !writing.is_finished() {
        victim.answers().await;
    }
    // The server may close the connection, or not.
    let _ = writing.await.unwrap();
}

#[tokio::test]
async fn floods_of_frames_neither_fill_memory_nor_stop_others() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    for flood in floods() {
        attack(&victim, flood).await;
    }
    victim.is_unharmed().await;
}

/// Connections that begin and say no more; the server keeps half as many at a time at most.
pub(super) const HALF_PREFACES: usize = 2_000;

#[tokio::test]
async fn half_prefaces_by_the_thousand_cost_five_seconds_and_nothing_that_stays() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let mut sockets = Vec::new();
    for index in 0..HALF_PREFACES {
        let mut socket = TcpStream::connect(victim.address()).await.unwrap();
        let _ = socket.write_all(&PREFACE[..index % PREFACE.len()]).await;
        sockets.push(socket);
        if index % 100 == 0 {
            victim.answers().await;
        }
    }
    let late = Scaler::at(victim.address());
    assert_eq!(late.value(&Victim::trigger()).await.expect("somebody new is answered"), 3.0);
    drop(late);
    for mut socket in sockets {
        let end = wait::bounded("the end of a silent connection", SOON, socket.read(&mut [0; 64])).await;
        let _ = end;
    }
    victim.is_unharmed().await;
    victim.logs_once_a_minute("connections gave way to newer ones").await;
}

#[tokio::test]
async fn readers_that_never_read_hold_little_and_keep_nobody_from_the_end() {
    let database = Database::empty(Cluster::shared().await).await;
    let victim = Victim::new(&database).await;
    let mut sockets = Vec::new();
    for attacker in 0..20u32 {
        let mut socket = TcpStream::connect(victim.address()).await.unwrap();
        // An initial window of zero: no answer may be sent.
        let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
        socket.write_all(&[PREFACE, &no_window].concat()).await.unwrap();
        for index in 0..200u32 {
            let (path, body) = if index % 2 == 0 {
                (GET_METRICS, grpc(&request()))
            } else {
                let reference = ScaledObjectRef { name: format!("{attacker}-{index}"), ..Victim::trigger() };
                (STREAM_IS_ACTIVE, grpc(&reference))
            };
            let stream = 2 * index + 1;
            let opened = frame(HEADERS, END_HEADERS, stream, &frames::fields(&frames::call(path, GRPC)));
            socket.write_all(&[opened, frame(DATA, END_STREAM, stream, &body)].concat()).await.unwrap();
        }
        sockets.push(socket);
        victim.answers().await;
    }
    let peak = victim.memory("VmHWM");
    assert!(peak < victim.memory + super::GROWTH, "memory grew from {} to {peak} bytes", victim.memory);
    victim.answers().await;
    // With all of them still connected the process ends within the contract's twenty seconds.
    let ended = victim.fixture.serving.process.terminate(Duration::from_secs(20 + 10)).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.errors);
    assert!(!ended.errors.contains("panicked"), "{}", ended.errors);
}
