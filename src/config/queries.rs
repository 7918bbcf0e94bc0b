//! Checks `queries`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    builtin,
    section::{References, Section},
};
use crate::{
    diagnostics::suggestion,
    query::{
        Absent, METRIC_NAME, Namespaces, Notify, Parameter, ParameterKind, Query, is_metric_name,
        sql::{self, Malformed},
    },
    scaling::{Activation, Divisor, Rounding, Target},
};

const DEFAULT_TIMEOUT: Duration = Duration::from_millis(1500);
const DEFAULT_MAX_AGE: Duration = Duration::from_secs(1);
const DEFAULT_RESYNC: Duration = Duration::from_secs(5);

/// PostgreSQL cuts longer identifiers (NAMEDATALEN - 1), and a channel's name may not be longer.
const LONGEST_IDENTIFIER: usize = 63;

/// Far more than any count needs, and below PostgreSQL's limit of 65,535 with room for the wrapper.
const MOST_PARAMETERS: usize = 100;

pub(crate) const KINDS: [(&str, ParameterKind); 6] = [
    ("text", ParameterKind::Text),
    ("bigint", ParameterKind::Bigint),
    ("double", ParameterKind::Double),
    ("boolean", ParameterKind::Boolean),
    ("uuid", ParameterKind::Uuid),
    ("timestamptz", ParameterKind::Timestamptz),
];

pub(crate) const ABSENT: [(&str, Absent); 2] = [("error", Absent::Error), ("zero", Absent::Zero)];

/// The queries by name. A built-in query without a database to ask is left out.
pub(crate) fn checked(section: &Section<'_>, databases: &BTreeSet<String>) -> BTreeMap<String, Arc<Query>> {
    let mut queries = BTreeMap::new();
    for (name, section) in section.named(References::Refused) {
        let is_ours = builtin::is_builtin(name) && !section.is_configured();
        let preferred = match databases.len() {
            _ if is_ours && databases.contains(builtin::DATABASE) => Some(builtin::DATABASE),
            1 => databases.first().map(String::as_str),
            _ => None,
        };
        if is_ours && preferred.is_none() && !section.has("database") {
            continue;
        }
        if !is_metric_name(name) {
            section.own_fault(format!("the name must be {METRIC_NAME}"));
        }
        if !section.is_present() {
            continue;
        }
        let query = checked_query(name, &section, preferred, databases);
        queries.extend(query.map(|query| (name.to_owned(), Arc::new(query))));
    }
    queries
}

fn checked_query(
    name: &str,
    section: &Section<'_>,
    preferred: Option<&str>,
    databases: &BTreeSet<String>,
) -> Option<Query> {
    let milliseconds = Duration::from_millis;
    let database = database(section, preferred, databases);
    let parameters = parameters(&section.section("parameters"));
    let statement = statement(section, parameters.len());
    let columns = Columns::checked(section);
    let group_by = group_by(section, &parameters);
    let on_no_row = if group_by.is_some() { Absent::Zero } else { Absent::Error };
    let notify = section.has("notify").then(|| notify(&section.section("notify"))).flatten();
    let longest_timeout = milliseconds(10)..=milliseconds(60_000);
    let ages = milliseconds(1)..=Duration::from_secs(3600);
    let query = Query {
        name: name.to_owned(),
        database: database.unwrap_or_default(),
        sql: statement.unwrap_or_default(),
        value_column: columns.value,
        activity_column: columns.activity,
        next_change: columns.next_change,
        divide_by: section.number("divide_by", "a finite number above 0", Divisor::new).unwrap_or_default(),
        rounding: section.word("rounding", &ROUNDINGS).unwrap_or_default(),
        target: section.number("target", "a finite number of at least 0.001", Target::new).unwrap_or_default(),
        activation: section.number("activation", "a finite number of at least 0", Activation::new).unwrap_or_default(),
        parameters,
        group_by,
        on_null: section.word("on_null", &ABSENT).unwrap_or(Absent::Error),
        on_no_row: section.word("on_no_row", &ABSENT).unwrap_or(on_no_row),
        timeout: section.duration("timeout", DEFAULT_TIMEOUT, longest_timeout, None),
        max_age: section.duration("max_age", DEFAULT_MAX_AGE, ages, Some("only calls that overlap share")),
        notify,
        namespaces: namespaces(section),
    };
    section.refuse_unknown_keys();
    Some(query)
}

const ROUNDINGS: [(&str, Rounding); 4] =
    [("ceil", Rounding::Ceil), ("floor", Rounding::Floor), ("nearest", Rounding::Nearest), ("none", Rounding::None)];

fn database(section: &Section<'_>, preferred: Option<&str>, databases: &BTreeSet<String>) -> Option<String> {
    if let Some(entry) = section.entry("database") {
        let name = entry.text()?;
        if !databases.contains(&name) {
            let known = suggestion(&name, databases.iter().map(String::as_str));
            entry.wrong(&format!("the name of one of databases; {known}"));
        }
        return Some(name);
    }
    if preferred.is_none() && !section.has("database") {
        let names: Vec<&str> = databases.iter().map(String::as_str).collect();
        section.fault(
            "database",
            match names.len() {
                0 => "is missing, and there is no database to be the default; add one under databases".to_owned(),
                _ => {
                    format!("is missing; with several databases it must name one: {}", names.join(", "))
                }
            },
        );
    }
    preferred.map(str::to_owned)
}

fn statement(section: &Section<'_>, parameters: usize) -> Option<String> {
    if !section.has("sql") {
        section.fault("sql", "is missing; give the statement that counts");
    }
    let text = section.text("sql")?;
    match sql::is_one_statement(&text) {
        Err(Malformed::Unterminated) => section.fault("sql", "has a string, quoted name or comment that does not end"),
        Err(Malformed::Unbalanced) => section.fault("sql", "has parentheses that do not match"),
        Err(Malformed::SeveralStatements) => section.fault("sql", "has more after a ;, must be one statement"),
        Ok(()) if !sql::looks_like_sql(&text) => {
            section.fault("sql", "must start with SELECT, WITH, VALUES, TABLE or a parenthesis");
        }
        Ok(()) => {}
    }
    let highest = sql::highest_placeholder(&text);
    if usize::try_from(highest) != Ok(parameters) {
        section.fault(
            "sql",
            match (highest, parameters) {
                (0, count) => {
                    format!("uses no $n, but parameters has {count}; use each, as $1, $2..., or leave it out")
                }
                (highest, 0) => format!("uses up to ${highest}, but there are no parameters; declare {highest}"),
                (highest, count) => {
                    format!("uses up to ${highest}, but parameters has {count}; the numbers must be equal")
                }
            },
        );
    }
    Some(text)
}

struct Columns {
    value: Option<String>,
    activity: Option<String>,
    next_change: Option<String>,
}

impl Columns {
    fn checked(section: &Section<'_>) -> Self {
        let column = |key| section.text(key).filter(|name| is_identifier(section, key, name));
        let columns = Self {
            value: column("value_column"),
            activity: column("activity_column"),
            next_change: column("next_change"),
        };
        for (key, is_set) in
            [("activity_column", columns.activity.is_some()), ("next_change", columns.next_change.is_some())]
        {
            if is_set && !section.has("value_column") {
                section.fault(key, "needs value_column: name the column that is reported");
            }
        }
        columns
    }
}

fn is_identifier(section: &Section<'_>, key: &str, name: &str) -> bool {
    if name.len() > LONGEST_IDENTIFIER {
        section.fault(key, format!("has {} bytes, must have at most {LONGEST_IDENTIFIER}", name.len()));
    }
    name.len() <= LONGEST_IDENTIFIER
}

fn group_by(section: &Section<'_>, parameters: &[Parameter]) -> Option<String> {
    let name = section.text_or_none("group_by").filter(|name| is_identifier(section, "group_by", name))?;
    if !section.has("value_column") {
        section.fault("group_by", "needs value_column: name the column that is reported");
    }
    if parameters.iter().any(|parameter| parameter.name == name) {
        let message =
            "is also one of parameters; the key is picked from the rows and not bound, so declare it only here";
        section.fault("group_by", message);
    }
    Some(name)
}

fn parameters(section: &Section<'_>) -> Vec<Parameter> {
    let mut parameters = Vec::new();
    for entry in section.entries() {
        let is_name = entry.key.len() <= LONGEST_IDENTIFIER
            && !entry.key.is_empty()
            && entry.key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !is_name {
            section.fault(entry.key, "the name must be 1 to 63 letters, digits, '-', '_' and '.'");
        }
        if let Some(kind) = entry.word(&KINDS) {
            parameters.push(Parameter { name: entry.key.to_owned(), kind });
        }
    }
    if parameters.len() > MOST_PARAMETERS {
        section.own_fault(format!("has {} names, must have at most {MOST_PARAMETERS}", parameters.len()));
    }
    parameters
}

fn notify(section: &Section<'_>) -> Option<Notify> {
    if !section.is_present() {
        return None;
    }
    if !section.has("channel") {
        section.fault("channel", "is missing; give the channel to LISTEN on");
    }
    let channel = section.text("channel").filter(|name| is_identifier(section, "channel", name));
    let resync = section.duration("resync", DEFAULT_RESYNC, Duration::from_secs(1)..=Duration::from_secs(60), None);
    section.refuse_unknown_keys();
    Some(Notify { channel: channel?, resync })
}

fn namespaces(section: &Section<'_>) -> Namespaces {
    let Some(entry) = section.entry("namespaces") else { return Namespaces::All };
    let right = "a list of Kubernetes namespaces, or [\"*\"] for all";
    let Some(names) = entry.texts(right) else { return Namespaces::All };
    match &names[..] {
        [] => section.fault("namespaces", format!("is empty, so nobody could use the query; must be {right}")),
        [all] if all == "*" => return Namespaces::All,
        names if names.iter().any(|name| name == "*") => {
            section.fault("namespaces", "has * beside other names; must be [\"*\"] alone, or names alone");
        }
        names => {
            for name in names.iter().filter(|name| !is_namespace(name)) {
                let message = format!("found {name:?}, must be names of Kubernetes namespaces (there are no patterns)");
                section.fault("namespaces", message);
            }
        }
    }
    Namespaces::Only(names)
}

/// Whether a text can be a namespace's name: an RFC 1123 label.
fn is_namespace(name: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = name.as_bytes();
    bytes.len() <= 63
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}
