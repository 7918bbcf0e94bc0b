//! The parts of a connection as they are written, and how they become a [`Connection`].
//!
//! The same function serves the check at load and every later connection, so that a rotated
//! credential file is held to the same rules.

use std::{
    collections::BTreeMap,
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    connection::{Address, Connection, SessionAttrs, SslMode},
    entry::shown,
    libpq,
    secret::Secret,
    url,
};

/// The keys of `databases.<name>` that make a connection.
pub(crate) const KEYS: [&str; 11] = [
    "url",
    "host",
    "port",
    "dbname",
    "user",
    "password",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "target_session_attrs",
];

/// The parameters of a URL: libpq's names.
pub(crate) const PARAMETERS: [&str; 11] = [
    "host",
    "port",
    "dbname",
    "user",
    "password",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "target_session_attrs",
    "connect_timeout",
];

/// Those of [`KEYS`] that are files of TLS.
const CERTIFICATES: [&str; 3] = ["sslrootcert", "sslcert", "sslkey"];

/// PostgreSQL's own port.
const DEFAULT_PORT: u16 = 5432;

/// The largest file that a scalar is read from: a certificate's key fits, a wrong path may not.
const LARGEST_FILE: u64 = 64 * 1024;

/// `sslmode`'s words.
pub(crate) const SSLMODES: [(&str, SslMode); 5] = [
    ("disable", SslMode::Disable),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

/// `target_session_attrs`' words.
pub(crate) const SESSION_ATTRS: [(&str, SessionAttrs); 3] =
    [("any", SessionAttrs::Any), ("read-write", SessionAttrs::ReadWrite), ("read-only", SessionAttrs::ReadOnly)];

/// A scalar that may stand elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Text {
    /// As written.
    Plain(Secret),
    /// `{file: ...}`: the file's text, less one newline at its end, read at each use.
    File(PathBuf),
    /// `{env: ...}`: a variable, which cannot change while the process lives.
    Variable { name: String, value: Option<Secret> },
}

impl Text {
    /// A text as written.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self::Plain(Secret::new(text.into()))
    }

    /// The text as of now.
    ///
    /// # Errors
    /// Why there is none, naming the file or the variable and never what is in it.
    pub(crate) fn read(&self) -> Result<String, String> {
        let (origin, text) = match self {
            Self::Plain(text) => return Ok(text.expose().to_owned()),
            Self::File(path) => (format!("the file {}", path.display()), small_file(path)?),
            Self::Variable { name, value } => {
                let value = value.as_ref().ok_or_else(|| format!("the variable {name} is not set"))?;
                (format!("the variable {name}"), value.expose().to_owned())
            }
        };
        let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
        if text.is_empty() {
            return Err(format!("{origin} is empty"));
        }
        Ok(text.to_owned())
    }
}

/// Reads a file of text that must be small.
pub(crate) fn small_file(path: &Path) -> Result<String, String> {
    let cannot = |why: &dyn std::fmt::Display| format!("cannot read the file {}: {why}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| cannot(&error))?;
    file.take(LARGEST_FILE + 1).read_to_string(&mut text).map_err(|error| cannot(&error))?;
    if u64::try_from(text.len()).is_ok_and(|length| length > LARGEST_FILE) {
        return Err(cannot(&"it is larger than 64 KiB"));
    }
    if text.contains('\0') {
        return Err(cannot(&"it has a NUL character"));
    }
    Ok(text)
}

/// Everything a connection is made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Parts {
    /// By key, all of them of [`KEYS`].
    pub(crate) texts: BTreeMap<&'static str, Text>,
    /// Where to look for a password that `texts` has not.
    pub(crate) passfile: Option<PathBuf>,
    /// Servers besides `host` that the same credentials go to: they have a say in whether `sslmode` may be left out.
    pub(crate) other_hosts: Vec<String>,
    /// What messages say before a key.
    pub(crate) prefix: String,
}

/// What is wrong with one part.
pub(crate) struct Problem {
    /// The key, of [`KEYS`] or [`PARAMETERS`].
    pub(crate) key: &'static str,
    /// What is wrong and what would be right.
    pub(crate) message: String,
}

/// A part's text as of now, and whether a message may quote it.
struct Part {
    text: String,
    quotable: bool,
    is_of_url: bool,
}

impl Part {
    fn found(&self) -> String {
        if self.quotable { format!("found {}, ", shown(&self.text)) } else { String::new() }
    }
}

impl Parts {
    /// Reads every part and makes the connection of them; also the URL's `connect_timeout`.
    ///
    /// # Errors
    /// Every problem at once, at least one.
    pub(crate) fn assemble(&self) -> Result<(Connection, Option<Duration>), Vec<Problem>> {
        let mut reader = Reader::of(self);
        let connection = reader.connection(self);
        let timeout = reader.connect_timeout();
        match connection {
            Some(connection) if reader.problems.is_empty() => Ok((connection, timeout)),
            _ => Err(reader.problems),
        }
    }

    /// The files that the parts come from, certificates included as far as they are named here.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.passfile.iter().cloned().collect();
        for text in self.texts.values() {
            if let Text::File(path) = text {
                files.push(path.clone());
            }
        }
        let reader = Reader::of(self);
        files.extend(
            CERTIFICATES.into_iter().filter_map(|key| reader.parts.get(key)).map(|part| PathBuf::from(&part.text)),
        );
        files
    }
}

#[derive(Default)]
struct Reader {
    parts: BTreeMap<&'static str, Part>,
    problems: Vec<Problem>,
    /// A URL stands where something else should: what seems to be missing may be in it.
    has_misplaced_url: bool,
}

impl Reader {
    fn of(written: &Parts) -> Self {
        let mut reader = Self::default();
        for (key, text) in &written.texts {
            reader.read(key, text);
        }
        reader.take_url_apart();
        reader
    }

    fn problem(&mut self, key: &'static str, message: impl Into<String>) {
        let message = message.into();
        self.problems.push(match self.parts.get(key) {
            Some(part) if part.is_of_url => Problem { key: "url", message: format!("{key}: {message}") },
            _ => Problem { key, message },
        });
    }

    fn read(&mut self, key: &'static str, text: &Text) {
        let quotable = matches!(text, Text::Plain(_)) && !matches!(key, "password" | "url");
        match text.read() {
            Ok(text) if text.contains('\0') => self.problem(key, "has a NUL character, which PostgreSQL cannot take"),
            // A URL in the wrong place may hold a password.
            Ok(text) if text.contains("://") && !matches!(key, "password" | "url") => {
                self.has_misplaced_url = true;
                self.problem(key, "found a URL; give it as url");
            }
            Ok(text) => {
                self.parts.insert(key, Part { text, quotable, is_of_url: false });
            }
            Err(message) => self.problem(key, message),
        }
    }

    fn take_url_apart(&mut self) {
        let Some(url) = self.parts.remove("url") else { return };
        match url::parse(&url.text) {
            Ok(parts) => {
                for (key, text) in parts {
                    if self.parts.contains_key(key) {
                        self.problem(key, "is given twice, here and in url; leave one out");
                    }
                    self.parts.insert(key, Part { text, quotable: false, is_of_url: true });
                }
            }
            Err(message) => self.problem("url", message),
        }
    }

    fn connection(&mut self, written: &Parts) -> Option<Connection> {
        let addresses = self.addresses(written);
        let sslmode = self.sslmode(addresses.as_deref(), &written.other_hosts);
        let target_session_attrs = match self.word("target_session_attrs", &SESSION_ATTRS) {
            Word::Known(attrs) => attrs,
            Word::Unset | Word::Unknown => SessionAttrs::Any,
        };
        let user = self.parts.get("user").map(|part| part.text.clone());
        if user.is_none() && !self.has_problem("user") && !self.has_problem("url") && !self.has_misplaced_url {
            self.problem("user", "is missing; give the role to connect as");
        }
        let [sslrootcert, sslcert, sslkey] =
            CERTIFICATES.map(|key| self.parts.get(key).map(|part| PathBuf::from(&part.text)));
        self.check_certificates([&sslrootcert, &sslcert, &sslkey]);
        let (addresses, user) = (addresses?, user?);
        let dbname = self.parts.get("dbname").map_or_else(|| user.clone(), |part| part.text.clone());
        let mut password = self.parts.get("password").map(|part| Secret::new(part.text.clone()));
        if let (None, Some(file)) = (&password, &written.passfile) {
            match libpq::password(file, &addresses, &dbname, &user) {
                Ok(found) => password = found,
                Err(message) => self.problem("password", message),
            }
        }
        Some(Connection {
            addresses,
            dbname,
            user,
            password,
            sslmode: sslmode?,
            sslrootcert,
            sslcert,
            sslkey,
            target_session_attrs,
        })
    }

    fn has_problem(&self, key: &str) -> bool {
        self.problems.iter().any(|problem| problem.key == key)
    }

    fn addresses(&mut self, written: &Parts) -> Option<Vec<Address>> {
        let Some(host) = self.parts.get("host") else {
            if !self.has_problem("host") && !self.has_problem("url") {
                let message = match written.texts.contains_key("url") {
                    true => "has no host",
                    false => "is missing; give a host, a Unix socket's directory or a url",
                };
                self.problem(if written.texts.contains_key("url") { "url" } else { "host" }, message);
            }
            return None;
        };
        let hosts: Vec<String> = host.text.split(',').map(|host| host.trim().to_owned()).collect();
        let wrong = hosts.iter().any(|host| !is_host(host));
        if wrong {
            let found = if host.text.contains('@') { String::new() } else { host.found() };
            let message = format!("{found}{HOSTS}; a port goes to port");
            self.problem("host", message);
        }
        let ports = self.ports(hosts.len())?;
        (!wrong).then(|| hosts.iter().zip(ports).map(|(host, port)| Address::new(host, port)).collect())
    }

    fn ports(&mut self, hosts: usize) -> Option<Vec<u16>> {
        let Some(part) = self.parts.get("port") else {
            return (!self.has_problem("port")).then(|| vec![DEFAULT_PORT; hosts]);
        };
        let ports: Option<Vec<u16>> =
            part.text.split(',').map(|port| port.trim().parse().ok().filter(|port| *port != 0)).collect();
        match ports.as_deref() {
            Some([one]) => Some(vec![*one; hosts]),
            Some(ports) if ports.len() == hosts => Some(ports.to_vec()),
            Some(ports) => {
                let message = format!("found {} ports, must be one, or one for each host", ports.len());
                self.problem("port", message);
                None
            }
            None => {
                let message = format!(
                    "{}must be a whole number from 1 to 65535, or one for each host, separated by commas",
                    part.found()
                );
                self.problem("port", message);
                None
            }
        }
    }

    fn sslmode(&mut self, addresses: Option<&[Address]>, other_hosts: &[String]) -> Option<SslMode> {
        let others_are_local = other_hosts.iter().all(|host| Address::new(host, DEFAULT_PORT).is_local());
        match self.word("sslmode", &SSLMODES) {
            Word::Known(mode) => Some(mode),
            Word::Unknown => None,
            Word::Unset if self.has_problem("sslmode") || self.has_problem("url") => None,
            Word::Unset if addresses?.iter().all(Address::is_local) && others_are_local => Some(SslMode::Prefer),
            Word::Unset => {
                let names = SSLMODES.map(|(name, _)| name).join(", ");
                self.problem(
                    "sslmode",
                    format!("is missing; it must be set for a server that is not on this machine: one of {names}"),
                );
                None
            }
        }
    }

    fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Word<T> {
        let Some(part) = self.parts.get(key) else { return Word::Unset };
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == part.text) {
            return Word::Known(*meaning);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let message = format!("{}must be one of {}", part.found(), names.join(", "));
        self.problem(key, message);
        Word::Unknown
    }

    fn check_certificates(&mut self, [root, cert, key]: [&Option<PathBuf>; 3]) {
        for (name, path) in CERTIFICATES.into_iter().zip([root, cert, key]) {
            if let Some(Err(error)) = path.as_ref().map(std::fs::File::open) {
                let path = path.as_deref().unwrap_or(Path::new("")).display();
                self.problem(name, format!("cannot read the file {path}: {error}"));
            }
        }
        match (cert, key) {
            (Some(_), None) if !self.has_problem("sslkey") => self.problem("sslcert", "needs sslkey beside it"),
            (None, Some(_)) if !self.has_problem("sslcert") => self.problem("sslkey", "needs sslcert beside it"),
            _ => {}
        }
    }

    /// libpq's `connect_timeout`, in seconds.
    fn connect_timeout(&mut self) -> Option<Duration> {
        let part = self.parts.get("connect_timeout")?;
        let seconds = part.text.parse().ok().filter(|seconds| (1..=60).contains(seconds));
        if seconds.is_none() {
            let message = format!("{}must be a whole number of seconds from 1 to 60", part.found());
            self.problem("connect_timeout", message);
        }
        seconds.map(Duration::from_secs)
    }
}

enum Word<T> {
    Known(T),
    Unknown,
    Unset,
}

/// What a host list must be.
pub(crate) const HOSTS: &str =
    "must be host names or addresses, or directories of Unix sockets, several separated by commas";

/// Whether a text can be one server of a host list.
pub(crate) fn is_host(host: &str) -> bool {
    if host.starts_with('/') || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
}
