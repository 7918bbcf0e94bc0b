//! The program that works on a row. It has its own process group and dies with its worker. The worker keeps the last
//! bytes of its stderr.

use std::{
    collections::VecDeque,
    ffi::{CString, OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStringExt,
        fs::PermissionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{ChildStderr, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use nix::{errno::Errno, unistd::execve};
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, getppid, kill_process_group, set_parent_process_death_signal, wait,
};
use tokio::{
    io::AsyncWriteExt,
    process::ChildStdin,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use super::ended::Ended;
use crate::batch::store::{Attempt, Request};

/// The most bytes of stderr that are kept for `last_error`.
const TAIL: usize = 4 * 1024;

/// The longest wait for the rest of stderr once the program has ended and its group is killed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The longest payload that is passed as a variable, in bytes. Linux refuses a variable of 128 KiB; a longer payload
/// comes on stdin only.
const LONGEST_VARIABLE: usize = 100 * 1024;

/// The first argument of a process that becomes a program. It is not a command, and the parser of the command line
/// never sees it.
pub const EXECUTE: &str = "__execute";

/// A program with its arguments. There is no shell in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Child {
    group: Pid,
    changes: tokio::signal::unix::Signal,
    status: Option<ExitStatus>,
    input: JoinHandle<()>,
    output: oneshot::Receiver<()>,
    said: Arc<Mutex<Said>>,
}

/// The output that the program has written to stderr.
#[derive(Debug, Default)]
struct Said {
    /// The last bytes, [`TAIL`] at most.
    tail: VecDeque<u8>,
    /// The reason why the program was never started.
    not_started: Option<String>,
}

impl Program {
    /// Finds a program by its path or along `search_path`, as a shell would.
    ///
    /// The worker does this before it claims anything, so that a typo costs no attempt.
    ///
    /// # Errors
    /// A sentence that names the program.
    pub fn find(name: OsString, arguments: Vec<OsString>, search_path: Option<OsString>) -> Result<Self, String> {
        if name.is_empty() {
            return Err("the name of the program is empty".to_owned());
        }
        let candidates = if name.as_encoded_bytes().contains(&b'/') {
            vec![PathBuf::from(&name)]
        } else {
            std::env::split_paths(&search_path.unwrap_or_default()).map(|directory| directory.join(&name)).collect()
        };
        match candidates.iter().find(|path| is_executable(path)) {
            Some(path) => Ok(Self { path: path.clone(), arguments }),
            None => Err(not_found(&name, &candidates)),
        }
    }

    /// Starts the program on an attempt.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn start(&self, attempt: &Attempt, request: &Request) -> io::Result<Child> {
        let changes = signal(SignalKind::child())?;
        // If the child cannot execute the program, it writes this mark and then its error. The program never sees the
        // mark.
        let mark = format!("{EXECUTE} {:032x}: ", rand::random::<u128>());
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(EXECUTE)
            .arg(getpid().as_raw_pid().to_string())
            .arg(&mark)
            .arg(&self.path)
            .args(&self.arguments)
            .env("CLAP_ID", attempt.id.to_string())
            .env("CLAP_ITERATION", attempt.iteration.to_string())
            .env("CLAP_SESSION_ID", attempt.token.get().to_string())
            .env("CLAP_DURATION_SECONDS", request.duration.as_secs().to_string())
            .env_remove("CLAP_PAYLOAD")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if request.payload.len() <= LONGEST_VARIABLE {
            command.env("CLAP_PAYLOAD", &request.payload);
        }
        let said: Arc<Mutex<Said>> = Arc::default();
        let (closed, output) = oneshot::channel();
        let ours = Arc::clone(&said);
        // The thread is started before the program: if that fails, no program runs unobserved.
        let (hand_over, handed_over) = mpsc::channel();
        std::thread::Builder::new().name("stderr".to_owned()).spawn(move || {
            if let Ok(stderr) = handed_over.recv() {
                pass_through(stderr, &mark, &ours);
            }
            // The receiver may have given up waiting.
            let _ = closed.send(());
        })?;
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().expect("stdin is piped above");
        let stderr = child.stderr.take().expect("stderr is piped above");
        let _ = hand_over.send(stderr);
        Ok(Child {
            group: Pid::from_child(&child),
            changes,
            status: None,
            input: tokio::spawn(feed(ChildStdin::from_std(stdin)?, document(attempt, request))),
            output,
            said,
        })
    }
}

impl Child {
    /// Waits for the end, then kills what is left of the group.
    ///
    /// # Cancel safety
    /// Safe: the status is kept for the next call.
    pub async fn ended(&mut self) {
        loop {
            self.reap();
            match self.status {
                Some(_) => break,
                None => self.changes.recv().await,
            };
        }
        self.signal(Signal::KILL);
        self.input.abort();
    }

    /// Returns how the program ended, with the end of its stderr. Call it once, after [`Child::ended`].
    ///
    /// A process that has left the group may hold stderr open for ever. Text that comes after `by`, or later than
    /// [`LAST_WORDS`], is not part of the answer.
    pub async fn last_words(&mut self, by: Instant) -> Ended {
        let _ = timeout_at(by.min(Instant::now() + LAST_WORDS), &mut self.output).await;
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match &said.not_started {
            Some(error) => Ended::not_started(error.clone()),
            None => described(self.status.expect("`ended` returns with it"), &Vec::from(said.tail.clone())),
        }
    }

    /// Sends SIGTERM to the whole group.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGKILL to the whole group.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // An error means that the group is gone already.
        let _ = kill_process_group(self.group, signal);
    }

    /// Collects the status of every dead child. As PID 1 the worker also inherits orphans, whose status nobody else
    /// collects.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == self.group {
                self.status = Some(ExitStatus::from_raw(status.as_raw()));
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.kill();
        }
        self.input.abort();
    }
}

/// Becomes the program; returns only if that is impossible, with the line to write to stderr.
///
/// The words are the worker's process id, the mark of a failure, the program and its arguments. The arguments are
/// passed on unchanged: a parser would take `-h` or `--` for its own.
///
/// This runs in the child. It asks the kernel for SIGKILL when the worker dies, then checks that the worker had not
/// died before that. Between fork and exec this would need unsafe code.
pub fn execute(words: &[OsString]) -> String {
    let ([parent, mark, program, ..], Some(argv)) = (words, words.get(2..)) else {
        return format!("postgres-batch: {EXECUTE} is for `postgres-batch work` alone");
    };
    let (mark, shown) = (mark.display(), program.display());
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return format!("{mark}cannot run {shown}: {error}");
    }
    if Some(Pid::as_raw(getppid())) != parent.to_str().and_then(|parent| parent.parse().ok()) {
        return format!("{mark}cannot run {shown}: the worker is gone");
    }
    let variables = std::env::vars_os().map(|(name, value)| {
        let mut variable = name;
        variable.push("=");
        variable.push(value);
        variable
    });
    let texts = |words: Vec<OsString>| words.into_iter().map(|word| CString::new(word.into_vec())).collect();
    let texts: (Result<Vec<_>, _>, Result<Vec<_>, _>) = (texts(argv.to_vec()), texts(variables.collect()));
    let (Ok(argv), Ok(variables)) = texts else {
        return format!("{mark}cannot run {shown}: an argument has a zero byte");
    };
    // Rust's runtime ignores SIGPIPE, and a program inherits what is ignored.
    sigpipe::reset();
    // Not the standard library's exec: it gives a file that the kernel does not know to a shell.
    let Err(error) = execve(&argv[0], &argv, &variables);
    format!("{mark}cannot run {shown}: {}{}", error.desc(), reason(Path::new(program), error))
}

/// Returns an explanation of the kernel's error, if there is any.
fn reason(program: &Path, error: Errno) -> String {
    let mut start = [0; 256];
    let length = File::open(program).and_then(|mut file| file.read(&mut start)).unwrap_or(0);
    let first_line = start[..length].split(|byte| *byte == b'\n').next().unwrap_or_default();
    match (error, first_line.strip_prefix(b"#!")) {
        (Errno::ENOENT, Some(interpreter)) => {
            let interpreter = String::from_utf8_lossy(interpreter);
            format!(" (its first line names the interpreter {:?})", interpreter.trim_matches(' '))
        }
        (Errno::ENOEXEC, None) => " (it is not a program for this machine, and has no #! line)".to_owned(),
        _ => String::new(),
    }
}

/// Returns what is wrong with a program that cannot be executed, and what to do.
fn not_found(name: &OsStr, candidates: &[PathBuf]) -> String {
    let name = name.display();
    let Some((path, found)) = candidates.iter().find_map(|path| Some((path.display(), path.metadata().ok()?))) else {
        let text = name.to_string();
        return match text.split_whitespace().next() {
            Some(first) if first != text && text.contains(['|', '&', ';', '<', '>', '$', '*']) => {
                format!("there is no program {name:?}: it needs a shell: -- sh -c '{text}'")
            }
            Some(first) if first != text => {
                format!(
                    "there is no program {name:?}: write each word separately, without quotes around all: -- {text}"
                )
            }
            _ if text.contains('/') => format!("there is no program {name}: is it in this image, at this path?"),
            _ => format!("there is no program {name} on PATH: install it in this image, or write its path"),
        };
    };
    if found.is_dir() {
        return format!("{path} is a directory: name a program in it");
    }
    if !found.is_file() {
        return format!("{path} is not a file: name a program");
    }
    format!("{path} is not executable: chmod +x it, or run it with its interpreter (-- python3 {path})")
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Returns the row as one JSON document. The payload is PostgreSQL's own text, so that no number loses a digit.
fn document(attempt: &Attempt, request: &Request) -> String {
    let Attempt { id, iteration, max_attempts, token, .. } = attempt;
    let Request { duration, payload, key, requested_at } = request;
    let (token, duration) = (token.get(), duration.as_secs());
    let (request_key, requested_at) = (serde_json::json!(key), serde_json::json!(requested_at));
    format!(
        "{{\"id\":{id},\"iteration\":{iteration},\"max_attempts\":{max_attempts},\"session_id\":{token},\
         \"request_key\":{request_key},\"requested_at\":{requested_at},\"duration_seconds\":{duration},\"payload\":{payload}}}\n"
    )
}

/// Writes the row to the program's stdin. A program need not read it, so an error does not matter.
async fn feed(mut stdin: ChildStdin, document: String) {
    let _ = stdin.write_all(document.as_bytes()).await;
}

/// Copies the program's stderr to the worker's, and keeps its end.
///
/// It has a thread of its own: a slow reader of the worker's stderr must not delay a heartbeat.
fn pass_through(mut stderr: ChildStderr, mark: &str, said: &Mutex<Said>) {
    let mut buffer = [0; 8 * 1024];
    let mut is_line_open = false;
    while let Ok(count @ 1..) = stderr.read(&mut buffer) {
        let mut bytes = &buffer[..count];
        is_line_open = bytes.last().is_some_and(|last| *last != b'\n');
        {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(error) = bytes.strip_prefix(mark.as_bytes()) {
                said.not_started = Some(String::from_utf8_lossy(error).trim().to_owned());
                bytes = error;
            }
            said.tail.extend(bytes);
            let surplus = said.tail.len().saturating_sub(TAIL);
            said.tail.drain(..surplus);
        }
        // If the worker's stderr is closed, the program's must still be read, or the program blocks.
        let _ = io::stderr().write_all(bytes);
    }
    // The worker's report is a line of its own.
    if is_line_open {
        let _ = io::stderr().write_all(b"\n");
    }
}

/// Describes the end of a program.
fn described(status: ExitStatus, tail: &[u8]) -> Ended {
    let (exit_code, how) = match (status.code(), status.signal()) {
        (Some(code), _) => (code, format!("exit code {code}")),
        (None, signal) => {
            let signal = signal.unwrap_or(0);
            (128 + signal, format!("killed by signal {signal}"))
        }
    };
    // A text of PostgreSQL cannot hold a zero byte.
    let tail = String::from_utf8_lossy(tail).replace('\0', "\u{fffd}");
    let error = match tail.trim() {
        "" => how,
        words => format!("{how}: {words}"),
    };
    Ended { exit_code, error, never_started: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_counts_as_128_more() {
        assert_eq!(described(ExitStatus::from_raw(9), b"").exit_code, 137);
        assert_eq!(described(ExitStatus::from_raw(3 << 8), b"").exit_code, 3);
    }

    #[test]
    fn what_stderr_said_last_is_fit_for_a_text_column() {
        let ended = described(ExitStatus::from_raw(1 << 8), b"half a \xc3\0 word\n");
        assert_eq!(ended.error, "exit code 1: half a \u{fffd}\u{fffd} word");
    }

    #[test]
    fn a_program_that_is_not_there_is_found_out_before_it_runs() {
        let nowhere = Program::find("no-such-program".into(), Vec::new(), Some("/usr/bin:/bin".into()));
        assert!(nowhere.unwrap_err().starts_with("there is no program no-such-program on PATH"));
        let told = |name: &str| Program::find(name.into(), Vec::new(), Some("/usr/bin:/bin".into())).unwrap_err();
        for (name, expected) in [
            ("/etc/passwd", "/etc/passwd is not executable: chmod +x it"),
            ("/etc", "/etc is a directory: "),
            ("/dev/null", "/dev/null is not a file: "),
            ("/nowhere/program", "there is no program /nowhere/program: is it in this image"),
            ("echo done", "there is no program \"echo done\": write each word separately"),
            ("echo $HOME", "there is no program \"echo $HOME\": it needs a shell"),
        ] {
            assert!(told(name).starts_with(expected), "{}", told(name));
        }
        assert!(
            Program::find("".into(), Vec::new(), Some("/usr/bin:/bin".into())).is_err(),
            "not the directory itself"
        );
        assert!(Program::find("sh".into(), Vec::new(), Some("/usr/bin:/bin".into())).is_ok());
    }
}
