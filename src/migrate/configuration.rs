//! The configuration that the triggers become.

use std::{collections::BTreeSet, fmt::Write};

use super::{
    builtin::{Builtin, PARTS, Part, Server},
    origin::Origin,
    plan::{Database, Plan, Query},
};
use crate::{
    config::{Config, Environment},
    query::ParameterKind,
    yaml::{block, quoted, scalar},
};

/// The directory in which the chart mounts Secrets.
const SECRETS: &str = "/secrets";

/// Stands for what is in a Secret while a configuration is tried.
const PLACEHOLDER: &str = "placeholder";

/// A value that a person puts into the Secret of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needed {
    /// Its key in that Secret.
    pub(super) key: &'static str,
    /// The place where it is today; several places for one password.
    pub(super) origins: Vec<Origin>,
}

/// Returns the name of the Secret for a database, in clapometer's namespace.
pub(super) fn secret(database: &Database) -> String {
    format!("clapometer-{}", database.name)
}

/// Returns what a database needs in its Secret.
pub(super) fn needed(database: &Database) -> Vec<Needed> {
    let mut needed = Vec::new();
    match &database.server {
        Server::String(origin) => needed.push(Needed { key: "url", origins: vec![origin.clone()] }),
        Server::Parts(parts) => {
            for ((_, key), part) in PARTS.iter().zip(parts) {
                if let Part::From(origin) = part {
                    needed.push(Needed { key, origins: vec![origin.clone()] });
                }
            }
            if !database.passwords.is_empty() {
                needed.push(Needed { key: "password", origins: database.passwords.iter().cloned().collect() });
            }
        }
    }
    needed
}

/// Returns the whole file.
pub(super) fn text(plan: &Plan) -> String {
    let mut text = String::from(
        "# Written by `clapometer migrate`. The report beside it says which Secrets this file needs, and what to look at.\n\
         built_in_queries: false         # those of postgres-batch; leave the line out where its tables are\n\
         databases:\n",
    );
    for database in &plan.databases {
        text.push_str(&database_text(database, Secrets::Named));
    }
    text.push_str("queries:\n");
    for query in &plan.queries {
        let database = plan.databases.get(query.database).map_or_else(String::new, |database| scalar(&database.name));
        text.push_str(&query_text(query, &database));
    }
    text
}

/// The form in which the values of Secrets are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Secrets {
    /// As references to files.
    Named,
    /// As anything that reads.
    Invented,
}

fn database_text(database: &Database, secrets: Secrets) -> String {
    let mut text = format!("  {}:\n", scalar(&database.name));
    let mut line = |key: &str, value: &str| writeln!(text, "    {key}: {value}").expect("a String takes everything");
    let file = |key: &str| match secrets {
        Secrets::Named => format!("{{file: {SECRETS}/{}/{key}}}", secret(database)),
        Secrets::Invented if key == "url" => "postgres://placeholder@localhost/placeholder".to_owned(),
        Secrets::Invented if key == "port" => "5432".to_owned(),
        Secrets::Invented if key == "sslmode" => "disable".to_owned(),
        Secrets::Invented => PLACEHOLDER.to_owned(),
    };
    match &database.server {
        Server::String(_) => line("url", &file("url")),
        Server::Parts(parts) => {
            let mut several_hosts = false;
            for ((_, key), part) in PARTS.iter().zip(parts) {
                match part {
                    Part::From(_) => line(key, &file(key)),
                    Part::Text(value) if *key == "port" && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                        line(key, value);
                    }
                    // The nearest equivalent: TLS if the server has it, unverified.
                    Part::Text(value) if *key == "sslmode" && value == "allow" => line(key, "prefer"),
                    Part::Text(value) => line(key, &scalar(value)),
                }
                several_hosts |= *key == "host" && matches!(part, Part::Text(hosts) if hosts.contains(','));
                if *key == "user" && !database.passwords.is_empty() {
                    line("password", &file("password"));
                }
            }
            if several_hosts {
                // KEDA takes the first that answers.
                line("target_session_attrs", "any");
            }
        }
    }
    text
}

fn query_text(query: &Query, database: &str) -> String {
    let sql = block(&query.sql, 4).map_or_else(|| quoted(&query.sql) + "\n", |lines| format!("|-\n{lines}"));
    let mut text = format!("  {}:\n    database: {database}\n    sql: {sql}", scalar(&query.name));
    let mut line = |key: &str, value: String| writeln!(text, "    {key}: {value}").expect("a String takes everything");
    if !query.parameters.is_empty() {
        let parameters = query.parameters.iter().map(|(name, kind)| format!("{}: {}", scalar(name), kind_name(*kind)));
        line("parameters", format!("{{{}}}", parameters.collect::<Vec<_>>().join(", ")));
    }
    if let Some(namespaces) = &query.namespaces {
        let namespaces: Vec<String> = namespaces.iter().map(|namespace| scalar(namespace)).collect();
        line("namespaces", format!("[{}]", namespaces.join(", ")));
    }
    text
}

/// Returns the configuration's word for a type of parameters that migrations use.
fn kind_name(kind: ParameterKind) -> &'static str {
    if kind == ParameterKind::Bigint { "bigint" } else { "text" }
}

/// Says why clapometer would refuse a trigger's database or query, if it would.
pub(super) fn faults(builtin: &Builtin, namespace: Option<&str>) -> Vec<String> {
    let database = Database {
        name: "database".to_owned(),
        server: builtin.connection.server.clone(),
        passwords: builtin.connection.password.iter().cloned().collect(),
    };
    let query = Query {
        name: "query".to_owned(),
        database: 0,
        sql: builtin.sql.clone(),
        parameters: Vec::new(),
        namespaces: namespace.map(|namespace| BTreeSet::from([namespace.to_owned()])),
    };
    let text = format!(
        "built_in_queries: false\ndatabases:\n{}queries:\n{}",
        database_text(&database, Secrets::Invented),
        query_text(&query, &database.name)
    );
    let Err(misconfiguration) = Config::parse(&text, &Environment::default()) else { return Vec::new() };
    let mut faults: Vec<(&str, String)> = Vec::new();
    for fault in misconfiguration.iter() {
        let key = fault.path.rsplit('.').next().unwrap_or(&fault.path);
        // One reason for each key is enough.
        if !faults.iter().any(|(known, _)| *known == key) {
            faults.push((key, format!("clapometer's configuration refuses its {key}: {}", fault.message)));
        }
    }
    faults.into_iter().map(|(_, reason)| reason).collect()
}
