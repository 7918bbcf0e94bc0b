//! Checks `databases`.

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc, time::Duration};

use super::{
    Database, builtin,
    check::LIFETIMES,
    section::{References, Section},
};
use crate::{
    conninfo::{ConnectionSource, HOSTS, KEYS, Params, is_host},
    diagnostics::shown,
    query::{METRIC_NAME, is_metric_name},
};

const DEFAULT_POOL_SIZE: usize = 4;
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_millis(800);
const DEFAULT_LOCK_TIMEOUT: Duration = Duration::from_millis(500);
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
const DEFAULT_MAX_LIFETIME: Duration = Duration::from_secs(30 * 60);

/// A minute is far beyond every deadline of ours; more would only hide a mistake.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The databases by name. `libpq` is the connection of the environment, where that is read: it
/// makes the database `claps`, whose keys may still be set one by one.
pub(crate) fn checked(section: &Section<'_>, libpq: Option<&ConnectionSource>) -> BTreeMap<String, Arc<Database>> {
    let mut named = section.named(References::Allowed);
    if libpq.is_some() && !named.iter().any(|(name, _)| *name == builtin::DATABASE) {
        named.push((builtin::DATABASE, section.unset(builtin::DATABASE)));
    }
    if named.is_empty() && section.is_present() {
        section.own_fault("is empty; name a database or leave it out");
    }
    let mut databases = BTreeMap::new();
    for (name, section) in named {
        if !is_metric_name(name) {
            section.own_fault(format!("the name must be {METRIC_NAME}"));
        }
        let libpq = libpq.filter(|_| name == builtin::DATABASE);
        let database =
            (section.is_present() || libpq.is_some()).then(|| checked_database(name, &section, libpq)).flatten();
        databases.extend(database.map(|database| (name.to_owned(), Arc::new(database))));
    }
    databases
}

fn checked_database(name: &str, section: &Section<'_>, libpq: Option<&ConnectionSource>) -> Option<Database> {
    let listen_hosts = listen_hosts(section);
    let connection = connection(section, libpq, &listen_hosts);
    let url_timeout = connection.as_ref().and_then(ConnectionSource::connect_timeout);
    let default = url_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT);
    let milliseconds = Duration::from_millis;
    let lock_timeouts = milliseconds(1)..=LONGEST_TIMEOUT;
    let pool_size = section.whole("pool_size", 1..=1000usize).unwrap_or(DEFAULT_POOL_SIZE);
    let connect_timeout = section.duration("connect_timeout", default, milliseconds(10)..=LONGEST_TIMEOUT, None);
    let lock_timeout = section.duration("lock_timeout", DEFAULT_LOCK_TIMEOUT, lock_timeouts, Some("no limit"));
    let idle_timeout = section.duration("idle_timeout", DEFAULT_IDLE_TIMEOUT, LIFETIMES, None);
    let max_lifetime = section.duration("max_lifetime", DEFAULT_MAX_LIFETIME, LIFETIMES, None);
    let search_path = section.text("search_path");
    let listen_port = section.whole("listen_port", 1..=u16::MAX);
    let require_unprivileged_role = section.boolean("require_unprivileged_role", false);
    let enabled = section.boolean("enabled", true);
    section.refuse_unknown_keys();
    Some(Database {
        name: name.to_owned(),
        connection: connection?,
        search_path,
        listen_hosts,
        listen_port,
        pool_size: NonZeroUsize::new(pool_size).unwrap_or(NonZeroUsize::MIN),
        connect_timeout,
        lock_timeout,
        idle_timeout,
        max_lifetime,
        require_unprivileged_role,
        enabled,
    })
}

/// Where to LISTEN, if not where readings go.
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
    let found = if text.contains('@') { String::new() } else { format!("found {}, ", shown(&text)) };
    section.fault("listen_host", format!("{found}{HOSTS}; a port goes to listen_port"));
    Vec::new()
}

fn connection(
    section: &Section<'_>,
    libpq: Option<&ConnectionSource>,
    listen_hosts: &[String],
) -> Option<ConnectionSource> {
    // A url of our own says all that the environment could.
    let libpq = libpq.filter(|_| !section.has("url"));
    let mut params = match libpq {
        Some(connection) => connection.params().clone(),
        None => Params::default(),
    };
    params.prefix = format!("{}.", section.path());
    params.other_hosts = listen_hosts.to_vec();
    let mut is_complete = true;
    for key in KEYS {
        let has_key = section.has(key);
        match section.scalar(key, key == "port") {
            Some(text) => {
                params.texts.insert(key, text);
            }
            None => is_complete &= !has_key,
        }
    }
    match params.assemble() {
        Ok((_, connect_timeout)) if is_complete => {
            let connect_timeout = connect_timeout.or(libpq.and_then(ConnectionSource::connect_timeout));
            Some(ConnectionSource::new(params, connect_timeout))
        }
        Ok(_) => None,
        Err(problems) => {
            // A key whose own value is wrong has its fault already.
            let is_wrong = |key: &str| section.has_key(key) && !params.texts.contains_key(key);
            for problem in problems.iter().filter(|problem| !is_wrong(problem.key) && !is_wrong("url")) {
                section.fault(problem.key, problem.message.clone());
            }
            None
        }
    }
}
