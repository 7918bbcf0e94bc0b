//! libpq's environment: variables, and the defaults behind them.
//!
//! *Source:* PostgreSQL's documentation, "Environment Variables"; fe-connect.c for the defaults.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    address::SOCKET_DIRECTORY,
    connection::SslMode,
    foreign,
    keywords::{honoured, way_out},
    params::Params,
    source::ConnectionSource,
    url,
    value::ValueSource,
    variables::{URL, VARIABLES, variable},
};
use crate::{
    diagnostics::{Diagnostics, Location, Misconfiguration, has_password, is_pem},
    file,
};

/// Variables of parameters that are not supported. Each is refused or ignored, as its parameter in a connection string
/// is.
const OTHERS: [(&str, &str); 16] = [
    ("PGSERVICE", "service"),
    ("PGSERVICEFILE", "servicefile"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGSSLCERTMODE", "sslcertmode"),
    ("PGSSLSNI", "sslsni"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGSSLMAXPROTOCOLVERSION", "ssl_max_protocol_version"),
    ("PGSSLKEYLOGFILE", "sslkeylogfile"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGGSSDELEGATION", "gssdelegation"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
    ("PGMINPROTOCOLVERSION", "min_protocol_version"),
    ("PGMAXPROTOCOLVERSION", "max_protocol_version"),
];

impl ConnectionSource {
    /// Reads libpq's environment through `lookup`: `DATABASE_URL`, whose parts win, then
    /// `PGHOST`, `PGPORT` and so on, then libpq's defaults. Empty variables count as unset.
    ///
    /// The result reads the password file anew each time it is resolved.
    ///
    /// # Errors
    /// Every fault at once, by variable; a file that is named and missing is one.
    pub fn from_environment(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, Misconfiguration> {
        let diagnostics = Diagnostics::default();
        let lookup = |name: &str| {
            let value = lookup(name).filter(|value| !value.is_empty())?;
            if value.contains(char::REPLACEMENT_CHARACTER) {
                diagnostics.add(Location::Variable(name.into()), "", "is not UTF-8");
                return None;
            }
            Some(value)
        };
        for (name, parameter) in OTHERS {
            if let (Some(value), Some(way_out)) = (lookup(name), way_out(parameter))
                && honoured(parameter, &value).is_err()
            {
                diagnostics.add(Location::Variable(name.into()), "", format!("is not supported: {way_out}"));
            }
        }
        let mut texts = BTreeMap::new();
        let mut origins = BTreeMap::new();
        if let Some(text) = lookup(URL) {
            match url::parse(&text) {
                Ok(parts) => {
                    for (key, text) in parts {
                        origins.insert(key, URL);
                        texts.insert(key, ValueSource::plain(text));
                    }
                }
                Err(message) => diagnostics.add(Location::Variable(URL.into()), "", message),
            }
        }
        for (name, key) in VARIABLES {
            if let Some(text) = lookup(name).filter(|_| !texts.contains_key(key)) {
                if let Some(message) = misplaced(key, &text) {
                    diagnostics.add(Location::Variable(name.into()), "", message);
                    continue;
                }
                origins.insert(key, name);
                texts.insert(key, ValueSource::plain(text));
            }
        }
        if !texts.contains_key("hostaddr") {
            texts.entry("host").or_insert_with(|| ValueSource::plain(default_host()));
        }
        texts.entry("sslmode").or_insert_with(|| ValueSource::plain(SslMode::Prefer.name()));
        if let Some(user) = operating_system_user(&lookup).filter(|_| !texts.contains_key("user")) {
            texts.insert("user", ValueSource::plain(user));
        }
        for key in texts.keys() {
            if let Some(name) = variable(key) {
                origins.entry(key).or_insert(name);
            }
        }
        let (passfile, missing) = passfile(&lookup);
        if let Some(path) = missing.filter(|_| !texts.contains_key("password")) {
            let message = format!("cannot read the file {}: it is not there", path.display());
            diagnostics.add(Location::Variable("PGPASSFILE".into()), "", message);
        }
        if passfile.is_some() {
            origins.insert("passfile", "PGPASSFILE");
        }
        let mut params =
            Params { texts, passfile, variables: origins.clone(), other_hosts: Vec::new(), prefix: String::new() };
        match params.assemble() {
            Ok((loaded, connect_timeout)) if diagnostics.is_empty() => {
                params.texts.remove("connect_timeout");
                Ok(Self::new(params, connect_timeout, loaded))
            }
            Ok(_) => Err(diagnostics.into_error(None)),
            Err(problems) => {
                for problem in problems {
                    let name = origins.get(problem.key).copied().or_else(|| variable(problem.key)).unwrap_or(URL);
                    let path = if name == URL { problem.key } else { "" };
                    diagnostics.add(Location::Variable(name.into()), path, problem.message);
                }
                Err(diagnostics.into_error(None))
            }
        }
    }
}

/// Returns what is wrong with a value that is not the variable's, without quoting it: it may hold a password.
fn misplaced(key: &str, text: &str) -> Option<&'static str> {
    if foreign::placeholder(text).is_some() {
        return Some(
            "is a placeholder, which nothing has replaced; in a pod, Kubernetes replaces $(NAME) if the variable NAME is \
             listed before it",
        );
    }
    match text.split_once("://") {
        _ if key == "password" => None,
        Some(("tcp", _)) => Some(
            "found the address of a Kubernetes Service, which sets such variables in every pod of its namespace: set \
             enableServiceLinks: false in the pod, and this to the database's own",
        ),
        Some(_) => Some("found a URL; give it as DATABASE_URL"),
        None if is_pem(text) && !key.starts_with("ssl") => Some("holds PEM text, which only a file may be"),
        None if has_password(text) => Some("found a connection string; give it as DATABASE_URL"),
        None => None,
    }
}

fn default_host() -> &'static str {
    if file::metadata(Path::new(SOCKET_DIRECTORY)).is_ok_and(|found| found.is_dir()) {
        SOCKET_DIRECTORY
    } else {
        "localhost"
    }
}

/// The name of the effective user, as libpq takes it, else what the shell calls it.
fn operating_system_user(lookup: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let id = rustix::process::geteuid().as_raw().to_string();
    let accounts = file::read(Path::new("/etc/passwd")).unwrap_or_default();
    let accounts = String::from_utf8_lossy(&accounts);
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
        Some(path) if file::exists(&path) => (Some(path), None),
        Some(path) => (None, Some(path)),
        None => (lookup("HOME").map(|home| Path::new(&home).join(".pgpass")).filter(|path| file::exists(path)), None),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::conninfo::{Address, Connection, Secret};

    fn resolved(pairs: &[(&str, &str)]) -> Result<Connection, String> {
        let lookup = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        ConnectionSource::from_environment(&lookup).map_err(|faults| faults.to_string())?.resolve()
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::new(host, port)
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
    fn a_hostaddr_is_connected_to_under_the_name_of_the_host() {
        let connection = resolved(&[("PGHOST", "db.example"), ("PGHOSTADDR", "10.0.0.1"), ("PGUSER", "u")]);
        let [Address::Tcp { host, hostaddr, .. }] = &connection.expect("a connection").addresses[..] else { panic!() };
        assert_eq!((host.as_str(), *hostaddr), ("db.example", "10.0.0.1".parse().ok()));
        let alone = resolved(&[("PGHOSTADDR", "10.0.0.1"), ("PGUSER", "u")]).expect("a connection");
        assert_eq!(alone.addresses[0].to_string(), "10.0.0.1:5432");
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
            ("PGSSLMODE", "allow"),
            ("PGSERVICE", "prod"),
            ("PGHOSTADDR", "10.0.0.1,10.0.0.2"),
            ("PGSSLMINPROTOCOLVERSION", "TLSv1.3"),
            ("PGSSLMAXPROTOCOLVERSION", "TLSv1.3"),
            ("PGCONNECT_TIMEOUT", "soon"),
            ("PGPASSFILE", "/nowhere/pgpass"),
        ])
        .expect_err("seven faults");
        let expected = [
            "PGCONNECT_TIMEOUT: found \"soon\", must be a whole number of seconds",
            "PGHOSTADDR: found 2 addresses, must be one for each host",
            "PGPASSFILE: cannot read the file /nowhere/pgpass: it is not there",
            "PGSERVICE: is not supported: there are no service files here; write its parameters",
            "PGSSLMINPROTOCOLVERSION: is not supported: TLS 1.2 and 1.3 are offered; set ssl_min_protocol_version on the \
             server",
            "PGSSLMODE: found \"allow\", must be one of disable, prefer, require, verify-ca, verify-full; \
             did you mean prefer?",
        ];
        assert_eq!(message.lines().collect::<Vec<_>>(), expected);
        let message = resolved(&[("DATABASE_URL", "postgres://u:hunter2@h@h/")]).expect_err("a fault");
        assert!(message.starts_with("DATABASE_URL: ") && !message.contains("hunter2"), "{message}");
    }

    #[test]
    fn a_parameter_has_the_name_of_its_variable_or_of_the_string_that_has_it() {
        let names = |pairs: &[(&str, &str)]| {
            let lookup = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            let source = ConnectionSource::from_environment(&lookup).expect("a source");
            (source.names_of("host", "port"), source.names_of("user", "password"), source.name_of("sslmode"))
        };
        let expected = |host: &str, user: &str| (host.to_owned(), user.to_owned(), "PGSSLMODE".to_owned());
        assert_eq!(names(&[("PGHOST", "h"), ("PGUSER", "u")]), expected("PGHOST and PGPORT", "PGUSER and PGPASSWORD"));
        assert_eq!(
            names(&[("DATABASE_URL", "postgres://u@localhost:1/d"), ("PGPASSWORD", "p")]),
            expected("host and port in DATABASE_URL", "user in DATABASE_URL and PGPASSWORD"),
        );
    }

    #[test]
    fn a_parameter_is_unset_if_neither_a_variable_nor_a_string_may_have_it() {
        let is_unset = |pairs: &[(&str, &str)]| {
            let lookup = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            ConnectionSource::from_environment(&lookup).expect("a source").is_unset("dbname")
        };
        assert!(is_unset(&[("PGHOST", "h"), ("PGUSER", "u")]));
        assert!(!is_unset(&[("PGHOST", "h"), ("PGUSER", "u"), ("PGDATABASE", "d")]));
        assert!(!is_unset(&[("DATABASE_URL", "postgres://u@localhost:1/d")]));
    }

    #[test]
    fn what_is_not_utf_8_is_refused_where_it_stands() {
        let message = resolved(&[("PGHOST", "h"), ("PGPASSWORD", "p\u{fffd}")]).expect_err("a fault");
        assert_eq!(message, "PGPASSWORD: is not UTF-8");
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
        let source = ConnectionSource::from_environment(&lookup).expect("a source");
        assert_eq!(source.files(), std::slice::from_ref(&file));
        assert_eq!(source.resolve().expect("a connection").password, Some(Secret::new("first:pass".into())));
        fs::write(&file, "*:*:*:*:rotated\n").expect("a file");
        assert_eq!(source.resolve().expect("a connection").password, Some(Secret::new("rotated".into())));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("permissions");
        let message = source.resolve().expect_err("a fault");
        let expected = format!("passfile: others may read the file {}; its permissions must be", file.display());
        assert!(message.starts_with(&expected) && !message.contains("rotated"), "{message}");
        let faults = ConnectionSource::from_environment(&lookup).expect_err("a fault").to_string();
        assert!(faults.starts_with("PGPASSFILE: others may read"), "{faults}");
    }
}
