//! Follows the files that the configuration is made of, and SIGHUP.
//!
//! By content: Kubernetes changes a ConfigMap or Secret by swapping a symlink, which inotify on
//! the file misses and whose time stamps lie. What is bad is told once; the last good stays.

use std::{
    collections::{BTreeMap, hash_map::RandomState},
    fs,
    hash::BuildHasher,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    signal::unix::Signal,
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::tls::{Expiry, ServerIdentity};
use crate::{
    cache::QueryCache,
    config::{Config, Environment},
    metrics::{CertificateLabels, Metrics, ReloadLabels},
    scaler::Catalog,
    shutdown::Supervisor,
};

/// How often the files are read.
const INTERVAL: Duration = Duration::from_secs(2);

/// How often a reload is tried again because files changed under its hands.
const RETRIES: u32 = 3;

/// A number for each file's content; none for a file that cannot be read.
pub(super) type FileHashes = BTreeMap<PathBuf, Option<u64>>;

/// The files to follow.
pub(super) struct Files {
    /// The configuration's own; the others are named in it.
    path: Option<PathBuf>,
    hasher: RandomState,
}

/// What is in force, and what it takes to replace it.
pub(super) struct Reload {
    pub(super) files: Files,
    /// As the files were before they were read.
    pub(super) seen: FileHashes,
    pub(super) config: Config,
    pub(super) catalog: watch::Sender<Arc<Catalog>>,
    pub(super) cache: Arc<QueryCache>,
    pub(super) identity: Option<Arc<ServerIdentity>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) supervisor: Supervisor,
    /// Why what is on disk is not in force.
    pub(super) rejected: Option<String>,
}

impl Files {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self { path, hasher: RandomState::new() }
    }

    /// A number for the content of each file that matters.
    pub(super) fn hashes(&self, config: &Config) -> FileHashes {
        let files = self.path.iter().cloned().chain(config.files());
        files.map(|path| (path.clone(), fs::read(path).ok().map(|content| self.hasher.hash_one(content)))).collect()
    }

    fn load(&self) -> Result<Config, String> {
        Config::load(self.path.as_deref(), &Environment::of_process()).map_err(|faults| faults.to_string())
    }
}

impl Reload {
    /// Follows the files for as long as the process lives.
    pub(super) async fn follow(mut self, mut hangup: Signal) {
        let mut ticks = interval_at(Instant::now() + INTERVAL, INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_first_look = true;
        loop {
            let is_asked = tokio::select! {
                _ = ticks.tick() => false,
                _ = hangup.recv() => true,
            };
            let contents = self.files.hashes(&self.config);
            // The configuration's own file was read before it was seen: in between it may have changed.
            let was_overtaken =
                std::mem::take(&mut is_first_look) && self.files.load().ok().as_ref() != Some(&self.config);
            let is_news = is_asked || was_overtaken || contents != self.seen;
            // What was rejected may be right by now without having changed: a file that it names was missing.
            if is_news || self.rejected.is_some() {
                self.seen = self.reload(contents, is_news);
            }
        }
    }

    /// Reloads what was just seen to be `contents`, and returns what has been taken in. A result that is like the one
    /// before is told only if something about the attempt `is_news`.
    fn reload(&mut self, mut contents: FileHashes, is_news: bool) -> FileHashes {
        let mut result = self.apply();
        for _ in 0..RETRIES {
            let now = self.files.hashes(&self.config);
            if result.is_ok() || now == contents {
                break;
            }
            // Half of it was read before a swap, and half after: that is nobody's fault.
            contents = now;
            result = self.apply();
        }
        let problem = result.err();
        if is_news || problem != self.rejected {
            self.report(problem.as_deref());
        }
        self.rejected = problem;
        // What changed while we read it is to be seen as a change, so only files that are new to us are taken as they are.
        let mut taken = self.files.hashes(&self.config);
        for (path, hash) in &mut taken {
            if let Some(before) = contents.get(path) {
                *hash = *before;
            }
        }
        taken
    }

    fn report(&self, problem: Option<&str>) {
        let (result, is_valid) = match problem {
            None => {
                tracing::info!("configuration reloaded");
                ("applied", 1)
            }
            Some(problem) => {
                tracing::error!(%problem, "configuration not reloaded; the last good one stays in force");
                ("rejected", 0)
            }
        };
        self.metrics.reloads.get_or_create(&ReloadLabels { result }).inc();
        self.metrics.config_valid.set(is_valid);
    }

    fn apply(&mut self) -> Result<(), String> {
        let config = self.files.load()?;
        if let (Some(identity), Some(tls)) = (&self.identity, &config.server.tls) {
            let expiry = identity.reload(tls).map_err(|error| error.to_string())?;
            publish_expiry(&expiry, &self.metrics);
        }
        if config.admin != self.config.admin || restarts(&config) != restarts(&self.config) {
            tracing::warn!("changes of server and admin take effect at the next start, certificates excepted");
        }
        let before = Arc::clone(&self.catalog.borrow());
        let catalog = Catalog::new(&config, &before, &self.metrics, &self.supervisor);
        for database in catalog.databases().values() {
            // Credentials may be what has changed: new connections read them, idle old ones need not stay.
            database.renew();
        }
        let sources: Vec<_> = catalog.sources().map(Arc::clone).collect();
        let databases: Vec<_> = catalog.databases().keys().cloned().collect();
        self.catalog.send_replace(Arc::new(catalog));
        self.cache.keep_only(&sources);
        for gone in before.sources().filter(|source| !sources.iter().any(|kept| Arc::ptr_eq(kept, source))) {
            gone.retire(&self.metrics);
        }
        for gone in before.databases().keys().filter(|name| !databases.contains(name)) {
            self.metrics.forget_database(gone);
        }
        self.config = config;
        Ok(())
    }
}

/// What of `server` is read at the start only.
fn restarts(config: &Config) -> impl PartialEq {
    let server = &config.server;
    (server.listen, server.reflection, server.connection_age, server.tls.is_some())
}

/// Tells when certificates end.
pub(super) fn publish_expiry(expiry: &Expiry, metrics: &Metrics) {
    for (certificate, end) in expiry {
        let seconds = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        metrics.certificate_expiry.get_or_create(&CertificateLabels { certificate }).set(seconds);
    }
}
