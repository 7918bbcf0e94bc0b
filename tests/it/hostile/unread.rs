//! Peers that ask on and take no answer: what their answers hold is bounded, and others are answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};

use super::{
    Victim,
    frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, WINDOW_UPDATE, frame, grpc},
};
use crate::support::{admin, cluster::Cluster, database::Database, wait};

/// Calls of one connection: as many as there may be at once.
const CALLS: u32 = 20_000;

/// Bytes of memory that the flood may take: the budget of its peer, and as much again for what the allocator keeps.
const GROWN: u64 = 2 * 40 * 1024 * 1024;

/// Probes during which nothing more is read from the others. They take as long as a good many bytes do.
const PROBES: usize = 100;

const STANDS_STILL: Duration = Duration::from_secs(240);

/// A way to take no answers.
#[derive(Debug, Clone, Copy)]
struct Way {
    connections: usize,
    /// The window that each stream grants for the answer's message.
    window: u32,
    /// True if anything is read from the socket.
    reads: bool,
}

const WAYS: [Way; 3] = [
    Way { connections: 20, window: 0x7fff_ffff, reads: false },
    Way { connections: 5, window: 0, reads: true },
    Way { connections: 5, window: 1, reads: true },
];

/// The calls of one connection. GetMetricSpec is never refused, and answered at once.
fn calls(window: u32) -> Vec<u8> {
    let settings = [&[0, 4], &window.to_be_bytes()[..]].concat();
    let windows = [frame(SETTINGS, 0, 0, &settings), frame(WINDOW_UPDATE, 0, 0, &[0x3f, 0, 0, 0])];
    let headers = frames::fields(&frames::call("/externalscaler.ExternalScaler/GetMetricSpec", "application/grpc"));
    let body = grpc(&Victim::trigger());
    let mut bytes = [PREFACE, &windows.concat()].concat();
    for number in 0..CALLS {
        let stream = 2 * number + 1;
        bytes.extend(frame(HEADERS, END_HEADERS, stream, &headers));
        bytes.extend(frame(DATA, END_STREAM, stream, &body));
    }
    bytes
}

/// Connects, with the smallest buffer for answers that there is if none are read.
async fn connect(victim: &Victim, way: Way) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    if !way.reads {
        socket.set_recv_buffer_size(1).unwrap();
    }
    socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
    socket.connect(victim.address()).await.unwrap()
}

/// Writes as much as the server takes, and counts it.
fn flood(socket: TcpStream, way: Way, bytes: Arc<Vec<u8>>, written: Arc<AtomicUsize>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (mut reader, mut writer) = socket.into_split();
        let reading = async {
            let mut buffer = [0; 4_096];
            while way.reads && reader.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
            // The connection stays.
            std::future::pending::<()>().await;
        };
        let writing = async {
            for piece in bytes.chunks(4_096) {
                if writer.write_all(piece).await.is_err() {
                    break;
                }
                written.fetch_add(piece.len(), Ordering::Relaxed);
            }
        };
        tokio::join!(reading, writing);
    })
}

async fn is_bounded(way: Way) {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let bytes = Arc::new(calls(way.window));
    let written = Arc::new(AtomicUsize::new(0));
    let mut floods = Vec::new();
    for _ in 0..way.connections {
        let socket = connect(&victim, way).await;
        floods.push(flood(socket, way, Arc::clone(&bytes), Arc::clone(&written)));
    }
    let all = way.connections * bytes.len();
    let standing_still = async {
        let (mut before, mut quiet) = (0, 0);
        while quiet < PROBES {
            assert_eq!(admin::get(victim.fixture.serving.admin, "/livez").await, "ok\n");
            let now = written.load(Ordering::Relaxed);
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
        }
    };
    wait::bounded("nothing more is read", STANDS_STILL, standing_still).await;
    let written = written.load(Ordering::Relaxed);
    let grown = victim.memory("VmHWM").saturating_sub(victim.memory);
    for _ in 0..3 {
        victim.answers().await;
    }
    println!("{way:?}: {written} of {all} bytes were read, memory grew by {} KiB", grown / 1024);
    for flood in floods {
        flood.abort();
    }
    victim.is_unharmed_but_for(GROWN).await;
}

#[tokio::test]
async fn answers_that_nobody_takes_are_bounded_and_another_client_is_answered() {
    for way in WAYS {
        is_bounded(way).await;
    }
}
