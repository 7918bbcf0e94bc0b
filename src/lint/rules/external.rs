//! Rules about triggers that KEDA asks over gRPC, and about the hosts that triggers name.

use std::collections::HashMap;

use super::Subject;
use crate::{
    diagnostics::shown_key,
    lint::{
        counting::names_clapometer,
        findings::Findings,
        rule::{
            Rule,
            Severity::{Error, Warning},
        },
    },
    manifest::{Node, Trigger, Value, boolean},
    proto::ScaledObjectRef,
    scaler,
};

const ADDRESS_MISSING: Rule = Rule::new("address-missing", Error, "pkg/scalers/external_scaler.go");
const PORT_MISSING: Rule = Rule::new("port-missing", Error, "grpc-go's dns resolver, which dials 443 without a port");
const ADDRESS_MALFORMED: Rule =
    Rule::new("address-malformed", Error, "pkg/scalers/external_scaler.go, grpc-go's resolver");
const SHORT_HOST: Rule = Rule::new("short-host", Warning, "Kubernetes: DNS for Services and Pods");
const BOOLEAN_MALFORMED: Rule = Rule::new("boolean-malformed", Error, "pkg/scalers/scalersconfig/typed_config.go");
const TLS_CAN_VANISH: Rule = Rule::new("tls-can-vanish", Warning, "pkg/scaling/resolver/scale_resolvers.go");
const TLS_UNVERIFIED: Rule = Rule::new("tls-unverified", Warning, "pkg/util/tls_config.go");
const TLS_KEY_IN_METADATA: Rule = Rule::new("tls-key-in-metadata", Error, "pkg/scalers/external_scaler.go");
const SECRET_TO_SCALER: Rule = Rule::new("secret-to-scaler", Warning, "pkg/scalers/external_scaler.go");
const TRIGGER_REFUSED: Rule = Rule::new("trigger-refused", Error, "docs/keda.md");

pub(super) const RULES: &[&Rule] = &[
    &ADDRESS_MISSING,
    &PORT_MISSING,
    &ADDRESS_MALFORMED,
    &SHORT_HOST,
    &BOOLEAN_MALFORMED,
    &TLS_CAN_VANISH,
    &TLS_UNVERIFIED,
    &TLS_KEY_IN_METADATA,
    &SECRET_TO_SCALER,
    &TRIGGER_REFUSED,
];

/// Schemes of grpc-go's resolvers that come without a host and port, or with their own rules.
const RESOLVERS: [&str; 5] = ["dns:", "passthrough:", "unix:", "unix-abstract:", "xds:"];

/// Looks at the triggers of a ScaledJob or a ScaledObject.
pub(super) fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for trigger in subject.object.triggers() {
        if trigger.is_external() {
            check_address(trigger, findings);
            check_tls(trigger, findings);
            check_metadata(subject, trigger, findings);
        } else if let Some(host) = trigger.text("host").filter(|host| !host.contains("://")) {
            check_host(trigger, "host", host, findings);
        }
    }
}

fn check_address(trigger: Trigger<'_>, findings: &mut Findings<'_>) {
    let line = trigger.line("scalerAddress");
    let Some(node) = trigger.metadata("scalerAddress") else {
        let why = "KEDA cannot build an external trigger without scalerAddress.";
        let how = "Add scalerAddress: SERVICE.NAMESPACE.svc.cluster.local:PORT.";
        return findings.add(&ADDRESS_MISSING, line, why, how);
    };
    let Some(address) = node.text().map(str::trim) else { return };
    if RESOLVERS.iter().any(|scheme| address.starts_with(scheme)) {
        return;
    }
    let how = "Write SERVICE.NAMESPACE.svc.cluster.local:PORT, with the port as a number.";
    if address.is_empty() {
        return findings.add(&ADDRESS_MISSING, line, "scalerAddress is empty.", how);
    }
    if address.contains("://") {
        let why = "scalerAddress takes no http:// or https://, and enableTLS decides about TLS.";
        return findings.add(&ADDRESS_MALFORMED, line, why, how);
    }
    // A bracketed IPv6 address has colons of its own.
    let after_brackets = address.rsplit_once(']').map_or(address, |(_, rest)| rest);
    let Some((_, port)) = after_brackets.rsplit_once(':') else {
        let severity = if is_true(trigger, "enableTLS") { Warning } else { Error };
        let why = "scalerAddress has no port, so KEDA dials 443.";
        findings.add_as(severity, &PORT_MISSING, line, why, "Write the port, such as :9090 for clapometer.");
        return check_host(trigger, "scalerAddress", address, findings);
    };
    if port.parse::<u16>().is_ok_and(|port| port > 0) {
        let host = &address[..address.len() - port.len() - 1];
        check_host(trigger, "scalerAddress", host, findings);
    } else {
        let why = "The port of scalerAddress is no number from 1 to 65535; KEDA does not know the names of ports.";
        findings.add(&ADDRESS_MALFORMED, line, why, how);
    }
}

/// KEDA connects from its own namespace and its own pod.
fn check_host(trigger: Trigger<'_>, key: &str, host: &str, findings: &mut Findings<'_>) {
    let line = trigger.line(key);
    let is_own_pod = host == "localhost" || host.starts_with("127.") || host == "[::1]";
    let how = "Write SERVICE.NAMESPACE.svc.cluster.local.";
    if is_own_pod {
        let why = format!("{key} means the pod of KEDA's operator, which opens the connection.");
        findings.add_as(Error, &SHORT_HOST, line, why, how);
    } else if !host.is_empty() && !host.contains(['.', ':', '/', '$', '{']) {
        let why = format!(
            "{key} has no namespace: KEDA's operator looks the name up in its own namespace, not in that of this object."
        );
        findings.add(&SHORT_HOST, line, why, how);
    }
}

fn check_tls(trigger: Trigger<'_>, findings: &mut Findings<'_>) {
    for key in ["enableTLS", "unsafeSsl"] {
        let Some(text) = trigger.text(key) else { continue };
        if boolean(text).is_none() {
            let why = format!("KEDA cannot build the trigger: {key} is neither true nor false.");
            findings.add(&BOOLEAN_MALFORMED, trigger.line(key), why, "Write \"true\" or \"false\".");
        }
    }
    for key in ["caCert", "tlsClientCert", "tlsClientKey"] {
        let from_env = format!("{key}FromEnv");
        for key in [key, &from_env] {
            if trigger.metadata(key).is_some() {
                let why = format!("KEDA reads {key} from a TriggerAuthentication only, and ignores it here.");
                let how = "Put the PEM text into a Secret, and name it in secretTargetRef of a TriggerAuthentication.";
                findings.add(&TLS_KEY_IN_METADATA, trigger.line(key), why, how);
            }
        }
    }
    if is_true(trigger, "unsafeSsl") {
        let why = "With unsafeSsl KEDA accepts any certificate, so that anybody in between may answer.";
        let how = "Remove it, and give the CA as caCert in a TriggerAuthentication.";
        findings.add(&TLS_UNVERIFIED, trigger.line("unsafeSsl"), why, how);
    }
    if let Some(reference) = trigger.node.get("authenticationRef")
        && !reference.is_null()
        && !is_true(trigger, "enableTLS")
        && trigger.text("enableTLS").is_none_or(|text| boolean(text).is_some())
    {
        let why =
            "If the TriggerAuthentication or a key of its Secret is missing, KEDA speaks plain text without an error.";
        findings.add(&TLS_CAN_VANISH, reference.line, why, "Add enableTLS: \"true\" to the metadata.");
    }
}

fn check_metadata(subject: &Subject<'_>, trigger: Trigger<'_>, findings: &mut Findings<'_>) {
    for (key, _, node) in trigger.pairs().filter(|(key, _, _)| key.ends_with("FromEnv")) {
        if ["caCert", "tlsClientCert", "tlsClientKey"].iter().any(|name| key.starts_with(name)) {
            continue;
        }
        let way = if is_true(trigger, "enableTLS") { "to the scaler" } else { "to the scaler, in plain text" };
        let why = format!("KEDA resolves {} and sends the value with every call {way}.", shown_key(key));
        findings.add(&SECRET_TO_SCALER, node.line, why, "Keep secrets in the scaler's own configuration.");
    }
    let is_all_text = trigger
        .node
        .get("metadata")
        .is_some_and(|metadata| metadata.entries().iter().all(|(_, node)| matches!(node.value, Value::Text(_))));
    if !is_clapometers(trigger) || !is_all_text {
        return;
    }
    let reference = ScaledObjectRef {
        name: subject.object.name().to_owned(),
        namespace: subject.object.namespace().unwrap_or("default").to_owned(),
        scaler_metadata: trigger
            .pairs()
            .map(|(key, text, _)| (key.to_owned(), text.to_owned()))
            .collect::<HashMap<_, _>>(),
    };
    if let Some(refusal) = scaler::refusal_of(&reference) {
        // The refusal begins with the first key that is wrong.
        let key = refusal.split(':').next().unwrap_or_default();
        let line = trigger.metadata(key).or(trigger.node.get("metadata")).map_or(trigger.node.line, |node| node.line);
        let end = if refusal.ends_with('?') { "" } else { "." };
        let why = format!("clapometer answers INVALID_ARGUMENT: {refusal}{end}");
        findings.add(&TRIGGER_REFUSED, line, why, "Correct or remove these keys; docs/triggers.md has them all.");
    }
}

/// Returns whether a trigger is for clapometer rather than another external scaler, as far as it shows.
pub(super) fn is_clapometers(trigger: Trigger<'_>) -> bool {
    names_clapometer(trigger)
        || matches!(trigger.text("query"), Some("outstanding-claps" | "pending-claps" | "clap-workers"))
}

/// Returns what tells KEDA's connections apart.
pub(super) fn connection(trigger: Trigger<'_>) -> (Option<&str>, bool, bool, Option<&str>, Option<&str>) {
    let reference = |key| trigger.node.at(&["authenticationRef", key]).and_then(Node::text);
    (
        trigger.text("scalerAddress"),
        is_true(trigger, "enableTLS"),
        is_true(trigger, "unsafeSsl"),
        reference("name"),
        reference("kind").filter(|kind| *kind != "TriggerAuthentication"),
    )
}

fn is_true(trigger: Trigger<'_>, key: &str) -> bool {
    trigger.text(key).and_then(boolean) == Some(true)
}
