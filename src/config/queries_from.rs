//! The section `queries_from`: the directory with the files of teams, and what each of them may use.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::{
    key::{DefaultValue, Key, Kind, References},
    query,
    section::Section,
};
use crate::{
    diagnostics::quoted,
    query::{METRIC_NAME, Namespaces, is_metric_name},
};

/// The keys of `queries_from`.
pub(super) const KEYS: &[Key] = &[
    Key::new(
        "path",
        Kind::Path,
        DefaultValue::Required("the directory with the query files"),
        "The directory. Each `*.yaml` in it whose name does not start with a dot is a query file.",
    )
    .instead_of(&["directory", "dir"]),
    Key::new(
        "files",
        Kind::Named { keys: FILE_KEYS, references: References::Refused, rules: None },
        DefaultValue::Derived("every file may use every database and every namespace"),
        "The query files that are served, by name without `.yaml`, and what each may use. A file that is not listed \
         serves nothing.",
    )
    .instead_of(&["teams"]),
];

/// The keys of `queries_from.files.<file>`.
const FILE_KEYS: &[Key] = &[
    Key::new(
        "databases",
        Kind::List { of: "names of databases", such_as: "such as [claps]" },
        DefaultValue::Derived("every database"),
        "The databases that the file's queries may ask. If it is one, it is their default.",
    )
    .instead_of(&["database"]),
    Key::new(
        "namespaces",
        Kind::List { of: "Kubernetes namespaces", such_as: "or [\"*\"] for all" },
        DefaultValue::Is("[\"*\"]"),
        "The Kubernetes namespaces that the file may open its queries to; also their default.",
    )
    .instead_of(&["namespace"]),
];

/// The place of the query files, and what each may use.
#[derive(Debug, Clone, PartialEq)]
pub struct QueriesFrom {
    /// The directory.
    pub path: PathBuf,
    /// The allowance of each file, by its name without `.yaml`; absent: every file may use everything.
    pub(super) files: Option<BTreeMap<String, Allowance>>,
}

/// The databases and namespaces that a query file may use.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Allowance {
    pub(super) databases: BTreeSet<String>,
    pub(super) namespaces: Namespaces,
}

impl QueriesFrom {
    /// Returns what a file may use; nothing if it is not listed. `databases` are all that there are.
    pub(super) fn allowance(&self, file: &str, databases: impl Iterator<Item = String>) -> Option<Allowance> {
        match &self.files {
            Some(files) => files.get(file.strip_suffix(".yaml").unwrap_or(file)).cloned(),
            None => Some(Allowance { databases: databases.collect(), namespaces: Namespaces::All }),
        }
    }
}

/// Reads `queries_from`; nothing if a value is wrong. `databases` are the names of all that there are.
pub(super) fn read(section: &Section<'_>, databases: &BTreeSet<String>) -> Option<QueriesFrom> {
    let path = section.text("path").map(PathBuf::from);
    let listed = section.section("files");
    let files = listed.is_present().then(|| {
        let allowances = listed.named().into_iter().map(|(name, file)| {
            if !is_metric_name(name) || name.ends_with(".yaml") {
                file.own_fault(format!("must be a file's name without .yaml, {METRIC_NAME}"));
            }
            Some((name.to_owned(), allowance(&file, databases)?))
        });
        // Every file is read, so that all faults are told at once.
        let allowances: Vec<_> = allowances.collect();
        allowances.into_iter().collect::<Option<BTreeMap<_, _>>>()
    });
    section.finish();
    let files = match files {
        Some(files) => Some(files?),
        None => None,
    };
    Some(QueriesFrom { path: path?, files })
}

fn allowance(section: &Section<'_>, all: &BTreeSet<String>) -> Option<Allowance> {
    let databases = match section.texts("databases") {
        Some(names) => {
            for name in names.iter().filter(|name| !all.contains(*name)) {
                let known: Vec<&str> = all.iter().map(String::as_str).collect();
                let right = format!("must be names of databases: {}", known.join(", "));
                section.fault("databases", format!("found {}, {right}", quoted(name)));
            }
            Some(names.into_iter().collect())
        }
        None if section.has("databases") => None,
        None => Some(all.clone()),
    };
    let namespaces = query::namespaces(section, None);
    section.finish();
    Some(Allowance { databases: databases?, namespaces: namespaces? })
}
