//! The configuration in force as YAML: what `clapometer config` prints.
//!
//! Every key that has a value is written, defaults too, with a comment that says where it was
//! set. Secrets are not written; all else loads again as the same configuration.

use std::{collections::BTreeMap, fmt::Write, net::SocketAddr, path::PathBuf};

use ::config::{Value, ValueKind};

use super::{
    Admin, Config, Database, Server, ServerTls,
    duration::show,
    queries::{ABSENT, KINDS},
    source::{Path, Tree},
};
use crate::{
    conninfo::{KEYS, ValueSource, redacted_url},
    diagnostics::Location,
    query::{Absent, Namespaces, Notify, ParameterKind, Query},
    scaling::Rounding,
};

/// What stands for a password.
const REDACTED: &str = "redacted";

/// How the configuration was written: where each key was set, and which scalars are references.
#[derive(Debug, Clone, Default)]
pub(crate) struct Provenance {
    places: BTreeMap<Path, Location>,
    references: BTreeMap<Path, String>,
    files: Vec<PathBuf>,
}

impl Provenance {
    pub(crate) fn new(tree: &Tree) -> Self {
        let places = tree.places.iter().map(|(path, place)| (path.clone(), place.clone())).collect();
        let (mut references, mut files) = (BTreeMap::new(), Vec::new());
        for (name, database) in tree.section("databases").into_iter().flatten() {
            let ValueKind::Table(keys) = &database.kind else { continue };
            for (key, value) in keys {
                if let Some((kind, target)) = reference(value) {
                    let reference = format!("{{{kind}: {}}}", scalar(target));
                    references.insert(vec!["databases".to_owned(), name.clone(), key.clone()], reference);
                    if kind == "file" {
                        files.push(PathBuf::from(target));
                    }
                }
            }
        }
        Self { places, references, files }
    }

    /// The files that scalars are read from.
    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Whether the file or the environment says anything of a query's own; if not, it is built in.
    fn says_nothing_of(&self, query: &str) -> bool {
        let mut places = self
            .places
            .iter()
            .filter(|(path, _)| matches!(&path[..], [first, name, ..] if first == "queries" && name == query));
        places.all(|(_, place)| *place == Location::Whole)
    }
}

/// Of `{file: ...}` and `{env: ...}`: which of them, and of what.
fn reference(value: &Value) -> Option<(&str, &str)> {
    let ValueKind::Table(table) = &value.kind else { return None };
    let (kind, target) = table.first()?;
    match &target.kind {
        ValueKind::String(target) => Some((kind, target)),
        _ => None,
    }
}

impl Config {
    /// Whether a query is one of those that are there without being configured, and nothing of it was changed.
    pub fn is_builtin(&self, query: &str) -> bool {
        super::builtin::is_builtin(query) && self.provenance.says_nothing_of(query)
    }

    /// The configuration in force as YAML, with passwords redacted.
    ///
    /// Loading it gives the same configuration, but for the passwords and for a password file of
    /// libpq's environment.
    pub fn effective_yaml(&self) -> String {
        let Self { server, admin, databases, queries, provenance } = self;
        let mut writer = Writer { text: String::new(), path: Path::new(), provenance };
        writer.mapping("server", |writer| writer.server(server));
        writer.mapping("admin", |writer| {
            let Admin { listen } = admin;
            writer.key("listen", address(listen));
        });
        if !databases.is_empty() {
            writer.mapping("databases", |writer| {
                for (name, database) in databases {
                    writer.mapping(name, |writer| writer.database(database));
                }
            });
        }
        if !queries.is_empty() {
            writer.mapping("queries", |writer| {
                for (name, query) in queries {
                    writer.mapping(name, |writer| writer.query(query));
                }
            });
        }
        writer.text
    }
}

struct Writer<'a> {
    text: String,
    path: Path,
    provenance: &'a Provenance,
}

impl Writer<'_> {
    fn mapping(&mut self, key: &str, content: impl FnOnce(&mut Self)) {
        let line = format!("{}{}:", self.indent(), scalar(key));
        self.path.push(key.to_owned());
        self.line(&line);
        content(self);
        self.path.pop();
    }

    fn key(&mut self, key: &str, value: impl AsRef<str>) {
        self.path.push(key.to_owned());
        let reference = self.provenance.references.get(&self.path);
        let value = reference.map_or(value.as_ref(), String::as_str).to_owned();
        self.path.pop();
        let line = format!("{}{}: {value}", self.indent(), scalar(key));
        self.path.push(key.to_owned());
        self.line(&line);
        self.path.pop();
    }

    fn optional(&mut self, key: &str, value: Option<String>) {
        if let Some(value) = value {
            self.key(key, value);
        }
    }

    fn indent(&self) -> String {
        "  ".repeat(self.path.len())
    }

    /// A line for the key at the current path, with a comment that says where that was set.
    fn line(&mut self, line: &str) {
        let comment = match self.provenance.places.get(&self.path) {
            Some(Location::Line(number)) => format!("  # line {number}"),
            Some(Location::Variable(name)) => format!("  # {name}"),
            Some(Location::Whole) | None => String::new(),
        };
        writeln!(self.text, "{line}{comment}").expect("writing to a String cannot fail");
    }

    fn server(&mut self, server: &Server) {
        let Server { listen, tls, reflection, connection_age } = server;
        self.key("listen", address(listen));
        if let Some(ServerTls { cert, key, client_ca, client_names }) = tls {
            self.mapping("tls", |writer| {
                writer.key("cert", scalar(&cert.display().to_string()));
                writer.key("key", scalar(&key.display().to_string()));
                writer.optional("client_ca", client_ca.as_ref().map(|path| scalar(&path.display().to_string())));
                writer.optional("client_names", (!client_names.is_empty()).then(|| list(client_names)));
            });
        }
        self.key("reflection", reflection.to_string());
        self.key("connection_age", show(*connection_age));
    }

    fn database(&mut self, database: &Database) {
        let Database {
            name: _,
            connection,
            search_path,
            listen_hosts,
            listen_port,
            pool_size,
            connect_timeout,
            lock_timeout,
            idle_timeout,
            max_lifetime,
            require_unprivileged_role,
            enabled,
        } = database;
        let params = connection.params();
        for key in KEYS {
            self.optional(key, params.texts.get(key).map(|text| param(key, text)));
        }
        if let Some(file) = params.passfile.as_ref().filter(|_| !params.texts.contains_key("password")) {
            let line =
                format!("{}# password: from {}, if it has one", self.indent(), scalar(&file.display().to_string()));
            writeln!(self.text, "{line}").expect("writing to a String cannot fail");
        }
        self.optional("search_path", search_path.as_deref().map(scalar));
        self.optional("listen_host", (!listen_hosts.is_empty()).then(|| scalar(&listen_hosts.join(","))));
        self.optional("listen_port", listen_port.map(|port| port.to_string()));
        self.key("pool_size", pool_size.to_string());
        self.key("connect_timeout", show(*connect_timeout));
        self.key("lock_timeout", show(*lock_timeout));
        self.key("idle_timeout", show(*idle_timeout));
        self.key("max_lifetime", show(*max_lifetime));
        self.key("require_unprivileged_role", require_unprivileged_role.to_string());
        self.key("enabled", enabled.to_string());
    }

    fn query(&mut self, query: &Query) {
        let Query {
            name: _,
            database,
            sql,
            value_column,
            activity_column,
            next_change,
            divide_by,
            rounding,
            target,
            activation,
            parameters,
            group_by,
            on_null,
            on_no_row,
            timeout,
            max_age,
            notify,
            namespaces,
        } = query;
        self.key("database", scalar(database));
        self.statement(sql);
        self.optional("value_column", value_column.as_deref().map(scalar));
        self.optional("activity_column", activity_column.as_deref().map(scalar));
        self.optional("next_change", next_change.as_deref().map(scalar));
        self.key("divide_by", number(divide_by.get()));
        self.key("rounding", Rounding::name(*rounding));
        self.key("target", number(target.get()));
        self.key("activation", number(activation.get()));
        if !parameters.is_empty() {
            self.mapping("parameters", |writer| {
                for parameter in parameters {
                    writer.key(&parameter.name, kind(parameter.kind));
                }
            });
        }
        self.optional("group_by", group_by.as_deref().map(scalar));
        self.key("on_null", absent(*on_null));
        self.key("on_no_row", absent(*on_no_row));
        self.key("timeout", show(*timeout));
        self.key("max_age", show(*max_age));
        if let Some(Notify { channel, resync }) = notify {
            self.mapping("notify", |writer| {
                writer.key("channel", scalar(channel));
                writer.key("resync", show(*resync));
            });
        }
        self.key(
            "namespaces",
            match namespaces {
                Namespaces::All => list(&["*".to_owned()]),
                Namespaces::Only(names) => list(names),
            },
        );
    }

    /// SQL of several lines as a block, if it comes back unchanged.
    fn statement(&mut self, sql: &str) {
        let is_block = sql.contains('\n')
            && !sql.ends_with('\n')
            && sql.lines().all(|line| line.trim_end() == line)
            && sql.starts_with(|c: char| c.is_ascii_alphabetic() || c == '(' || c == '-')
            && !sql.contains(|c: char| c != '\n' && needs_escape(c));
        if !is_block {
            self.key("sql", scalar(sql));
            return;
        }
        self.key("sql", "|-");
        for line in sql.lines() {
            let indent = if line.is_empty() { String::new() } else { format!("{}  ", self.indent()) };
            writeln!(self.text, "{indent}{line}").expect("writing to a String cannot fail");
        }
    }
}

fn param(key: &str, text: &ValueSource) -> String {
    match text {
        ValueSource::File(path) => format!("{{file: {}}}", scalar(&path.display().to_string())),
        ValueSource::Variable { name, value: _ } => format!("{{env: {}}}", scalar(name)),
        ValueSource::Plain(_) if key == "password" => REDACTED.to_owned(),
        ValueSource::Plain(text) if key == "url" => {
            scalar(&redacted_url(text.expose()).unwrap_or_else(|| REDACTED.to_owned()))
        }
        ValueSource::Plain(text) if key == "port" && text.expose().parse::<u16>().is_ok() => text.expose().to_owned(),
        ValueSource::Plain(text) => scalar(text.expose()),
    }
}

/// An address of IPv6 starts like a list and needs quotes.
fn address(address: &SocketAddr) -> String {
    if address.is_ipv4() { address.to_string() } else { scalar(&address.to_string()) }
}

fn absent(absent: Absent) -> &'static str {
    ABSENT.into_iter().find(|(_, meaning)| *meaning == absent).map_or("error", |(name, _)| name)
}

fn kind(kind: ParameterKind) -> &'static str {
    KINDS.into_iter().find(|(_, meaning)| *meaning == kind).map_or("text", |(name, _)| name)
}

/// A number that reads as the same number.
fn number(number: f64) -> String {
    if number == 0.0 || (1e-4..1e15).contains(&number) { number.to_string() } else { format!("{number:?}") }
}

fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| scalar(text)).collect();
    format!("[{}]", texts.join(", "))
}

/// Text as YAML, in quotes unless no reader could take it for anything else.
fn scalar(text: &str) -> String {
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte))
        && !words.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is_plain {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if needs_escape(c) => {
                write!(quoted, "\\U{:08X}", u32::from(c)).expect("writing to a String cannot fail");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Characters that YAML does not take as they are, or takes for something else.
fn needs_escape(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}
