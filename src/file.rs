//! Reads files with a bound on time and on size, and writes them as a whole.
//!
//! A pipe without a writer never has data, so each read has a deadline. On a mount whose server is gone the system call
//! itself does not return. So each file is read on a thread of its own, which is left behind if it hangs. There is at
//! most one thread for each path: the next reader of the path waits for it.

mod whole;

use std::{
    collections::HashSet,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    io::Errno,
    process::geteuid,
};

pub(crate) use self::whole::{create, replace};

/// The most bytes of a file. No configuration, credential or bundle of certificates has more, but a wrong path may.
pub const LARGEST: u64 = 1 << 20;

/// The longest time that a file may take. A disk needs milliseconds.
const WITHIN: Duration = Duration::from_secs(1);

/// The paths that are being read.
static UNDER_WAY: LazyLock<UnderWay> = LazyLock::new(UnderWay::default);

#[derive(Default)]
struct UnderWay {
    paths: Mutex<HashSet<PathBuf>>,
    one_less: Condvar,
}

/// An open file that is read until a moment.
struct Bounded {
    file: File,
    within: Duration,
    deadline: Instant,
}

/// Reads a file, of which [`LARGEST`] bytes and one more are taken at most. Blocks, for two seconds at most.
///
/// # Errors
/// The file cannot be opened or read, or not in time.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_within(path, WITHIN)
}

/// Reads a file as [`read`] does, but waits longer: for a pipe whose writer has something to do first. Blocks, for
/// twice that time at most.
///
/// # Errors
/// The file cannot be opened or read, or not in time.
pub fn read_within(path: &Path, within: Duration) -> io::Result<Vec<u8>> {
    aside(path, within, move |path| {
        let mut content = Vec::new();
        let read = Bounded::open(path, within).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut content));
        read.map(|_| content).map_err(explained)
    })
}

/// Adds an explanation to an error whose system text is not clear enough.
fn explained(error: io::Error) -> io::Error {
    let text = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ISDIR) => "it is a directory; name a file in it".to_owned(),
        Some(Errno::NXIO) => "it is a socket or a device, and no file".to_owned(),
        Some(Errno::ACCESS) => {
            let user = geteuid().as_raw();
            format!("user {user} must not read it; in a pod, fsGroup and the volume's defaultMode say who may")
        }
        _ => return error,
    };
    io::Error::new(error.kind(), text)
}

/// Finds out whether a file has something to read, and takes nothing of it. Blocks, for two seconds at most.
///
/// # Errors
/// The file cannot be opened, or has nothing in time.
pub fn can_be_read(path: &Path) -> io::Result<()> {
    aside(path, WITHIN, |path| Bounded::open(path, WITHIN)?.wait())
}

/// Returns the metadata of a file. Blocks, for two seconds at most.
///
/// # Errors
/// The metadata cannot be read, or not in time.
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    aside(path, WITHIN, |path| fs::metadata(path))
}

/// Returns whether a file exists. If its mount hangs, this returns true, and reading the file reports the error.
/// Blocks, for two seconds at most.
pub fn exists(path: &Path) -> bool {
    metadata(path).map_or_else(|error| error.kind() == io::ErrorKind::TimedOut, |_| true)
}

/// Runs `work` on a path on a thread of its own, or on this thread if none can be started. Blocks, for twice the time
/// at most.
///
/// # Errors
/// Those of `work`, or that it is not done in time.
pub fn aside<T: Send + 'static>(
    path: &Path,
    within: Duration,
    work: impl Fn(&Path) -> io::Result<T> + Copy + Send + 'static,
) -> io::Result<T> {
    UNDER_WAY.begin(path, within)?;
    let path: Arc<Path> = path.into();
    let (done, result) = mpsc::channel();
    let of_thread = Arc::clone(&path);
    let spawned = thread::Builder::new().name("file".to_owned()).spawn(move || {
        let outcome = work(&of_thread);
        UNDER_WAY.end(&of_thread);
        // Whoever asked may have given up.
        let _ = done.send(outcome);
    });
    match spawned {
        Ok(_) => result.recv_timeout(within).unwrap_or_else(|_| Err(late(within))),
        Err(_) => {
            UNDER_WAY.end(&path);
            work(&path)
        }
    }
}

fn late(within: Duration) -> io::Error {
    let text = format!("no answer within {within:?}; is it a pipe without a writer, or does its mount hang?");
    io::Error::new(io::ErrorKind::TimedOut, text)
}

impl Bounded {
    /// Opens a file for reading. A pipe is opened without its writer.
    fn open(path: &Path, within: Duration) -> io::Result<Self> {
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
        Ok(Self { file, within, deadline: Instant::now() + within })
    }

    /// Waits until there is something to read, or the end of it.
    fn wait(&self) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&left))? {
            0 => Err(late(self.within)),
            _ => Ok(()),
        }
    }
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait()?;
        self.file.read(buffer)
    }
}

impl UnderWay {
    /// Waits until nobody reads the path, and takes it.
    fn begin(&self, path: &Path, within: Duration) -> io::Result<()> {
        let is_read = |paths: &mut HashSet<PathBuf>| paths.contains(path);
        let waited = self.one_less.wait_timeout_while(self.paths(), within, is_read);
        let (mut paths, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return Err(late(within));
        }
        paths.insert(path.to_owned());
        Ok(())
    }

    fn end(&self, path: &Path) {
        self.paths().remove(path);
        self.one_less.notify_all();
    }

    fn paths(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use tempfile::TempDir;

    use super::*;

    fn pipe() -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        (directory, pipe)
    }

    #[test]
    fn a_pipe_without_a_writer_is_an_error_in_time_and_leaves_nothing_behind() {
        let (_directory, pipe) = pipe();
        for asked in [|path: &Path| read(path).map(drop), can_be_read] {
            let start = Instant::now();
            assert_eq!(asked(&pipe).unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert!(start.elapsed() < 5 * WITHIN, "{:?}", start.elapsed());
        }
        fs::remove_file(&pipe).unwrap();
        fs::write(&pipe, "a file").unwrap();
        assert_eq!(read(&pipe).unwrap(), b"a file");
    }

    #[test]
    fn what_is_no_file_is_said_in_words() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(read(&socket).unwrap_err().to_string(), "it is a socket or a device, and no file");
        assert_eq!(read(directory.path()).unwrap_err().to_string(), "it is a directory; name a file in it");
        assert!(explained(io::Error::from(Errno::ACCESS)).to_string().contains("must not read it"));
        assert_eq!(explained(io::Error::from(Errno::IO)).raw_os_error(), Some(Errno::IO.raw_os_error()));
    }

    #[test]
    fn a_pipe_with_a_writer_is_read_to_its_end() {
        let (_directory, pipe) = pipe();
        let written = pipe.clone();
        let writing = thread::spawn(move || fs::write(written, "of a writer"));
        assert_eq!(read_within(&pipe, 10 * WITHIN).unwrap(), b"of a writer");
        writing.join().unwrap().unwrap();
    }

    #[test]
    fn a_call_that_does_not_return_costs_one_thread_until_it_does() {
        let (_directory, pipe) = pipe();
        // Opened in this way, a pipe without a writer blocks like a mount that hangs.
        let hang = |path: &Path| fs::read(path);
        let short = Duration::from_millis(50);
        assert_eq!(aside(&pipe, short, hang).unwrap_err().kind(), io::ErrorKind::TimedOut);
        for _ in 0..3 {
            let again = aside(&pipe, short, |_| -> io::Result<()> { panic!("a second thread") });
            assert_eq!(again.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        assert!(aside(&pipe, short, |_| Ok(())).is_err());
        assert!(exists(&pipe));
        fs::write(&pipe, "the first ends").unwrap();
        aside(&pipe, 5 * WITHIN, |_| Ok(())).unwrap();
    }

    #[test]
    fn no_more_is_read_than_a_byte_too_many() {
        assert_eq!(u64::try_from(read(Path::new("/dev/zero")).unwrap().len()).unwrap(), LARGEST + 1);
        let nowhere = std::env::temp_dir().join(format!("clapometer-nowhere-{}", std::process::id()));
        assert_eq!(read(&nowhere).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!exists(&nowhere));
    }
}
