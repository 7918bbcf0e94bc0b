//! Reloads the configuration when one of its files changes, or on SIGHUP.
//!
//! Compares the content of the files: Kubernetes changes a ConfigMap or Secret by swapping a
//! symlink, which inotify on the file misses, and the time stamps say nothing. A bad
//! configuration is logged once, and the last good one stays in force.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::RandomState},
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

use super::{
    query_files::{self, News},
    tls::{Expiry, ServerIdentity},
};
use crate::{
    admin::{ReloadLog, Reloaded},
    blocking,
    cache::{QueryCache, QuerySource},
    config::{Config, Environment, Listing},
    file,
    metrics::{CertificateLabels, Metrics, ReloadLabels, since_1970},
    recorder::{DroppedState, Incident},
    scaler::Catalog,
    shutdown::Supervisor,
};

/// The pause between two looks at the files.
const INTERVAL: Duration = Duration::from_secs(2);

/// The most times that a reload is repeated because the files changed while they were being read.
const RETRIES: u32 = 3;

/// A hash of the content of each file; none for a file that cannot be read.
pub(super) type FileHashes = BTreeMap<PathBuf, Option<u64>>;

/// The files to follow.
pub(super) struct Files {
    /// The configuration file itself. It names the other files.
    path: Option<PathBuf>,
    hasher: RandomState,
}

/// The configuration in force, and everything that a reload has to change.
pub(super) struct Reload {
    pub(super) files: Files,
    /// The files as they were before they were last read.
    pub(super) seen: FileHashes,
    /// The query files as they were last read.
    pub(super) listing: Option<Listing>,
    /// The main file's part of the configuration.
    pub(super) main: Config,
    /// The configuration in force, those of the query files included.
    pub(super) config: Config,
    pub(super) catalog: watch::Sender<Arc<Catalog>>,
    pub(super) cache: Arc<QueryCache>,
    pub(super) identity: Option<Arc<ServerIdentity>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) supervisor: Supervisor,
    pub(super) reloads: Arc<ReloadLog>,
    /// True if the credentials may have changed, which those of query files cannot.
    pub(super) renews: bool,
    /// The reason why what is on disk is not in force.
    pub(super) rejected: Option<Problem>,
}

/// The reason why a configuration is not in force.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Problem {
    /// For the log.
    text: String,
    /// For whoever reaches the admin port.
    shown: Vec<String>,
}

impl Files {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self { path, hasher: RandomState::new() }
    }

    /// A number for the content of each file that matters.
    pub(super) async fn hashes(&self, config: &Config) -> FileHashes {
        let (path, config, hasher) = (self.path.clone(), config.clone(), self.hasher.clone());
        let hash = move |path: &PathBuf| file::read(path).ok().map(|content| hasher.hash_one(content));
        let hashes = move || {
            let files = path.iter().cloned().chain(config.files());
            files.map(|path| (path.clone(), hash(&path))).collect()
        };
        blocking::run_or_here("files", hashes).await
    }

    async fn load(&self) -> Result<Config, Problem> {
        let path = self.path.clone();
        let load = move || Config::load_main(path.as_deref(), &Environment::of_process());
        blocking::run_or_here("configuration", load)
            .await
            .map_err(|faults| Problem { text: faults.to_string(), shown: faults.without_values() })
    }
}

impl Reload {
    /// Looks at the files again and again, for as long as the process lives.
    pub(super) async fn follow(mut self, mut hangup: Signal) {
        let mut ticks = interval_at(Instant::now() + INTERVAL, INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_first_look = true;
        loop {
            let is_asked = tokio::select! {
                _ = ticks.tick() => false,
                _ = hangup.recv() => true,
            };
            let contents = self.files.hashes(&self.main).await;
            // The configuration was read before the files were hashed for the first time, and may have changed in
            // between.
            let was_overtaken = std::mem::take(&mut is_first_look) && self.was_overtaken().await;
            let listing = listing(&self.main).await;
            self.renews = is_asked || was_overtaken || contents != self.seen;
            let is_news = self.renews || listing != self.listing;
            // A rejected configuration may have become good without a change of its own: a file that it names was
            // missing.
            if is_news || self.rejected.is_some() {
                self.seen = self.reload(contents, is_news).await;
            }
        }
    }

    /// Returns whether the main file has changed since it was read.
    async fn was_overtaken(&self) -> bool {
        let is_same = |main: &Config| *main == self.main && main.queries_from == self.main.queries_from;
        !self.files.load().await.is_ok_and(|main| is_same(&main))
    }

    /// Reloads the files, whose hashes were just seen to be `contents`, and returns the hashes of what was loaded. A
    /// result that equals the one before is reported only if the attempt `is_news`.
    async fn reload(&mut self, mut contents: FileHashes, is_news: bool) -> FileHashes {
        let before = self.config.clone();
        let mut result = self.apply().await;
        for _ in 0..RETRIES {
            let now = self.files.hashes(&self.main).await;
            let is_good = result.is_ok() && !self.config.query_files.has_faults();
            if is_good || now == contents && listing(&self.main).await == self.listing {
                break;
            }
            // The files were swapped while they were being read, so the problem may be a mixture of old and new.
            self.renews |= now != contents;
            contents = now;
            result = self.apply().await;
        }
        let problem = result.err();
        if is_news || problem != self.rejected {
            let changed = contents.iter().filter(|(path, hash)| self.seen.get(*path) != Some(*hash));
            self.report(problem.as_ref(), &before, &changed.map(|(path, _)| path.clone()).collect());
        }
        self.rejected = problem;
        // A file that changed while it was being read must be noticed at the next look, so it keeps its earlier hash.
        let mut taken = self.files.hashes(&self.main).await;
        for (path, hash) in &mut taken {
            if let Some(before) = contents.get(path) {
                *hash = *before;
            }
        }
        taken
    }

    /// `files` are those whose content has changed.
    fn report(&self, problem: Option<&Problem>, before: &Config, files: &BTreeSet<PathBuf>) {
        let (now, then) = (&self.config.query_files, &before.query_files);
        let news = query_files::report(now, then, &self.metrics, &self.reloads);
        let is_changed = &self.config != before;
        let changed = self.config.changes_since(before, files);
        if problem.is_none() {
            self.note_files(files);
        }
        // The log comes last, and the metrics before it: who has seen them finds the rest. A rejected query file is
        // noted already, and with it nothing else may have happened.
        if problem.is_some() || is_changed || news != News::Rejected {
            self.note(problem, &changed);
        }
        let result = if problem.is_none() { "applied" } else { "rejected" };
        self.metrics.reloads.get_or_create(&ReloadLabels { result }).inc();
        self.metrics.reloaded_at.get_or_create(&ReloadLabels { result }).set(since_1970().as_secs_f64());
        self.metrics.config_valid.set(problem.is_none());
        match problem {
            None if is_changed || news == News::Nothing => tracing::info!(changed, "configuration reloaded"),
            Some(_) if is_changed => tracing::info!(changed, "query files reloaded"),
            _ => {}
        }
        if let Some(problem) = problem
            && (self.rejected.as_ref() != Some(problem) || !is_changed && news == News::Nothing)
        {
            tracing::error!(problem = problem.text, "configuration not reloaded; the last good one stays in force");
        }
    }

    /// Notes a reload for the status page and for `why`.
    fn note(&self, problem: Option<&Problem>, changed: &str) {
        let (incident, reloaded) = match problem {
            None => (Incident::Reload { changed: changed.to_owned() }, Reloaded::Applied(changed.to_owned())),
            Some(Problem { shown, .. }) => {
                let fault = shown.first().cloned().unwrap_or_default();
                (Incident::ReloadRejected { fault, file: None }, Reloaded::Rejected(shown.clone()))
            }
        };
        self.metrics.recorder.happened(incident);
        self.reloads.note(reloaded);
    }

    /// Notes the change of the queries whose databases name one of these files.
    fn note_files(&self, files: &BTreeSet<PathBuf>) {
        let databases: BTreeSet<&String> = self.config.databases_of(files).collect();
        for source in self.catalog.borrow().sources() {
            if source.query().databases.iter().any(|database| databases.contains(database)) {
                self.note_change(source);
            }
        }
    }

    fn note_change(&self, source: &QuerySource) {
        self.metrics.query_changed.get_or_create(source.labels()).set(since_1970().as_secs_f64());
    }

    /// Puts in force what is on disk: the main file, or else its last good version, with the query files.
    async fn apply(&mut self) -> Result<(), Problem> {
        let (main, result) = match self.load().await {
            Ok(main) => (main, Ok(())),
            Err(problem) => (self.main.clone(), Err(problem)),
        };
        let listing = listing(&main).await;
        if result.is_ok() || listing != self.listing {
            let config = with_query_files(main.clone(), listing.clone(), &self.config).await;
            self.put_in_force(config);
        }
        (self.main, self.listing) = (main, listing);
        result
    }

    /// Loads the main file and its certificates.
    async fn load(&self) -> Result<Config, Problem> {
        let main = self.files.load().await?;
        if let (Some(identity), Some(tls)) = (&self.identity, &main.server.tls) {
            let (identity, tls) = (Arc::clone(identity), tls.clone());
            let reloading = blocking::run_or_here("certificates", move || identity.reload(&tls)).await;
            let expiry = reloading.map_err(|problems| {
                let shown = vec!["server.tls: a certificate or a key cannot be used; the log says which".to_owned()];
                Problem { text: problems.located(&main).to_string(), shown }
            })?;
            publish_expiry(&expiry, &self.metrics);
        }
        Ok(main)
    }

    fn put_in_force(&mut self, config: Config) {
        if config.admin != self.config.admin || restarts(&config) != restarts(&self.config) {
            tracing::warn!("changes of server and admin take effect at the next start, certificates excepted");
        }
        let before = Arc::clone(&self.catalog.borrow());
        let catalog = Catalog::new(&config, &before, &self.metrics, &self.supervisor);
        if self.renews {
            // The credentials may have changed: new connections read them, and idle old connections are closed.
            catalog.databases().values().for_each(|database| database.renew());
        }
        let sources: Vec<_> = catalog.sources().map(Arc::clone).collect();
        let databases: Vec<_> = catalog.databases().keys().cloned().collect();
        for (name, handle) in before.databases() {
            if !catalog.databases().get(name).is_some_and(|kept| Arc::ptr_eq(kept, handle)) {
                handle.retire();
            }
        }
        self.catalog.send_replace(Arc::new(catalog));
        self.cache.keep_only(&sources);
        for gone in before.sources().filter(|source| !sources.iter().any(|kept| Arc::ptr_eq(kept, source))) {
            gone.retire(&self.metrics);
        }
        for new in sources.iter().filter(|source| !before.sources().any(|known| Arc::ptr_eq(known, source))) {
            self.note_change(new);
        }
        for gone in before.databases().keys().filter(|name| !databases.contains(name)) {
            self.metrics.forget_database(gone);
        }
        self.drop_states();
        self.config = config;
    }

    /// Ends the states of databases that are switched off, and of those whose notifications no query waits for any
    /// more.
    fn drop_states(&self) {
        let catalog = self.catalog.borrow();
        let listens = |name: &String| {
            let mut queries = catalog.sources().map(|source| source.query());
            queries.any(|query| query.notify.is_some() && query.databases.contains(name))
        };
        for (name, database) in catalog.databases() {
            let is_off = !database.settings().enabled;
            if is_off {
                self.metrics.forget_answers(name);
            }
            for state in [DroppedState::Down, DroppedState::Standby, DroppedState::Deaf] {
                if is_off || state == DroppedState::Deaf && !listens(name) {
                    self.metrics.recorder.happened(Incident::Dropped { database: name.clone(), state, is_off });
                }
            }
        }
    }
}

/// Reads the query files on a thread of its own: there may be many, and large ones.
pub(super) async fn listing(main: &Config) -> Option<Listing> {
    let from = main.queries_from.clone()?;
    Some(blocking::run_or_here("query files", move || from.listing()).await)
}

/// Adds the query files to the main file's part, on a thread of its own for the same reason.
pub(super) async fn with_query_files(main: Config, listing: Option<Listing>, before: &Config) -> Config {
    if listing.is_none() {
        return main;
    }
    let before = before.query_files.clone();
    let add = move || main.clone().with_query_files(listing.as_ref(), &before);
    blocking::run_or_here("query files", add).await
}

/// The part of `server` that takes effect only at the start.
fn restarts(config: &Config) -> impl PartialEq {
    let server = &config.server;
    (server.listen, server.reflection, server.connection_age, server.tls.is_some())
}

/// Publishes the expiry of the certificates.
pub(super) fn publish_expiry(expiry: &Expiry, metrics: &Metrics) {
    for (certificate, end) in expiry {
        let seconds = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        metrics.certificate_expiry.get_or_create(&CertificateLabels { certificate }).set(seconds);
    }
}
