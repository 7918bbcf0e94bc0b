//! Connection URLs: `postgres://user:password@host:port,host:port/dbname?sslmode=...`.
//!
//! tokio-postgres reads them too, but refuses `verify-full`, `sslrootcert` and more; so we take
//! them apart ourselves, as libpq does (fe-connect.c, `conninfo_uri_parse`). A URL may hold a
//! password anywhere if it is misspelt, so no message quotes any of it but parameter names.

use std::collections::BTreeMap;

use super::keywords::PARAMETERS;
use crate::diagnostics::{nearest, quoted};

/// The parts of a URL under the names of `databases.<name>` (and `connect_timeout`, in seconds).
///
/// # Errors
/// What is wrong and what would be right, without quoting values.
pub(crate) fn parse(url: &str) -> Result<BTreeMap<&'static str, String>, String> {
    let rest = ["postgres://", "postgresql://"]
        .into_iter()
        .find_map(|scheme| url.strip_prefix(scheme))
        .ok_or("must start with postgres:// or postgresql://")?;
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    if query.is_some_and(|query| query.contains('@')) {
        return Err("has a ? before an @; in a user name or password write ? as %3F, elsewhere @ as %40".into());
    }
    let (authority, dbname) = rest.split_once('/').map_or((rest, ""), |(authority, dbname)| (authority, dbname));
    if dbname.contains('@') {
        return Err("has a / before an @; in a user name or password write / as %2F, elsewhere @ as %40".into());
    }
    let mut parts = BTreeMap::new();
    let servers = match authority.split('@').collect::<Vec<_>>()[..] {
        [servers] => servers,
        [user, servers] => {
            let (user, password) = user.split_once(':').map_or((user, None), |(user, password)| (user, Some(password)));
            insert(&mut parts, "user", user)?;
            insert(&mut parts, "password", password.unwrap_or_default())?;
            servers
        }
        _ => return Err("has several @; in a user name or password write @ as %40".into()),
    };
    insert_servers(&mut parts, servers)?;
    insert(&mut parts, "dbname", dbname)?;
    for parameter in query.into_iter().flat_map(|query| query.split('&')) {
        let (name, value) =
            parameter.split_once('=').ok_or("has a parameter without =; parameters are name=value, separated by &")?;
        let Some(known) = PARAMETERS.into_iter().find(|known| *known == name) else {
            let suggestion = match nearest(name, PARAMETERS) {
                Some(name) => format!("did you mean {name}?"),
                None => format!("known here: {}", PARAMETERS.join(", ")),
            };
            return Err(format!("has the unknown parameter {}; {suggestion}", quoted(name)));
        };
        if parts.contains_key(known) {
            return Err(format!("gives {known} twice"));
        }
        insert(&mut parts, known, value)?;
    }
    Ok(parts)
}

/// Notes a part that is not empty, percent-decoded.
fn insert(parts: &mut BTreeMap<&'static str, String>, name: &'static str, text: &str) -> Result<(), String> {
    if !text.is_empty() {
        parts.insert(
            name,
            decoded(text).ok_or_else(|| format!("has a wrong percent escape in its {name}; write % as %25"))?,
        );
    }
    Ok(())
}

/// Takes `a:1,b:2` apart into a list of hosts and, if any is given, one of ports.
fn insert_servers(parts: &mut BTreeMap<&'static str, String>, servers: &str) -> Result<(), String> {
    if servers.is_empty() {
        return Ok(());
    }
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for server in servers.split(',') {
        let (host, port) = match server.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, port))) => (host, port.strip_prefix(':').or(port.is_empty().then_some(""))),
            Some(None) => return Err("has a [ without its ]".into()),
            None => server.split_once(':').map_or((server, Some("")), |(host, port)| (host, Some(port))),
        };
        hosts.push(host);
        ports.push(port.ok_or("has something other than :port after a ]")?);
    }
    insert(parts, "host", &hosts.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        let ports: Vec<&str> = ports.into_iter().map(|port| if port.is_empty() { "5432" } else { port }).collect();
        insert(parts, "port", &ports.join(","))?;
    }
    Ok(())
}

/// Undoes percent-encoding; `None` if an escape is malformed, NUL, or the result is no UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
                u8::from_str_radix(digits, 16).ok().filter(|byte| *byte != 0)?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The URL with `redacted` for its password, for people to look at; `None` if it is no URL.
pub(crate) fn redacted(url: &str) -> Option<String> {
    parse(url).ok()?;
    let (before, query) = url.split_once('?').map_or((url, None), |(before, query)| (before, Some(query)));
    let mut shown = match before.split_once('@') {
        Some((user, servers)) => {
            let (scheme, user) = user.split_once("://")?;
            let user = user.split_once(':').map_or_else(|| user.to_owned(), |(user, _)| format!("{user}:redacted"));
            format!("{scheme}://{user}@{servers}")
        }
        None => before.to_owned(),
    };
    for (index, parameter) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        shown.push(if index == 0 { '?' } else { '&' });
        shown.push_str(if parameter.starts_with("password=") { "password=redacted" } else { parameter });
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(url: &str) -> Vec<(&'static str, String)> {
        parse(url).expect("a URL").into_iter().collect()
    }

    #[test]
    fn every_part_is_taken_and_decoded() {
        assert_eq!(
            parts(
                "postgresql://us%40er:p%3Aw@h1:1,[::1]:2/d%20b?sslmode=verify-full&sslrootcert=%2Fca.crt&connect_timeout=5"
            ),
            [
                ("connect_timeout", "5".to_owned()),
                ("dbname", "d b".to_owned()),
                ("host", "h1,::1".to_owned()),
                ("password", "p:w".to_owned()),
                ("port", "1,2".to_owned()),
                ("sslmode", "verify-full".to_owned()),
                ("sslrootcert", "/ca.crt".to_owned()),
                ("user", "us@er".to_owned()),
            ]
        );
        assert_eq!(parts("postgres://a,b:6432"), [("host", "a,b".to_owned()), ("port", "5432,6432".to_owned())]);
        assert_eq!(parts("postgres://%2Frun%2Fpg/db"), [("dbname", "db".to_owned()), ("host", "/run/pg".to_owned())]);
        assert_eq!(parts("postgres:///db?host=/run/pg"), [("dbname", "db".to_owned()), ("host", "/run/pg".to_owned())]);
    }

    #[test]
    fn a_misspelt_url_is_refused_without_being_quoted() {
        for bad in [
            "hunter2",
            "mysql://u:hunter2@h/d",
            "postgres://u:hunter2@x@h/d",
            "postgres://u:hun/ter2@h/d",
            "postgres://u:hun?ter2@h/d",
            "postgres://u:hunter2%@h/d",
            "postgres://u:hunter2%00@h/d",
            "postgres://u@h/d?hunter2",
            "postgres://u@h/d?password=hunter2%",
            "postgres://u@[::1/d",
            "postgres://u@[::1]5432/d",
            "postgres://u@h/d?user=v",
        ] {
            let message = parse(bad).expect_err(bad);
            assert!(!message.contains("hunter2") && !message.contains("ter2"), "{bad}: {message}");
        }
        let message = parse("postgres://u@h/d?sslmod=require").expect_err("an unknown parameter");
        assert_eq!(message, r#"has the unknown parameter "sslmod"; did you mean sslmode?"#);
    }

    #[test]
    fn a_shown_url_has_no_password() {
        for (url, shown) in [
            ("postgres://u:hunter2@h/d?sslmode=disable", "postgres://u:redacted@h/d?sslmode=disable"),
            ("postgres://u@h/d?password=hunter2&sslmode=disable", "postgres://u@h/d?password=redacted&sslmode=disable"),
            ("postgres://h", "postgres://h"),
        ] {
            assert_eq!(redacted(url).as_deref(), Some(shown));
        }
    }

    proptest! {
        #[test]
        fn no_password_gets_through_redaction(password in "[a-z0-9%:/?@&=#\\[\\], ]{6,20}", rest in "[a-z/?=&@:]{0,20}") {
            let url = format!("postgres://u:{password}@h{rest}");
            if let Some(shown) = redacted(&url) {
                prop_assert!(!shown.contains(&password), "{}", shown);
            }
        }

        #[test]
        fn any_text_is_taken_or_refused(text in ".*") {
            let _ = parse(&format!("postgres://{text}"));
        }
    }
}
