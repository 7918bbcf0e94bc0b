//! Gathers the state that the page shows from the modules that have it.

use std::{fs, sync::Arc};

use tokio::time::Instant;

use super::{
    Breaker, Database, DatabaseState, Files, Process, Query, QueryState, Reload, ReloadResult, Role, Status,
    clock::{Clock, DAY},
    events,
    lately::Trend,
    triggers,
};
use crate::{
    admin::{
        CERTIFICATES, Subject,
        reloads::{self, Reloaded},
    },
    cache::QuerySource,
    fault::Fault,
    metrics::{self, CertificateLabels, QueryLabels},
    postgres, reading, remedy,
};

/// The days before the end of a certificate in which it needs a person, as the alert has it.
const DAYS_BEFORE_THE_END: i64 = 7;

/// The source of the answers about the state.
pub(in crate::admin) struct Gatherer {
    subject: Subject,
    name: String,
    started_at: Instant,
}

impl Gatherer {
    pub(in crate::admin) fn new(subject: Subject) -> Self {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        Self { subject, name, started_at: Instant::now() }
    }

    /// Returns the present state. Blocks, for as long as it takes to copy what is known of 2,000 triggers.
    pub(in crate::admin) fn status(&self) -> Status {
        let Subject { metrics, catalog, reloads, build } = &self.subject;
        let clock = Clock::now(&metrics.recorder);
        let catalog = Arc::clone(&catalog.borrow());
        let mut queries: Vec<Query> = catalog.sources().map(|source| self.query(source, &clock)).collect();
        queries.sort_unstable_by(|a, b| (a.state, &a.name).cmp(&(b.state, &b.name)));
        let databases = catalog.databases().iter();
        let mut databases: Vec<Database> =
            databases.map(|(name, database)| self.database(name, database, &queries, &clock)).collect();
        databases.sort_unstable_by(|a, b| (a.state, &a.name).cmp(&(b.state, &b.name)));
        let started_at = clock.moment(self.started_at);
        let (states, untracked_requests) = metrics.trigger_states(clock.instant());
        let mut triggers = triggers::all(states, &clock);
        let other_queries = metrics.recorder.other_queries();
        let mut events = events::latest(&metrics.recorder, &other_queries, &triggers, &databases, started_at, &clock);
        triggers::explain_changes(&mut events, &triggers);
        triggers::note_other_queries(&mut triggers, &other_queries, &clock);
        Status {
            process: Process {
                name: self.name.clone(),
                version: build.version,
                commit: build.commit,
                started_at,
                now: clock.moment(clock.instant()),
            },
            databases,
            queries,
            triggers,
            untracked_requests,
            events,
            reloads: reloads.latest().into_iter().map(|reload| self::reload(reload, &clock)).collect(),
            files: files(metrics, &clock),
            connection: metrics.recorder.latest_connection(),
        }
    }

    fn query(&self, source: &QuerySource, clock: &Clock) -> Query {
        let query = source.query();
        let crate::cache::QueryState { latest, fault, history, changed_at } = source.state(clock.instant());
        let databases = query.databases.clone();
        let numbers = latest.and_then(|latest| latest.numbers);
        let short_keys = latest.and_then(|latest| latest.short_keys).filter(|keys| *keys > 0);
        let read_at = latest.map(|latest| clock.moment(latest.sent_at));
        Query {
            name: query.name.clone(),
            state: match (&fault, &latest) {
                (Some(_), _) => QueryState::Failing,
                (None, Some(_)) => QueryState::Good,
                (None, None) => QueryState::Unread,
            },
            since: fault.map(|(_, since)| clock.moment(since)),
            reason: fault.map(|(fault, _)| fault.reason()),
            error: fault.map(|(fault, _)| fault.to_string()),
            value: numbers.map(|numbers| numbers.value),
            activity: numbers.map(|numbers| numbers.activity.unwrap_or(numbers.value)),
            keys: latest.and_then(|latest| latest.keys),
            silent_keys: source.silent_keys(clock.instant()),
            short: query.budget.as_ref().map(|budget| budget.total).zip(short_keys),
            stalled: latest
                .and_then(|latest| latest.stalled)
                .filter(|rows| *rows > 0.0)
                .zip(query.preset.as_ref().map(|preset| preset.stalled)),
            unannounced_since: source.unannounced_since().map(|since| clock.moment(since)),
            read_at,
            age_seconds: read_at.map(|read_at| rounded(read_at.age.as_secs_f64())),
            duration_seconds: latest.map(|latest| rounded(latest.took.as_secs_f64())),
            statements: databases.iter().map(|database| self.statements(&query.name, database)).sum(),
            max_age: query.max_age,
            trend: Trend::of(&history, clock),
            history,
            changed_at: changed_at.map(|changed_at| clock.moment(changed_at)),
            databases,
        }
    }

    /// Returns the number of statements of a query in one of its databases.
    fn statements(&self, query: &str, database: &str) -> u64 {
        let labels = QueryLabels { query: query.to_owned(), database: database.to_owned() };
        self.subject.metrics.query_statements.get(&labels).map_or(0, |count| count.get())
    }

    fn database(&self, name: &str, database: &postgres::Database, queries: &[Query], clock: &Clock) -> Database {
        let known = database.state();
        let fault: Option<Fault> = known.outcome.and_then(Result::err);
        let asked = queries.iter().filter(|query| query.databases.iter().any(|database| database == name));
        Database {
            name: name.to_owned(),
            state: match known.outcome {
                _ if !database.settings().enabled => DatabaseState::Disabled,
                Some(Err(_)) => DatabaseState::Down,
                Some(Ok(())) => DatabaseState::Up,
                None => DatabaseState::Unknown,
            },
            since: clock.moment(known.since),
            reason: fault.map(Fault::reason),
            error: fault.map(|fault| fault.to_string()),
            remedy: fault.map(|fault| {
                // A server of the wrong kind and the like have a text of their own.
                let step = known.cause.filter(|_| fault == Fault::Unreachable).and_then(postgres::Cause::step);
                step.unwrap_or_else(|| remedy::of_fault(fault))
            }),
            role: known.is_standby.map(|is_standby| if is_standby { Role::Standby } else { Role::Primary }),
            has_left_primary: known.has_left_primary,
            may_lag: known.is_standby == Some(true)
                && known.outcome == Some(Ok(()))
                && database.settings().max_lag.is_zero(),
            path_changed_at: known.path_changed_at.map(|at| clock.moment(at)).filter(|moment| moment.age < DAY),
            crowded_since: known.crowded_since.map(|since| clock.moment(since)),
            privileged: known.is_privileged,
            breaker: match known.breaker {
                reading::Breaker::Closed => Breaker::Closed,
                reading::Breaker::Open => Breaker::Open,
            },
            notifications: known.hears,
            statements: asked.map(|query| self.statements(&query.name, name)).sum(),
        }
    }
}

fn files(metrics: &metrics::Metrics, clock: &Clock) -> Files {
    let (is_valid, rejected) = metrics.config_valid.invalid();
    let days_left = |certificate| {
        let ends_at = metrics.certificate_expiry.get(&CertificateLabels { certificate })?.get();
        let days = clock.days_until(ends_at);
        (days < DAYS_BEFORE_THE_END).then_some((certificate, days))
    };
    Files { is_rejected: !is_valid, rejected, certificates: CERTIFICATES.into_iter().filter_map(days_left).collect() }
}

fn reload(reload: reloads::Reload, clock: &Clock) -> Reload {
    let at = clock.moment(reload.at);
    match reload.result {
        Reloaded::Applied(changed) => {
            Reload { at, result: ReloadResult::Applied, changed: Some(changed), faults: Vec::new() }
        }
        Reloaded::Rejected(faults) => Reload { at, result: ReloadResult::Rejected, changed: None, faults },
    }
}

/// Rounds a number of seconds to milliseconds: more digits are noise.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}
