//! `databases.<name>`: how to connect, and what a reading may take.

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc, time::Duration};

use super::{
    builtin, duration,
    key::{DefaultValue, Key, Kind, words},
    section::Section,
    server::LIFETIMES,
};
use crate::{
    conninfo::{self, ConnectionSource, HOSTS, Params, Problem, SESSION_ATTRS, SSLMODES, is_host},
    diagnostics::quoted,
    query::{METRIC_NAME, is_metric_name},
};

/// The longest timeout. A minute is far beyond every deadline here; more would only hide a mistake.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest `connect_timeout` that a connection string sets. Strings ask for 10 or 30 s, for programs that connect
/// once; calls of KEDA end long before that.
const LONGEST_OF_STRING: Duration = Duration::from_secs(2);

/// The longest `max_lag`: a standby that may be further behind says nothing about the present.
const LONGEST_LAG: Duration = Duration::from_secs(24 * 60 * 60);

/// The keys of `databases.<name>`; those that make the connection come first.
pub(super) const KEYS: &[Key] = &[
    Key::new(
        "url",
        Kind::Url,
        DefaultValue::Derived("made of the keys below"),
        "A connection string in place of the keys below: `postgres://user:password@host:port,host:port/dbname?sslmode=...`, \
         where reserved characters are percent-encoded (`@` is `%40`), or libpq's `host=... user=... password='...'`. \
         Which parameters it may have is said below. What it does not say may stand in its key beside it; what is said \
         in both is refused.",
    )
    .instead_of(&["uri", "dsn", "connection", "connection_string", "connectionString", "database_url"]),
    Key::new(
        "host",
        Kind::Hosts,
        DefaultValue::Derived("required without `url`"),
        "A name, an address, or a directory that starts with `/` (a Unix socket). Several, separated by commas, are \
         tried in order.",
    )
    .instead_of(&["hostname", "hostaddr", "hosts", "server", "address"]),
    Key::new(
        "port",
        Kind::Ports,
        DefaultValue::Is("5432"),
        "One for all hosts, or as many as hosts: `\"5432,5433\"`.",
    ),
    Key::new("dbname", Kind::Text, DefaultValue::Derived("the value of `user`"), "The database.").instead_of(&[
        "database",
        "database_name",
        "db",
        "name",
    ]),
    Key::new(
        "user",
        Kind::Text,
        DefaultValue::Derived("required without `url`"),
        "The role. It should be able to read what the queries count, and nothing else: see \
         `require_unprivileged_role`.",
    )
    .instead_of(&["username", "role", "login", "userName"]),
    Key::new(
        "password",
        Kind::Password,
        DefaultValue::Derived("none"),
        "Better a reference than text. In quotes if it is digits.",
    )
    .instead_of(&["pass", "passwd", "secret", "passwordFromEnv"]),
    Key::new(
        "sslmode",
        Kind::Words(&words(&SSLMODES), &[("verify", "verify-full"), ("true", "require"), ("false", "disable")]),
        DefaultValue::Derived("`prefer` on this machine, else required"),
        "Whether TLS is used and what it checks, see below. Must be set unless every host is a Unix socket, `localhost` \
         or a loopback address.",
    )
    .instead_of(&["ssl", "tls"]),
    Key::new("sslrootcert", Kind::Path, DefaultValue::Derived("the system's"), "Root certificates, PEM; `system` for those of the system, with `verify-full` only.")
        .instead_of(&["ca", "ca_cert", "ssl_ca", "sslca"]),
    Key::new(
        "sslcert",
        Kind::Path,
        DefaultValue::Derived("none"),
        "The client's certificate, PEM. Needs `sslkey`.",
    ),
    Key::new(
        "sslkey",
        Kind::Path,
        DefaultValue::Derived("none"),
        "The private key of the client's certificate, PEM. Needs `sslcert`.",
    ),
    Key::new(
        "target_session_attrs",
        Kind::Words(&words(&SESSION_ATTRS), &[]),
        DefaultValue::Derived("`any` for one host, `read-write` for several"),
        "Which server is wanted, with libpq's words. It is asked what it is for each new session and, unless this is \
         `any`, by each reading; where there is no such server, triggers get UNAVAILABLE. `any`: the first host that \
         answers; a standby answers with the past (docs/silent-zeros.md). `default_transaction_read_only` of the role \
         itself does not count: the shipped roles have it. With `any` sessions go back to the first host when it \
         answers again, with `prefer-standby` to a standby.",
    ),
    Key::new(
        "max_lag",
        Kind::Duration { range: Duration::from_millis(100)..=LONGEST_LAG, zero: Some("no limit") },
        DefaultValue::Is("0s"),
        "How far the replay of a standby may be behind; where it is further, triggers get UNAVAILABLE. `0s`: as far as \
         it likes. Needs `GRANT pg_read_all_stats` to the role: without it a standby of a primary at rest looks behind.",
    ),
    Key::new(
        "search_path",
        Kind::Text,
        DefaultValue::Derived("the role's own"),
        "Set for each reading. A wrong one is a missing table, or a silent zero if a table of the same name lies on it.",
    )
    .instead_of(&["schema", "schemas", "currentSchema"]),
    Key::new(
        "listen_host",
        Kind::Hosts,
        DefaultValue::Derived("`host`"),
        "Where to LISTEN when `host` is a pooler. The empty text says the same as leaving the key out.",
    ),
    Key::new(
        "listen_port",
        Kind::Whole(1..=65535),
        DefaultValue::Derived("the first of `port`"),
        "The port for `listen_host`.",
    ),
    Key::new(
        "pool_size",
        Kind::Whole(1..=1000),
        DefaultValue::Is("4"),
        "The most connections that readings use. Too small: readings wait for each other; too large: the server runs \
         out of connections for others.",
    )
    .instead_of(&["max_connections", "pool", "maxConns", "connection_limit"]),
    Key::new(
        "connect_timeout",
        Kind::Duration { range: Duration::from_millis(10)..=LONGEST_TIMEOUT, zero: None },
        DefaultValue::Is("800ms"),
        "Bounds one attempt to connect: DNS, TCP, TLS and start-up together. That of `url`, where it has one, is the \
         default, at most 2 s. Too short for the network: the database is never reached.",
    ),
    Key::new(
        "lock_timeout",
        Kind::Duration { range: Duration::from_millis(1)..=LONGEST_TIMEOUT, zero: Some("no limit") },
        DefaultValue::Is("500ms"),
        "How long a reading waits for a lock (DDL on a counted table). `0s`: only the query's `timeout` bounds it.",
    ),
    Key::new(
        "idle_timeout",
        Kind::Duration { range: LIFETIMES, zero: None },
        DefaultValue::Is("5m"),
        "How long a connection may lie idle.",
    ),
    Key::new(
        "max_lifetime",
        Kind::Duration { range: LIFETIMES, zero: None },
        DefaultValue::Is("30m"),
        "How old a connection may get: how long a changed role or a moved server stays unnoticed.",
    ),
    Key::new(
        "require_unprivileged_role",
        Kind::Boolean,
        DefaultValue::Is("false"),
        "Refuse a superuser, a member of one or of `pg_read_server_files`, `pg_write_server_files` or \
         `pg_execute_server_program`, and a role that may call functions on the server's files (`pg_read_file` and its \
         like): a read-only transaction does not hold these back. Nothing else is looked at: what the role may write is \
         for its grants to say. The shipped manifests set it.",
    ),
    Key::new(
        "enabled",
        Kind::Boolean,
        DefaultValue::Is("true"),
        "`false`: nothing is asked, triggers get UNAVAILABLE and KEDA holds still. A DBA's switch.",
    ),
];

/// One entry of `databases`.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// Its key in `databases`.
    pub name: String,
    /// The parameters of the connection, resolved anew for each connection so that rotated credentials are used.
    pub connection: ConnectionSource,
    /// `search_path` for each reading; the role's own where absent.
    pub search_path: Option<String>,
    /// The servers to LISTEN on when `host` is a pooler.
    pub listen_hosts: Vec<String>,
    /// The port for [`Database::listen_hosts`]; that of the first server where absent.
    pub listen_port: Option<u16>,
    /// The number of connections that readings may use.
    pub pool_size: NonZeroUsize,
    /// Bounds one attempt to connect: DNS, TCP, TLS and start-up together.
    pub connect_timeout: Duration,
    /// The time by which the replay of a standby may be behind; zero: as far as it likes.
    pub max_lag: Duration,
    /// `lock_timeout` of each reading; zero: none.
    pub lock_timeout: Duration,
    /// The longest time that a connection may be idle.
    pub idle_timeout: Duration,
    /// The greatest age of a connection.
    pub max_lifetime: Duration,
    /// True if a role that can do more than read is refused.
    pub require_unprivileged_role: bool,
    /// If false, the database is not asked, and its triggers get UNAVAILABLE.
    pub enabled: bool,
}

/// Reads `databases` by name. `libpq` is the connection of the environment, where that is read: it
/// makes the database `claps`, whose keys may still be set one by one.
pub(super) fn read(section: &Section<'_>, libpq: Option<&ConnectionSource>) -> BTreeMap<String, Arc<Database>> {
    let mut named = section.named();
    if libpq.is_some() && !named.iter().any(|(name, _)| *name == builtin::DATABASE) {
        named.push((builtin::DATABASE, section.unset(builtin::DATABASE)));
    }
    if named.is_empty() && section.is_present() {
        section.own_fault("is empty; name a database or leave it out");
    }
    named.sort_unstable_by_key(|(name, _)| *name);
    let mut databases = BTreeMap::new();
    for (name, section) in named {
        if !is_metric_name(name) {
            section.own_fault(format!("the name must be {METRIC_NAME}"));
        }
        let libpq = libpq.filter(|_| name == builtin::DATABASE);
        let is_set = section.is_present() || libpq.is_some();
        let database = is_set.then(|| read_one(name, &section, libpq)).flatten();
        databases.extend(database.map(|database| (name.to_owned(), Arc::new(database))));
    }
    databases
}

fn read_one(name: &str, section: &Section<'_>, libpq: Option<&ConnectionSource>) -> Option<Database> {
    let (mut params, is_complete) = params(section, libpq);
    let search_path = section.text("search_path");
    let listen_hosts = listen_hosts(section);
    params.other_hosts.clone_from(&listen_hosts);
    let (connection, connect_timeout) = connection(section, params, is_complete, libpq).unzip();
    let listen_port = section.whole("listen_port");
    let pool_size = section.whole("pool_size").and_then(NonZeroUsize::new);
    let of_url = connect_timeout.flatten().map(|timeout| duration::show(timeout.min(LONGEST_OF_STRING)));
    let connect_timeout = section.entry_or("connect_timeout", of_url.as_deref()).and_then(|entry| entry.duration());
    let max_lag = section.duration("max_lag");
    let lock_timeout = section.duration("lock_timeout");
    let idle_timeout = section.duration("idle_timeout");
    let max_lifetime = section.duration("max_lifetime");
    let require_unprivileged_role = section.boolean("require_unprivileged_role");
    let enabled = section.boolean("enabled");
    section.finish();
    Some(Database {
        name: name.to_owned(),
        connection: connection?,
        search_path,
        listen_hosts,
        listen_port,
        pool_size: pool_size?,
        connect_timeout: connect_timeout?,
        max_lag: max_lag?,
        lock_timeout: lock_timeout?,
        idle_timeout: idle_timeout?,
        max_lifetime: max_lifetime?,
        require_unprivileged_role: require_unprivileged_role?,
        enabled: enabled?,
    })
}

/// Reads the servers to LISTEN on, if they are not those of the readings.
fn listen_hosts(section: &Section<'_>) -> Vec<String> {
    let text = section.text_or_none("listen_host").unwrap_or_default();
    if text.is_empty() {
        return Vec::new();
    }
    let hosts: Vec<String> = text.split(',').map(|host| host.trim().to_owned()).collect();
    if hosts.iter().all(|host| is_host(host)) {
        return hosts;
    }
    // A URL in the wrong place may hold a password.
    let found = if text.contains('@') { String::new() } else { format!("found {}, ", quoted(&text)) };
    section.fault("listen_host", format!("{found}{HOSTS}; a port goes to listen_port"));
    Vec::new()
}

/// The parameters of the connection as they are written, and whether each that is set could be read.
fn params(section: &Section<'_>, libpq: Option<&ConnectionSource>) -> (Params, bool) {
    // A `url` in the entry replaces everything that the environment sets.
    let mut params = libpq.filter(|_| !section.has("url")).map(|libpq| libpq.params().clone()).unwrap_or_default();
    params.prefix = format!("{}.", section.path());
    let mut is_complete = true;
    for key in conninfo::KEYS {
        match section.scalar(key) {
            Some(text) => {
                params.texts.insert(key, text);
                params.variables.remove(key);
            }
            None if section.has(key) => is_complete = false,
            None => {
                if let Some(text) = params.texts.get(key) {
                    section.note_scalar(key, text);
                }
            }
        }
    }
    if let Some(file) = params.passfile.as_ref().filter(|_| !params.texts.contains_key("password")) {
        section.remark("password", format!("from {}, if it has one", file.display()));
    }
    (params, is_complete)
}

/// The connection, and how long an attempt to connect may take where the URL or the environment says it.
fn connection(
    section: &Section<'_>,
    params: Params,
    is_complete: bool,
    libpq: Option<&ConnectionSource>,
) -> Option<(ConnectionSource, Option<Duration>)> {
    let (params, missing) = split(section, params);
    match params.assemble() {
        Ok((loaded, connect_timeout)) if is_complete && missing.is_empty() => {
            let of_environment = libpq.filter(|_| !section.has("url")).and_then(ConnectionSource::connect_timeout);
            let connect_timeout = connect_timeout.or(of_environment);
            Some((ConnectionSource::new(params, connect_timeout, loaded), connect_timeout))
        }
        Ok(_) => None,
        Err(problems) => {
            // A key whose own value is wrong has its fault already.
            let is_wrong = |key: &str| section.has(key) && !params.texts.contains_key(key);
            // A missing text may be the cause of every problem, but for a password, which no other parameter depends
            // on.
            let is_decisive = missing.iter().all(|key| *key == "password");
            let is_known =
                |problem: &&Problem| is_decisive || section.has(problem.key) && !missing.contains(&problem.key);
            let told = problems.iter().filter(|problem| !is_wrong(problem.key) && !is_wrong("url"));
            for problem in told.filter(is_known) {
                match problem.is_missing_file {
                    true => section.missing(problem.key, problem.message.clone()),
                    false => section.fault(problem.key, problem.message.clone()),
                }
            }
            None
        }
    }
}

/// Removes the parameters whose file or variable is missing, where that is no fault, and notes each. Returns their
/// keys, too.
fn split(section: &Section<'_>, mut params: Params) -> (Params, Vec<&'static str>) {
    let mut missing = Vec::new();
    for key in conninfo::KEYS {
        let Some(text) = params.texts.get(key).filter(|text| section.is_elsewhere() && !text.is_there()) else {
            continue;
        };
        section.missing(key, text.read().err().unwrap_or_default());
        missing.push(key);
    }
    for key in &missing {
        params.texts.remove(key);
    }
    (params, missing)
}
