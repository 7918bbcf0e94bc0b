//! The log: plain text on a terminal, JSON elsewhere, unless a variable says which; always on standard error.
//!
//! A log without a reader must not stop the process: a full pipe blocks its writer, and writing
//! to a closed one makes the logging library panic. Therefore a separate thread writes the lines
//! from a queue. The queue drops lines when it is full, and errors of writing are ignored. See
//! `docs/decisions/unread-logs.md`.

mod causes;
mod counted_log;

use std::{
    env,
    error::Error,
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

pub use self::{causes::Causes, counted_log::CountedLog};

/// The level unless `RUST_LOG` sets another (`debug`, or `target=level,...`).
const DEFAULT_LEVEL: LevelFilter = LevelFilter::INFO;

/// The variable that sets the level: one word, or `target=level,...`.
const LEVEL: &str = "RUST_LOG";

/// The variable that sets the format, `json` or `text`, whatever standard error is.
const FORMAT: &str = "CLAPOMETER_LOG_FORMAT";

/// The most that other crates may log, whatever `RUST_LOG` says. They quote what they handle: the
/// driver logs statements at debug and the server's notices at info, rustls certificates, h2 headers.
const DEPENDENCY_LEVEL: LevelFilter = LevelFilter::ERROR;

/// Capacity of the queue, in lines. Lines beyond it are dropped, and a line of the log counts them.
const QUEUE: usize = 1_024;

/// The longest wait of the process at its end for the queue to be written: its reader may be slow or gone.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// A guard of the log. When it is dropped, it waits until the queue is written, for half a second at most.
#[derive(Debug)]
#[must_use = "the log's last lines are lost without it"]
pub struct Log {
    lines: LineQueue,
    written: Receiver<()>,
}

/// Starts the log on standard error. Must be called once, before everything else.
pub fn init() -> Log {
    let level = env::var(LEVEL).unwrap_or_default();
    let from_environment = parsed(&level);
    let is_level_unknown = from_environment.is_none() && !level.is_empty();
    let wanted = from_environment.unwrap_or_else(|| Targets::new().with_default(DEFAULT_LEVEL));
    let registry = tracing_subscriber::registry().with(caps(&wanted)).with(wanted);
    let log = Log::to(io::stderr());
    let lines = log.lines.clone();
    let format = env::var(FORMAT).unwrap_or_default();
    let is_text = match format.as_str() {
        "text" => true,
        "json" => false,
        _ => io::stderr().is_terminal(),
    };
    if is_text {
        registry.with(fmt::layer().with_target(false).with_writer(lines)).init();
    } else {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(lines).boxed()).init();
    }
    if is_level_unknown {
        tracing::warn!(
            "{LEVEL} is neither a level (error, warn, info, debug, trace, off) nor about clapometer, so the level is {DEFAULT_LEVEL}"
        );
    }
    if !matches!(format.as_str(), "" | "text" | "json") {
        tracing::warn!("{FORMAT} is neither text nor json, so the log has the format that it has without it");
    }
    log
}

/// Reads what is wanted, if it says something about our own crate. To the library a misspelt level is the name of a
/// crate, of which it then wants everything, and nothing of the others.
fn parsed(text: &str) -> Option<Targets> {
    let own = env!("CARGO_CRATE_NAME");
    // Nothing would be the level `error`. A template writes it where no value is given.
    let wanted: Targets = Some(text).filter(|text| !text.is_empty())?.parse().ok()?;
    let is_about_us = wanted.default_level().is_some()
        || wanted.iter().any(|(target, _)| target.starts_with(own) || own.starts_with(target));
    is_about_us.then_some(wanted)
}

/// Returns the most that each crate may log where this is `wanted`.
///
/// The level of our own crate is not above the highest level that is wanted. Otherwise the unwanted lines of the driver
/// and of HTTP/2 would be formatted before they are dropped, and a reading has dozens of them.
fn caps(wanted: &Targets) -> Targets {
    let most = wanted.iter().map(|(_, level)| level).chain(wanted.default_level()).max().unwrap_or(LevelFilter::OFF);
    Targets::new().with_default(DEPENDENCY_LEVEL).with_target(env!("CARGO_CRATE_NAME"), most)
}

/// Writes out an error with its causes, each once.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Some errors already end with the text of their cause.
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

impl Log {
    fn to(destination: impl Write + Send + 'static) -> Self {
        let (queue, waiting) = channel();
        let (done, written) = channel();
        let lines = LineQueue { queue, counts: Arc::default() };
        let counts = Arc::clone(&lines.counts);
        // If the thread cannot be started there is no log, and the process serves without one.
        let _ = thread::Builder::new().name("log".to_owned()).spawn(move || {
            write(&waiting, &counts, destination);
            drop(done);
        });
        Self { lines, written }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // The subscriber holds a sender for as long as the process lives, so an empty line marks the end.
        if self.lines.queue.send(Vec::new()).is_ok() {
            // After a timeout nothing more can be done.
            let _ = self.written.recv_timeout(FLUSH_TIMEOUT);
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

/// The sending side of the queue.
#[derive(Debug, Clone)]
struct LineQueue {
    queue: Sender<Vec<u8>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicUsize,
    dropped: AtomicUsize,
}

impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for LineQueue {
    /// Takes one line: the formatter writes each line with one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if line.is_empty() {
            return Ok(0);
        }
        if self.counts.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            // The thread ends only with the process. Lines that come later are lost.
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

    /// A writer that blocks like a full pipe until it is released, and records what was written.
    struct FullPipe(Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for FullPipe {
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
    fn a_line_that_nobody_wants_is_left_out_before_it_is_made() {
        for (wanted, most) in [
            ("info", LevelFilter::INFO),
            ("warn,clapometer::cache=debug", LevelFilter::DEBUG),
            ("clapometer=trace", LevelFilter::TRACE),
            ("off", LevelFilter::ERROR),
        ] {
            let caps = caps(&wanted.parse().unwrap());
            assert_eq!(Layer::<tracing_subscriber::Registry>::max_level_hint(&caps), Some(most), "{wanted}");
            assert!(!caps.would_enable("tokio_postgres", &tracing::Level::WARN), "{wanted}");
        }
    }

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_crate_that_alone_may_log() {
        for known in ["off", "WARN", "debug,h2=off", "clapometer=debug", "clapometer::cache=trace,warn"] {
            assert!(parsed(known).is_some(), "{known}");
        }
        for unknown in ["", "wran", "verbose", "[[", "hyper=debug", "info=clapometer"] {
            assert!(parsed(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn a_reader_that_reads_nothing_blocks_no_writer_and_learns_how_many_lines_it_missed() {
        let (release, blocked) = channel();
        let seen = Arc::default();
        let log = Log::to(FullPipe(blocked, Arc::clone(&seen)));
        let start = Instant::now();
        let mut lines = log.lines.clone();
        for _ in 0..10 * QUEUE {
            lines.write_all(b"line\n").unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(5));
        drop(release);
        while lines.counts.waiting.load(Ordering::Relaxed) >= QUEUE {
            thread::yield_now();
        }
        lines.write_all(b"last\n").unwrap();
        drop(log);
        let seen = String::from_utf8(seen.lock().unwrap().clone()).unwrap();
        assert!(seen.contains("were dropped") && seen.ends_with("last\n"), "{seen}");
    }

    #[test]
    fn the_end_of_the_process_does_not_wait_for_a_reader_for_ever() {
        let (_release, blocked) = channel();
        let log = Log::to(FullPipe(blocked, Arc::default()));
        log.lines.clone().write_all(b"line\n").unwrap();
        let start = Instant::now();
        drop(log);
        assert!(start.elapsed() < 10 * FLUSH_TIMEOUT);
    }
}
