//! Rules about secrets, and about who may do what with them.

use crate::{
    lint::{
        findings::Findings,
        rule::{
            Rule,
            Severity::{Error, Warning},
        },
    },
    manifest::{Node, Object, Trigger},
};

const SECRET_IN_METADATA: Rule = Rule::new("secret-in-metadata", Error, "KEDA's documentation: Authentication");
const SUPERUSER_TRIGGER: Rule =
    Rule::new("superuser-trigger", Warning, "pkg/scalers/postgresql_scaler.go, which runs any SQL of the trigger");
const HALF_A_KEY_PAIR: Rule = Rule::new("half-a-key-pair", Error, "pkg/util/tls_config.go");

pub(super) const RULES: &[&Rule] = &[&SECRET_IN_METADATA, &SUPERUSER_TRIGGER, &HALF_A_KEY_PAIR];

/// Keys of KEDA's scalers whose value is a secret, in lower case.
const SECRET_KEYS: [&str; 10] = [
    "password",
    "token",
    "apikey",
    "accesstoken",
    "awssecretaccesskey",
    "personalaccesstoken",
    "clientsecret",
    "bearertoken",
    "saslpassword",
    "sharedaccesskey",
];

/// The marks that stand before a password in a connection's text, in lower case.
const PASSWORD_MARKS: [&str; 4] = ["password=", "pwd=", "accountkey=", "sharedaccesskey="];

/// Looks at the triggers of a ScaledJob or a ScaledObject.
pub(super) fn check_triggers(object: &Object, findings: &mut Findings<'_>) {
    for trigger in object.triggers() {
        for (key, text, node) in trigger.pairs() {
            if is_secret(key, text) {
                let why =
                    format!("The value of {key} is a secret, and everybody who may read this object may read it.");
                let how = "Put it into a Secret, and name that in a TriggerAuthentication.";
                findings.add(&SECRET_IN_METADATA, node.line, why, how);
            }
        }
        check_role(trigger, findings);
    }
}

fn is_secret(key: &str, text: &str) -> bool {
    let key = key.to_ascii_lowercase();
    if text.trim().is_empty() || key.ends_with("fromenv") {
        return false;
    }
    let lower = text.to_ascii_lowercase();
    // `${X}` and `$(X)` are filled in by somebody else.
    let has_password =
        PASSWORD_MARKS.iter().any(|mark| lower.split_once(mark).is_some_and(|(_, rest)| !rest.starts_with(['$', '{'])));
    SECRET_KEYS.contains(&key.as_str()) || (!key.ends_with("query") && has_password) || has_password_in_url(text)
}

/// Returns whether a URL carries a password: `scheme://user:password@host`.
fn has_password_in_url(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or_default();
    let Some((user, _)) = authority.rsplit_once('@') else { return false };
    user.split_once(':').is_some_and(|(_, password)| !password.is_empty() && !password.starts_with(['$', '{']))
}

fn check_role(trigger: Trigger<'_>, findings: &mut Findings<'_>) {
    let roles: &[&str] = match trigger.kind() {
        "postgresql" => &["postgres"],
        "mysql" => &["root"],
        "mssql" => &["sa"],
        _ => return,
    };
    let key = if trigger.kind() == "postgresql" { "userName" } else { "username" };
    if trigger.text(key).is_some_and(|role| roles.contains(&role)) {
        let why = "The trigger's SQL runs as a superuser, so that whoever may edit this object may do everything in the \
                   database.";
        let how = "Take a role that may read only the counted tables.";
        findings.add(&SUPERUSER_TRIGGER, trigger.line(key), why, how);
    }
}

/// Looks at a TriggerAuthentication: KEDA uses a client certificate only together with its key.
pub(super) fn check_authentication(object: &Object, findings: &mut Findings<'_>) {
    let lists = ["secretTargetRef", "configMapTargetRef", "env", "filePath"];
    let parameters: Vec<(&str, &Node)> = lists
        .iter()
        .filter_map(|list| object.spec(&[list]))
        .flat_map(Node::items)
        .filter_map(|item| Some((item.text_at(&["parameter"])?, item)))
        .collect();
    let at = |name| parameters.iter().find(|(parameter, _)| *parameter == name).map(|(_, node)| node.line);
    // Other sources may bring the other half.
    let is_complete =
        object.root.get("spec").is_some_and(|spec| spec.entries().iter().all(|(key, _)| lists.contains(&key.as_str())));
    for (one, other) in [("tlsClientCert", "tlsClientKey"), ("tlsClientKey", "tlsClientCert")] {
        if let (Some(line), None, true) = (at(one), at(other), is_complete) {
            let why = format!("There is {one} without {other}, so KEDA's external trigger uses neither of them.");
            findings.add(&HALF_A_KEY_PAIR, line, why, format!("Add {other}, or remove {one}."));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_from_references_to_them() {
        for (key, text) in [
            ("password", "hunter2"),
            ("connection", "host=db password=hunter2"),
            ("host", "amqp://guest:guest@rabbit:5672/vhost"),
            ("connectionString", "Endpoint=sb://x;SharedAccessKey=abc="),
            ("apiKey", "abc"),
        ] {
            assert!(is_secret(key, text), "{key} {text}");
        }
        for (key, text) in [
            ("passwordFromEnv", "PGPASSWORD"),
            ("host", "amqp://rabbit:5672/vhost"),
            ("connection", "host=db user=a"),
            ("query", "SELECT count(*) FROM a WHERE password='x'"),
            ("host", "amqp://user:$(PASSWORD)@rabbit"),
            ("password", ""),
            ("serverAddress", "http://prometheus:9090"),
        ] {
            assert!(!is_secret(key, text), "{key} {text}");
        }
    }
}
