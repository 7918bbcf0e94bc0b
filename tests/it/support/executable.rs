//! The real executables, started as a container runtime starts them: arguments, environment, signals.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use super::{processes, tempdir, terminal::Terminal, wait};

/// The bound from exec to ready: it takes milliseconds, but a busy machine starts a debug build slowly.
const READY: Duration = Duration::from_secs(20);

/// How long a line of the log may take to be there after the answer that it is about.
const LOGGED: Duration = Duration::from_secs(10);

/// A command to be started, in a directory of its own.
pub(crate) struct Executable {
    directory: PathBuf,
    command: Command,
}

impl Executable {
    /// Prepares the scaler; `arguments` begin with the subcommand.
    pub(crate) fn clapometer<A: AsRef<str>>(arguments: impl IntoIterator<Item = A>) -> Self {
        Self::new(&path("clapometer"), arguments)
    }

    /// Prepares the Job; `arguments` begin with the subcommand.
    pub(crate) fn postgres_batch<A: AsRef<str>>(arguments: impl IntoIterator<Item = A>) -> Self {
        Self::new(&path("postgres-batch"), arguments)
    }

    /// Prepares `clapometer serve` with this text as configuration file, on free ports.
    pub(crate) fn serve(configuration: &str) -> Self {
        let serve = Self::clapometer(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        let file = serve.directory.join("clapometer.yaml");
        serve
            .file("clapometer.yaml", configuration)
            .argument("--config")
            .argument(file.to_str().expect("ours is ASCII"))
    }

    /// Prepares any program; its environment is empty but for `PATH` and what is set here.
    pub(crate) fn new<A: AsRef<str>>(program: &Path, arguments: impl IntoIterator<Item = A>) -> Self {
        let name = program.file_name().and_then(|name| name.to_str()).expect("a program has a name");
        let directory = tempdir::new(name);
        let mut command = Command::new(program);
        command.args(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        command.current_dir(&directory).env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { directory, command }
    }

    /// Adds an argument.
    pub(crate) fn argument(mut self, argument: impl AsRef<str>) -> Self {
        self.command.arg(argument.as_ref());
        self
    }

    /// Sets an environment variable.
    pub(crate) fn variable(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.command.env(name, value.as_ref());
        self
    }

    /// Loads a library before all others, and after those that were named before.
    pub(crate) fn preloads(self, library: &Path) -> Self {
        let name = "LD_PRELOAD";
        let known = self.command.get_envs().find_map(|(known, value)| (known == name).then_some(value).flatten());
        let libraries = match known {
            Some(known) => format!("{}:{}", known.display(), library.display()),
            None => library.display().to_string(),
        };
        self.variable(name, libraries)
    }

    /// Sets several.
    pub(crate) fn variables(mut self, variables: Vec<(&'static str, String)>) -> Self {
        self.command.envs(variables);
        self
    }

    /// Writes a file into the working directory.
    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        fs::write(self.directory.join(name), content).expect("the directory is ours");
        self
    }

    /// Puts a text on its standard input, by way of a file.
    pub(crate) fn input(self, name: &str, content: &str) -> Self {
        let path = self.directory.join(name);
        let mut with_file = self.file(name, content);
        with_file.command.stdin(fs::File::open(path).expect("it was just written"));
        with_file
    }

    /// Runs it as a user other than root, who has no way around limits.
    pub(crate) fn unprivileged(mut self) -> Self {
        processes::give_away(&self.directory);
        processes::unprivileged(&mut self.command);
        self
    }

    /// Returns the working directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts it, without waiting for anything.
    pub(crate) fn start(mut self) -> Running {
        let program = self.command.get_program().to_owned();
        let started = self.command.spawn();
        let mut child = started.unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        Running {
            directory: self.directory,
            output: Collected::read(output.expect("stdout is piped")),
            errors: Collected::read(errors.expect("stderr is piped")),
            child,
        }
    }

    /// Starts it at a terminal of its own.
    pub(crate) fn at_terminal(self) -> Terminal {
        Terminal::start(&self.command)
    }

    /// Starts a server, and waits until it says where it listens.
    pub(crate) async fn serving(self) -> Serving {
        let mut process = self.start();
        let line = process.logged("that it is serving", READY, |line| line["message"] == "serving").await;
        let address = |field: &str| -> SocketAddr {
            let text = line[field].as_str().unwrap_or_else(|| panic!("no field {field} in {line}"));
            text.parse().unwrap_or_else(|error| panic!("{field} is {text}: {error}"))
        };
        Serving { grpc: address("grpc"), admin: address("admin"), process }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it runs longer than `within`.
    pub(crate) async fn finish(self, within: Duration) -> Finished {
        self.start().finish(within).await
    }
}

/// A server that is up.
pub(crate) struct Serving {
    /// The address of gRPC.
    pub(crate) grpc: SocketAddr,
    /// The address of the HTTP port for operators.
    pub(crate) admin: SocketAddr,
    /// The process.
    pub(crate) process: Running,
}

/// A process; dropped, it is killed.
pub(crate) struct Running {
    directory: PathBuf,
    child: Child,
    output: Collected,
    errors: Collected,
}

/// The status and output of a process that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Finished {
    /// Returns the exit code, or none if a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

impl Running {
    /// Returns its process id.
    pub(crate) fn pid(&self) -> rustix::process::Pid {
        processes::pid(&self.child)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// Sends SIGTERM, as Kubernetes does, and waits for the end.
    ///
    /// # Panics
    /// When it is still there after `within`.
    pub(crate) async fn terminate(self, within: Duration) -> Finished {
        self.signal(Signal::TERM);
        self.finish(within).await
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it is still there after `within`, with what it has logged.
    pub(crate) async fn finish(mut self, within: Duration) -> Finished {
        let status = wait::until("it has ended", within, async || {
            self.ended().ok_or_else(|| format!("still running; it said:\n{}", self.errors()))
        })
        .await;
        self.output.complete();
        self.errors.complete();
        Finished { status, output: self.output.text(), errors: self.errors.text() }
    }

    /// Returns its status, once it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Returns its working directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns what it has written to standard output.
    pub(crate) fn output(&self) -> String {
        self.output.text()
    }

    /// Returns what it has written to standard error, where the log goes.
    pub(crate) fn errors(&self) -> String {
        self.errors.text()
    }

    /// Returns the log's lines that are JSON, one object each; `fields` are lifted to the top.
    pub(crate) fn log(&self) -> Vec<Value> {
        log_lines(&self.errors())
    }

    /// Counts the lines of the log whose message begins with this text.
    pub(crate) fn count_logged(&self, message: &str) -> usize {
        let begins = |line: &Value| line["message"].as_str().is_some_and(|text| text.starts_with(message));
        self.log().into_iter().filter(begins).count()
    }

    /// Waits until the log has as many such lines as it must have: it is written beside the answers.
    ///
    /// # Panics
    /// When it has more, or not as many soon.
    pub(crate) async fn logs(&self, message: &str, times: usize) {
        let what = format!("{times} lines of the log begin with {message:?}");
        wait::eventually(&what, LOGGED, || self.count_logged(message) >= times).await;
        assert_eq!(self.count_logged(message), times, "{message:?} in:\n{}", self.errors());
    }

    /// Returns a line of `/proc/PID/status` (`VmRSS`, `VmHWM`), in bytes.
    ///
    /// # Panics
    /// When the process is gone.
    pub(crate) fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid().as_raw_nonzero()));
        let status = status.expect("the process is there");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kibibytes.unwrap_or_else(|| panic!("no {field} in {status}")) * 1024
    }

    /// Counts its open file descriptors.
    ///
    /// # Panics
    /// When the process is gone.
    pub(crate) fn descriptors(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid().as_raw_nonzero()));
        open.expect("the process is there").count()
    }

    /// Waits for the first line of the log for which `wanted` holds.
    ///
    /// # Panics
    /// When there is none `within` that time, or the process ends without it.
    pub(crate) async fn logged(&mut self, what: &str, within: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        wait::first(&format!("it logs {what}"), within, async || {
            let ended = self.ended();
            if ended.is_some() {
                self.errors.complete();
            }
            let found = self.log().into_iter().find(&wanted);
            assert!(
                found.is_some() || ended.is_none(),
                "ended with {ended:?} and never logged {what}:\n{}",
                self.errors()
            );
            found
        })
        .await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Parses the lines of a log that are JSON; `fields` are lifted to the top.
pub(crate) fn log_lines(text: &str) -> Vec<Value> {
    let parsed = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed
        .map(|mut line| {
            if let Some(Value::Object(fields)) = line.as_object_mut().and_then(|line| line.remove("fields")) {
                line.as_object_mut().expect("it just was one").extend(fields);
            }
            line
        })
        .collect()
}

/// Reads a pipe to its end on a thread of its own: a test that computes must not stop the process.
struct Collected {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Collected {
    fn read(pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let writer = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut lines = BufReader::new(pipe);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                writer.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for what was still in the pipe of a process that has ended.
    fn complete(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reading a pipe does not panic");
        }
    }
}

/// Returns the path of an executable. Cargo passes it to integration tests and benchmarks; examples lie beside it.
pub(crate) fn path(name: &str) -> PathBuf {
    let told = match name {
        "clapometer" => option_env!("CARGO_BIN_EXE_clapometer"),
        "postgres-batch" => option_env!("CARGO_BIN_EXE_postgres-batch"),
        _ => None,
    };
    told.map_or_else(
        || {
            let this = env::current_exe().expect("this process has an executable");
            this.ancestors().nth(2).expect("examples/ is in the profile's directory").join(name)
        },
        PathBuf::from,
    )
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::{Executable, Running, log_lines};

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Executable {
        Executable::new(Path::new("/bin/sh"), ["-c", script])
    }

    async fn told(process: &mut Running, wanted: &'static str) {
        process.logged(wanted, SOON, |line| line["message"] == wanted).await;
    }

    #[tokio::test]
    async fn a_process_is_taken_at_its_word_and_its_code() {
        let finished = shell("echo out; echo err >&2; exit 78").finish(SOON).await;
        assert_eq!((finished.code(), &*finished.output, &*finished.errors), (Some(78), "out\n", "err\n"));
    }

    #[tokio::test]
    async fn standard_input_is_what_the_test_says() {
        let finished = shell("cat").input("input", "hello").finish(SOON).await;
        assert_eq!(finished.output, "hello");
    }

    #[tokio::test]
    async fn the_environment_is_what_the_test_says() {
        let finished = shell("echo \"$GREETING ${HOME-none}\"").variable("GREETING", "hello").finish(SOON).await;
        assert_eq!(finished.output, "hello none\n");
    }

    #[tokio::test]
    #[should_panic(expected = "waited 50ms in vain until it has ended")]
    async fn a_process_that_does_not_end_in_time_fails_the_test() {
        shell("exec sleep 600").finish(Duration::from_millis(50)).await;
    }

    #[tokio::test]
    #[should_panic(expected = "waited 200ms in vain until it has ended")]
    async fn a_process_that_ignores_sigterm_fails_the_test() {
        let mut process = shell("trap '' TERM; echo '{\"message\":\"deaf\"}' >&2; while :; do sleep 1; done").start();
        told(&mut process, "deaf").await;
        process.terminate(Duration::from_millis(200)).await;
    }

    #[tokio::test]
    async fn a_server_is_ready_once_it_says_where() {
        let line = r#"{"level":"INFO","fields":{"message":"serving","grpc":"127.0.0.1:1","admin":"127.0.0.1:2"}}"#;
        let serving = shell(&format!("echo '{line}' >&2; exec sleep 600")).serving().await;
        assert_eq!((serving.grpc.port(), serving.admin.port()), (1, 2));
    }

    #[tokio::test]
    #[should_panic(expected = "never logged that it is serving")]
    async fn a_server_that_ends_instead_fails_the_test() {
        shell("echo '{\"message\":\"giving up\"}' >&2; exit 1").serving().await;
    }

    #[tokio::test]
    async fn a_dropped_process_is_gone() {
        let process = shell("exec sleep 600").start();
        let pid = process.pid();
        drop(process);
        assert!(!Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists());
    }

    #[test]
    fn only_json_is_a_line_of_the_log() {
        let lines = log_lines("panic!\n{\"level\":\"WARN\",\"fields\":{\"message\":\"x\",\"n\":1}}\n");
        assert_eq!(lines, [serde_json::json!({"level": "WARN", "message": "x", "n": 1})]);
    }
}
