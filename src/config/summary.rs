//! The content of a configuration, and the changes of a reload, each as one line of the log: names and keys, and the
//! values of keys that say nothing about where a database is, who asks it, or what for.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde_json::Value as Json;

use super::{Config, QueryFile, QueryFileState};

/// The change of a reload after which everything is as before.
pub const NO_CHANGE: &str = "no key, and no file that it names";

/// The most names that a line lists. It counts the others.
const MOST_NAMES: usize = 20;

/// The most members of a list whose old and new value are told.
const MOST_MEMBERS: usize = 8;

/// The keys whose old and new value are told: numbers, durations, words and namespaces that explain another answer.
const TOLD: [&str; 21] = [
    "activation",
    "connect_timeout",
    "divide_by",
    "enabled",
    "idle_timeout",
    "lock_timeout",
    "max_age",
    "max_lag",
    "max_lifetime",
    "namespaces",
    "on_no_row",
    "on_null",
    "pool_size",
    "require_unprivileged_role",
    "resync",
    "rounding",
    "sslmode",
    "target",
    "target_session_attrs",
    "timeout",
    "total",
];

/// The things that are found in a configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Inventory {
    /// The file; none if everything comes from the environment.
    pub file: String,
    /// The names of the databases. One that is disabled is marked.
    pub databases: String,
    /// The names of the queries, without the built-in ones that nothing has changed.
    pub queries: String,
    /// The number of the built-in queries that nothing has changed.
    pub built_in_queries: usize,
    /// The names of the query files, where there may be any. One of which nothing is served is marked.
    pub query_files: Option<String>,
    /// The connections that all pools may open.
    pub pool_connections: usize,
}

impl Config {
    /// Returns what it has. `file` is where it was read from.
    pub fn inventory(&self, file: Option<&Path>) -> Inventory {
        let database = |(name, database): (&String, &std::sync::Arc<super::Database>)| {
            if database.enabled { name.clone() } else { format!("{name} (disabled)") }
        };
        let query_file = |(name, file): (&String, &QueryFile)| match file.state {
            QueryFileState::InForce | QueryFileState::LastGood => name.clone(),
            QueryFileState::NotServed => format!("{name} (not served)"),
        };
        Inventory {
            file: file.map_or_else(|| "none".to_owned(), |file| file.display().to_string()),
            databases: listed(self.databases.iter().map(database)),
            queries: listed(self.queries.keys().filter(|name| !self.is_builtin(name)).cloned()),
            built_in_queries: self.queries.keys().filter(|name| self.is_builtin(name)).count(),
            query_files: self.queries_from.as_ref().map(|_| listed(self.query_files.files.iter().map(query_file))),
            pool_connections: self.databases.values().map(|database| database.pool_size.get()).sum(),
        }
    }

    /// Returns the keys whose values differ from those of `before`, with the old and the new value of some, and the
    /// databases that name one of the files whose content has changed: such a file may lead to another server.
    pub fn changes_since(&self, before: &Self, files: &BTreeSet<PathBuf>) -> String {
        let (new, old) = (leaves(&self.effective.json()), leaves(&before.effective.json()));
        let mut changes = BTreeMap::new();
        for (path, value) in &new {
            if old.get(path) != Some(value) {
                note(path, &old, "added", from_to(path, old.get(path), value), &mut changes);
            }
        }
        for path in old.keys().filter(|path| !new.contains_key(*path)) {
            note(path, &new, "removed", String::new(), &mut changes);
        }
        let of_files = self.keys_of(files).into_iter().map(|key| (key, " (a file that it names)".to_owned()));
        changes.extend(of_files.filter(|(key, _)| !changes.contains_key(key)).collect::<Vec<_>>());
        match (changes.is_empty(), self == before) {
            (false, _) => listed(changes.into_iter().map(|(path, how)| format!("{path}{how}"))),
            // A password, which is not shown and so not compared.
            (true, false) => "the value of a secret".to_owned(),
            (true, true) => NO_CHANGE.to_owned(),
        }
    }

    /// Returns the names of the databases that name one of these files.
    pub fn databases_of(&self, files: &BTreeSet<PathBuf>) -> impl Iterator<Item = &String> {
        let is_among = |named: Vec<PathBuf>| named.iter().any(|file| files.contains(file));
        self.databases.iter().filter(move |(_, database)| is_among(database.connection.files())).map(|(name, _)| name)
    }

    /// Returns the keys of the databases, and of the server's TLS, that name one of these files.
    fn keys_of(&self, files: &BTreeSet<PathBuf>) -> Vec<String> {
        let databases = self.databases_of(files).map(|name| format!("databases.{}", part_of_key(name)));
        let tls = self.server.tls.iter().filter(|tls| tls.files().any(|file| files.contains(file)));
        databases.chain(tls.map(|_| "server.tls".to_owned())).collect()
    }
}

/// Notes a key that differs; or its whole query or database, if `other` has none of that name.
fn note(path: &[String], other: &Leaves, how: &str, values: String, changes: &mut BTreeMap<String, String>) {
    let entry = &path[..path.len().min(2)];
    if matches!(entry, [first, _] if first == "queries" || first == "databases")
        && !other.keys().any(|path| path.starts_with(entry))
    {
        changes.insert(joined(entry), format!(" {how}"));
    } else {
        changes.insert(joined(path), values);
    }
}

/// Returns the old and the new value of a key, if they may be told.
fn from_to(path: &[String], before: Option<&Json>, after: &Json) -> String {
    let is_told = path.last().is_some_and(|key| TOLD.contains(&key.as_str()));
    let text = |value: &Json| match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(_) | Json::Bool(_) => Some(value.to_string()),
        Json::Array(members) => Some(in_brackets(members)),
        _ => None,
    };
    match before.and_then(text).zip(text(after)) {
        Some((before, after)) if is_told => format!(" ({before} to {after})"),
        _ => String::new(),
    }
}

/// Returns the members of a list without a comma, which would end the change in the list of all.
fn in_brackets(members: &[Json]) -> String {
    let names: Vec<&str> = members.iter().filter_map(Json::as_str).take(MOST_MEMBERS).collect();
    match members.len() - names.len() {
        0 => format!("[{}]", names.join("; ")),
        further => format!("[{}; {further} more]", names.join("; ")),
    }
}

/// Returns the name of a query or a database as a part of a key: quoted if it has a dot, as in `queries."jobs.v2".sql`.
pub fn part_of_key(name: &str) -> Cow<'_, str> {
    if name.contains('.') { format!("\"{name}\"").into() } else { name.into() }
}

fn joined(path: &[String]) -> String {
    path.iter().map(|part| part_of_key(part)).collect::<Vec<_>>().join(".")
}

/// The values of a configuration by their paths.
type Leaves = BTreeMap<Vec<String>, Json>;

fn leaves(json: &str) -> Leaves {
    fn collect(value: Json, path: &mut Vec<String>, leaves: &mut Leaves) {
        let Json::Object(members) = value else {
            leaves.insert(path.clone(), value);
            return;
        };
        for (name, value) in members {
            path.push(name);
            collect(value, path, leaves);
            path.pop();
        }
    }
    let mut leaves = Leaves::new();
    // It was written as JSON a moment ago.
    collect(serde_json::from_str(json).unwrap_or_default(), &mut Vec::new(), &mut leaves);
    leaves
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    match names.len().checked_sub(MOST_NAMES) {
        None | Some(0) => names.join(", "),
        Some(further) => format!("{} and {further} more", names[..MOST_NAMES].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::config::Environment;

    const FILE: &str = "databases:\n  claps: {host: localhost, user: scaler, password: secret}\n  \
                          old: {host: localhost, user: scaler}\n\
                        queries:\n  jobs: {database: claps, sql: SELECT 1}\n  gone: {database: old, sql: SELECT 2}\n";

    fn config(yaml: &str) -> Config {
        Config::parse(yaml, &Environment::default()).expect("a good configuration")
    }

    #[test]
    fn a_change_is_told_by_its_key_and_of_some_keys_by_its_values() {
        let before = config(FILE);
        for (from, to, changes) in [
            ("SELECT 1", "SELECT 3", "queries.jobs.sql"),
            ("gone:", "new:", "queries.gone removed, queries.new added"),
            ("password: secret", "password: changed", "the value of a secret"),
            ("password: secret", "password: secret, pool_size: 9", "databases.claps.pool_size (4 to 9)"),
            ("password: secret", "password: secret, port: 9", "databases.claps.port"),
            ("user: scaler, password", "user: another, password", "databases.claps.user"),
            ("old: {", "old: {enabled: false, ", "databases.old.enabled (true to false)"),
            (
                "sql: SELECT 1",
                "sql: SELECT 1, target: 50, max_age: 1h",
                "queries.jobs.max_age (1s to 1h), queries.jobs.target (1 to 50)",
            ),
            (
                "sql: SELECT 1",
                "sql: SELECT 1, namespaces: [shop, bill]",
                "queries.jobs.namespaces ([*] to [shop; bill])",
            ),
            ("gone:", "gone.v2:", "queries.\"gone.v2\" added, queries.gone removed"),
            ("databases:", "server: {reflection: false}\ndatabases:", "server.reflection"),
            ("FILE", "FILE", "no key, and no file that it names"),
        ] {
            let now = config(&FILE.replace(from, to));
            assert_eq!(now.changes_since(&before, &BTreeSet::new()), changes, "{from} to {to}");
        }
    }

    #[test]
    fn a_file_is_told_by_the_database_that_names_it() {
        let mut password = tempfile::NamedTempFile::new().expect("a temporary file");
        password.write_all(b"secret").expect("it is ours");
        let path = password.path();
        let with_file = FILE.replace("password: secret", &format!("password: {{file: {}}}", path.display()));
        let before = config(&with_file);
        let changed = |file: &Path, now: &Config| now.changes_since(&before, &BTreeSet::from([file.to_owned()]));
        assert_eq!(changed(path, &before), "databases.claps (a file that it names)");
        assert_eq!(changed(Path::new("clapometer.yaml"), &before), "no key, and no file that it names");
        let now = config(&with_file.replace("user: scaler, password", "user: scaler, pool_size: 9, password"));
        let both = "databases.claps (a file that it names), databases.claps.pool_size (4 to 9)";
        assert_eq!(changed(path, &now), both);
    }

    #[test]
    fn the_inventory_has_names_and_counts() {
        let text = FILE.replace("old: {", "old: {enabled: false, ");
        let inventory = config(&text).inventory(Some(Path::new("/etc/clapometer/clapometer.yaml")));
        let expected = Inventory {
            file: "/etc/clapometer/clapometer.yaml".to_owned(),
            databases: "claps, old (disabled)".to_owned(),
            queries: "gone, jobs".to_owned(),
            built_in_queries: inventory.built_in_queries,
            query_files: None,
            pool_connections: 8,
        };
        assert_eq!(inventory, expected);
        assert!(inventory.built_in_queries > 0);
    }

    #[test]
    fn a_hundred_queries_are_twenty_and_a_number() {
        let names = (0..100).map(|number| format!("q{number}"));
        assert!(listed(names).ends_with("q19 and 80 more"));
    }
}
