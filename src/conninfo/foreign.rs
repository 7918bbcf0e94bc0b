//! Recognises text that people paste from other drivers, from cloud providers' pages and from templates, and says what
//! to write instead.
//!
//! No message quotes a value: each may hold a password.

/// The words of other drivers for an `sslmode`, with libpq's.
const SSLMODES: &[(&str, &str)] = &[
    ("allow", "prefer"),
    ("false", "disable"),
    ("no-verify", "require"),
    ("required", "require"),
    ("true", "require"),
    ("verifyca", "verify-ca"),
    ("verifyfull", "verify-full"),
];

/// The words of other drivers for a `target_session_attrs`, with libpq's.
const SESSION_ATTRS: &[(&str, &str)] = &[
    ("master", "primary"),
    ("preferSecondary", "prefer-standby"),
    ("preferSlave", "prefer-standby"),
    ("secondary", "standby"),
    ("slave", "standby"),
];

/// Other words for parameters, in lower case, with libpq's.
const NAMES: &[(&str, &str)] = &[
    ("database", "dbname"),
    ("db", "dbname"),
    ("hostname", "host"),
    ("pass", "password"),
    ("pwd", "password"),
    ("server", "host"),
    ("ssl_mode", "sslmode"),
    ("uid", "user"),
    ("username", "user"),
];

/// Beginnings that are not libpq's, each with what it is of and what to write.
const BEGINNINGS: &[(&str, &str, &str)] = &[
    ("psql ", "the program psql", "give only what stands behind it, without quotes"),
    ("pgsql:", "PHP's PDO", "write host=... port=... dbname=..., separated by spaces"),
    ("pgsql://", "PHP", "write postgresql:// in its place"),
    ("psql://", "Django", "write postgresql:// in its place"),
    ("pg://", "other drivers", "write postgresql:// in its place"),
    ("ecto://", "Ecto", "write postgresql:// in its place"),
    ("cockroachdb://", "SQLAlchemy", "write postgresql:// in its place"),
    ("cockroach://", "other drivers", "write postgresql:// in its place"),
    ("redshift://", "other drivers", "write postgresql:// in its place"),
    ("postgis://", "Django", "write postgresql:// in its place"),
    ("timescale://", "other drivers", "write postgresql:// in its place"),
    ("r2dbc:", "R2DBC", "write postgresql:// and what stands behind ://"),
    ("jdbc:", "JDBC with a wrapper", "write postgresql:// and what stands behind ://"),
];

/// Names of the form `Name=value;Name=value`, which Npgsql, ADO.NET, ODBC and others take, in lower case.
const ADO: &[&str] = &[
    "data source",
    "database",
    "db",
    "dbname",
    "driver",
    "dsn",
    "host",
    "password",
    "port",
    "pwd",
    "server",
    "ssl mode",
    "sslmode",
    "trust server certificate",
    "uid",
    "user",
    "user id",
    "userid",
    "username",
];

/// Returns what to write instead of a text that is another driver's.
pub(super) fn form(text: &str) -> Option<String> {
    // Two beginnings fit `pgsql://`.
    let beginning = BEGINNINGS.iter().filter(|(beginning, _, _)| text.starts_with(beginning));
    if let Some((beginning, whose, way_out)) = beginning.max_by_key(|(beginning, _, _)| beginning.len()) {
        return Some(format!("starts with {}, which is of {whose}: {way_out}", beginning.trim_end()));
    }
    let name = |part: &str| part.split_once('=').map(|(name, _)| name.trim().to_ascii_lowercase());
    let parts: Vec<&str> = text.split(';').filter(|part| !part.trim().is_empty()).collect();
    // A libpq string may have a ; in a password, behind other parameters.
    let is_ado = text.contains(';')
        && parts.first().is_some_and(|first| first.matches('=').count() == 1)
        && parts.iter().take(2).all(|part| name(part).is_some_and(|n| is_ado(&n)));
    is_ado.then(|| {
        "has parameters separated by ;, as Npgsql and ODBC take them: write \
         host=... port=5432 dbname=... user=... password='...' sslmode=verify-full, separated by spaces \
         (Server is host, Database is dbname, User Id and Username are user, Ssl Mode=Require is sslmode=require)"
            .to_owned()
    })
}

fn is_ado(name: &str) -> bool {
    ADO.contains(&name)
}

/// Returns libpq's name for another name of a parameter.
pub(super) fn name(theirs: &str) -> Option<&'static str> {
    NAMES.iter().find_map(|(name, ours)| name.eq_ignore_ascii_case(theirs).then_some(*ours))
}

/// Returns libpq's word for another driver's.
pub(super) fn word(key: &str, word: &str) -> Option<&'static str> {
    let words = match key {
        "sslmode" => SSLMODES,
        "target_session_attrs" => SESSION_ATTRS,
        _ => return None,
    };
    words.iter().find_map(|(theirs, ours)| theirs.eq_ignore_ascii_case(word).then_some(*ours))
}

/// Returns what is wrong with a text that is a template's placeholder. It would be sent unchanged, and the server would
/// report a wrong password.
pub(super) fn placeholder(text: &str) -> Option<&'static str> {
    let text = text.trim();
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-. ".contains(c));
    let within = |open: &str, close: &str| {
        let inner = text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        inner.is_some_and(|inner| is_name(inner.split(":-").next().unwrap_or(inner)))
    };
    let is_variable = text.strip_prefix('$').is_some_and(|name| {
        name.contains('_') && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    });
    if is_variable || within("${", "}") || within("$(", ")") || within("%", "%") {
        return Some("is a variable's name, which nothing replaces here; write {env: NAME} or {file: PATH}");
    }
    if within("{{", "}}") || (text.starts_with("{{") && text.ends_with("}}")) {
        return Some("is a template's placeholder, which nothing has replaced; write {env: NAME} or {file: PATH}");
    }
    let is_for_people = |open, close| within(open, close) && text.to_ascii_lowercase().contains("your");
    if is_for_people("[", "]") || is_for_people("{", "}") || is_for_people("<", ">") {
        return Some("is a placeholder of the page that it was copied from; write your own in its place");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_libpq_is_told_from_what_is() {
        for text in [
            "Host=h;Username=u;Password=hunter2;Database=d",
            "Server=h;Database=d;Port=5432;User Id=u;Password=hunter2;Ssl Mode=Require;",
            "Driver={PostgreSQL Unicode};Server=h;Uid=u;Pwd=hunter2",
            "jdbc:aws-wrapper:postgresql://h/d?password=hunter2",
            "psql 'postgres://u:hunter2@h/d'",
        ] {
            let message = form(text).expect(text);
            assert!(!message.contains("hunter2"), "{message}");
        }
        for text in ["host=h password=a;b user=u", "host=h password='host=x;port=1'", "postgres://u:a;b=c@h/d", ""] {
            assert_eq!(form(text), None, "{text}");
        }
    }

    #[test]
    fn placeholders_are_told_from_passwords() {
        for text in [
            "${DB_PASSWORD}",
            "${DB_PASSWORD:-x}",
            "$(DB_PASSWORD)",
            "$DB_PASSWORD",
            "{{ .Values.password }}",
            "[YOUR-PASSWORD]",
            "{your_password}",
            "<your password>",
            "%DB_PASSWORD%",
            "{{password}}",
        ] {
            assert!(placeholder(text).is_some(), "{text}");
        }
        for text in ["$ecret_1", "$SECRET", "{p}", "{}", "a${B}", "[x]", "<x>", "${}", "%41", "{\"your\": 1}"] {
            assert_eq!(placeholder(text), None, "{text}");
        }
    }
}
