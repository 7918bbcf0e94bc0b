//! The parameters of a connection as they are written, and how they become a [`Connection`].
//!
//! The same function serves the check at load and every later connection, so that a rotated
//! credential file is held to the same rules.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use super::{
    address::{Address, DEFAULT_PORT, HOSTS, is_host},
    connection::{
        CHANNEL_BINDINGS, ChannelBinding, Connection, SESSION_ATTRS, SSL_NEGOTIATIONS, SSLMODES, SessionAttrs, SslMode,
        SslNegotiation, TcpSettings,
    },
    foreign, passfile,
    secret::Secret,
    url,
    value::ValueSource,
};
use crate::{
    diagnostics::{has_password, is_pem, nearest, quoted, shown_path},
    file,
};

/// `sslrootcert` for the root certificates of the system.
const SYSTEM_ROOTS: &str = "system";

/// The longest that a connection string may wait for a connection; libpq's 0, for ever, counts as this.
const LONGEST_CONNECT: i64 = 60;

/// The greatest values that Linux takes for the times and the number of keepalives.
const LONGEST_KEEPALIVE: u32 = 32_767;
const MOST_KEEPALIVES: u32 = 127;

/// The keys that name the files of TLS.
const CERTIFICATES: [&str; 3] = ["sslrootcert", "sslcert", "sslkey"];

/// The parameters of one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params {
    /// By key, all of them of [`KEYS`](super::KEYS).
    pub(crate) texts: BTreeMap<&'static str, ValueSource>,
    /// The password file, for a password that is not in `texts`.
    pub(crate) passfile: Option<PathBuf>,
    /// Other servers that get the same credentials; `sslmode` may be left out only if they are local, too.
    pub(crate) other_hosts: Vec<String>,
    /// The prefix of a key in messages.
    pub(crate) prefix: String,
    /// The variable that a key comes from, where the environment gives it.
    pub(crate) variables: BTreeMap<&'static str, &'static str>,
}

/// Compares what makes the connection. Where it was written is only for messages.
impl PartialEq for Params {
    fn eq(&self, other: &Self) -> bool {
        let Self { texts, passfile, other_hosts, prefix, variables: _ } = self;
        (texts, passfile, other_hosts, prefix) == (&other.texts, &other.passfile, &other.other_hosts, &other.prefix)
    }
}

/// A fault of one parameter.
pub(crate) struct Problem {
    /// The key, of [`KEYS`](super::KEYS) or [`PARAMETERS`](super::keywords::PARAMETERS).
    pub(crate) key: &'static str,
    /// Says what is wrong and what would be right.
    pub(crate) message: String,
    /// A file that it names is not there.
    pub(crate) is_missing_file: bool,
}

/// A parameter's text as of now, and whether a message may quote it.
struct Value {
    text: String,
    quotable: bool,
    is_of_url: bool,
}

impl Value {
    fn found(&self) -> String {
        if self.quotable { format!("found {}, ", quoted(&self.text)) } else { String::new() }
    }
}

impl Params {
    /// Reads every parameter and makes the connection; also returns the URL's `connect_timeout`.
    ///
    /// # Errors
    /// Returns every problem, at least one.
    pub(crate) fn assemble(&self) -> Result<(Connection, Option<Duration>), Vec<Problem>> {
        let mut reader = Reader::new(self);
        let connection = reader.connection(self);
        let timeout = reader.connect_timeout();
        match connection {
            Some(connection) if reader.problems.is_empty() => Ok((connection, timeout)),
            _ => Err(reader.problems),
        }
    }

    /// Returns whether a part may come from a file, or name one. Does not block.
    pub(crate) fn names_files(&self) -> bool {
        let may = |(key, text): (&&str, &ValueSource)| {
            matches!(text, ValueSource::File(_)) || *key == "url" || CERTIFICATES.contains(key)
        };
        self.passfile.is_some() || self.texts.iter().any(may)
    }

    /// The files that the parts come from, certificates included as far as they are named here.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.passfile.iter().cloned().collect();
        for text in self.texts.values() {
            if let ValueSource::File(path) = text {
                files.push(path.clone());
            }
        }
        let reader = Reader::new(self);
        files.extend(
            CERTIFICATES
                .into_iter()
                .filter_map(|key| reader.values.get(key))
                .filter(|value| value.text != SYSTEM_ROOTS)
                .map(|value| PathBuf::from(&value.text)),
        );
        files
    }
}

#[derive(Default)]
struct Reader {
    values: BTreeMap<&'static str, Value>,
    problems: Vec<Problem>,
    /// A URL stands where something else should: what seems to be missing may be in it.
    has_misplaced_url: bool,
}

impl Reader {
    fn new(params: &Params) -> Self {
        let mut reader = Self::default();
        for (key, text) in &params.texts {
            reader.read(key, text);
        }
        reader.take_url_apart();
        reader
    }

    fn problem(&mut self, key: &'static str, message: impl Into<String>) {
        let message = message.into();
        self.problems.push(match self.values.get(key) {
            Some(part) if part.is_of_url => {
                Problem { key: "url", message: format!("{key}: {message}"), is_missing_file: false }
            }
            _ => Problem { key, message, is_missing_file: false },
        });
    }

    fn read(&mut self, key: &'static str, text: &ValueSource) {
        let quotable = matches!(text, ValueSource::Plain(_)) && !matches!(key, "password" | "url");
        match text.read() {
            Ok(text) if text.contains('\0') => self.problem(key, "has a NUL character, which PostgreSQL cannot take"),
            // A URL in the wrong place may hold a password.
            Ok(text) if text.contains("://") && !matches!(key, "password" | "url") => {
                self.has_misplaced_url = true;
                self.problem(key, "found a URL; give it as url");
            }
            Ok(text) if is_pem(&text) && !CERTIFICATES.contains(&key) && !matches!(key, "password" | "url") => {
                self.problem(key, "holds PEM text, which only a file may be");
            }
            Ok(text) if has_password(&text) && !matches!(key, "password" | "url") => {
                self.has_misplaced_url = true;
                self.problem(key, "found a connection string; give it as url");
            }
            Ok(text) => {
                if let Some(message) = foreign::placeholder(&text) {
                    self.problem(key, message);
                }
                self.values.insert(key, Value { text, quotable, is_of_url: false });
            }
            Err(message) => self.problem(key, message),
        }
    }

    fn take_url_apart(&mut self) {
        let Some(url) = self.values.remove("url") else { return };
        match url::parse(&url.text) {
            Ok(parts) => {
                for (key, text) in parts {
                    if self.values.contains_key(key) {
                        self.problem(key, "is given twice, here and in url; leave one out");
                    }
                    let placeholder = foreign::placeholder(&text);
                    self.values.insert(key, Value { text, quotable: false, is_of_url: true });
                    if let Some(message) = placeholder {
                        self.problem(key, message);
                    }
                }
            }
            Err(message) => self.problem("url", message),
        }
    }

    fn connection(&mut self, params: &Params) -> Option<Connection> {
        let addresses = self.addresses(params);
        let sslmode = self.sslmode(&params.other_hosts);
        let target_session_attrs = match self.word("target_session_attrs", &SESSION_ATTRS) {
            Word::Known(attrs) => attrs,
            // The first of several hosts to answer may be a standby, whose numbers may be old.
            Word::Unset if addresses.as_ref().is_some_and(|addresses| addresses.len() > 1) => SessionAttrs::ReadWrite,
            Word::Unset | Word::Unknown => SessionAttrs::Any,
        };
        let user = self.values.get("user").map(|part| part.text.clone());
        if user.is_none() && !self.has_problem("user") && !self.has_problem("url") && !self.has_misplaced_url {
            self.problem("user", "is missing; give the role to connect as");
        }
        let [mut sslrootcert, sslcert, sslkey] =
            CERTIFICATES.map(|key| self.values.get(key).map(|part| PathBuf::from(&part.text)));
        if sslrootcert.as_deref().is_some_and(|path| path.as_os_str() == SYSTEM_ROOTS) {
            sslrootcert = None;
            if sslmode.is_some_and(|mode| mode != SslMode::VerifyFull) {
                self.problem("sslrootcert", "system needs sslmode=verify-full, as in libpq");
            }
        }
        self.check_certificates([&sslrootcert, &sslcert, &sslkey]);
        let channel_binding = match self.word("channel_binding", &CHANNEL_BINDINGS) {
            Word::Known(binding) => binding,
            Word::Unset | Word::Unknown => ChannelBinding::Prefer,
        };
        let options = self.options();
        let sslnegotiation = self.sslnegotiation(sslmode);
        let tcp = self.tcp();
        let (addresses, user) = (addresses?, user?);
        let dbname = self.values.get("dbname").map_or_else(|| user.clone(), |part| part.text.clone());
        let mut password = self.values.get("password").map(|part| Secret::new(part.text.clone()));
        if let (None, Some(file)) = (&password, &params.passfile) {
            match passfile::password(file, &addresses, &dbname, &user) {
                Ok(found) => password = found,
                Err(message) => self.problem("passfile", message),
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
            channel_binding,
            options,
            target_session_attrs,
            sslnegotiation,
            tcp,
        })
    }

    /// `options`, of which only a lone `endpoint=...` is taken: a proxy may need it to find the server.
    fn options(&mut self) -> Option<String> {
        let text = self.values.get("options")?.text.trim().to_owned();
        let is_endpoint = ["endpoint=", "project="].iter().any(|name| text.starts_with(name));
        if is_endpoint && !text.contains(char::is_whitespace) {
            return Some(text);
        }
        let way_out = match text.starts_with("--cluster=") {
            true => "for CockroachDB write dbname=CLUSTER.DATABASE",
            false => "set search_path in databases (postgres-batch: --schema), other settings with ALTER ROLE ... SET",
        };
        self.problem("options", format!("is not supported, except endpoint=NAME alone; {way_out}"));
        None
    }

    fn has_problem(&self, key: &str) -> bool {
        self.problems.iter().any(|problem| problem.key == key)
    }

    /// As in libpq, direct TLS needs an `sslmode` that demands TLS: the server must not be able to decline it.
    fn sslnegotiation(&mut self, sslmode: Option<SslMode>) -> SslNegotiation {
        let Word::Known(SslNegotiation::Direct) = self.word("sslnegotiation", &SSL_NEGOTIATIONS) else {
            return SslNegotiation::Postgres;
        };
        if matches!(sslmode, Some(SslMode::Disable | SslMode::Prefer)) {
            self.problem("sslnegotiation", "direct needs sslmode=require, verify-ca or verify-full, as in libpq");
        }
        SslNegotiation::Direct
    }

    fn tcp(&mut self) -> TcpSettings {
        let seconds = |number: Option<u32>| number.map(|seconds| Duration::from_secs(seconds.into()));
        TcpSettings {
            without_keepalives: self.whole("keepalives", 0..=1, "0 or 1") == Some(0),
            keepalives_idle: seconds(self.whole("keepalives_idle", 0..=LONGEST_KEEPALIVE, "seconds, 0 to 32767")),
            keepalives_interval: seconds(self.whole(
                "keepalives_interval",
                0..=LONGEST_KEEPALIVE,
                "seconds, 0 to 32767",
            )),
            keepalives_count: self.whole("keepalives_count", 0..=MOST_KEEPALIVES, "a number, 0 to 127"),
            user_timeout: self
                .whole("tcp_user_timeout", 0..=i32::MAX.unsigned_abs(), "milliseconds, 0 to 2147483647")
                .map(|milliseconds| Duration::from_millis(milliseconds.into())),
        }
    }

    fn whole(&mut self, key: &'static str, range: RangeInclusive<u32>, what: &str) -> Option<u32> {
        let part = self.values.get(key)?;
        let number = part.text.trim().parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            let message = format!("{}must be {what}", part.found());
            self.problem(key, message);
        }
        number
    }

    /// `hostaddr`: where to connect, while `host` is the name that is compared with the certificate.
    fn hostaddrs(&mut self) -> Option<Vec<IpAddr>> {
        let part = self.values.get("hostaddr")?;
        let addresses: Option<Vec<IpAddr>> = part.text.split(',').map(|address| address.trim().parse().ok()).collect();
        if addresses.is_none() {
            let message = format!("{}must be IP addresses, separated by commas; a name goes to host", part.found());
            self.problem("hostaddr", message);
        }
        addresses
    }

    fn addresses(&mut self, params: &Params) -> Option<Vec<Address>> {
        let hostaddrs = self.hostaddrs();
        if let (false, Some(hostaddr)) = (self.values.contains_key("host"), self.values.get("hostaddr")) {
            let host = Value { text: hostaddr.text.clone(), ..*hostaddr };
            self.values.insert("host", host);
        }
        let Some(host) = self.values.get("host") else {
            if !self.has_problem("host") && !self.has_problem("url") {
                let message = match params.texts.contains_key("url") {
                    true => "has no host",
                    false => "is missing; give a host, a Unix socket's directory or a url",
                };
                self.problem(if params.texts.contains_key("url") { "url" } else { "host" }, message);
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
        if let Some(number) = hostaddrs.as_ref().map(Vec::len).filter(|number| *number != hosts.len()) {
            let message = format!("found {number} addresses, must be one for each host");
            self.problem("hostaddr", message);
            return None;
        }
        let ports = self.ports(hosts.len())?;
        let mut addresses: Vec<Address> =
            hosts.iter().zip(ports).map(|(host, port)| Address::new(host, port)).collect();
        for (address, ip) in addresses.iter_mut().zip(hostaddrs.into_iter().flatten()) {
            if let Address::Tcp { hostaddr, .. } = address {
                *hostaddr = Some(ip);
            }
        }
        (!wrong).then_some(addresses)
    }

    fn ports(&mut self, hosts: usize) -> Option<Vec<u16>> {
        let Some(part) = self.values.get("port") else {
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

    fn sslmode(&mut self, other_hosts: &[String]) -> Option<SslMode> {
        let is_local = |host: &str| Address::new(host.trim(), DEFAULT_PORT).is_local();
        let connects_to = self.values.get("hostaddr").or(self.values.get("host"));
        let hosts = connects_to.map(|hosts| hosts.text.split(',').all(is_local));
        match self.word("sslmode", &SSLMODES) {
            Word::Known(mode) => Some(mode),
            Word::Unknown => None,
            Word::Unset if self.has_problem("sslmode") || self.has_problem("url") || self.has_misplaced_url => None,
            Word::Unset if self.values.get("sslrootcert").is_some_and(|root| root.text == SYSTEM_ROOTS) => {
                Some(SslMode::VerifyFull)
            }
            Word::Unset if hosts == Some(true) && other_hosts.iter().all(|host| is_local(host)) => {
                Some(SslMode::Prefer)
            }
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
        let Some(part) = self.values.get(key) else { return Word::Unset };
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == part.text) {
            return Word::Known(*meaning);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let meant = foreign::word(key, &part.text).or_else(|| nearest(&part.text, names.iter().copied()));
        let suggestion = meant.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        let message = format!("{}must be one of {}{suggestion}", part.found(), names.join(", "));
        self.problem(key, message);
        Word::Unknown
    }

    fn check_certificates(&mut self, [root, cert, key]: [&Option<PathBuf>; 3]) {
        for (name, path) in CERTIFICATES.into_iter().zip([root, cert, key]) {
            let Some(path) = path else { continue };
            if is_pem(&path.to_string_lossy()) {
                self.problem(
                    name,
                    "holds PEM text, must be the path of a PEM file; write the path itself, not {file: PATH}",
                );
            } else if let Err(error) = file::can_be_read(path) {
                let way_out = match path.to_string_lossy().starts_with(['~', '$']) {
                    true => "; ~ and variables are not expanded, write the whole path",
                    false => "",
                };
                self.problem(name, format!("cannot read the file {}: {error}{way_out}", shown_path(path)));
                if let Some(problem) = self.problems.last_mut() {
                    problem.is_missing_file = error.kind() == std::io::ErrorKind::NotFound;
                }
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
        let part = self.values.get("connect_timeout")?;
        let seconds = part.text.trim().parse::<i64>().ok();
        if seconds.is_none() {
            let message = format!("{}must be a whole number of seconds", part.found());
            self.problem("connect_timeout", message);
        }
        let bounded = seconds.map(|seconds| if seconds <= 0 { LONGEST_CONNECT } else { seconds.min(LONGEST_CONNECT) });
        bounded.map(|seconds| Duration::from_secs(seconds.unsigned_abs()))
    }
}

enum Word<T> {
    Known(T),
    Unknown,
    Unset,
}
