//! The ScaledObject of workers that run until they are stopped, and the ScaledJob of those that take one row and exit.

use super::{
    answers::{Answer, MARK},
    draft::Fleet,
    page::comment,
};
use crate::presets::Workers;

/// The Deployment or the Jobs that KEDA scales. Texts are the ends of their lines, with a mark or a question.
pub(super) struct Scaled<'a> {
    pub(super) workers: Workers,
    /// The name of the Deployment, or of the Jobs.
    pub(super) name: String,
    /// The image of the Jobs.
    pub(super) image: String,
    /// The most workers.
    pub(super) most: String,
    /// The jobs for each worker.
    pub(super) share: String,
    /// The address of the scaler.
    pub(super) scaler: String,
    /// The query of each trigger.
    pub(super) queries: Vec<&'a str>,
}

/// Writes the objects of libraries.
pub(super) fn text(fleets: &[Fleet], scaler: &Answer<String>) -> String {
    let mut documents = Vec::new();
    for Fleet { library, workers, name, queries } in fleets {
        let assumed = |value: &str| format!("{value}  {MARK}");
        let scaled = Scaled {
            workers: workers.value,
            name: name.line(),
            image: assumed(&format!("registry.example.com/{}:1", name.value)),
            most: assumed("10"),
            share: match workers.value {
                Workers::LongLived => format!("{}: jobs for each worker", assumed("\"10\"")),
                Workers::OneRow => "\"1\"".to_owned(),
            },
            scaler: scaler.line(),
            queries: queries.iter().map(|query| query.name.as_str()).collect(),
        };
        let preset = library.preset;
        let about = match workers.value {
            Workers::LongLived => format!(
                "{}, in the schema {}: workers that take one job after another, in the Deployment {}. With several \
                 triggers, KEDA takes the largest number; give queues that have workers of their own a ScaledObject each.",
                preset.library, library.schema, name.value
            ),
            Workers::OneRow => format!(
                "{}, in the schema {}: a Job for each row. One job and exit: {}.",
                preset.library, library.schema, preset.run_once
            ),
        };
        documents.push(comment("#", &about) + &object(&scaled));
    }
    documents.join("---\n")
}

/// Writes one object.
pub(super) fn object(scaled: &Scaled<'_>) -> String {
    let Scaled { workers, name, share, scaler, queries, .. } = scaled;
    let (kind, spec) = match workers {
        Workers::LongLived => ("ScaledObject", scaled_object(scaled)),
        Workers::OneRow => ("ScaledJob", scaled_job(scaled)),
    };
    let mut text =
        format!("apiVersion: keda.sh/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n{spec}  triggers:\n");
    for query in queries {
        text += "    - type: external\n";
        if *workers == Workers::LongLived {
            text += "      metricType: AverageValue\n";
        }
        text += &format!("      metadata:\n        scalerAddress: {scaler}\n        query: {query}\n");
        text += &format!("        targetQueryValue: {share}\n");
    }
    text
}

fn scaled_object(Scaled { name, most, .. }: &Scaled<'_>) -> String {
    format!(
        "  scaleTargetRef:\n    name: {name}\n  pollingInterval: 5\n  cooldownPeriod: 120\n  minReplicaCount: 0\n  \
         maxReplicaCount: {most}\n"
    )
}

fn scaled_job(Scaled { name, image, most, queries, .. }: &Scaled<'_>) -> String {
    let sum = match queries.len() {
        1 => "",
        _ => "  scalingStrategy:\n    multipleScalersCalculation: sum  # each row of each queue is a Job\n",
    };
    format!(
        "  pollingInterval: 5\n  minReplicaCount: 0\n  maxReplicaCount: {most}\n  rollout:\n    strategy: gradual\n{sum}  \
         jobTargetRef:\n    backoffLimit: 4\n    template:\n      spec:\n        restartPolicy: Never\n        \
         automountServiceAccountToken: false\n        enableServiceLinks: false\n        containers:\n          \
         - name: {name}\n            image: {image}\n"
    )
}
