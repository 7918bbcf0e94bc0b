//! The query files of teams: what stands in the directory of `queries_from`, and what of it is in force.
//!
//! A fault in one of these files is that file's alone. Its last good version stays in force, and nothing else changes.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::OFlags;

use super::{
    Config, QUERIES, bounded_text,
    bounds::Bounds,
    builtin,
    effective::Effective,
    key::{DefaultValue, Key, Kind},
    queries_from::{Allowance, QueriesFrom},
    query,
    section::Section,
    site::Context,
    source::{Environment, Tree},
    yaml, yaml_sql,
};
use crate::{
    diagnostics::{Diagnostic, Diagnostics, Location, Misconfiguration},
    file,
    query::Query,
};

/// Far more than a cluster has teams. Directories that are no query files' have more, and are not read to their end.
const MOST_FILES: usize = 1_000;

/// Far more than a team needs, and few enough that a reload stays quick for all others.
const MOST_QUERIES: usize = 1_000;

/// The longest time that the whole directory may take. A disk needs milliseconds for all its files.
const WITHIN: Duration = Duration::from_secs(5);

/// The keys of a query file.
const KEYS: &[Key] = &[
    Key::new(
        "namespaces",
        Kind::List { of: "Kubernetes namespaces", such_as: "or [\"*\"] for all" },
        DefaultValue::Derived("those that the main file gives the file"),
        "The namespaces of the queries that name none.",
    ),
    QUERIES,
];

/// The content of the directory of `queries_from` at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing(Result<BTreeMap<String, Content>, String>);

/// The text of a file, or why there is none.
type Content = Result<Arc<str>, String>;

impl QueriesFrom {
    /// Reads the directory, of which each file is bounded. Blocks, for twice [`WITHIN`] at most.
    pub fn listing(&self) -> Listing {
        let listed = file::aside(&self.path, WITHIN, list);
        listed.unwrap_or_else(|error| Listing(Err(format!("cannot be listed: {error}"))))
    }
}

impl Listing {
    /// Forgets a file that is none of the query files.
    pub(super) fn leave_out(&mut self, name: &str) {
        if let Ok(contents) = &mut self.0 {
            contents.remove(name);
        }
    }
}

fn list(directory: &Path) -> io::Result<Listing> {
    let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let is_one = |name: &io::Result<String>| name.as_ref().map_or(true, |name| is_query_file(name));
    let mut names: Vec<String> = names.filter(is_one).collect::<Result<_, _>>()?;
    names.sort_unstable();
    if let Some(beyond) = names.len().checked_sub(MOST_FILES).filter(|beyond| *beyond > 0) {
        return Ok(Listing(Err(format!("has {beyond} files more than {MOST_FILES}, which is the most"))));
    }
    Ok(Listing(Ok(names.into_iter().map(|name| (name.clone(), content(&directory.join(name)))).collect())))
}

fn is_query_file(name: &str) -> bool {
    name.ends_with(".yaml") && !name.starts_with('.')
}

/// Reads one file. It belongs to somebody else, so that a pipe must not block, and nothing but a small text is taken.
fn content(path: &Path) -> Content {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let cannot = |error: io::Error| format!("cannot be read: {error}");
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(cannot)?;
    if !file.metadata().map_err(cannot)?.is_file() {
        return Err("is not a regular file".to_owned());
    }
    Ok(bounded_text(file)?.into())
}

/// The state of the query files.
#[derive(Debug, Clone, Default)]
pub struct QueryFiles {
    /// The directory; none without `queries_from`.
    pub directory: Option<PathBuf>,
    /// The reason why the directory cannot be listed.
    pub unlisted: Option<String>,
    /// The files by name.
    pub files: BTreeMap<String, QueryFile>,
}

/// One query file.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryFile {
    /// The part of it that is in force.
    pub state: QueryFileState,
    /// The faults in it as it is now.
    pub faults: Option<Misconfiguration>,
    last_good: Option<Arc<str>>,
}

/// The part of a query file that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryFileState {
    /// All of it, but for the names that others have.
    InForce,
    /// Its last good version.
    LastGood,
    /// Nothing.
    NotServed,
}

/// The good content of one query file.
struct Taken {
    queries: BTreeMap<String, Arc<Query>>,
    lines: BTreeMap<String, Location>,
    effective: Effective,
}

impl QueryFiles {
    /// Returns whether something is wrong with the directory or a file.
    pub fn has_faults(&self) -> bool {
        self.unlisted.is_some() || self.files.values().any(|file| file.faults.is_some())
    }

    /// Returns the path of a file.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.as_deref().unwrap_or_else(|| Path::new("")).join(file)
    }

    /// Returns every fault, each file's together.
    pub fn faults(&self) -> Vec<Misconfiguration> {
        let directory = self
            .directory
            .clone()
            .zip(self.unlisted.clone())
            .map(|(path, problem)| Misconfiguration::whole(path, problem));
        directory.into_iter().chain(self.files.values().filter_map(|file| file.faults.clone())).collect()
    }
}

impl Config {
    /// Adds the queries of the query files that are there now. Elsewhere than where the configuration is served, a
    /// directory that is not there is passed over with a note.
    pub(super) fn with_files_of_directory(mut self, environment: &Environment) -> Self {
        let Some(from) = &self.queries_from else { return self };
        if environment.is_elsewhere() && !file::exists(&from.path) {
            let message = "is not there, so no query file was looked at; give --config a directory with both";
            self.notes.push(Misconfiguration::whole(from.path.clone(), message));
            return self;
        }
        let listing = from.listing();
        self.with_query_files(Some(&listing), &QueryFiles::default())
    }

    /// Adds the queries of the query files to a configuration that is the main file's alone.
    ///
    /// Of a file that is wrong its last good version in `before` is taken, as far as the main file still allows it.
    #[must_use]
    pub fn with_query_files(mut self, listing: Option<&Listing>, before: &QueryFiles) -> Self {
        let (Some(from), Some(listing)) = (self.queries_from.clone(), listing) else { return self };
        let mut result = QueryFiles { directory: Some(from.path.clone()), ..QueryFiles::default() };
        let contents = match &listing.0 {
            Ok(contents) => contents.clone(),
            Err(problem) => {
                result.unlisted = Some(problem.clone());
                let last_good = |file: &QueryFile| Some(Ok(Arc::clone(file.last_good.as_ref()?)));
                before.files.iter().filter_map(|(name, file)| Some((name.clone(), last_good(file)?))).collect()
            }
        };
        let mut owners: BTreeMap<String, (PathBuf, Location)> = BTreeMap::new();
        for (name, content) in contents {
            let path = from.path.join(&name);
            let known = before.files.get(&name);
            let read = match content {
                Ok(text) => self.query_file(&name, &text).map(|taken| (taken, text)),
                Err(problem) => Err(Misconfiguration::whole(path.clone(), problem)),
            };
            let (taken, mut file) = match read {
                Ok((taken, text)) => {
                    let file = QueryFile { state: QueryFileState::InForce, faults: None, last_good: Some(text) };
                    (Some(taken), file)
                }
                Err(faults) => {
                    let last_good = known.and_then(|file| file.last_good.clone());
                    let taken = last_good.as_ref().and_then(|text| self.query_file(&name, text).ok());
                    let state = if taken.is_some() { QueryFileState::LastGood } else { QueryFileState::NotServed };
                    let last_good = last_good.filter(|_| taken.is_some());
                    (taken, QueryFile { state, faults: Some(faults), last_good })
                }
            };
            if let Some(taken) = taken {
                let clashes = self.add(taken, &path, &mut owners);
                if !clashes.is_empty() && file.faults.is_none() {
                    file.faults = Some(Misconfiguration::new(Some(path), clashes));
                }
            }
            // A directory that cannot be listed says nothing new about its files.
            if result.unlisted.is_some() {
                file.faults = known.and_then(|file| file.faults.clone());
            }
            result.files.insert(name, file);
        }
        self.query_files = result;
        self
    }

    /// Adds the queries of one file whose names are free, and returns a fault for each of the others.
    fn add(
        &mut self,
        taken: Taken,
        path: &Path,
        owners: &mut BTreeMap<String, (PathBuf, Location)>,
    ) -> Vec<Diagnostic> {
        let mut clashes = Vec::new();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        for (name, query) in taken.queries {
            let location = taken.lines.get(&name).cloned().unwrap_or(Location::Whole);
            let message = if let Some((other, line)) = owners.get(&name) {
                let rule = "of query files, the first by file name keeps a name";
                format!("the name is taken by {}{}; {rule}; give this query another", other.display(), at(line))
            } else if builtin::is_builtin(&name) {
                "is the name of a built-in query; give this query another".to_owned()
            } else if self.queries.contains_key(&name) {
                let line = self.effective.location(&["queries", &name]).map(at).unwrap_or_default();
                format!("the name is taken by the main file{line}; give this query another")
            } else {
                owners.insert(name.clone(), (path.to_owned(), location));
                self.effective.take_query(&name, &taken.effective);
                self.origins.insert(name.clone(), file.clone().into_owned());
                self.queries.insert(name, query);
                continue;
            };
            clashes.push(Diagnostic { path: format!("queries.{name}"), location, message });
        }
        clashes
    }

    /// Reads the text of one query file by the main file's rules.
    fn query_file(&self, name: &str, text: &str) -> Result<Taken, Misconfiguration> {
        let path = self.queries_from.as_ref().map(|from| from.path.join(name));
        let Some(allowance) = self.allowance(name)? else {
            let message = "is not listed under queries_from.files of the main file, so none of its queries is served";
            return Err(Misconfiguration::whole(path.unwrap_or_default(), message));
        };
        let diagnostics = Diagnostics::default();
        let tree = yaml::tree(text, "queries", &diagnostics);
        yaml_sql::check(text, &tree, &diagnostics);
        if let (Some(count), true) = (too_many(&tree), diagnostics.is_empty()) {
            diagnostics.add(
                Location::Whole,
                "queries",
                format!("has {count} queries, must have at most {MOST_QUERIES}"),
            );
        }
        if !diagnostics.is_empty() {
            return Err(diagnostics.into_error(path));
        }
        let effective = Effective::of_query_file(name);
        let environment = Environment::default();
        let context = Context {
            tree: &tree,
            environment: &environment,
            diagnostics: &diagnostics,
            effective: RefCell::new(effective),
        };
        let queries = read(&Section::root(&context, KEYS), &allowance);
        let effective = context.effective.take();
        if !diagnostics.is_empty() {
            return Err(diagnostics.into_error(path));
        }
        let line = |name: &String| tree.places.get(&["queries".to_owned(), name.clone()][..]).cloned();
        let lines = queries.keys().filter_map(|name| Some((name.clone(), line(name)?))).collect();
        Ok(Taken { queries, lines, effective })
    }

    fn allowance(&self, name: &str) -> Result<Option<Allowance>, Misconfiguration> {
        let Some(from) = &self.queries_from else { return Ok(None) };
        // A ConfigMap takes these characters for a key; and no other gets into the log and the metrics.
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            let message = "the file's name must be letters, digits, '-', '_' and '.'";
            return Err(Misconfiguration::whole(from.path.join(name), message));
        }
        Ok(from.allowance(name, self.databases.keys().chain(&self.unknown_databases).cloned()))
    }
}

fn read(root: &Section<'_>, allowance: &Allowance) -> BTreeMap<String, Arc<Query>> {
    let Allowance { databases, namespaces: allowed } = allowance;
    let bounds = Bounds { databases, namespaces: Some(allowed) };
    let default = query::namespaces(root, Some(allowed));
    if let Some(default) = &default {
        bounds.check(root, default);
    }
    let section = root.section("queries");
    if !root.has("queries") {
        root.fault("queries", "is missing; give the queries by name");
    }
    let (queries, _) = query::read(&section, &bounds, default.as_ref());
    root.finish();
    queries
}

fn too_many(tree: &Tree) -> Option<usize> {
    let queries = tree.values.get("queries")?.clone().into_table().ok()?.len();
    (queries > MOST_QUERIES).then_some(queries)
}

/// The line of a location, to follow a file's name.
fn at(location: &Location) -> String {
    match location {
        Location::Line(line) => format!(":{line}"),
        Location::Variable(name) => format!(" ({name})"),
        Location::Whole => String::new(),
    }
}
