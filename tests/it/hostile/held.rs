//! The sides of a flood: connections that stay, and another client that must be answered meanwhile.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf},
    sync::Mutex,
    task::JoinHandle,
};

use super::{
    Victim,
    frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, SETTINGS, WINDOW_UPDATE, frame},
};
use crate::support::{grpc::Scaler, wait};

/// The window of who takes everything.
pub(super) const ALL: u32 = 0x7fff_ffff;

/// A busy machine takes long for fifty thousand of anything in a debug build.
pub(super) const PATIENCE: Duration = Duration::from_secs(240);

/// An acknowledgement.
const ACK: u8 = 1;

/// A socket, or TLS on a socket.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Writer = WriteHalf<Box<dyn Io>>;

/// A connection that answers pings, and takes what it is sent as far as its windows allow.
pub(crate) struct HeldConnection {
    writer: Arc<Mutex<Writer>>,
    next_stream: u32,
    pub(super) ends: Arc<AtomicUsize>,
    pub(super) messages: Arc<AtomicUsize>,
    reading: JoinHandle<()>,
}

impl HeldConnection {
    /// Connects, and grants each answer a `window`.
    pub(crate) async fn new(source: [u8; 4], address: SocketAddr, window: u32) -> Self {
        Self::over(frames::connect_from(source, address).await, window).await
    }

    /// Does the same over a socket, or over TLS on one.
    pub(super) async fn over(io: impl Io + 'static, window: u32) -> Self {
        let io: Box<dyn Io> = Box::new(io);
        let (reader, mut writer) = tokio::io::split(io);
        let settings = frame(SETTINGS, 0, 0, &[&[0, 4], &window.to_be_bytes()[..]].concat());
        let all_windows = frame(WINDOW_UPDATE, 0, 0, &[0x3f, 0, 0, 0]);
        writer.write_all(&[PREFACE, &settings, &all_windows].concat()).await.unwrap();
        let writer = Arc::new(Mutex::new(writer));
        let (ends, messages) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let reading = tokio::spawn(answer_pings(reader, Arc::clone(&writer), Arc::clone(&ends), Arc::clone(&messages)));
        Self { writer, next_stream: 1, ends, messages, reading }
    }

    /// Returns the frames of a call with this body, of which the rest never comes if it `is_begun` only.
    pub(super) fn call(&mut self, method: &str, fields: &[u8], body: &[u8], is_begun: bool) -> Vec<u8> {
        let stream = self.next_stream;
        self.next_stream += 2;
        let path = format!("/externalscaler.ExternalScaler/{method}");
        let head = [&frames::fields(&frames::call(&path, "application/grpc")), fields].concat();
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &head);
        let pieces: Vec<&[u8]> = body.chunks(16 * 1024).collect();
        for (index, piece) in pieces.iter().enumerate() {
            let is_last = index + 1 == pieces.len() && !is_begun;
            bytes.extend(frame(DATA, if is_last { END_STREAM } else { 0 }, stream, piece));
        }
        bytes
    }

    /// Begins a call with a message of so many bytes, of which the rest never comes.
    pub(crate) async fn begin(&mut self, bytes: usize) {
        let length = u32::try_from(2 * bytes).unwrap().to_be_bytes();
        let body = [&[0], &length[..], &vec![0; bytes]].concat();
        let call = self.call("IsActive", &[], &body, true);
        self.say(&call).await;
    }

    /// Says this. The server may have closed the connection.
    pub(super) async fn say(&self, bytes: &[u8]) {
        let _ = self.writer.lock().await.write_all(bytes).await;
    }
}

impl Drop for HeldConnection {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// The client that must be answered meanwhile, on a thread of its own: the peers are busy.
pub(super) struct OtherClient {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    /// Milliseconds.
    slowest: Arc<AtomicU64>,
    asking: thread::JoinHandle<()>,
}

impl OtherClient {
    /// Begins to poll as KEDA does, over the connection that it makes. Each answer has the contract's bound.
    pub(super) fn start(connect: impl FnOnce() -> Scaler + Send + 'static) -> Self {
        let (is_over, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let slowest = Arc::<AtomicU64>::default();
        let (ends, counts, times) = (Arc::clone(&is_over), Arc::clone(&answered), Arc::clone(&slowest));
        let polling = async move {
            let scaler = connect();
            while !ends.load(Ordering::Relaxed) {
                let began = Instant::now();
                assert_eq!(scaler.value(&Victim::trigger()).await.expect("a poll is answered"), 3.0);
                times.fetch_max(milliseconds(began), Ordering::Relaxed);
                let began = Instant::now();
                assert!(scaler.active(&Victim::trigger()).await.expect("a poll is answered"));
                times.fetch_max(milliseconds(began), Ordering::Relaxed);
                counts.fetch_add(1, Ordering::Relaxed);
            }
        };
        let asking = thread::spawn(|| {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(polling);
        });
        Self { is_over, answered, slowest, asking }
    }

    /// Returns how long the slowest answer since the latest look took.
    pub(super) fn slowest(&self) -> String {
        format!("the slowest answer to another client took {} ms", self.slowest.swap(0, Ordering::Relaxed))
    }

    /// Waits for so many more polls that are answered.
    pub(super) async fn is_answered(&self, polls: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        wait::first("the other client is answered", PATIENCE, async || {
            assert!(!self.asking.is_finished(), "the other client was not answered in time");
            (self.answered.load(Ordering::Relaxed) >= before + polls).then_some(())
        })
        .await;
    }

    pub(super) fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.asking.join().expect("each poll was answered");
        println!("{} polls of another client were answered", self.answered.load(Ordering::Relaxed));
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Reads until the end, answers pings, and counts messages and ends of calls.
async fn answer_pings(
    reader: ReadHalf<Box<dyn Io>>,
    writer: Arc<Mutex<Writer>>,
    ends: Arc<AtomicUsize>,
    messages: Arc<AtomicUsize>,
) {
    let mut reader = BufReader::new(reader);
    let mut head = [0; 9];
    while reader.read_exact(&mut head).await.is_ok() {
        let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap();
        let mut payload = vec![0; length];
        if reader.read_exact(&mut payload).await.is_err() {
            return;
        }
        let (kind, flags) = (head[3], head[4]);
        if kind == PING && flags & ACK == 0 {
            let _ = writer.lock().await.write_all(&frame(PING, ACK, 0, &payload)).await;
        }
        if kind == DATA && length > 0 {
            messages.fetch_add(1, Ordering::Relaxed);
        }
        if kind == HEADERS && flags & END_STREAM > 0 {
            ends.fetch_add(1, Ordering::Relaxed);
        }
    }
}
