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
    texts.entry("sslmode").or_insert_with(|| Text::plain(SslMode::Prefer.name()));
    if let Some(user) = operating_system_user(&lookup).filter(|_| !texts.contains_key("user")) {
        texts.insert("user", Text::plain(user));
    }
    let (passfile, missing) = passfile(&lookup);
    if let Some(path) = missing.filter(|_| !texts.contains_key("password")) {
        let message = format!("cannot read the file {}: it is not there", path.display());
        findings.add(Place::Variable("PGPASSFILE".into()), "", message);
    }
    let mut parts = Parts { texts, passfile, other_hosts: Vec::new(), prefix: String::new() };
    match parts.assemble() {
        Ok((_, connect_timeout)) if findings.is_empty() => {
            parts.texts.remove("connect_timeout");
            Ok(ConnectionSource::new(parts, connect_timeout))
        }
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Connection;

    fn resolved(pairs: &[(&str, &str)]) -> Result<Connection, String> {
        let lookup = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        source(&lookup).map_err(|faults| faults.to_string())?.resolve()
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn the_variables_make_a_connection() {
        let connection = resolved(&[
            ("PGHOST", "a,b"),
            ("PGPORT", "6432"),
            ("PGUSER", "me"),
            ("PGPASSWORD", "secret"),
            ("PGSSLMODE", "verify-full"),
            ("PGTARGETSESSIONATTRS", "read-write"),
        ])
        .expect("a connection");
        assert_eq!(connection.addresses, [tcp("a", 6432), tcp("b", 6432)]);
        assert_eq!((connection.user.as_str(), connection.dbname.as_str()), ("me", "me"));
        assert_eq!(connection.password, Some(Secret::new("secret".into())));
        assert_eq!(connection.sslmode, SslMode::VerifyFull);
    }

    #[test]
    fn the_url_wins_and_the_variables_fill_in() {
        let connection = resolved(&[
            ("DATABASE_URL", "postgres://url@h1:1,h2/urldb"),
            ("PGHOST", "other"),
            ("PGUSER", "other"),
            ("PGPASSWORD", "secret"),
        ])
        .expect("a connection");
        assert_eq!(connection.addresses, [tcp("h1", 1), tcp("h2", 5432)]);
        assert_eq!((connection.user.as_str(), connection.dbname.as_str()), ("url", "urldb"));
        assert_eq!(connection.password, Some(Secret::new("secret".into())));
    }

    #[test]
    fn without_anything_it_is_this_machine_and_this_user() {
        let connection = resolved(&[]).expect("a connection");
        let is_local = matches!(&connection.addresses[..], [Address::Unix { .. }])
            || connection.addresses == [tcp("localhost", 5432)];
        assert!(is_local, "{:?}", connection.addresses);
        assert_eq!(connection.sslmode, SslMode::Prefer);
        assert_eq!(connection.dbname, connection.user);
    }

    #[test]
    fn every_wrong_variable_is_named_and_no_secret_is_told() {
        let message = resolved(&[
            ("PGHOST", "h"),
            ("PGPORT", "zero"),
            ("PGSSLMODE", "allow"),
            ("PGSERVICE", "prod"),
            ("PGHOSTADDR", "10.0.0.1"),
            ("PGCONNECT_TIMEOUT", "0"),
            ("PGPASSFILE", "/nowhere/pgpass"),
        ])
        .expect_err("five faults");
        let expected = [
            "PGCONNECT_TIMEOUT: found \"0\", must be a whole number of seconds from 1 to 60",
            "PGHOSTADDR: is not supported beside a host; unset one of them",
            "PGPASSFILE: cannot read the file /nowhere/pgpass: it is not there",
            "PGPORT: found \"zero\", must be a whole number from 1 to 65535, or one for each host, separated by commas",
            "PGSERVICE: is not supported; unset it",
            "PGSSLMODE: found \"allow\", must be one of disable, prefer, require, verify-ca, verify-full",
        ];
        assert_eq!(message.lines().collect::<Vec<_>>(), expected);
        let message = resolved(&[("DATABASE_URL", "postgres://u:hunter2@h@h/")]).expect_err("a fault");
        assert!(message.starts_with("DATABASE_URL: ") && !message.contains("hunter2"), "{message}");
    }

    #[test]
    fn the_password_file_is_read_anew_each_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("pgpass");
        let text = "# a comment\nother:*:*:*:wrong\nh:5432:d\\:b:*:first\\:pass\nh:*:*:me:second\n";
        fs::write(&file, text).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("permissions");
        let pairs =
            [("PGHOST", "h"), ("PGUSER", "me"), ("PGDATABASE", "d:b"), ("PGPASSFILE", file.to_str().expect("text"))];
        let lookup = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let source = source(&lookup).expect("a source");
        assert_eq!(source.files(), std::slice::from_ref(&file));
        assert_eq!(source.resolve().expect("a connection").password, Some(Secret::new("first:pass".into())));
        fs::write(&file, "*:*:*:*:rotated\n").expect("a file");
        assert_eq!(source.resolve().expect("a connection").password, Some(Secret::new("rotated".into())));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("permissions");
        let message = source.resolve().expect_err("a fault");
        assert!(message.contains("others may read") && !message.contains("rotated"), "{message}");
    }

    #[test]
    fn the_socket_directory_is_localhost_to_the_password_file() {
        let address = Address::Unix { directory: PathBuf::from(SOCKET_DIRECTORY), port: 5432 };
        assert_eq!(matching("localhost:5432:*:*:yes", &address, "d", "u").as_deref(), Some("yes"));
        let address = Address::Unix { directory: PathBuf::from("/elsewhere"), port: 5432 };
        assert_eq!(matching("localhost:5432:*:*:no\n/elsewhere:*:d:u:yes", &address, "d", "u").as_deref(), Some("yes"));
    }
}
