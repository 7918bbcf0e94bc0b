//! The databases and namespaces that the queries of one file may use.

use std::collections::BTreeSet;

use super::{
    key::{DefaultValue, Key, Kind},
    section::Section,
};
use crate::{
    diagnostics::{nearest, quoted},
    query::Namespaces,
};

pub(super) const DATABASE: Key = Key::new(
    "database",
    Kind::Text,
    DefaultValue::Derived("the only one"),
    "The database to ask. Required if there are several.",
)
.instead_of(&["db", "dbname"]);

pub(super) const DATABASES: Key = Key::new(
    "databases",
    Kind::List { of: "databases", such_as: "such as [s0, s1]" },
    DefaultValue::Derived("none"),
    "In place of `database`, for a queue in shards: the statement runs on each of these, all at once, and the sums \
     are reported; groups are added up by key. If one of them does not answer, or is not enabled, that is a fault \
     of the whole: a missing shard never makes a sum smaller. See [scale.md](scale.md).",
)
.instead_of(&["dbs", "shards"]);

/// The databases and namespaces that the queries of one file may use.
pub(super) struct Bounds<'a> {
    /// The databases.
    pub(super) databases: &'a BTreeSet<String>,
    /// The namespaces that a query file may open its queries to; none for the main file, which gives the rules.
    pub(super) namespaces: Option<&'a Namespaces>,
}

impl Bounds<'_> {
    /// Notes a fault if a section opens something to a namespace that it may not open it to.
    pub(super) fn check(&self, section: &Section<'_>, found: &Namespaces) {
        let Some(Namespaces::Only(allowed)) = self.namespaces else { return };
        let beyond = match found {
            Namespaces::All => Some("*"),
            Namespaces::Only(names) => names.iter().find(|name| !allowed.contains(name)).map(String::as_str),
        };
        if let Some(name) = beyond {
            let allowed = allowed.join(", ");
            let right = format!("must be among those that the main file gives this file: {allowed}");
            section.fault("namespaces", format!("found {}, {right}", quoted(name)));
        }
    }

    /// Reads the databases that a query asks. Without a key it is the `preferred` one.
    pub(super) fn databases_of(&self, section: &Section<'_>, preferred: Option<&str>) -> Option<Vec<String>> {
        let names = section.texts("databases");
        if !section.has("databases") {
            return self.only_database(section, preferred).map(|name| vec![name]);
        }
        section.refuse("database", "must not stand beside databases; name it in one of the two");
        let names = names?;
        if names.is_empty() {
            section
                .fault("databases", "is empty, so nothing would be counted; name the shards, or use database for one");
        }
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                section.fault("databases", format!("has {} twice, so its rows would count twice", quoted(name)));
            } else if !self.databases.contains(name) {
                let known = known_databases(name, self.databases);
                section
                    .fault("databases", format!("found {}, must be names of {}; {known}", quoted(name), self.words()));
            }
        }
        Some(names)
    }

    fn only_database(&self, section: &Section<'_>, preferred: Option<&str>) -> Option<String> {
        let databases = self.databases;
        if preferred.is_none() && !section.has("database") {
            let names: Vec<&str> = databases.iter().map(String::as_str).collect();
            let message = match names[..] {
                [] => "is missing, and there is no database to be the default; add one under databases".to_owned(),
                _ => format!(
                    "is missing; with several databases it must name one ({}), or databases must name the shards",
                    names.join(", ")
                ),
            };
            section.fault("database", message);
        }
        let entry = section.entry_or("database", preferred)?;
        let name = entry.filled_text()?;
        if !databases.contains(&name) {
            let known = known_databases(&name, databases);
            entry.wrong(&format!("the name of one of {}; {known}", self.words()));
        }
        Some(name)
    }

    /// Returns what a name of a database must be one of, in words.
    fn words(&self) -> &'static str {
        if self.namespaces.is_some() { "the databases that this file may use" } else { "databases" }
    }
}

fn known_databases(name: &str, databases: &BTreeSet<String>) -> String {
    match nearest(name, databases.iter().map(String::as_str)) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("known here: {}", databases.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
    }
}
