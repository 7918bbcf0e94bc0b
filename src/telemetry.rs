//! Logs: JSON for machines, plain text on a terminal, always on standard error.
//!
//! A log that nobody reads must not stop us: a full pipe blocks whoever writes to it, and one
//! that is closed is an error on which the logging library itself panics. So a thread of its
//! own writes, from a queue that drops lines when it is full, and errors are nobody's business.

use std::{
    env,
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer,
    filter::Targets,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// What is logged unless `RUST_LOG` says otherwise (`debug`, or `target=level,...`).
const DEFAULT_LEVEL: LevelFilter = LevelFilter::INFO;

/// What other crates may log whatever `RUST_LOG` says. They quote what they handle: the driver
/// statements at debug and the server's notices at info, rustls certificates, h2 headers.
const DEPENDENCIES: LevelFilter = LevelFilter::ERROR;

/// Lines that wait to be written; more are dropped, and counted in a line of their own.
const QUEUE: usize = 1_024;

/// How long the end of the process waits for a reader that is slow, or gone.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Keeps the log going; dropped, it lets what is in the queue be written, for half a second at most.
#[derive(Debug)]
#[must_use = "the log's last lines are lost without it"]
pub struct Log {
    lines: Lines,
    written: Receiver<()>,
}

/// Sends the log of this process to standard error. To be called once, first of all.
pub fn init() -> Log {
    let from_environment = env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let wanted = from_environment.unwrap_or_else(|| Targets::new().with_default(DEFAULT_LEVEL));
    let caps = Targets::new().with_default(DEPENDENCIES).with_target(env!("CARGO_CRATE_NAME"), LevelFilter::TRACE);
    let registry = tracing_subscriber::registry().with(caps).with(wanted);
    let log = Log::to(io::stderr());
    let lines = log.lines.clone();
    if io::stderr().is_terminal() {
        registry.with(fmt::layer().with_target(false).with_writer(lines)).init();
    } else {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(lines).boxed()).init();
    }
    log
}

impl Log {
    fn to(destination: impl Write + Send + 'static) -> Self {
        let (queue, waiting) = channel();
        let (done, written) = channel();
        let lines = Lines { queue, counts: Arc::default() };
        let counts = Arc::clone(&lines.counts);
        // Without a thread there is no log, which is no reason not to serve.
        let _ = thread::Builder::new().name("log".to_owned()).spawn(move || {
            write(&waiting, &counts, destination);
            drop(done);
        });
        Self { lines, written }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // The subscriber lives as long as the process, and its end of the queue with it: an empty line is the end.
        if self.lines.queue.send(Vec::new()).is_ok() {
            // Whether it ends in time or not, there is nothing more to be done.
            let _ = self.written.recv_timeout(LAST_WORDS);
        }
    }
}

fn write(waiting: &Receiver<Vec<u8>>, counts: &Counts, mut destination: impl Write) {
    while let Ok(line) = waiting.recv() {
        if line.is_empty() {
            return;
        }
        counts.waiting.fetch_sub(1, Ordering::Relaxed);
        let lost = counts.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let line = format!(r#"{{"level":"WARN","message":"lines of the log were dropped","lines":{lost}}}"#);
            let _ = destination.write_all(line.as_bytes()).and_then(|()| destination.write_all(b"\n"));
        }
        let _ = destination.write_all(&line);
    }
}

/// Takes lines into the queue.
#[derive(Debug, Clone)]
struct Lines {
    queue: Sender<Vec<u8>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicUsize,
    dropped: AtomicUsize,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Lines {
    /// The formatter writes a whole line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if line.is_empty() {
            return Ok(0);
        }
        if self.counts.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            // The thread ends with the process; what comes after it is lost.
            let _ = self.queue.send(line.to_vec());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Instant};

    use super::*;

    /// Blocks until it is let go, as a full pipe does, and shows what was written.
    struct Pipe(Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_reads_nothing_stops_nobody_and_is_told_what_it_missed() {
        let (let_go, held) = channel();
        let seen = Arc::default();
        let log = Log::to(Pipe(held, Arc::clone(&seen)));
        let start = Instant::now();
        let mut lines = log.lines.clone();
        for _ in 0..10 * QUEUE {
            lines.write_all(b"line\n").unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(5));
        drop(let_go);
        while lines.counts.waiting.load(Ordering::Relaxed) >= QUEUE {
            thread::yield_now();
        }
        lines.write_all(b"last\n").unwrap();
        drop(log);
        let seen = String::from_utf8(seen.lock().unwrap().clone()).unwrap();
        assert!(seen.contains("were dropped") && seen.ends_with("last\n"), "{seen}");
    }

    #[test]
    fn the_end_does_not_wait_for_a_reader_for_ever() {
        let (_let_go, held) = channel();
        let log = Log::to(Pipe(held, Arc::default()));
        log.lines.clone().write_all(b"line\n").unwrap();
        let start = Instant::now();
        drop(log);
        assert!(start.elapsed() < 10 * LAST_WORDS);
    }
}
