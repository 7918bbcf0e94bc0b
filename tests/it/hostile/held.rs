//! The sides of a flood: connections that stay, and another client that must be answered meanwhile.

use std::{
    collections::HashMap,
    fmt::Debug,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clapometer::proto::{GetMetricsRequest, GetMetricsResponse, ScaledObjectRef};
use futures_util::TryFutureExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf},
    sync::Mutex,
    task::JoinHandle,
};
use tonic::{Code, Response, Status};

use super::frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, SETTINGS, WINDOW_UPDATE, frame};
use crate::support::{database, grpc::Scaler, wait};

/// The window of who takes everything.
pub(super) const ALL: u32 = 0x7fff_ffff;

/// A busy machine takes long for fifty thousand of anything in a debug build.
pub(super) const PATIENCE: Duration = Duration::from_secs(240);

/// The contract's deadline, as a client sees it.
const DEADLINE: Duration = Duration::from_millis(2_500);

/// The path of a request that waits for the rest of its message for 5 s.
pub(crate) const IS_ACTIVE: &str = "/externalscaler.ExternalScaler/IsActive";

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
    /// Messages, but for those that repeat the one before on their stream, as reminders do.
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
        say(&mut writer, &[PREFACE, &settings, &all_windows].concat()).await.unwrap();
        let writer = Arc::new(Mutex::new(writer));
        let (ends, messages) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let reading = tokio::spawn(answer_pings(reader, Arc::clone(&writer), Arc::clone(&ends), Arc::clone(&messages)));
        Self { writer, next_stream: 1, ends, messages, reading }
    }

    /// Returns the frames of a call of the scaler with this body, of which the rest never comes if it `is_begun` only.
    pub(super) fn call(&mut self, method: &str, fields: &[u8], body: &[u8], is_begun: bool) -> Vec<u8> {
        self.request(&format!("/externalscaler.ExternalScaler/{method}"), fields, body, is_begun)
    }

    fn request(&mut self, path: &str, fields: &[u8], body: &[u8], is_begun: bool) -> Vec<u8> {
        let stream = self.next_stream;
        self.next_stream += 2;
        let head = [&frames::fields(&frames::call(path, "application/grpc")), fields].concat();
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &head);
        let pieces: Vec<&[u8]> = body.chunks(16 * 1024).collect();
        for (index, piece) in pieces.iter().enumerate() {
            let is_last = index + 1 == pieces.len() && !is_begun;
            bytes.extend(frame(DATA, if is_last { END_STREAM } else { 0 }, stream, piece));
        }
        bytes
    }

    /// Begins a request of this path with a message of so many bytes, of which the rest never comes.
    pub(crate) async fn begin(&mut self, path: &str, bytes: usize) {
        let length = u32::try_from(2 * bytes).unwrap().to_be_bytes();
        let body = [&[0], &length[..], &vec![0; bytes]].concat();
        let call = self.request(path, &[], &body, true);
        self.say(&call).await;
    }

    /// Says this. The server may have closed the connection.
    pub(super) async fn say(&self, bytes: &[u8]) {
        let _ = say(&mut *self.writer.lock().await, bytes).await;
    }
}

impl Drop for HeldConnection {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// The client that must be answered meanwhile, on a thread of its own: the peers are busy. A busy machine may make an
/// answer late, but not two in a row.
pub(crate) struct OtherClient {
    notes: Arc<Notes>,
    asking: thread::JoinHandle<()>,
}

/// What its thread is told and tells.
#[derive(Default)]
struct Notes {
    is_over: AtomicBool,
    answered: AtomicUsize,
    late: AtomicUsize,
    was_late: AtomicBool,
    /// Milliseconds.
    slowest: AtomicU64,
}

impl Notes {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Waits for an answer, which must be this one. The server's DEADLINE_EXCEEDED is a late one.
    ///
    /// # Panics
    /// When the call fails otherwise, has another answer, takes twice the deadline, or is the second late one in a row.
    async fn hears<T: Debug + PartialEq>(&self, wanted: T, answer: impl Future<Output = Result<T, Status>>) {
        let began = Instant::now();
        let answer = wait::bounded("an answer", 2 * DEADLINE, answer).await;
        let took = began.elapsed();
        self.slowest.fetch_max(u64::try_from(took.as_millis()).unwrap(), Ordering::Relaxed);
        let is_cut = matches!(&answer, Err(status) if status.code() == Code::DeadlineExceeded);
        if !is_cut {
            assert_eq!(answer.expect("it is answered"), wanted);
        }
        let is_late = is_cut || took > DEADLINE;
        self.late.fetch_add(usize::from(is_late), Ordering::Relaxed);
        let was_late = self.was_late.swap(is_late, Ordering::Relaxed);
        assert!(!(was_late && is_late), "two answers in a row were late");
    }
}

/// Returns the values of an answer.
fn values(answer: Response<GetMetricsResponse>) -> Vec<f64> {
    answer.into_inner().metric_values.iter().map(|value| value.metric_value_float).collect()
}

impl OtherClient {
    /// Begins to poll a trigger whose value is three, as KEDA does, over the connection that it makes.
    pub(crate) fn start(connect: impl FnOnce() -> Scaler + Send + 'static, trigger: ScaledObjectRef) -> Self {
        Self::with(move |notes| async move {
            let mut client = connect().client();
            let metric_name = trigger.scaler_metadata["query"].clone();
            let request = GetMetricsRequest { scaled_object_ref: Some(trigger.clone()), metric_name };
            while !notes.is_over() {
                notes.hears(vec![3.0], client.get_metrics(request.clone()).map_ok(values)).await;
                let is_active = client.is_active(trigger.clone()).map_ok(|answer| answer.into_inner().result);
                notes.hears(true, is_active).await;
                notes.answered.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    /// Opens a stream, and executes one of the two statements after the other: the first makes its trigger active. Each
    /// push is an answer to the commit.
    pub(super) fn followed(
        connect: impl FnOnce() -> Scaler + Send + 'static,
        trigger: ScaledObjectRef,
        database: tokio_postgres::Config,
        statements: [&'static str; 2],
    ) -> Self {
        Self::with(move |notes| async move {
            let client = database::connect(&database).await;
            let mut stream = connect().activity(&trigger).await.expect("the stream is opened");
            let mut is_active = false;
            while !notes.is_over() {
                let push = stream.message().map_ok(|message| message.map(|message| message.result));
                notes.hears(Some(is_active), push).await;
                notes.answered.fetch_add(1, Ordering::Relaxed);
                client.batch_execute(statements[usize::from(is_active)]).await.expect("the table is there");
                is_active = !is_active;
            }
        })
    }

    fn with<F: Future<Output = ()>>(asking: impl FnOnce(Arc<Notes>) -> F + Send + 'static) -> Self {
        let notes = Arc::<Notes>::default();
        let of_thread = Arc::clone(&notes);
        let asking = thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(asking(of_thread));
        });
        Self { notes, asking }
    }

    /// Returns how long the slowest answer since the latest look took.
    pub(crate) fn slowest(&self) -> Duration {
        Duration::from_millis(self.notes.slowest.swap(0, Ordering::Relaxed))
    }

    /// Waits for so many more polls, or pushes, that are answered.
    pub(crate) async fn is_answered(&self, times: usize) {
        let before = self.notes.answered.load(Ordering::Relaxed);
        wait::first("the other client is answered", PATIENCE, async || {
            assert!(!self.asking.is_finished(), "the other client was not answered in time");
            (self.notes.answered.load(Ordering::Relaxed) >= before + times).then_some(())
        })
        .await;
    }

    pub(crate) fn end(self) {
        self.notes.is_over.store(true, Ordering::Relaxed);
        self.asking.join().expect("the other client was answered in time");
        let late = self.notes.late.load(Ordering::Relaxed);
        println!("another client was answered {} times, {late} late", self.notes.answered.load(Ordering::Relaxed));
    }
}

/// Writes all of this to the socket: TLS keeps what the socket does not take at once.
async fn say(writer: &mut Writer, bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await
}

/// Reads until the end, answers pings, and counts messages that repeat none and ends of calls.
async fn answer_pings(
    reader: ReadHalf<Box<dyn Io>>,
    writer: Arc<Mutex<Writer>>,
    ends: Arc<AtomicUsize>,
    messages: Arc<AtomicUsize>,
) {
    let mut reader = BufReader::new(reader);
    let mut head = [0; 9];
    let mut latest = HashMap::new();
    while reader.read_exact(&mut head).await.is_ok() {
        let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap();
        let mut payload = vec![0; length];
        if reader.read_exact(&mut payload).await.is_err() {
            return;
        }
        let (kind, flags) = (head[3], head[4]);
        if kind == PING && flags & ACK == 0 {
            // On a task of its own: who has the writer may have to wait until more is read.
            let (writer, answer) = (Arc::clone(&writer), frame(PING, ACK, 0, &payload));
            tokio::spawn(async move { say(&mut *writer.lock().await, &answer).await });
        }
        let stream = [head[5], head[6], head[7], head[8]];
        if kind == DATA && length > 0 && latest.get(&stream) != Some(&payload) {
            latest.insert(stream, payload);
            messages.fetch_add(1, Ordering::Relaxed);
        }
        if kind == HEADERS && flags & END_STREAM > 0 {
            ends.fetch_add(1, Ordering::Relaxed);
        }
    }
}
