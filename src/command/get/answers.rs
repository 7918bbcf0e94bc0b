//! The answers of a scaler, and what KEDA would do with them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tonic::{Response, Status, transport::Channel};

use super::failure::Failure;
use crate::{
    command::count_cap,
    json::value as number,
    keda::{
        scaled_job::{Jobs, ScaledJob, ScalerAnswer},
        scaled_object::average_value_replicas,
        values::{metric_value, target_size},
    },
    proto::{GetMetricsRequest, ScaledObjectRef, external_scaler_client::ExternalScalerClient},
    scaler::{UNSEEN_KEY, UNTRIMMED_TEXT},
};

/// The time limit of a call: twice the scaler's own limit. KEDA sets none.
const CALL_SECONDS: u64 = 5;

/// The remark on a key of a grouped query that the scaler has never read.
const UNSEEN: &str =
    "no reading since the scaler's start has contained this key: if it is misspelt, its zero means nothing";

/// The remark on a text with white space around it.
const UNTRIMMED: &str = "a parameter begins or ends with white space, and is bound with it: is that meant?";

/// The answers to the calls of one poll.
pub(super) struct Answers {
    pub(super) metric: String,
    pub(super) answer: ScalerAnswer,
    /// The count has reached a limit of its own; there may be more.
    pub(super) at_least: bool,
    /// No reading has contained this key of a grouped query.
    is_unseen: bool,
    /// A bound text begins or ends with white space.
    is_untrimmed: bool,
    /// The durations of GetMetricSpec, GetMetrics and IsActive.
    pub(super) durations: [Duration; 3],
}

impl Answers {
    /// Makes the three calls of one of KEDA's polls.
    pub(super) async fn ask(
        client: &mut ExternalScalerClient<Channel>,
        reference: &ScaledObjectRef,
        is_secure: bool,
    ) -> Result<Self, Failure> {
        let begun = Instant::now();
        let answer = client.get_metric_spec(reference.clone());
        let specs = bounded("GetMetricSpec", answer, is_secure).await?.into_inner();
        let spec = specs.metric_specs.into_iter().next().ok_or_else(|| Failure::empty("GetMetricSpec"))?;
        let spec_took = begun.elapsed();

        let begun = Instant::now();
        let request =
            GetMetricsRequest { scaled_object_ref: Some(reference.clone()), metric_name: spec.metric_name.clone() };
        let answer = bounded("GetMetrics", client.get_metrics(request), is_secure).await?;
        let is_unseen = answer.metadata().contains_key(UNSEEN_KEY);
        let is_untrimmed = answer.metadata().contains_key(UNTRIMMED_TEXT);
        let values = answer.into_inner().metric_values;
        if values.is_empty() {
            return Err(Failure::empty("GetMetrics"));
        }
        // KEDA adds all of them up, whatever their names.
        let value = values.iter().map(metric_value).sum();
        let metrics_took = begun.elapsed();

        let begun = Instant::now();
        let active = bounded("IsActive", client.is_active(reference.clone()), is_secure).await?.into_inner().result;
        let answer = ScalerAnswer { value, target: target_size(&spec), active };
        let divisor =
            reference.scaler_metadata.get("divideBy").and_then(|text| text.trim().parse().ok()).unwrap_or(1.0);
        Ok(Self {
            at_least: count_cap::is_read_by_builtin(&spec.metric_name)
                && count_cap::may_be_more(answer.value * divisor),
            metric: spec.metric_name,
            answer,
            is_unseen,
            is_untrimmed,
            durations: [spec_took, metrics_took, begun.elapsed()],
        })
    }

    /// Returns the number of Jobs that KEDA starts for a ScaledJob without Jobs, with the strategy `default`.
    pub(super) fn jobs_started(&self, max_replicas: u32) -> i64 {
        ScaledJob::with_max_replica_count(max_replicas.into()).decide(&[self.answer], Jobs::default()).created
    }

    /// Returns the number of replicas of an active ScaledObject with the metric type `AverageValue`: KEDA starts the
    /// first, and from there the autoscaler goes on.
    pub(super) fn replicas(&self, max_replicas: u32) -> Option<i64> {
        let ScalerAnswer { value, target, active } = self.answer;
        active.then(|| {
            let wanted = if target > 0.0 { average_value_replicas(1, value, target) } else { 1 };
            wanted.max(1).min(max_replicas.into())
        })
    }

    /// Returns explanations of surprising answers.
    pub(super) fn remarks(&self) -> Vec<&'static str> {
        let combination = match (self.answer.value > 0.0, self.answer.active) {
            (true, false) => Some(
                "a value above zero, but inactive: KEDA starts nothing. The activity is not above the activation \
                 threshold; for a query that counts what is outstanding: all of it is held, and nothing waits",
            ),
            (false, true) => {
                Some("active with a value of zero: a ScaledJob starts nothing, a ScaledObject keeps one replica")
            }
            (false, false) => Some("nothing to do"),
            (true, true) => None,
        };
        combination
            .into_iter()
            .chain(self.is_unseen.then_some(UNSEEN))
            .chain(self.is_untrimmed.then_some(UNTRIMMED))
            .collect()
    }

    /// Returns the answers as a JSON document.
    pub(super) fn document(&self, max_replicas: u32) -> Value {
        let [spec, metrics, activity] = self.durations.map(|duration| duration.as_secs_f64());
        json!({
            "metric": self.metric,
            "target": number(self.answer.target),
            "value": number(self.answer.value),
            "at_least": self.at_least,
            "active": self.answer.active,
            "scaled_job": {"max_replicas": max_replicas, "starts": self.jobs_started(max_replicas)},
            "scaled_object": {"replicas": self.replicas(max_replicas)},
            "remarks": self.remarks(),
            "seconds": {"GetMetricSpec": spec, "GetMetrics": metrics, "IsActive": activity},
        })
    }
}

async fn bounded<T>(
    rpc: &'static str,
    call: impl Future<Output = Result<Response<T>, Status>>,
    is_secure: bool,
) -> Result<Response<T>, Failure> {
    match tokio::time::timeout(Duration::from_secs(CALL_SECONDS), call).await {
        Ok(answer) => answer.map_err(|status| Failure::from_status(rpc, &status, is_secure)),
        Err(_) => Err(Failure::silent(rpc, CALL_SECONDS)),
    }
}
