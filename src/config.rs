//! The configuration: what an operator writes, checked into types that need no second look.
//!
//! Data flows one way, in a file or two for each step. `yaml` and `source` gather the file and the environment
//! into one tree that remembers where each key stands. `server`, `admin`, `database` and `query`
//! have the table of keys, and read the tree by it into types, noting every fault. `effective` has
//! the values that they took, for `clapometer config`; `schema` and `reference` write the table in other forms.
//! Nothing here connects to anything.

mod admin;
mod builtin;
mod database;
pub(crate) mod duration;
mod effective;
mod entry;
mod key;
mod preset;
mod query;
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
};

pub use self::{
    admin::Admin,
    database::Database,
    server::{Server, ServerTls},
    source::{Environment, PREFIX},
    summary::Inventory,
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
        BUILT_IN_QUERIES,
        Kind::Boolean,
        DefaultValue::Is("true"),
        "Whether there are the built-in queries, see below. `false`: only those that are written.",
    ),
    Key::new(
        "queries",
        Kind::Named { keys: query::KEYS, references: References::Refused, rules: Some(preset::rules) },
        DefaultValue::Derived("the built-in queries"),
        "Queries by name, which is the metric's name, too.",
    ),
];

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
    /// Queries by name, the built-in ones included.
    pub queries: BTreeMap<String, Arc<Query>>,
    /// The names of the built-in queries that nothing has changed.
    built_in: BTreeSet<String>,
    /// The values that were read, as `clapometer config` shows them.
    effective: Effective,
}

/// Compares the values in force; where they were set makes no difference.
impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        let Self { server, admin, databases, queries, built_in: _, effective: _ } = self;
        (server, admin, databases, queries) == (&other.server, &other.admin, &other.databases, &other.queries)
    }
}

impl Config {
    /// Reads the file, if there is one, and the environment.
    ///
    /// If the file has no databases, libpq's environment is the database `claps`. Blocks, because it
    /// reads small files.
    ///
    /// # Errors
    /// Returns every fault of the configuration.
    pub fn load(path: Option<&Path>, environment: &Environment) -> Result<Self, Misconfiguration> {
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
        let file = yaml.map(|yaml| yaml::tree(yaml, &diagnostics)).unwrap_or_default();
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
        let tree = with(if is_off { Tree::default() } else { builtin::tree(&file) }, &diagnostics);
        let libpq = if file_has_databases || names_another_database(&tree) {
            None
        } else {
            ConnectionSource::from_environment(&|name| environment.get(name).map(str::to_owned))
                .inspect_err(|faults| diagnostics.extend(faults))
                .ok()
        };
        let context = Context { tree: &tree, environment, diagnostics: &diagnostics, effective: RefCell::default() };
        let config = Self::read(&context, libpq.as_ref());
        match config {
            Some(config) if diagnostics.is_empty() => Ok(config),
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
        // By name, not by what could be made of them: a query must not be blamed for its database.
        let names = databases.keys().map(String::as_str).chain(section.names()).map(str::to_owned).collect();
        root.boolean(BUILT_IN_QUERIES);
        let (queries, built_in) = query::read(&root.section("queries"), &names);
        root.finish();
        let effective = context.effective.take();
        Some(Self { server: server?, admin: admin?, databases, queries, built_in, effective })
    }

    /// Returns whether a query is built in and nothing has changed it.
    pub fn is_builtin(&self, query: &str) -> bool {
        self.built_in.contains(query)
    }

    /// The configuration in force as YAML, with passwords redacted; each key says where it was set.
    ///
    /// Loading it gives the same configuration, but for the passwords and for a password file of
    /// libpq's environment.
    pub fn effective_yaml(&self) -> String {
        self.effective.yaml()
    }

    /// The same as JSON, which loads as a configuration, too.
    pub fn effective_json(&self) -> String {
        self.effective.json()
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
        if let Some(ServerTls { cert, key, client_ca, client_names: _ }) = &self.server.tls {
            files.extend([Some(cert), Some(key), client_ca.as_ref()].into_iter().flatten().cloned());
        }
        files.sort();
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

fn file_text(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    file.take(source::LARGEST_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if u64::try_from(text.len()).is_ok_and(|length| length > source::LARGEST_FILE) {
        return Err("is larger than 1 MiB, which no configuration is".into());
    }
    Ok(text)
}
