//! PostgreSQL: sessions, a pool per database, and one reading as one read-only transaction.
//!
//! [`Database::read`] takes a reading. Errors are classified here as a [`Fault`]; nothing of the driver
//! leaves this module.

pub(crate) mod advice;
mod begin;
mod called;
mod caveats;
pub(crate) mod classify;
pub mod connect;
mod connections;
mod crowding;
pub(crate) mod explain;
mod fair_pool;
mod go_back;
mod grants;
mod health;
mod inspect;
pub(crate) mod invalid_index;
mod listen;
mod loose_key;
mod masked;
mod observed;
mod plan;
mod pool;
mod probe;
mod requirement;
mod role;
mod search_path;
mod state;
mod statement;
mod step;
mod tls;
mod transport;

use std::{
    convert::Infallible,
    future::pending,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::{Hook, HookError, ManagerConfig, Object, Pool, PoolConfig, QueueMode, RecyclingMethod};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};

pub use self::{
    called::{Function, FunctionSnapshot},
    caveats::Caveat,
    classify::Cause,
    grants::Named,
    inspect::{Column, Indexing, Inspection, Inspector, QueryError, Role, Server, Table},
    listen::ListenFailure,
    plan::{Plan, Relation, RowSecurity},
    role::Privileges,
    state::DatabaseState,
    statement::{Statement, without_row},
};
use self::{
    classify::{ends_session, is_conflict, lacks_object, loggable, statement_fault},
    fair_pool::FairPool,
    health::Health,
    listen::Channels,
    masked::Step,
    observed::Observed,
    pool::Connector,
    requirement::{Mismatch, Requirement, ServerState},
};
use crate::{
    config,
    fault::{Fault, Unusable},
    metrics::{DatabaseLabels, Metrics},
    query::{Query, Value},
    reading::{Breaker, ChannelState, OVERTIME, ReadResult, Reading, Tenant},
    shutdown::Supervisor,
};

/// The time that a reading may wait for a connection at least, whatever its statement's limit is:
/// hundreds of triggers that KEDA asks in phase queue up here.
const QUEUE: Duration = Duration::from_secs(10);

/// A configured database: its pool and its state.
pub struct Database {
    settings: Arc<config::Database>,
    pool: Pool,
    health: Arc<Health>,
    observed: Arc<Observed>,
    metrics: Arc<Metrics>,
    labels: DatabaseLabels,
    channels: Channels,
    fair_pool: Arc<FairPool>,
    /// The latest change of credentials or host. A connection that was opened before it is not used any more.
    renewed: watch::Sender<Instant>,
    suspicions: mpsc::Sender<()>,
    /// The time at which the latest probe began that found the database alive.
    alive: watch::Sender<Instant>,
    /// True once a reload has put another handle in the place of this one.
    is_retired: AtomicBool,
}

/// The failure of one attempt to send a statement.
struct Failure {
    fault: Fault,
    /// The detail for the log.
    detail: String,
    /// True if the same statement may succeed at once on a new connection.
    stale_connection: bool,
}

/// A transaction that failed.
enum TransactionError {
    /// The server or the connection reported an error.
    SqlError {
        error: tokio_postgres::Error,
        /// True if the server had answered BEGIN. Then the connection was good, and broke over the statement.
        had_begun: bool,
    },
    /// The server did not even answer BEGIN, while it answered on a connection that was opened later.
    DeadConnection,
    /// The server is not, or no longer, the one that the configuration asks for.
    Mismatch(Mismatch),
}

impl Database {
    /// Makes the handle. Must be called in a runtime. Nothing is connected but the listener, once a query needs it.
    pub fn new(settings: Arc<config::Database>, metrics: Arc<Metrics>, supervisor: &Supervisor) -> Arc<Self> {
        let labels = DatabaseLabels { database: settings.name.clone() };
        let health = Arc::new(Health::new(labels.clone()));
        let (renewed, alive) = (watch::Sender::new(Instant::now()), watch::Sender::new(Instant::now()));
        let observed = Arc::new(Observed::new(&settings, labels.clone(), Arc::clone(&metrics)));
        let connector = Connector {
            settings: Arc::clone(&settings),
            health: Arc::clone(&health),
            observed: Arc::clone(&observed),
            metrics: Arc::clone(&metrics),
            renewed: renewed.clone(),
            sessions: Mutex::default(),
        };
        let manager = deadpool_postgres::Manager::from_connect(
            tokio_postgres::Config::new(),
            connector,
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let (idle, lifetime) = (settings.idle_timeout, settings.max_lifetime);
        let fair_pool = FairPool::new(settings.pool_size.get());
        let renewed_at = renewed.subscribe();
        let config = PoolConfig { queue_mode: QueueMode::Lifo, ..PoolConfig::new(settings.pool_size.get()) };
        let pool = Pool::builder(manager)
            .config(config)
            .pre_recycle(Hook::sync_fn(move |_, metrics| {
                if connections::is_outdated(metrics, *renewed_at.borrow())
                    || metrics.age() > lifetime
                    || metrics.last_used() > idle
                {
                    return Err(HookError::message("too old"));
                }
                Ok(())
            }))
            .build()
            .expect("no timeouts are configured in the pool, so that it needs no runtime");
        metrics.show_database_at_zero(&labels);
        metrics.pool_size.get_or_create(&labels).set(settings.pool_size.get().try_into().unwrap_or(i64::MAX));
        let (suspicions, suspected) = mpsc::channel(1);
        let channels = Channels::new();
        let database = Arc::new(Self {
            settings,
            pool,
            health,
            observed,
            metrics,
            labels,
            channels,
            fair_pool,
            renewed,
            suspicions,
            alive,
            is_retired: AtomicBool::new(false),
        });
        let breaker = database.health.breaker();
        supervisor.spawn("database probe", probe::while_open(Arc::downgrade(&database), breaker));
        supervisor.spawn("database suspect", probe::when_suspected(Arc::downgrade(&database), suspected));
        if database.settings.enabled {
            supervisor.spawn("preferred hosts", go_back::go_back(Arc::downgrade(&database)));
            supervisor.spawn("listener", listen::listen(Arc::downgrade(&database)));
        }
        supervisor.spawn("pool sweep", connections::sweep(Arc::downgrade(&database)));
        database
    }

    /// Opens the first session in the background, so that the log says from the start whether the database can be
    /// reached, and the first call finds a connection. A database that is not enabled is left alone.
    pub fn connect_early(self: &Arc<Self>) {
        if self.settings.enabled {
            let database = Arc::clone(self);
            // Not supervised: it ends by itself.
            tokio::spawn(async move { database.probe().await });
        }
    }

    /// Returns the settings that it was made from.
    pub fn settings(&self) -> &Arc<config::Database> {
        &self.settings
    }

    /// Returns the fault of a reading that would not be sent now: the database is not enabled, or its breaker is open.
    pub fn refusal(&self) -> Option<Fault> {
        match *self.health.breaker().borrow() {
            _ if !self.settings.enabled => Some(Fault::Disabled),
            Breaker::Open => Some(Fault::BreakerOpen),
            Breaker::Closed => None,
        }
    }

    /// Takes one reading on behalf of `tenant`, which may change while it waits for a connection.
    ///
    /// Ends by itself, after the statement's limit and a wait for a connection of [`QUEUE`] or that limit,
    /// whichever is longer.
    ///
    /// # Errors
    /// The fault, with a detail for the log.
    ///
    /// # Cancel safety
    /// Not safe: a dropped call closes its connection, but the server goes on. Run it in a task that is never
    /// aborted.
    pub async fn read(
        &self,
        statement: &Statement,
        parameters: &[Value],
        tenant: &watch::Receiver<Tenant>,
    ) -> ReadResult {
        if !self.settings.enabled {
            return Err((Fault::Disabled, String::new()));
        }
        let queue_deadline = Instant::now() + QUEUE.max(statement.query.timeout);
        let mut retries_left = 1;
        loop {
            let failure = match self.attempt(statement, parameters, tenant, queue_deadline).await {
                Ok(reading) => return Ok(reading),
                Err(failure) => failure,
            };
            if retries_left == 0 || !(failure.stale_connection || is_conflict(failure.fault)) {
                return Err((failure.fault, failure.detail));
            }
            retries_left -= 1;
        }
    }

    async fn attempt(
        &self,
        statement: &Statement,
        parameters: &[Value],
        tenant: &watch::Receiver<Tenant>,
        queue_deadline: Instant,
    ) -> Result<Reading, Failure> {
        let mut breaker = self.health.breaker();
        let mut opened = pin!(async {
            // The sender lives as long as `self`, so this ends only with an open breaker.
            let _ = breaker.wait_for(|breaker| *breaker == Breaker::Open).await;
        });
        // Futures are pinned where they are made: one that is passed on by value is copied, kilobytes at a time.
        let session = pin!(async {
            let permit = self.fair_pool.acquire_for(tenant, &statement.query.name).await;
            (permit, self.pool.get().await)
        });
        let session = tokio::select! {
            biased;
            () = &mut opened => return Err(Failure::plain(Fault::BreakerOpen)),
            session = timeout_at(queue_deadline, session) => session,
            // A connect may take longer than a call waits for it.
            never = self.suspect() => match never {},
        };
        // The permit is declared before the connection, so that it is given back after it.
        let (_permit, connection) = match session {
            Ok((permit, Ok(connection))) => (permit, connection),
            Ok((_, Err(_))) => return Err(Failure::plain(self.health.connect_fault())),
            Err(_) => return Err(Failure::plain(Fault::DeadlineExceeded)),
        };
        let is_reused = Object::metrics(&connection).recycle_count > 0;
        let limit = statement.query.timeout + OVERTIME;
        let result = {
            let transaction = pin!(self.transaction(&connection, statement, parameters));
            tokio::select! {
                biased;
                result = timeout(limit, transaction) => Some(result),
                () = &mut opened => None,
                never = self.suspect() => match never {},
            }
        };
        let Some(result) = result else {
            self.abandon(connection);
            return Err(Failure::plain(Fault::BreakerOpen));
        };
        match result {
            Ok(Ok(Ok(reading))) => {
                self.health.answered(&self.metrics);
                self.give_back(connection);
                Ok(reading)
            }
            Ok(Ok(Err(fault))) => {
                self.health.answered(&self.metrics);
                self.give_back(connection);
                Err(Failure::plain(fault))
            }
            Ok(Err(TransactionError::SqlError { error, had_begun })) => {
                let mut failure = self.failed(connection, &error, is_reused && !had_begun);
                if let Some(preset) = statement.query.preset.as_ref().filter(|_| lacks_object(&error)) {
                    failure.detail += &format!("; the preset {} expects {}", preset.name, preset.expects);
                }
                Err(failure)
            }
            Ok(Err(TransactionError::Mismatch(mismatch))) => Err(self.mismatched(connection, mismatch)),
            Ok(Err(TransactionError::DeadConnection)) => {
                self.abandon(connection);
                // The idle connections beside it are most likely dead, too.
                self.pool.retain(|_, _| false);
                let detail = "a connection has died without a word".to_owned();
                Err(Failure { fault: Fault::ConnectionLost, detail, stale_connection: true })
            }
            Err(_) => {
                let detail = format!("no answer within {limit:?}");
                self.health.failed(Fault::DeadlineExceeded, &detail, &self.metrics);
                self.abandon(connection);
                Err(Failure { fault: Fault::DeadlineExceeded, detail, stale_connection: false })
            }
        }
    }

    /// Discards a session whose server is not the one that is asked for, and counts a failed connect.
    ///
    /// The other sessions and LISTEN lead to the same server. They are discarded with the first that notices.
    fn mismatched(&self, connection: Object, mismatch: Mismatch) -> Failure {
        let (fault, detail) = (mismatch.fault(), mismatch.to_string());
        let is_first = !connections::is_outdated(Object::metrics(&connection), *self.renewed.borrow());
        drop(Object::take(connection));
        if is_first {
            self.health.connect_failed(fault, Cause::WrongServer, &detail, &self.metrics);
            self.renew();
        }
        Failure { fault, detail, stale_connection: true }
    }

    /// Classifies a statement's error, and records what it means for the connection and the database.
    fn failed(&self, connection: Object, error: &tokio_postgres::Error, was_idle: bool) -> Failure {
        let fault = statement_fault(error);
        let end = self.observed.end().filter(|_| error.is_closed());
        let detail = end.unwrap_or_else(|| loggable(error));
        let lost = fault == Fault::ConnectionLost;
        let ended = lost || ends_session(error);
        // An idle connection that a restart, a failover or a NAT has cut says nothing about the database as it is now.
        let stale_connection = ended && was_idle;
        if ended {
            drop(Object::take(connection));
            match fault {
                _ if stale_connection => drop(self.pool.retain(|_, _| false)),
                // A limit of the DBA's for transactions: the server is alive, and other queries are quicker.
                Fault::StatementTimeout => self.health.answered(&self.metrics),
                _ => self.health.failed(fault, &detail, &self.metrics),
            }
        } else {
            self.health.answered(&self.metrics);
            self.give_back(connection);
        }
        Failure { fault, detail, stale_connection }
    }

    /// Sends BEGIN with its settings, the statement and COMMIT in one round trip. The first error counts; the others
    /// follow from it.
    ///
    /// The answer to COMMIT is not waited for: nothing was written. It precedes the answers to the next statements on
    /// the connection.
    async fn transaction(
        &self,
        client: &tokio_postgres::Client,
        statement: &Statement,
        parameters: &[Value],
    ) -> Result<Result<Reading, Fault>, TransactionError> {
        let sessions = self.observed.sessions();
        let step = statement.masking.next_step(sessions);
        if step == Step::Refuse {
            return Ok(Err(Fault::Unusable(Unusable::Masked)));
        }
        self.metrics.query_statements.get_or_create(&statement.labels).inc();
        let sent_at = Instant::now();
        let requirement = self.observed.requirement();
        let begin = self.begin(&statement.query, requirement);
        let has_begun = AtomicBool::new(false);
        let read = pin!(async {
            let begun = pin!(async {
                let begun = match requirement {
                    Some(_) => client.simple_query(&begin).await,
                    None => client.batch_execute(&begin).await.map(|()| Vec::new()),
                };
                has_begun.store(true, Ordering::Relaxed);
                begun.map(|answers| (answers, Instant::now()))
            });
            let read = pin!(async { statement.read(statement.send(client, parameters).await?, sent_at).await });
            // After the statement, whose own error is the one to tell.
            let looked = pin!(async {
                match step {
                    Step::Look => masked::look(client, statement.explain_text(client, parameters)).await.map(Some),
                    Step::Ask => masked::ask(client).await.map(Some),
                    Step::Read | Step::Refuse => Ok(None),
                }
            });
            tokio::join!(begun, read, looked)
        });
        let commit = async {
            match client.batch_execute("COMMIT").await {
                // An error of COMMIT comes with that of the statement.
                Ok(()) | Err(_) => pending::<Infallible>().await,
            }
        };
        let (begun, read, looked) = tokio::select! {
            biased;
            answers = read => answers,
            never = commit => match never {},
            () = self.declared_dead(&has_begun, sent_at) => return Err(TransactionError::DeadConnection),
        };
        let (answers, begun_at) = begun.map_err(|error| TransactionError::SqlError { error, had_begun: false })?;
        if let Some(requirement) = requirement {
            let state = ServerState::read(&answers).ok_or(TransactionError::Mismatch(Mismatch::Unknown))?;
            self.observed.lag(state.lag.filter(|_| state.is_standby));
            requirement.check(state).map_err(TransactionError::Mismatch)?;
            // Logged where it is a change.
            let _ = self.observed.standby(state.is_standby);
        }
        let failed = |error| TransactionError::SqlError { error, had_begun: true };
        let mut read = read.map_err(failed)?;
        if let Some(seen) = looked.map_err(failed)?
            && statement.masking.record(step, sessions, seen)
        {
            return Ok(Err(Fault::Unusable(Unusable::Masked)));
        }
        if let Ok(Reading { changes_at: Some(changes_at), .. }) = &mut read {
            // The server counts from the begin of the transaction, which lies between the two times. A moment too
            // late sees the change; a moment too early would not, and could not look again for a second.
            *changes_at += begun_at.duration_since(sent_at);
        }
        Ok(read)
    }

    /// Returns the beginning of a transaction for this query, which also asks the server what it is, if that matters.
    fn begin(&self, query: &Query, requirement: Option<Requirement>) -> String {
        begin::text(&self.settings, self.observed.set_path().as_deref(), query, requirement)
    }

    /// Returns the state of a notification channel, and listens on it from now on.
    pub fn channel(&self, channel: &str) -> watch::Receiver<ChannelState> {
        self.channels.channel(channel)
    }

    /// Returns whether statements are sent now: the breaker is closed.
    pub fn is_served(&self) -> bool {
        self.refusal().is_none()
    }

    /// Returns the state of the breaker, and its changes.
    pub fn breaker(&self) -> watch::Receiver<Breaker> {
        self.health.breaker()
    }

    /// Returns a stream of the changes from now on: whether statements are sent.
    pub fn changes(&self) -> impl Stream<Item = bool> + Send + Unpin + use<> {
        WatchStream::from_changes(self.health.breaker()).map(|breaker| breaker == Breaker::Closed)
    }
}

impl Failure {
    fn plain(fault: Fault) -> Self {
        Self { fault, detail: String::new(), stale_connection: false }
    }
}
