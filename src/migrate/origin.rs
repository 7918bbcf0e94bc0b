//! The places from which KEDA gets what does not stand in a trigger: variables of the scaled container, and what a
//! TriggerAuthentication names.
//!
//! *Source:* pkg/scaling/resolver/scale_resolvers.go and apis/keda/v1alpha1/triggerauthentication_types.go of
//! kedacore/keda v2.21.0.

use std::fmt;

use crate::manifest::{Kind, Node, Object, Trigger};

/// The place of a value that KEDA looks up. Nothing here holds the value itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// A key of a Secret.
    Secret { namespace: Option<String>, name: String, key: String },
    /// A key of a ConfigMap.
    ConfigMap { namespace: Option<String>, name: String, key: String },
    /// A variable of an object's container that is not seen here, or has its text in the manifest.
    Variable { of: String, name: String },
    /// A part of a TriggerAuthentication that names another store.
    Store { authentication: String, list: String },
    /// A TriggerAuthentication that is not among what was read.
    Unseen { authentication: String },
}

/// The objects among which a trigger stands.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    /// The objects of KEDA.
    pub(super) objects: Vec<&'a Object>,
    /// The others: Deployments, for one.
    pub(super) others: Vec<&'a Node>,
}

impl<'a> Surroundings<'a> {
    /// Returns the specification of the pods that a ScaledObject scales.
    fn pod(&self, object: &Object) -> Option<&'a Node> {
        let target = object.spec(&["scaleTargetRef"])?;
        let kind = target.text_at(&["kind"]).unwrap_or("Deployment");
        let name = target.text_at(&["name"])?;
        let is_it = |other: &&&Node| {
            let namespace = other.text_at(&["metadata", "namespace"]).zip(object.namespace());
            other.text_at(&["kind"]) == Some(kind)
                && other.text_at(&["metadata", "name"]) == Some(name)
                && namespace.is_none_or(|(a, b)| a == b)
        };
        self.others.iter().find(is_it)?.at(&["spec", "template", "spec"])
    }
}

/// KEDA's own namespace, where ClusterTriggerAuthentications find their Secrets, unless KEDA was told otherwise.
pub(super) const KEDA_NAMESPACE: &str = "keda";

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = |namespace: &Option<String>| match namespace {
            Some(namespace) => format!(" in namespace `{namespace}`"),
            None => String::new(),
        };
        match self {
            Self::Secret { namespace, name, key } => write!(f, "key `{key}` of Secret `{name}`{}", within(namespace)),
            Self::ConfigMap { namespace, name, key } => {
                write!(f, "key `{key}` of ConfigMap `{name}`{}", within(namespace))
            }
            Self::Variable { of, name } => write!(f, "variable `{name}` of the container of {of}"),
            Self::Store { authentication, list } => write!(f, "`{list}` of {authentication}"),
            Self::Unseen { authentication } => write!(f, "{authentication}, which was not among the files"),
        }
    }
}

/// Everything that an `authenticationRef` brings.
#[derive(Debug, Clone, Default)]
pub(super) struct Authentication {
    /// Its kind and name, if there is a reference.
    pub(super) label: Option<String>,
    /// The reference leads to no object that was read.
    pub(super) is_unseen: bool,
    /// A pod identity other than `none`.
    pub(super) pod_identity: Option<String>,
    /// The parameters that it sets, with their origins.
    parameters: Vec<(String, Origin)>,
}

impl Authentication {
    /// Follows the reference of a trigger.
    pub(super) fn of(trigger: Trigger<'_>, object: &Object, around: &Surroundings<'_>) -> Self {
        let Some(reference) = trigger.node.get("authenticationRef").filter(|node| !node.is_null()) else {
            return Self::default();
        };
        let name = reference.text_at(&["name"]).unwrap_or_default();
        let is_cluster_wide = reference.text_at(&["kind"]) == Some("ClusterTriggerAuthentication");
        let kind = if is_cluster_wide { Kind::ClusterTriggerAuthentication } else { Kind::TriggerAuthentication };
        let label = format!("{kind} `{name}`");
        // A manifest without a namespace goes where the objects beside it go.
        let is_it = |other: &&&Object| {
            let same_namespace = match (other.namespace(), object.namespace()) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            };
            other.kind == kind && other.name() == name && (is_cluster_wide || same_namespace)
        };
        let Some(found) = around.objects.iter().find(is_it) else {
            return Self { label: Some(label), is_unseen: true, ..Self::default() };
        };
        let namespace = match is_cluster_wide {
            true => Some(KEDA_NAMESPACE.to_owned()),
            false => object.namespace().or(found.namespace()).map(str::to_owned),
        };
        Self {
            pod_identity: found
                .spec(&["podIdentity", "provider"])
                .and_then(Node::text)
                .filter(|provider| !provider.is_empty() && *provider != "none")
                .map(str::to_owned),
            parameters: parameters(found, &label, namespace, object, around),
            label: Some(label),
            is_unseen: false,
        }
    }

    /// Returns where a parameter comes from, if it is set.
    pub(super) fn parameter(&self, name: &str) -> Option<&Origin> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, origin)| origin)
    }

    /// Returns where a parameter may come from that nothing else brings: a reference that leads nowhere we know.
    pub(super) fn unseen(&self) -> Option<Origin> {
        self.label.as_ref().filter(|_| self.is_unseen).map(|label| Origin::Unseen { authentication: label.clone() })
    }
}

/// The lists of a TriggerAuthentication. Any but the first three names another store.
fn parameters(
    authentication: &Object,
    label: &str,
    namespace: Option<String>,
    scaled: &Object,
    around: &Surroundings<'_>,
) -> Vec<(String, Origin)> {
    let mut parameters = Vec::new();
    let spec = authentication.root.get("spec").map_or(&[][..], Node::entries);
    for (list, node) in spec {
        // Other stores have their list one level down: `hashiCorpVault.secrets`.
        let nested = node.entries().iter().flat_map(|(_, inner)| inner.items());
        for item in node.items().iter().chain(nested) {
            let Some(parameter) = item.text_at(&["parameter"]) else { continue };
            let text = |key| item.text_at(&[key]).unwrap_or_default().to_owned();
            let origin = match list.as_str() {
                "secretTargetRef" => {
                    Origin::Secret { namespace: namespace.clone(), name: text("name"), key: text("key") }
                }
                "configMapTargetRef" => {
                    Origin::ConfigMap { namespace: namespace.clone(), name: text("name"), key: text("key") }
                }
                "env" => variable(scaled, &text("name"), around)
                    .unwrap_or_else(|| Origin::Variable { of: scaled.to_string(), name: text("name") }),
                _ => Origin::Store { authentication: label.to_owned(), list: list.clone() },
            };
            parameters.push((parameter.to_owned(), origin));
        }
    }
    parameters
}

/// Returns where a variable of the scaled container comes from, if a manifest says so.
pub(super) fn variable(object: &Object, name: &str, around: &Surroundings<'_>) -> Option<Origin> {
    let (pod, wanted) = match object.kind {
        Kind::ScaledJob => (object.pod()?, object.spec(&["envSourceContainerName"])),
        _ => (around.pod(object)?, object.spec(&["scaleTargetRef", "envSourceContainerName"])),
    };
    let mut containers = pod.get("containers")?.items().iter();
    let container = match wanted.and_then(Node::text) {
        Some(wanted) => containers.find(|container| container.text_at(&["name"]) == Some(wanted)),
        None => containers.next(),
    }?;
    let items = |key| container.get(key).map_or(&[][..], Node::items);
    let secret = |name: &str, key: &str| Origin::Secret {
        namespace: object.namespace().map(str::to_owned),
        name: name.to_owned(),
        key: key.to_owned(),
    };
    if let Some(entry) = items("env").iter().find(|entry| entry.text_at(&["name"]) == Some(name)) {
        let reference = entry.at(&["valueFrom", "secretKeyRef"])?;
        let text = |key| reference.text_at(&[key]).unwrap_or_default();
        return Some(secret(text("name"), text("key")));
    }
    // All keys of a Secret. Of several sources nobody knows which has it.
    let [source] = items("envFrom") else { return None };
    let of_secret = source.text_at(&["secretRef", "name"])?;
    Some(secret(of_secret, name.strip_prefix(source.text_at(&["prefix"]).unwrap_or_default())?))
}
