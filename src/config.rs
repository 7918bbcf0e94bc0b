//! The configuration: what an operator writes, checked into types that need no second look.
//!
//! One way, a file or two for each step: `yaml` and `source` gather the file and the environment
//! into one tree that remembers where each key stands; `check`, `databases` and `queries` turn
//! the tree into the types here and note every fault; [`connection`] reads what may change while
//! we run (credentials in files). Nothing here connects to anything.

mod builtin;
mod check;
mod databases;
pub(crate) mod duration;
mod effective;
mod entry;
mod queries;
mod section;
mod source;
mod yaml;

use std::{
    collections::BTreeMap,
    io::Read,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use self::source::{Environment, PREFIX};
use self::{effective::Provenance, section::Context, source::Tree};
use crate::{
    conninfo::ConnectionSource,
    diagnostics::{Diagnostics, Location, Misconfiguration},
    query::Query,
};

/// Everything `clapometer serve` needs to know.
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
    /// How all this was written, for people to see.
    provenance: Provenance,
}

/// What is in force counts, not where it was written.
impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        let Self { server, admin, databases, queries, provenance: _ } = self;
        (server, admin, databases, queries) == (&other.server, &other.admin, &other.databases, &other.queries)
    }
}

impl Config {
    /// Reads the file, if there is one, and the environment.
    ///
    /// Where the file names no databases, libpq's environment is the database `claps`. Blocking:
    /// it reads small files.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
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
    /// Everything that is wrong, at once.
    pub fn parse(yaml: &str, environment: &Environment) -> Result<Self, Misconfiguration> {
        Self::checked(None, Some(yaml), environment)
    }

    fn checked(path: Option<&Path>, yaml: Option<&str>, environment: &Environment) -> Result<Self, Misconfiguration> {
        let diagnostics = Diagnostics::default();
        let file = yaml.map(|yaml| yaml::tree(yaml, &diagnostics)).unwrap_or_default();
        if !diagnostics.is_empty() && file.places.is_empty() {
            return Err(diagnostics.into_error(path.map(Path::to_owned)));
        }
        let file_has_databases = file.values.contains_key("databases");
        let below = source::merged(vec![builtin::tree(&file), file]);
        let variables = source::variables(environment, &below, &diagnostics);
        let tree = source::merged(vec![below, variables]);
        let libpq = if file_has_databases || names_another_database(&tree) {
            None
        } else {
            ConnectionSource::from_environment(&|name| environment.get(name).map(str::to_owned))
                .inspect_err(|faults| diagnostics.extend(faults))
                .ok()
        };
        let context = Context { tree: &tree, environment, diagnostics: &diagnostics };
        let config = check::config(&context, libpq.as_ref());
        if diagnostics.is_empty() { Ok(config) } else { Err(diagnostics.into_error(path.map(Path::to_owned))) }
    }

    /// The files that the configuration depends on, beside its own: references, password files
    /// and certificates.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            self.databases.values().flat_map(|database| database.connection.files()).collect();
        files.extend_from_slice(self.provenance.files());
        if let Some(ServerTls { cert, key, client_ca, client_names: _ }) = &self.server.tls {
            files.extend([Some(cert), Some(key), client_ca.as_ref()].into_iter().flatten().cloned());
        }
        files.sort();
        files.dedup();
        files
    }
}

/// Whether variables made a database that is not the one of libpq's environment.
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

/// `server`: where and how gRPC is served.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// TLS; plain text where absent.
    pub tls: Option<ServerTls>,
    /// Whether gRPC reflection is served.
    pub reflection: bool,
    /// How old a connection may get before it is asked to go away; zero: any age.
    pub connection_age: Duration,
}

/// `server.tls`: PEM files, read again when their content changes.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerTls {
    /// The certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who may sign client certificates; without it none is asked for.
    pub client_ca: Option<PathBuf>,
    /// DNS names of which a client's certificate must carry one; empty: any that `client_ca` signed.
    pub client_names: Vec<String>,
}

/// `admin`: probes and metrics over plain HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
}

/// One entry of `databases`.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// Its key in `databases`.
    pub name: String,
    /// How to connect, resolved anew for each connection so that rotated credentials are used.
    pub connection: ConnectionSource,
    /// `search_path` for each reading; the role's own where absent.
    pub search_path: Option<String>,
    /// Where to LISTEN when `host` is a pooler.
    pub listen_hosts: Vec<String>,
    /// The port for [`Database::listen_hosts`]; that of the first server where absent.
    pub listen_port: Option<u16>,
    /// How many connections readings may use.
    pub pool_size: NonZeroUsize,
    /// Bounds one attempt to connect: DNS, TCP, TLS and start-up together.
    pub connect_timeout: Duration,
    /// `lock_timeout` of each reading; zero: none.
    pub lock_timeout: Duration,
    /// How long a connection may lie idle.
    pub idle_timeout: Duration,
    /// How old a connection may get.
    pub max_lifetime: Duration,
    /// Refuse a role that can do more than read.
    pub require_unprivileged_role: bool,
    /// False: nothing is asked, its triggers get UNAVAILABLE.
    pub enabled: bool,
}
