//! The configuration that an operator writes, parsed into types that need no further checks.
//!
//! Data flows one way, in a file or two for each step. `yaml` and `source` gather the file and the environment into one
//! tree that remembers the place of each key. `server`, `admin`, `database` and `query` have the table of keys, and
//! read the tree by it into types, noting every fault. `effective` has the values that they took, for `clapometer
//! config`; `schema` and `reference` write the table in other forms. Nothing here connects to anything.

mod admin;
mod bounds;
mod budget;
mod builtin;
mod database;
pub(crate) mod duration;
mod effective;
mod entry;
mod key;
mod preset;
mod queries_from;
mod query;
mod query_files;
#[cfg(test)]
mod reference;
mod schema;
mod section;
mod server;
mod site;
mod source;
mod summary;
mod yaml;
mod yaml_sql;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub(crate) use self::source::variable_name;
pub use self::{
    admin::Admin,
    database::Database,
    queries_from::QueriesFrom,
    query_files::{Listing, QueryFile, QueryFileState, QueryFiles},
    server::{Server, ServerTls},
    source::{Environment, PREFIX},
    summary::{Inventory, NO_CHANGE, part_of_key},
};
use self::{
    effective::Effective,
    key::{DefaultValue, Key, Kind, References},
    section::Section,
    site::Context,
    source::Tree,
};
use crate::{
    conninfo::ConnectionSource,
    diagnostics::{Diagnostics, Location, Misconfiguration},
    file,
    query::Query,
};

/// The sections of the file.
const KEYS: &[Key] = &[
    Key::new(
        "server",
        Kind::Mapping(server::KEYS),
        DefaultValue::Derived("its defaults"),
        "Where and how gRPC is served.",
    ),
    Key::new(
        "admin",
        Kind::Mapping(admin::KEYS),
        DefaultValue::Derived("its defaults"),
        "Probes and metrics over HTTP.",
    ),
    Key::new(
        "databases",
        Kind::Named { keys: database::KEYS, references: References::Allowed, rules: None },
        DefaultValue::Derived("libpq's environment"),
        "Databases by name.",
    ),
    Key::new(
        "queries_from",
        Kind::Mapping(queries_from::KEYS),
        DefaultValue::Derived("no query files"),
        "A directory with query files: a file for each team.",
    ),
    Key::new(
        BUILT_IN_QUERIES,
        Kind::Boolean,
        DefaultValue::Is("true"),
        "Whether there are the built-in queries, see below. `false`: only those that are written.",
    ),
    QUERIES,
];

/// The queries of the main file, and of a query file.
const QUERIES: Key = Key::new(
    "queries",
    Kind::Named { keys: query::KEYS, references: References::Refused, rules: Some(preset::rules) },
    DefaultValue::Derived("the built-in queries"),
    "Queries by name, which is the metric's name, too.",
);

/// The name of the main file in a directory that is given in its place.
pub const MAIN_FILE: &str = "clapometer.yaml";

/// The keys of which a file must have one, for the fault of an empty file.
const NEEDED: &str = "at least one of server, admin, databases, queries";

/// The key that leaves the built-in queries out.
pub(crate) const BUILT_IN_QUERIES: &str = "built_in_queries";

/// The configuration of `clapometer serve`.
#[derive(Debug, Clone)]
pub struct Config {
    /// The gRPC side.
    pub server: Server,
    /// The HTTP side: probes and metrics.
    pub admin: Admin,
    /// Databases by name.
    pub databases: BTreeMap<String, Arc<Database>>,
    /// Queries by name, the built-in ones and those of the query files included.
    pub queries: BTreeMap<String, Arc<Query>>,
    /// The place of the query files.
    pub queries_from: Option<QueriesFrom>,
    /// The query files, and what of them is in force.
    pub query_files: QueryFiles,
    /// The files and variables that the configuration refers to and that are missing, if they may be: see
    /// [`Environment::elsewhere`].
    pub notes: Vec<Misconfiguration>,
    /// The databases that such a reference leaves unknown. They are not in `databases`.
    pub unknown_databases: BTreeSet<String>,
    /// The main file, if there is one.
    file: Option<PathBuf>,
    /// For each query of a query file the name of that file.
    origins: BTreeMap<String, String>,
    /// The names of the built-in queries that are unchanged.
    built_in: BTreeSet<String>,
    /// The values that were read, as `clapometer config` shows them.
    effective: Effective,
}

/// Compares the values in force; where they were set makes no difference.
impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        let Self { server, admin, databases, queries, .. } = self;
        (server, admin, databases, queries) == (&other.server, &other.admin, &other.databases, &other.queries)
    }
}

impl Config {
    /// Reads the file, if there is one, the environment and the query files.
    ///
    /// If the file has no databases, libpq's environment is the database `claps`. Blocks, because it
    /// reads small files.
    ///
    /// # Errors
    /// Returns every fault of the main file. Those of query files are in [`Config::query_files`].
    pub fn load(path: Option<&Path>, environment: &Environment) -> Result<Self, Misconfiguration> {
        Ok(Self::load_main(path, environment)?.with_files_of_directory(environment))
    }

    /// Reads YAML as if it stood in a file of this name, and the query files.
    ///
    /// # Errors
    /// Returns every fault of the YAML.
    pub fn load_text(name: &Path, yaml: &str, environment: &Environment) -> Result<Self, Misconfiguration> {
        Ok(Self::checked(Some(name), Some(yaml), environment)?.with_files_of_directory(environment))
    }

    /// Reads the file [`MAIN_FILE`] in a directory, with the query files that are in that directory, too: those in its
    /// subdirectory with the last name of `queries_from.path`, or without one every other `*.yaml` beside the main
    /// file.
    ///
    /// # Errors
    /// Returns every fault of the main file. One without `queries_from` is a fault.
    pub fn load_directory(directory: &Path, environment: &Environment) -> Result<Self, Misconfiguration> {
        let file = directory.join(MAIN_FILE);
        let mut main = Self::load_main(Some(&file), environment)?;
        let Some(from) = &mut main.queries_from else {
            let diagnostics = Diagnostics::default();
            let message = "is missing, so no query file is served; give --config the file itself to look at it alone";
            diagnostics.add(Location::Whole, "queries_from", message);
            return Err(diagnostics.into_error(Some(file)));
        };
        let below = directory.join(from.path.file_name().unwrap_or_default());
        let is_flat = !below.is_dir() || from.path.file_name().is_none();
        from.path = if is_flat { directory.to_owned() } else { below };
        let mut listing = from.listing();
        if is_flat {
            listing.leave_out(MAIN_FILE);
        }
        Ok(main.with_query_files(Some(&listing), &QueryFiles::default()))
    }

    /// Reads the same without the query files.
    ///
    /// # Errors
    /// Returns every fault of the main file.
    pub fn load_main(path: Option<&Path>, environment: &Environment) -> Result<Self, Misconfiguration> {
        let text = path.map(file_text).transpose();
        match text {
            Ok(text) => Self::checked(path, text.as_deref(), environment),
            Err(message) => {
                let diagnostics = Diagnostics::default();
                diagnostics.add(Location::Whole, "", message);
                Err(diagnostics.into_error(path.map(Path::to_owned)))
            }
        }
    }

    /// Reads YAML as if it stood in a file.
    ///
    /// # Errors
    /// Returns every fault of the configuration.
    pub fn parse(yaml: &str, environment: &Environment) -> Result<Self, Misconfiguration> {
        Self::checked(None, Some(yaml), environment)
    }

    fn checked(path: Option<&Path>, yaml: Option<&str>, environment: &Environment) -> Result<Self, Misconfiguration> {
        let diagnostics = Diagnostics::default();
        let file = yaml.map(|yaml| yaml::tree(yaml, NEEDED, &diagnostics)).unwrap_or_default();
        yaml_sql::check(yaml.unwrap_or_default(), &file, &diagnostics);
        if !diagnostics.is_empty() && file.places.is_empty() {
            return Err(diagnostics.into_error(path.map(Path::to_owned)));
        }
        let file_has_databases = file.values.contains_key("databases");
        let with = |builtin: Tree, diagnostics: &Diagnostics| {
            let below = source::merged(vec![builtin, file.clone()]);
            let variables = source::variables(environment, &below, diagnostics);
            source::merged(vec![below, variables])
        };
        let is_off = builtin::is_off(&with(Tree::default(), &Diagnostics::default()));
        let mut tree = with(if is_off { Tree::default() } else { builtin::tree(&file) }, &diagnostics);
        let libpq = if file_has_databases || names_another_database(&tree) {
            source::remove_databases_without_server(&mut tree, &diagnostics);
            None
        } else {
            let is_there = |name: &str, value: &str| name != "PGPASSFILE" || file::exists(Path::new(value));
            let variable =
                |name: &str| environment.get(name).filter(|value| !environment.is_elsewhere() || is_there(name, value));
            ConnectionSource::from_environment(&|name| variable(name).map(str::to_owned))
                .inspect_err(|faults| diagnostics.extend(faults))
                .ok()
        };
        let context = Context { tree: &tree, environment, diagnostics: &diagnostics, effective: RefCell::default() };
        let config = Self::read(&context, libpq.as_ref());
        match config {
            Some(config) if diagnostics.is_empty() => {
                let notes = diagnostics.take_notes();
                let notes = (!notes.is_empty()).then(|| Misconfiguration::new(path.map(Path::to_owned), notes));
                Ok(Self { file: path.map(Path::to_owned), notes: notes.into_iter().collect(), ..config })
            }
            _ => Err(diagnostics.into_error(path.map(Path::to_owned))),
        }
    }

    /// Reads the whole tree. `libpq` is the connection of the environment, if that is read.
    fn read(context: &Context<'_>, libpq: Option<&ConnectionSource>) -> Option<Self> {
        let root = Section::root(context, KEYS);
        let server = server::read(&root.section("server"));
        let section = root.section("admin");
        let admin = admin::read(&section);
        if let (Some(server), Some(admin)) = (&server, &admin)
            && server.listen == admin.listen
            && server.listen.port() != 0
        {
            let message = format!("found {}, which is server.listen too; must be another address", admin.listen);
            section.fault("listen", message);
        }
        let section = root.section("databases");
        let databases = database::read(&section, libpq);
        // By name, whether or not they are valid: a query must not be blamed for its database.
        let names: BTreeSet<String> =
            databases.keys().map(String::as_str).chain(section.names()).map(str::to_owned).collect();
        let unknown_databases = names.iter().filter(|name| !databases.contains_key(*name)).cloned().collect();
        let section = root.section("queries_from");
        let queries_from = section.is_present().then(|| queries_from::read(&section, &names)).flatten();
        root.boolean(BUILT_IN_QUERIES);
        let bounds = bounds::Bounds { databases: &names, namespaces: None };
        let (queries, built_in) = query::read(&root.section("queries"), &bounds, None);
        root.finish();
        let effective = context.effective.take();
        Some(Self {
            server: server?,
            admin: admin?,
            databases,
            queries,
            queries_from,
            notes: Vec::new(),
            unknown_databases,
            query_files: QueryFiles::default(),
            file: None,
            origins: BTreeMap::new(),
            built_in,
            effective,
        })
    }

    /// Returns where a key is set: a line of the file, or a variable.
    pub fn place(&self, path: &[&str]) -> Option<String> {
        self.effective.location(path)?.shown(self.file.as_deref())
    }

    /// Returns what shows to be wrong only once the configuration is used, each by the path of its key.
    pub fn faults<'a, const N: usize>(&self, found: impl Iterator<Item = ([&'a str; N], String)>) -> Misconfiguration {
        let diagnostics = Diagnostics::default();
        for (path, message) in found {
            let location = self.effective.location(&path).cloned().unwrap_or(Location::Whole);
            diagnostics.add(location, path.join("."), message);
        }
        diagnostics.into_error(self.file.clone())
    }

    /// Returns whether a query is built in and unchanged.
    pub fn is_builtin(&self, query: &str) -> bool {
        self.built_in.contains(query)
    }

    /// Returns the name of the query file that a query comes from.
    pub fn origin(&self, query: &str) -> Option<&str> {
        self.origins.get(query).map(String::as_str)
    }

    /// Returns the queries in the order in which they are found by their text: those of the main file by name, then
    /// those of each query file.
    pub fn queries_in_order(&self) -> Vec<&Arc<Query>> {
        let mut queries: Vec<_> = self.queries.values().collect();
        queries.sort_by_key(|query| self.origin(&query.name));
        queries
    }

    /// The configuration in force as YAML, with passwords redacted; each key says where it was set.
    ///
    /// Loading it gives the same configuration, but for the passwords and for a password file of
    /// libpq's environment.
    pub fn effective_yaml(&self) -> String {
        self.effective.flattened().yaml()
    }

    /// The same as JSON, which loads as a configuration, too.
    pub fn effective_json(&self) -> String {
        self.effective.flattened().json()
    }

    /// The JSON Schema of the configuration, in what draft-07 and 2020-12 share.
    pub fn schema() -> serde_json::Value {
        schema::document(KEYS)
    }

    /// The files that the configuration depends on, beside its own: references, password files
    /// and certificates.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            self.databases.values().flat_map(|database| database.connection.files()).collect();
        files.extend_from_slice(&self.effective.files);
        files.extend(self.server.tls.iter().flat_map(ServerTls::files).cloned());
        files.sort_unstable();
        files.dedup();
        files
    }
}

/// Returns whether variables define a database other than the one of libpq's environment.
fn names_another_database(tree: &Tree) -> bool {
    tree.places
        .keys()
        .any(|path| matches!(&path[..], [first, name, ..] if first == "databases" && name != builtin::DATABASE))
}

/// The longest time that the main file may take: it may be a pipe from a program that decrypts it.
const PATIENCE: Duration = Duration::from_secs(10);

fn file_text(path: &Path) -> Result<String, String> {
    let content = file::read_within(path, PATIENCE).map_err(|error| format!("cannot be read: {error}"))?;
    bounded_text(&content[..])
}

/// Reads the text of a configuration.
///
/// # Errors
/// Says why it cannot be read, or that it is too large to be one.
pub fn bounded_text(source: impl Read) -> Result<String, String> {
    let mut content = Vec::new();
    source
        .take(source::LARGEST_FILE + 1)
        .read_to_end(&mut content)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if u64::try_from(content.len()).is_ok_and(|length| length > source::LARGEST_FILE) {
        return Err("is larger than 1 MiB, which no configuration is".into());
    }
    String::from_utf8(content).map_err(|error| {
        let read = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = read.split(|byte| *byte == b'\n').count();
        format!("cannot be read: it is not UTF-8 (line {line}); save it as UTF-8")
    })
}
