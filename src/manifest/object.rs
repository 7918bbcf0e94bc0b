//! An object of KEDA.

use std::{fmt, ops::Range};

use super::{
    GROUP,
    boolean::boolean,
    node::{Node, Value},
    trigger::Trigger,
};
use crate::keda::{
    scaled_job::{Calculation, ScaledJob, Strategy},
    scaled_object::ScaledObject,
    version::Version,
};

/// The fields that KEDA's API takes only as whole numbers of 32 bits, with the least that each may be.
const NUMBERS: [(&[&str], i32); 11] = [
    (&["pollingInterval"], 1),
    (&["maxReplicaCount"], 1),
    (&["minReplicaCount"], 0),
    (&["idleReplicaCount"], 0),
    (&["cooldownPeriod"], 0),
    (&["initialCooldownPeriod"], 0),
    (&["successfulJobsHistoryLimit"], 0),
    (&["failedJobsHistoryLimit"], 0),
    (&["fallback", "failureThreshold"], 0),
    (&["fallback", "replicas"], 0),
    (&["scalingStrategy", "customScalingQueueLengthDeduction"], i32::MIN),
];

/// The first version whose API has a least for each number. Before, any number of 32 bits was taken.
pub const WITH_LEAST_NUMBERS: Version = Version::new(2, 20, 0);

/// The kinds that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Starts Jobs.
    ScaledJob,
    /// Scales a Deployment or the like.
    ScaledObject,
    /// Credentials for triggers of one namespace.
    TriggerAuthentication,
    /// Credentials for triggers of all namespaces.
    ClusterTriggerAuthentication,
}

/// A field that should be a whole number and is none, or one out of range. The API server refuses such an object, so
/// that KEDA never sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedNumber {
    /// Its name, from `spec` on.
    pub field: String,
    /// Its line.
    pub line: usize,
    /// The least that it may be.
    pub least: i32,
    /// It is a number of 32 bits, so that versions of KEDA before 2.20 take it.
    is_number: bool,
}

impl RefusedNumber {
    /// Returns whether the API of a version of KEDA refuses it.
    pub fn is_refused_by(&self, keda: Version) -> bool {
        !self.is_number || keda >= WITH_LEAST_NUMBERS
    }
}

/// `maxReplicaCount must be a whole number from 1 to 2147483647`
impl fmt::Display for RefusedNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must be a whole number from {} to {}", self.field, self.least, i32::MAX)
    }
}

/// An object of KEDA, as it is written.
#[derive(Debug)]
pub struct Object {
    /// Its kind.
    pub kind: Kind,
    /// All of it.
    pub root: Node,
    /// The lines of its document; the end is the last one.
    pub lines: Range<usize>,
}

impl Object {
    /// Returns the object if it is one of KEDA's, else what was given.
    pub(super) fn of(root: Node, lines: Range<usize>) -> Result<Self, Node> {
        let is_kedas = root.text_at(&["apiVersion"]).is_some_and(|version| version.starts_with(GROUP));
        let kind = match root.text_at(&["kind"]).filter(|_| is_kedas) {
            Some("ScaledJob") => Kind::ScaledJob,
            Some("ScaledObject") => Kind::ScaledObject,
            Some("TriggerAuthentication") => Kind::TriggerAuthentication,
            Some("ClusterTriggerAuthentication") => Kind::ClusterTriggerAuthentication,
            _ => return Err(root),
        };
        Ok(Self { kind, root, lines })
    }

    /// Returns its name; empty if it has none.
    pub fn name(&self) -> &str {
        self.root.text_at(&["metadata", "name"]).unwrap_or_default()
    }

    /// Returns its namespace, if the manifest has it.
    pub fn namespace(&self) -> Option<&str> {
        self.root.text_at(&["metadata", "namespace"]).filter(|name| !name.is_empty())
    }

    /// Returns what stands under a path within `spec`.
    pub fn spec(&self, path: &[&str]) -> Option<&Node> {
        self.root.get("spec")?.at(path).filter(|node| !node.is_null())
    }

    /// Returns the numbers that KEDA's API refuses.
    pub fn refused_numbers(&self) -> impl Iterator<Item = RefusedNumber> {
        NUMBERS.iter().filter_map(|(path, least)| {
            let node = self.spec(path)?;
            let number = node.integer().and_then(|number| i32::try_from(number).ok());
            number.is_none_or(|number| number < *least).then(|| RefusedNumber {
                field: path.join("."),
                line: node.line,
                least: *least,
                is_number: number.is_some(),
            })
        })
    }

    /// Returns the line to name for something that is missing from `spec`.
    pub fn line(&self) -> usize {
        self.root.get("kind").map_or(self.root.line, |kind| kind.line)
    }

    /// Returns its triggers.
    pub fn triggers(&self) -> impl Iterator<Item = Trigger<'_>> {
        self.spec(&["triggers"]).into_iter().flat_map(Node::items).map(Trigger::new)
    }

    /// Returns the part of a `ScaledJob` that decides how many Jobs there are, with the defaults of a version of KEDA.
    pub fn scaled_job(&self, keda: Version) -> ScaledJob {
        let number = |key| self.spec(&[key]).and_then(Node::integer);
        ScaledJob {
            min_replica_count: number("minReplicaCount").unwrap_or(0),
            max_replica_count: number("maxReplicaCount"),
            strategy: self.strategy(),
            calculation: match self.spec(&["scalingStrategy", "multipleScalersCalculation"]).and_then(Node::text) {
                Some("min") => Calculation::Min,
                Some("avg") => Calculation::Average,
                Some("sum") => Calculation::Sum,
                _ => Calculation::Max,
            },
            keda,
        }
    }

    /// `NewScalingStrategy`: a word that KEDA does not know means the default, and so does a share that is no number.
    fn strategy(&self) -> Strategy {
        let at = |key| self.spec(&["scalingStrategy", key]);
        match at("strategy").and_then(Node::text) {
            Some("accurate") => Strategy::Accurate,
            Some("eager") => Strategy::Eager,
            Some("custom") => Strategy::Custom {
                queue_length_deduction: at("customScalingQueueLengthDeduction").and_then(Node::integer).unwrap_or(0),
                running_job_percentage: at("customScalingRunningJobPercentage")
                    .and_then(Node::text)
                    .and_then(|text| text.parse().ok()),
            },
            _ => Strategy::Default,
        }
    }

    /// Returns the part of a `ScaledObject` that KEDA's own decision depends on, with KEDA's defaults.
    pub fn scaled_object(&self) -> ScaledObject {
        let number = |path: &[&str]| self.spec(path).and_then(Node::integer);
        ScaledObject {
            min_replica_count: number(&["minReplicaCount"]).unwrap_or(0),
            idle_replica_count: number(&["idleReplicaCount"]),
            fallback_replicas: number(&["fallback", "replicas"]),
        }
    }

    /// Returns the specification of the pods that a `ScaledJob` starts.
    pub fn pod(&self) -> Option<&Node> {
        self.spec(&["jobTargetRef", "template", "spec"])
    }

    /// Returns the containers of the pods that a `ScaledJob` starts, without init containers.
    pub fn containers(&self) -> &[Node] {
        self.pod().and_then(|pod| pod.get("containers")).map_or(&[], Node::items)
    }

    /// `NeedToBePausedByAnnotation`: returns whether KEDA leaves the object alone. Any word but a false one pauses it.
    pub fn is_paused(&self) -> bool {
        let keeps_replicas = self.kind == Kind::ScaledObject
            && self.root.at(&["metadata", "annotations", "autoscaling.keda.sh/paused-replicas"]).is_some();
        let paused = self.annotation("autoscaling.keda.sh/paused");
        keeps_replicas || paused.is_some_and(|(_, text)| boolean(&text) != Some(false))
    }

    /// Returns an annotation as text, whatever YAML makes of it.
    pub fn annotation(&self, name: &str) -> Option<(&Node, String)> {
        let node = self.root.at(&["metadata", "annotations"])?.get(name)?;
        let text = match &node.value {
            Value::Text(text) => text.clone(),
            Value::Boolean(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            _ => return None,
        };
        Some((node, text))
    }
}

/// `ScaledJob billing/invoices`.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if let Some(namespace) = self.namespace() {
            write!(f, "{namespace}/")?;
        }
        f.write_str(if self.name().is_empty() { "(without a name)" } else { self.name() })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ScaledJob => "ScaledJob",
            Self::ScaledObject => "ScaledObject",
            Self::TriggerAuthentication => "TriggerAuthentication",
            Self::ClusterTriggerAuthentication => "ClusterTriggerAuthentication",
        })
    }
}
