//! The answers of a scaler, and what KEDA would do with them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tonic::{Response, Status, transport::Channel};

use super::{
    call::{CALLS, Call},
    failure::Failure,
};
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
    terminal::text::number as shown,
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
    /// All calls.
    pub(super) calls: Vec<Call>,
}

impl Answers {
    /// Makes the three calls of one of KEDA's polls.
    pub(super) async fn ask(
        client: &mut ExternalScalerClient<Channel>,
        reference: &ScaledObjectRef,
        is_secure: bool,
    ) -> Result<Self, Failure> {
        let mut calls = Vec::new();
        match Self::poll(client, reference, is_secure, &mut calls).await {
            Ok(answers) => Ok(Self { calls, ..answers }),
            Err(failure) => Err(Failure { before: calls, ..failure }),
        }
    }

    /// Makes the calls, and writes down each that is answered.
    async fn poll(
        client: &mut ExternalScalerClient<Channel>,
        reference: &ScaledObjectRef,
        is_secure: bool,
        calls: &mut Vec<Call>,
    ) -> Result<Self, Failure> {
        let [get_metric_spec, get_metrics, is_active] = CALLS;
        let begun = Instant::now();
        let answer = client.get_metric_spec(reference.clone());
        let specs = bounded(get_metric_spec, answer, is_secure).await?.into_inner();
        let spec = specs.metric_specs.into_iter().next().ok_or_else(|| Failure::empty(get_metric_spec))?;
        let target = target_size(&spec);
        let answer = format!("metric {}, target {}", spec.metric_name, shown(target));
        calls.push(Call { rpc: get_metric_spec, answer, took: begun.elapsed() });

        let begun = Instant::now();
        let request =
            GetMetricsRequest { scaled_object_ref: Some(reference.clone()), metric_name: spec.metric_name.clone() };
        let answer = bounded(get_metrics, client.get_metrics(request), is_secure).await?;
        let is_unseen = answer.metadata().contains_key(UNSEEN_KEY);
        let is_untrimmed = answer.metadata().contains_key(UNTRIMMED_TEXT);
        let values = answer.into_inner().metric_values;
        if values.is_empty() {
            return Err(Failure::empty(get_metrics));
        }
        // KEDA adds all of them up, whatever their names.
        let value = values.iter().map(metric_value).sum();
        let divisor =
            reference.scaler_metadata.get("divideBy").and_then(|text| text.trim().parse().ok()).unwrap_or(1.0);
        let at_least = count_cap::is_read_by_builtin(&spec.metric_name) && count_cap::may_be_more(value * divisor);
        let answer = format!("{}{}", if at_least { "at least " } else { "" }, shown(value));
        calls.push(Call { rpc: get_metrics, answer, took: begun.elapsed() });

        let begun = Instant::now();
        let active = bounded(is_active, client.is_active(reference.clone()), is_secure).await?.into_inner().result;
        let answer = if active { "active" } else { "inactive" }.to_owned();
        calls.push(Call { rpc: is_active, answer, took: begun.elapsed() });
        let answer = ScalerAnswer { value, target, active };
        Ok(Self { metric: spec.metric_name, answer, at_least, is_unseen, is_untrimmed, calls: Vec::new() })
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
        let seconds: HashMap<&str, f64> = self.calls.iter().map(|call| (call.rpc, call.took.as_secs_f64())).collect();
        json!({
            "metric": self.metric,
            "target": number(self.answer.target),
            "value": number(self.answer.value),
            "at_least": self.at_least,
            "active": self.answer.active,
            "scaled_job": {"max_replicas": max_replicas, "starts": self.jobs_started(max_replicas)},
            "scaled_object": {"replicas": self.replicas(max_replicas)},
            "remarks": self.remarks(),
            "seconds": seconds,
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
