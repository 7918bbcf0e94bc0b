//! A real PgBouncer in front of a cluster.

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::Signal;

use super::{
    cluster::free_port,
    database::Access,
    executable::{Executable, Running},
    wait,
};

/// The path of Debian's package.
const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// A pooler, in transaction mode unless said otherwise, for all who connect as one role; it ends when it is dropped.
pub(crate) struct Pooler {
    address: SocketAddr,
    settings: String,
    process: Mutex<Running>,
}

impl Pooler {
    /// Starts one in front of where `access` leads, with at most `pool_size` connections to a database; none where
    /// there is no PgBouncer.
    pub(crate) async fn before(access: &Access, pool_size: u32) -> Option<Self> {
        Self::in_mode("transaction", access, pool_size).await
    }

    /// Starts one in another `pool_mode`.
    pub(crate) async fn in_mode(mode: &str, access: &Access, pool_size: u32) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            return None;
        }
        let port = free_port();
        let Access { host, port: server, user, password, .. } = access;
        let settings = format!(
            "[databases]\n* = host={host} port={server} user={user} password={password}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\nserver_login_retry = 1\npool_mode = {mode}\ndefault_pool_size = {pool_size}\nserver_tls_sslmode = disable\n"
        );
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let process = Mutex::new(start(&settings, address).await);
        Some(Self { address, settings, process })
    }

    /// Kills it, with all its connections, and starts it again.
    pub(crate) async fn restart(&self) {
        let killed = self.process().pid();
        super::processes::signal(killed, Signal::KILL);
        wait::eventually("PgBouncer is killed", Duration::from_secs(20), || self.process().ended().is_some()).await;
        let started = start(&self.settings, self.address).await;
        *self.process() = started;
    }

    /// Makes it stand still, or go on.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    /// Returns where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Counts the connections that clients have opened so far.
    pub(crate) fn logins(&self) -> usize {
        self.process().errors().matches("login attempt").count()
    }

    fn process(&self) -> MutexGuard<'_, Running> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn start(settings: &str, address: SocketAddr) -> Running {
    let mut pooler = Executable::new(Path::new(PROGRAM), Vec::<String>::new()).file("pgbouncer.ini", settings);
    if rustix::process::getuid().is_root() {
        pooler = pooler.argument("--user=nobody");
    }
    let mut process = pooler.argument("pgbouncer.ini").start();
    wait::eventually("PgBouncer accepts connections", Duration::from_secs(20), || {
        let ended = process.ended();
        assert!(ended.is_none(), "PgBouncer ended with {ended:?}: {}", process.errors());
        TcpStream::connect(address).is_ok()
    })
    .await;
    process
}
