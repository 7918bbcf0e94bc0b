//! libpq's environment: variables, the password file, and the defaults behind them.
//!
//! *Source:* PostgreSQL's documentation, "Environment Variables" and "The Password File";
//! fe-connect.c for the defaults.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{
    connection::{Address, ConnectionSource, SslMode},
    faults::{Faults, Findings, Place},
    parts::{Parts, Text, small_file},
    secret::Secret,
    url,
};

/// Which variable stands for which part.
const VARIABLES: [(&str, &str); 11] = [
    ("PGHOST", "host"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
];

/// Variables that change where or how safely libpq connects and that we do not act on: refused,
/// because a connection that passes them over is not the one that was asked for.
const REFUSED: [&str; 8] = [
    "PGSERVICE",
    "PGOPTIONS",
    "PGCHANNELBINDING",
    "PGREQUIREAUTH",
    "PGREQUIREPEER",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLNEGOTIATION",
];

/// The variable that holds a whole URL; what it says wins over the others.
const URL: &str = "DATABASE_URL";

/// Where Debian's packages and the usual images put the server's socket.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// Reads the environment through `lookup`; empty variables count as unset.
///
/// # Errors
/// Every fault at once, by variable.
pub(crate) fn source(lookup: &dyn Fn(&str) -> Option<String>) -> Result<ConnectionSource, Faults> {
    let findings = Findings::default();
    let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
    for name in REFUSED {
        if lookup(name).is_some() {
            findings.add(Place::Variable(name.into()), "", "is not supported; unset it");
        }
    }
    let mut texts = BTreeMap::new();
    let mut origins = BTreeMap::new();
    if let Some(text) = lookup(URL) {
        match url::parse(&text) {
            Ok(parts) => {
                for (key, text) in parts {
                    origins.insert(key, URL);
                    texts.insert(key, Text::plain(text));
                }
            }
            Err(message) => findings.add(Place::Variable(URL.into()), "", message),
        }
    }
    for (name, key) in VARIABLES {
        if let Some(text) = lookup(name).filter(|_| !texts.contains_key(key)) {
            origins.insert(key, name);
            texts.insert(key, Text::plain(text));
        }
    }
    match (lookup("PGHOSTADDR"), texts.contains_key("host")) {
        (Some(_), true) => {
            findings.add(Place::Variable("PGHOSTADDR".into()), "", "is not supported beside a host; unset one of them");
        }
        (Some(address), false) => {
            origins.insert("host", "PGHOSTADDR");
            texts.insert("host", Text::plain(address));
        }
        (None, _) => {}
    }
    texts.entry("host").or_insert_with(|| Text::plain(default_host()));
    if let Some(user) = operating_system_user(&lookup).filter(|_| !texts.contains_key("user")) {
        texts.insert("user", Text::plain(user));
    }
    let (passfile, missing) = passfile(&lookup);
    if let Some(path) = missing.filter(|_| !texts.contains_key("password")) {
        let message = format!("cannot read the file {}: it is not there", path.display());
        findings.add(Place::Variable("PGPASSFILE".into()), "", message);
    }
    let parts = Parts { texts, passfile, unset_sslmode: Some(SslMode::Prefer), prefix: String::new() };
    match parts.assemble() {
        Ok((_, connect_timeout)) if findings.is_empty() => Ok(ConnectionSource::new(parts, connect_timeout)),
        Ok(_) => Err(findings.into_faults(None)),
        Err(problems) => {
            for problem in problems {
                let variable = VARIABLES.into_iter().find(|(_, key)| *key == problem.key).map(|(name, _)| name);
                let name = origins.get(problem.key).copied().or(variable).unwrap_or(URL);
                let path = if name == URL { problem.key } else { "" };
                findings.add(Place::Variable(name.into()), path, problem.message);
            }
            Err(findings.into_faults(None))
        }
    }
}

fn default_host() -> &'static str {
    if Path::new(SOCKET_DIRECTORY).is_dir() { SOCKET_DIRECTORY } else { "localhost" }
}

/// The name of the effective user, as libpq takes it, else what the shell calls it.
fn operating_system_user(lookup: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let id = rustix::process::geteuid().as_raw().to_string();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    });
    named.or_else(|| lookup("USER"))
}

/// The password file to look in, and the one that was named but is not there.
fn passfile(lookup: &dyn Fn(&str) -> Option<String>) -> (Option<PathBuf>, Option<PathBuf>) {
    match lookup("PGPASSFILE").map(PathBuf::from) {
        Some(path) if path.exists() => (Some(path), None),
        Some(path) => (None, Some(path)),
        None => (lookup("HOME").map(|home| Path::new(&home).join(".pgpass")).filter(|path| path.exists()), None),
    }
}

/// The password for the first of the servers that the file has one for.
///
/// # Errors
/// The file cannot be read, or others may read it: libpq passes such a file over, and the
/// server's "no password supplied" would then be a riddle.
pub(crate) fn password(file: &Path, addresses: &[Address], dbname: &str, user: &str) -> Result<Option<Secret>, String> {
    let entries = small_file(file)?;
    if let Some(password) = addresses.iter().find_map(|address| matching(&entries, address, dbname, user)) {
        let mode = std::fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o077 != 0 {
            return Err(format!("others may read the file {}; its permissions must be 0600 or less", file.display()));
        }
        return Ok(Some(Secret::new(password)));
    }
    Ok(None)
}

fn matching(entries: &str, address: &Address, dbname: &str, user: &str) -> Option<String> {
    let (host, port) = match address {
        Address::Tcp { host, port } => (host.clone(), port),
        Address::Unix { directory, port } if directory == Path::new(SOCKET_DIRECTORY) => ("localhost".into(), port),
        Address::Unix { directory, port } => (directory.display().to_string(), port),
    };
    let wanted = [host.as_str(), &port.to_string(), dbname, user];
    entries.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let (password, patterns) = fields.split_last()?;
        let fits = patterns.len() == wanted.len()
            && patterns.iter().zip(wanted).all(|(pattern, wanted)| pattern == "*" || pattern == wanted);
        fits.then(|| password.clone())
    })
}

/// The first five fields, separated by colons; a backslash takes the next character as it is.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            ':' if fields.len() < 5 => fields.push(String::new()),
            // An unescaped colon ends the password too, in libpq.
            ':' => break,
            '\\' => fields.last_mut().expect("never empty").extend(characters.next()),
            other => fields.last_mut().expect("never empty").push(other),
        }
    }
    fields
}
