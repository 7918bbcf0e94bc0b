//! A trigger of type `postgresql`, as KEDA reads it.
//!
//! *Source:* pkg/scalers/postgresql_scaler.go and pkg/scalers/scalersconfig/typed_config.go of kedacore/keda v2.21.0:
//! `host`, `port`, `userName`, `dbName` and `sslmode` come from the TriggerAuthentication before the metadata,
//! `connection` and `password` from it before a variable, and never from the metadata itself; every text is trimmed,
//! and an empty one is none; numbers are JSON.

use super::{
    origin::{self, Authentication, Origin, Surroundings},
    statement::{self, Traits},
};
use crate::{
    diagnostics::shown_key,
    manifest::{Node, Object, Trigger, Value},
    scaling::{Activation, SMALLEST, Target},
};

/// The type of the trigger.
pub(super) const TYPE: &str = "postgresql";

/// The keys of the metadata that stay: with clapometer they mean the same.
pub(super) const KEPT: [&str; 3] = ["query", "targetQueryValue", "activationTargetQueryValue"];

/// The keys of the metadata that say where to connect. The configuration has them now.
const CONNECTION_KEYS: [&str; 7] =
    ["host", "port", "userName", "dbName", "sslmode", "passwordFromEnv", "connectionFromEnv"];

/// Keys that KEDA takes from elsewhere only, and that hold a secret where somebody wrote them all the same.
pub(super) const SECRET_KEYS: [&str; 2] = ["connection", "password"];

/// The statement and the connection that clapometer takes instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Builtin {
    /// The statement.
    pub(super) sql: String,
    /// The traits that the statement shows.
    pub(super) traits: Traits,
    /// The connection that it runs on.
    pub(super) connection: Connection,
    /// The keys that go although nobody asked for them, with the reason.
    pub(super) ignored: Vec<String>,
    /// Everything else that is to be said about it.
    pub(super) remarks: Vec<String>,
}

/// The connection that KEDA makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connection {
    /// The parts that tell databases apart. One role has one password, so that the password is not among them.
    pub(super) server: Server,
    /// The password, where it does not come with the server.
    pub(super) password: Option<Origin>,
}

/// The server, the database and the role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Server {
    /// A connection string that stands elsewhere.
    String(Origin),
    /// In [`PARTS`]' order.
    Parts(Vec<Part>),
}

/// The parts of a server in the metadata, with clapometer's keys.
pub(super) const PARTS: [(&str, &str); 5] =
    [("host", "host"), ("port", "port"), ("dbName", "dbname"), ("userName", "user"), ("sslmode", "sslmode")];

/// A part of a server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// It stands in the manifest.
    Text(String),
    /// It stands elsewhere.
    From(Origin),
}

/// Reads a trigger.
///
/// # Errors
/// The reasons why it stays as it is, sentences without their full stops.
pub(super) fn read(trigger: Trigger<'_>, object: &Object, around: &Surroundings<'_>) -> Result<Builtin, Vec<String>> {
    let mut reasons = not_text(trigger);
    if !reasons.is_empty() {
        return Err(reasons);
    }
    let authentication = Authentication::of(trigger, object, around);
    if let Some(provider) = &authentication.pod_identity {
        reasons.push(format!(
            "{} logs in by the pod identity `{provider}`, and clapometer by a password or a client certificate only",
            authentication.label.as_deref().unwrap_or_default()
        ));
    }
    reasons.extend(check_target(trigger, object));
    reasons.extend(check_activation(trigger));
    let sql = text(trigger, "query");
    let traits = sql.map(statement::traits).unwrap_or_default();
    match sql.map(statement::check) {
        None => reasons.push("KEDA refuses it: it has no query".to_owned()),
        Some(Err(reason)) => reasons.push(reason),
        Some(Ok(())) => {
            if let Some(words) = &traits.writes {
                reasons.push(format!("its SQL writes ({words}), and clapometer's readings are read-only transactions"));
            }
        }
    }
    let mut remarks = Vec::new();
    let connection = connection(trigger, object, &authentication, around, &mut remarks);
    let connection = match connection {
        Ok(connection) => Some(connection),
        Err(mut missing) => {
            reasons.append(&mut missing);
            None
        }
    };
    match (connection, sql) {
        (Some(connection), Some(sql)) if reasons.is_empty() => {
            Ok(Builtin { sql: sql.to_owned(), traits, connection, ignored: ignored(trigger), remarks })
        }
        _ => Err(reasons),
    }
}

/// Returns a text of the metadata, as KEDA takes it: trimmed, and none if it is empty.
pub(super) fn text<'a>(trigger: Trigger<'a>, key: &str) -> Option<&'a str> {
    trigger.text(key).filter(|text| !text.is_empty())
}

fn not_text(trigger: Trigger<'_>) -> Vec<String> {
    let metadata = trigger.node.get("metadata");
    let entries = metadata.map_or(&[][..], Node::entries);
    let wrong: Vec<String> =
        entries.iter().filter(|(_, node)| !matches!(node.value, Value::Text(_))).map(|(key, _)| code(key)).collect();
    if metadata.is_none_or(|metadata| metadata.entries().is_empty()) {
        return vec!["it has no metadata".to_owned()];
    }
    if wrong.is_empty() {
        return Vec::new();
    }
    let names = wrong.join(", ");
    vec![format!("the value of {names} is no text, which the API server refuses; put it in quotes")]
}

fn check_target(trigger: Trigger<'_>, object: &Object) -> Option<String> {
    let is_formula = object.spec(&["advanced", "scalingModifiers", "formula"]).is_some();
    let Some(text) = text(trigger, "targetQueryValue") else {
        let reason = "KEDA refuses it: it has no targetQueryValue";
        return (!is_formula).then(|| reason.to_owned());
    };
    match serde_json::from_str::<f64>(text) {
        Err(_) => Some("KEDA refuses it: its targetQueryValue is no number".to_owned()),
        Ok(0.0) => Some("KEDA refuses it: its targetQueryValue is 0".to_owned()),
        Ok(number) if Target::new(number).is_none() => {
            Some(format!("its targetQueryValue is below {SMALLEST}, which KEDA rounds to three decimals"))
        }
        Ok(_) => None,
    }
}

fn check_activation(trigger: Trigger<'_>) -> Option<String> {
    let text = text(trigger, "activationTargetQueryValue")?;
    match serde_json::from_str::<f64>(text) {
        Err(_) => Some("KEDA refuses it: its activationTargetQueryValue is no number".to_owned()),
        Ok(number) if Activation::new(number).is_none() => Some(
            "its activationTargetQueryValue is below zero, so that it is always active; clapometer takes no such number: \
             set minReplicaCount to 1 instead, and remove the key"
                .to_owned(),
        ),
        Ok(_) => None,
    }
}

fn connection(
    trigger: Trigger<'_>,
    object: &Object,
    authentication: &Authentication,
    around: &Surroundings<'_>,
    remarks: &mut Vec<String>,
) -> Result<Connection, Vec<String>> {
    let of_variable = |key| {
        let name = text(trigger, key)?;
        let unseen = || Origin::Variable { of: object.to_string(), name: name.to_owned() };
        Some(origin::variable(object, name, around).unwrap_or_else(unseen))
    };
    if let Some(origin) = authentication.parameter("connection").cloned().or_else(|| of_variable("connectionFromEnv")) {
        return Ok(Connection { server: Server::String(origin), password: None });
    }
    let part = |key: &str| match (authentication.parameter(key), text(trigger, key)) {
        (Some(origin), _) => Some(Part::From(origin.clone())),
        (None, Some(text)) => Some(Part::Text(text.to_owned())),
        (None, None) => None,
    };
    let parts: Vec<Option<Part>> = PARTS.iter().map(|(key, _)| part(key)).collect();
    if let (true, Some(origin)) = (parts.contains(&None), authentication.unseen()) {
        remarks.push(format!(
            "{} was not among the files. Since the trigger has no complete set of host, port, userName, dbName and sslmode, \
             it is taken to bring `connection`.",
            authentication.label.as_deref().unwrap_or_default()
        ));
        return Ok(Connection { server: Server::String(origin), password: None });
    }
    let missing: Vec<String> = PARTS
        .iter()
        .zip(&parts)
        .filter(|(_, part)| part.is_none())
        .map(|((key, _), _)| format!("KEDA refuses it: it has no {key}"))
        .collect();
    if !missing.is_empty() {
        return Err(missing);
    }
    let password = authentication.parameter("password").cloned().or_else(|| of_variable("passwordFromEnv"));
    let password = password.or_else(|| {
        let origin = authentication.unseen()?;
        remarks.push(format!(
            "{} was not among the files. It is taken to bring `password`, and nothing else.",
            authentication.label.as_deref().unwrap_or_default()
        ));
        Some(origin)
    });
    Ok(Connection { server: Server::Parts(parts.into_iter().flatten().collect()), password })
}

/// Says which keys of the metadata go although they say nothing about the connection.
fn ignored(trigger: Trigger<'_>) -> Vec<String> {
    let known = |key: &str| KEPT.contains(&key) || CONNECTION_KEYS.contains(&key);
    let keys = trigger.pairs().filter(|(key, text, _)| !known(key) || is_blank_number(key, text));
    keys.map(|(key, text, _)| match key {
        "metricName" => "`metricName`: the metric has the query's name now.".to_owned(),
        "connection" | "password" => format!(
            "`{key}`: KEDA never takes it from here. It stood in clear where everybody who may read the object can read it: \
             change that password."
        ),
        _ if text.trim().is_empty() => format!("{}, which is empty.", code(key)),
        _ => format!("{}, which KEDA's scaler does not know.", code(key)),
    })
    .collect()
}

/// Returns whether a key is a number that is left empty, which means its default to KEDA.
fn is_blank_number(key: &str, text: &str) -> bool {
    key != "query" && KEPT.contains(&key) && text.trim().is_empty()
}

/// Returns whether a key of the metadata stays.
pub(super) fn stays(key: &str, text: &str) -> bool {
    KEPT.contains(&key) && !is_blank_number(key, text)
}

/// Returns a key as code within a sentence.
fn code(key: &str) -> String {
    format!("`{}`", shown_key(key).replace('`', "'"))
}
