//! A PostgreSQL that is made for the test run and removed after it; the machine's own is never touched.

mod standby;

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use rand::Rng;
use rustix::process::Signal;
use tokio::sync::OnceCell;

use super::{binaries, certificates::Certificates, clock::Clock, processes, tempdir, wait};

/// The superuser's password over TCP; on the Unix socket no password is asked for.
pub(crate) const SUPERUSER_PASSWORD: &str = "canary-superuser-password";
/// The password of the role `owner`, to which test databases belong.
pub(crate) const OWNER_PASSWORD: &str = "canary-owner-password";
/// The password of the role `scaler`, which may log in and nothing else.
pub(crate) const SCALER_PASSWORD: &str = "canary-scaler-password";

/// Starting takes 0.2 s; recovery on a busy machine can take a while.
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(30);

static PRISTINE: OnceCell<PathBuf> = OnceCell::const_new();
static SHARED: OnceCell<Cluster> = OnceCell::const_new();

/// The settings by which a cluster differs from the usual one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// `postgresql.conf` lines, over the usual ones.
    pub(crate) lines: Vec<(String, String)>,
    /// Server certificates; with them `ssl` is on.
    pub(crate) certificates: Option<Certificates>,
    /// Lines that go before the usual ones in `pg_hba.conf`.
    pub(crate) host_based_authentication: Vec<String>,
    /// The clock that it goes by, if not the machine's.
    pub(crate) clock: Option<Clock>,
}

impl Settings {
    /// Sets one parameter of `postgresql.conf`.
    pub(crate) fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.lines.push((name.to_owned(), value.to_string()));
        self
    }

    /// Makes commits wait for the disk, as in production.
    pub(crate) fn durable(self) -> Self {
        self.set("fsync", "on").set("synchronous_commit", "on").set("full_page_writes", "on")
    }

    /// Makes it go by this clock.
    pub(crate) fn by_clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Turns TLS on.
    pub(crate) fn with_certificates(mut self, certificates: Certificates) -> Self {
        self.certificates = Some(certificates);
        self
    }

    /// Puts a line before the usual ones in `pg_hba.conf`.
    pub(crate) fn authenticate(mut self, line: &str) -> Self {
        self.host_based_authentication.push(line.to_owned());
        self
    }
}

/// A running (or stopped, killed, frozen) PostgreSQL.
#[derive(Debug)]
pub(crate) struct Cluster {
    directory: PathBuf,
    port: u16,
    postmaster: Mutex<Option<Child>>,
    clock: Option<Clock>,
    /// Databases that serve as templates, by name, once they are ready.
    pub(super) templates: tokio::sync::Mutex<Vec<String>>,
}

impl Cluster {
    /// Returns the cluster that is shared by the tests that do not change it; the first call starts it.
    pub(crate) async fn shared() -> &'static Self {
        SHARED.get_or_init(|| async { Self::with_settings(Settings::default()).await }).await
    }

    /// Starts a cluster for this test only, which may be stopped, killed or frozen.
    pub(crate) async fn private() -> Self {
        Self::with_settings(Settings::default()).await
    }

    /// Starts a cluster with these settings, for this test only.
    pub(crate) async fn with_settings(settings: Settings) -> Self {
        let pristine = PRISTINE.get_or_init(|| async { initialise() }).await;
        let directory = processes::give_away(&tempdir::new("postgres"));
        let data = directory.join("data");
        run(Command::new("cp").arg("-a").arg(pristine).arg(&data));
        let port = free_port();
        configure(&directory, port, &settings);
        let clock = settings.clock;
        let (postmaster, templates) = Default::default();
        let cluster = Self { directory, port, postmaster, clock, templates };
        cluster.start().await;
        cluster
    }

    /// Starts it, and returns when it accepts connections.
    pub(crate) async fn start(&self) {
        let log = File::options().append(true).create(true).open(self.log_path()).expect("the log is writable");
        let mut command = Command::new(binaries::directory().join("postgres"));
        command.arg("-D").arg(self.data()).current_dir(self.data()).env_clear().stdin(Stdio::null());
        command.envs(self.clock.iter().flat_map(Clock::environment));
        command.stdout(log.try_clone().expect("a file handle can be copied")).stderr(log);
        let child = processes::unprivileged(&mut command).spawn().expect("postgres is executable");
        *self.postmaster() = Some(child);
        wait::eventually("PostgreSQL accepts connections", START, || {
            let mut postmaster = self.postmaster();
            let child = postmaster.as_mut().expect("it was just started");
            let status = child.try_wait().expect("it is our child");
            assert!(status.is_none(), "PostgreSQL did not start: {status:?}\n{}", self.log());
            self.accepts_connections(child.id())
        })
        .await;
    }

    /// Stops it as an administrator would: sessions are closed, everything is written.
    pub(crate) async fn stop(&self) {
        self.end(Signal::INT).await;
    }

    /// Kills it as the out-of-memory killer would: SIGKILL to the postmaster, whose children notice.
    pub(crate) async fn kill(&self) {
        self.end(Signal::KILL).await;
    }

    /// Stops and starts it, on the same port.
    pub(crate) async fn restart(&self) {
        self.stop().await;
        self.start().await;
    }

    /// Freezes it: every process exists and none runs, while the kernel still accepts connections.
    pub(crate) fn freeze(&self) {
        if let Some(child) = self.postmaster().as_ref() {
            // First the one that makes new ones.
            processes::signal(processes::pid(child), Signal::STOP);
        }
        for pid in processes::working_under(&self.data()) {
            processes::signal(pid, Signal::STOP);
        }
    }

    /// Ends [`Cluster::freeze`].
    pub(crate) fn thaw(&self) {
        for pid in processes::working_under(&self.data()) {
            processes::signal(pid, Signal::CONT);
        }
    }

    /// The TCP port on 127.0.0.1; stays the same over restarts.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the Unix socket.
    pub(crate) fn socket_directory(&self) -> &Path {
        &self.directory
    }

    /// Everything it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Returns the way to connect as the superuser, by the Unix socket.
    pub(crate) fn superuser(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.directory).port(self.port).user("postgres").dbname(database);
        config
    }

    async fn end(&self, signal: Signal) {
        let Some(mut child) = self.postmaster().take() else { return };
        processes::signal(processes::pid(&child), signal);
        let mut ended = false;
        wait::eventually("PostgreSQL has ended", STOP, || {
            ended = ended || child.try_wait().expect("it is our child").is_some();
            ended && processes::working_under(&self.data()).is_empty()
        })
        .await;
    }

    /// Returns whether the postmaster with this process id says that it is ready.
    ///
    /// A port that answers could be anybody's, and a killed postmaster leaves its file behind.
    fn accepts_connections(&self, pid: u32) -> bool {
        let state = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = state.lines().map(str::trim).collect();
        lines.first() == Some(&&*pid.to_string()) && matches!(lines.get(7), Some(&("ready" | "standby")))
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn postmaster(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.postmaster.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut child) = self.postmaster().take() {
            for pid in processes::working_under(&self.data()) {
                processes::signal(pid, Signal::KILL);
            }
            // Reaped here, or it would stay a zombie until the end of the run.
            let _ = child.wait();
        }
        processes::remove_shared_memory(&self.data());
        // Children that were still starting may hold a file open; the watcher removes the rest.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Returns whether this machine's PostgreSQL was built with TLS.
pub(crate) async fn speaks_tls() -> bool {
    let pristine = PRISTINE.get_or_init(|| async { initialise() }).await;
    let mut command = Command::new(binaries::directory().join("postgres"));
    command.args(["-C", "ssl", "-c", "ssl=on", "-D"]).arg(pristine).current_dir(pristine).env_clear();
    processes::unprivileged(&mut command).output().is_ok_and(|output| output.status.success())
}

/// Makes the data directory of which every cluster is a copy, with the roles in it.
fn initialise() -> PathBuf {
    let programs = binaries::directory();
    let directory = processes::give_away(&tempdir::new("initdb"));
    let password = directory.join("password");
    fs::write(&password, SUPERUSER_PASSWORD).expect("the directory is ours");
    let data = directory.join("data");
    let mut initdb = Command::new(programs.join("initdb"));
    initdb.args(["--username=postgres", "--auth-local=trust", "--auth-host=scram-sha-256"]);
    initdb.args(["--encoding=UTF8", "--locale=C", "--no-sync"]).arg("--pwfile").arg(&password);
    run(initdb.arg("-D").arg(&data));

    let roles = format!(
        "CREATE ROLE owner LOGIN PASSWORD '{OWNER_PASSWORD}'\nCREATE ROLE scaler LOGIN PASSWORD '{SCALER_PASSWORD}'\n"
    );
    let statements = directory.join("roles.sql");
    fs::write(&statements, roles).expect("the directory is ours");
    let mut single = Command::new(programs.join("postgres"));
    single.args(["--single", "-c", "password_encryption=scram-sha-256", "-c", "fsync=off", "-D"]).arg(&data);
    run(single.arg("postgres").stdin(File::open(&statements).expect("it was just written")));
    data
}

fn run(command: &mut Command) {
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir("/");
    let output = processes::unprivileged(command).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !text.contains("ERROR:"), "{command:?} failed: {text}");
}

/// Returns a port below the range from which outgoing connections take theirs.
pub(super) fn free_port() -> u16 {
    let mut random = rand::rng();
    (0..100)
        .map(|_| random.random_range(15_000..32_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("one port in a hundred is free")
}

fn configure(directory: &Path, port: u16, settings: &Settings) {
    let data = directory.join("data");
    let mut text = format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\n\
         fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nshared_buffers = 32MB\n\
         max_connections = 300\nlogging_collector = off\nlog_line_prefix = '%m [%p] %a: '\n",
        directory.display()
    );
    if let Some(certificates) = &settings.certificates {
        for (name, content) in
            [("server.crt", &certificates.server.certificate), ("server.key", &certificates.server.key)]
        {
            write_private(&directory.join(name), content);
        }
        write_private(&directory.join("ca.crt"), &certificates.authority);
        let at = directory.display();
        write!(text, "ssl = on\nssl_cert_file = '{at}/server.crt'\nssl_key_file = '{at}/server.key'\nssl_ca_file = '{at}/ca.crt'\n")
            .expect("a string takes everything");
    }
    for (name, value) in &settings.lines {
        writeln!(text, "{name} = '{}'", value.replace('\'', "''")).expect("a string takes everything");
    }
    fs::write(data.join("postgresql.auto.conf"), text).expect("the data directory is ours");

    let rules = data.join("pg_hba.conf");
    let usual = fs::read_to_string(&rules).expect("initdb wrote it");
    let mut own = settings.host_based_authentication.join("\n");
    own.push('\n');
    fs::write(&rules, own + &usual).expect("the data directory is ours");
}

/// Writes a file that PostgreSQL accepts as a private key: its own, and readable by no other user.
fn write_private(path: &Path, content: &str) {
    use std::os::unix::fs::PermissionsExt;

    fs::write(path, content).expect("the directory is ours");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    processes::give_away(path);
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::{
        super::wait::{bounded, eventually},
        Cluster, STOP, Settings, processes, speaks_tls,
    };
    use crate::support::{certificates::Certificates, database::connect, skip::skip};

    #[tokio::test]
    async fn a_private_cluster_is_killed_and_comes_back_on_its_port() {
        let cluster = Cluster::with_settings(Settings::default().durable()).await;
        let port = cluster.port();
        connect(&cluster.superuser("postgres")).await.batch_execute("CREATE TABLE kept ()").await.unwrap();

        cluster.kill().await;
        assert!(cluster.superuser("postgres").connect(tokio_postgres::NoTls).await.is_err());
        assert!(processes::working_under(&cluster.data()).is_empty());

        cluster.start().await;
        assert_eq!(cluster.port(), port);
        connect(&cluster.superuser("postgres")).await.batch_execute("TABLE kept").await.unwrap();
    }

    #[tokio::test]
    async fn a_cluster_leaves_no_shared_memory_whether_it_was_killed_or_not() {
        let has_ipcrm = std::process::Command::new("ipcrm").arg("--version").output().is_ok();
        if !has_ipcrm || !std::path::Path::new("/proc/sysvipc/shm").exists() {
            return skip("no ipcrm, or no /proc/sysvipc/shm");
        }
        for is_killed in [true, false] {
            let cluster = Cluster::private().await;
            let state = fs::read_to_string(cluster.data().join("postmaster.pid")).unwrap();
            let number = state.lines().nth(6).unwrap().split_whitespace().last().unwrap().to_owned();
            let is_there = || {
                let segments = fs::read_to_string("/proc/sysvipc/shm").unwrap();
                segments.lines().any(|segment| segment.split_whitespace().nth(1) == Some(&number))
            };
            assert!(is_there());
            if is_killed {
                cluster.kill().await;
            }
            drop(cluster);
            eventually("the segment is gone", STOP, || !is_there()).await;
        }
    }

    #[tokio::test]
    async fn a_frozen_cluster_is_silent_until_it_is_thawed() {
        let cluster = Cluster::private().await;
        let client = connect(&cluster.superuser("postgres")).await;

        cluster.freeze();
        let mut answer = Box::pin(client.batch_execute("SELECT 1"));
        assert!(
            tokio::time::timeout(Duration::from_millis(200), &mut answer).await.is_err(),
            "frozen, and it answered"
        );

        cluster.thaw();
        bounded("the answer", Duration::from_secs(10), answer).await.unwrap();
    }

    #[tokio::test]
    async fn settings_of_a_test_hold_in_its_cluster_only() {
        let cluster = Cluster::with_settings(Settings::default().durable().set("max_connections", 17)).await;
        for (name, here) in [("max_connections", "17"), ("fsync", "on")] {
            let shown = async |cluster: &Cluster| -> String {
                let client = connect(&cluster.superuser("postgres")).await;
                client.query_one(&format!("SHOW {name}"), &[]).await.unwrap().get(0)
            };
            assert_eq!(shown(&cluster).await, here);
            assert_ne!(shown(Cluster::shared().await).await, here);
        }
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_dropped_cluster() {
        let cluster = Cluster::private().await;
        let directory = cluster.directory.clone();
        drop(cluster);
        assert!(processes::working_under(&directory).is_empty());
        assert!(!directory.exists());
    }

    #[tokio::test]
    #[should_panic(expected = "PostgreSQL did not start")]
    async fn a_cluster_that_cannot_start_says_why() {
        Cluster::with_settings(Settings::default().set("no_such_setting", 1)).await;
    }

    #[tokio::test]
    async fn a_cluster_with_certificates_offers_tls() {
        if !speaks_tls().await {
            return skip("this PostgreSQL was built without TLS");
        }
        let cluster = Cluster::with_settings(Settings::default().with_certificates(Certificates::generate())).await;
        let client = connect(&cluster.superuser("postgres")).await;
        assert_eq!(client.query_one("SHOW ssl", &[]).await.unwrap().get::<_, String>(0), "on");
    }
}
