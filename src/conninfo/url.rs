//! Connection strings: `postgres://user:password@host:port,host:port/dbname?sslmode=...`, or libpq's keywords and
//! values, `host=... password='...'`.
//!
//! tokio-postgres reads them, too, but refuses `verify-full`, `sslrootcert` and more. So they are taken apart here, as
//! libpq does (fe-connect.c, `conninfo_uri_parse` and `conninfo_parse`). A misspelt string may hold a password
//! anywhere, so no message quotes anything but names of parameters.

use std::{borrow::Cow, collections::BTreeMap};

use percent_encoding::percent_decode_str;

use super::{
    foreign,
    keywords::{PARAMETERS, honoured},
};

/// Takes a connection string apart, under libpq's names (`connect_timeout` is in seconds).
///
/// # Errors
/// Says what is wrong and what would be right, without quoting values.
pub(super) fn parse(text: &str) -> Result<BTreeMap<&'static str, String>, String> {
    if let Some(rest) = without_scheme(text) {
        return parse_url(rest);
    }
    if let Some(message) = foreign::form(text) {
        return Err(message);
    }
    let is_keywords = !text.contains("://") && text.contains('=');
    if !is_keywords {
        return Err("must start with postgres:// or postgresql://, or have the form host=... user=...".into());
    }
    let mut parts = BTreeMap::new();
    for (name, value) in keywords(text)? {
        let Some(known) = honoured(&name, &value)? else { continue };
        if parts.contains_key(known) {
            return Err(format!("gives {known} twice"));
        }
        if !value.is_empty() {
            parts.insert(known, value);
        }
    }
    Ok(parts)
}

/// Returns the rest of a URL behind its scheme, in which a driver's name (`postgresql+psycopg2://`) and Java's `jdbc:`
/// are ignored.
fn without_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.strip_prefix("jdbc:").unwrap_or(text).split_once("://")?;
    let name = scheme.split_once('+').map_or(scheme, |(name, _)| name);
    matches!(name, "postgres" | "postgresql").then_some(rest)
}

/// The names and values of libpq's form: separated by white space, values in single quotes where they have any, with
/// backslashes before quotes and backslashes.
fn keywords(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or("has a parameter without =; parameters are name=value")?;
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err("has a space where name=value is expected; put values with spaces in single quotes".into());
        }
        rest = after.trim_start();
        let is_quoted = rest.starts_with('\'');
        let mut value = String::new();
        let mut characters = rest.char_indices().skip(usize::from(is_quoted));
        let end = loop {
            match characters.next() {
                Some((_, '\\')) => value.extend(characters.next().map(|(_, escaped)| escaped)),
                Some((at, '\'')) if is_quoted => break at + 1,
                Some((at, c)) if !is_quoted && c.is_whitespace() => break at,
                Some((_, c)) => value.push(c),
                None if is_quoted => return Err("has a single quote without its other one".into()),
                None => break rest.len(),
            }
        };
        rest = rest[end..].trim_start();
        pairs.push((name.to_owned(), value));
    }
    Ok(pairs)
}

fn parse_url(rest: &str) -> Result<BTreeMap<&'static str, String>, String> {
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
        let value_of_others = decoded(value).unwrap_or_default();
        let Some(known) = honoured(name, &value_of_others)? else { continue };
        if parts.contains_key(known) {
            return Err(format!("gives {known} twice"));
        }
        insert(&mut parts, known, value)?;
    }
    Ok(parts)
}

/// Inserts a part that is not empty, percent-decoded.
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

/// Undoes percent-encoding; `None` if an escape is malformed or stands for NUL, or if the result is no UTF-8.
fn decoded(text: &str) -> Option<String> {
    let is_escape = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit) && digits != b"00";
    // The library takes a % without its digits for itself.
    let mut escapes = text.split('%').skip(1);
    let are_right = escapes.all(|rest| rest.as_bytes().get(..2).is_some_and(is_escape));
    are_right.then(|| percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)).flatten()
}

/// The connection string with `redacted` for its password, for people to look at; `None` if it is none.
pub(crate) fn redacted(text: &str) -> Option<String> {
    let parts = parse(text).ok()?;
    if !parts.contains_key("password") {
        return Some(text.to_owned());
    }
    if without_scheme(text).is_none() {
        let shown = |name: &str, value: &str| format!("{name}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
        let known = PARAMETERS.into_iter().filter_map(|name| Some((name, parts.get(name)?)));
        let pairs: Vec<String> = known
            .map(|(name, value)| if name == "password" { "password=redacted".to_owned() } else { shown(name, value) })
            .collect();
        return Some(pairs.join(" "));
    }
    let (before, query) = text.split_once('?').map_or((text, None), |(before, query)| (before, Some(query)));
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
            "postgres://u@h/d?require_auth=hunter2",
            "postgres://u@h/d?pgbouncer=hunter2",
        ] {
            let message = parse(bad).expect_err(bad);
            assert!(!message.contains("hunter2") && !message.contains("ter2"), "{bad}: {message}");
        }
        let message = parse("postgres://u@h/d?sslmod=require").expect_err("an unknown parameter");
        assert_eq!(message, r#"has the unknown parameter "sslmod"; did you mean sslmode?"#);
    }

    #[test]
    fn the_form_of_keywords_is_libpqs() {
        assert_eq!(
            parts(r"host = 'a b' user=me  password='p\'w\\ =x' dbname=d\ b sslmode=require gssencmode=disable"),
            [
                ("dbname", "d b".to_owned()),
                ("host", "a b".to_owned()),
                ("password", r"p'w\ =x".to_owned()),
                ("sslmode", "require".to_owned()),
                ("user", "me".to_owned()),
            ]
        );
        for bad in ["host=h hunter2", "host='hunter2", "=hunter2", "host=h password=hun ter2", "user=a user=hunter2"] {
            let message = parse(bad).expect_err(bad);
            assert!(!message.contains("hunter2") && !message.contains("ter2"), "{bad}: {message}");
        }
    }

    #[test]
    fn strings_of_clouds_are_taken_as_they_are() {
        for text in [
            "postgresql://owner:npg_x@ep-a-123-pooler.eu-central-1.aws.neon.tech/db?sslmode=require&channel_binding=require",
            "postgres://u:p@ep-a-123.eu-central-1.aws.neon.tech/db?sslmode=require&options=endpoint%3Dep-a-123",
            "postgresql://postgres.abc:p@aws-0-eu-central-1.pooler.supabase.com:6543/postgres?sslmode=require",
            "postgres://avnadmin:p@pg-1.aivencloud.com:12691/defaultdb?sslmode=require",
            "postgresql://doadmin:p@db.ondigitalocean.com:25060/defaultdb?sslmode=require",
            "host=srv.postgres.database.azure.com port=5432 dbname=postgres user=admin password={p} sslmode=require",
            "postgresql://u:p@free-tier.cockroachlabs.cloud:26257/defaultdb?sslmode=verify-full",
            "postgres://u:p@ec2-1.compute-1.amazonaws.com:5432/d?sslmode=require",
            "postgresql+asyncpg://u:p@db.example.org/d?sslmode=verify-full&application_name=web",
            "postgresql://u:p@db.example.org/d?sslmode=require&gssencmode=disable&target_session_attrs=read-write",
        ] {
            if let Err(message) = parse(text) {
                panic!("{text}: {message}");
            }
        }
    }

    #[test]
    fn a_shown_url_has_no_password() {
        for (url, shown) in [
            ("postgres://u:hunter2@h/d?sslmode=disable", "postgres://u:redacted@h/d?sslmode=disable"),
            ("postgres://u@h/d?password=hunter2&sslmode=disable", "postgres://u@h/d?password=redacted&sslmode=disable"),
            ("postgres://h", "postgres://h"),
            ("host=h password='hunter2' dbname=\"x'y\"", r#"host='h' dbname='"x\'y"' password=redacted"#),
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
