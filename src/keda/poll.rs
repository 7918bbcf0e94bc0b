//! One poll of a `ScaledJob`'s trigger, call by call as KEDA makes it.
//!
//! `pkg/scalers/external_scaler.go`, `pkg/scaling/cache/scalers_cache.go` and
//! `pkg/scaling/scale_handler.go` of kedacore/keda after v2.20.2.

#![expect(deprecated, reason = "KEDA reads the integer fields too")]

use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use super::scaled_job::Answer;
use crate::wire::{
    GetMetricsRequest, MetricSpec, MetricValue, ScaledObjectRef, external_scaler_client::ExternalScalerClient,
};

/// KEDA's side of a trigger of type `external`.
pub struct Trigger {
    endpoint: Endpoint,
    reference: ScaledObjectRef,
    client: ExternalScalerClient<Channel>,
}

/// What KEDA knows after a poll.
#[derive(Debug)]
pub enum Polled {
    /// Both reads came back.
    Answered(Answer),
    /// `GetMetricSpec` failed or listed nothing: KEDA logs a line and starts nothing. The `ScaledJob` stays
    /// Ready, nobody is told.
    Unspecified(Status),
    /// A read failed, and again after the scaler was rebuilt: an Event, Ready=False, existing Jobs untouched.
    Failed(Status),
}

impl Trigger {
    /// A trigger with this metadata; nothing is sent before the first poll.
    pub fn new(endpoint: Endpoint, name: &str, namespace: &str, metadata: &[(&str, &str)]) -> Self {
        let pairs = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let reference = ScaledObjectRef {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            scaler_metadata: pairs.collect(),
        };
        let client = ExternalScalerClient::new(endpoint.connect_lazy());
        Self { endpoint, reference, client }
    }

    /// `GetMetricSpec`, `GetMetrics`, `IsActive`, one after the other, without a deadline.
    pub async fn poll(&mut self) -> Polled {
        let spec = match self.client.get_metric_spec(self.reference.clone()).await {
            Ok(response) => response.into_inner().metric_specs.into_iter().next(),
            Err(status) => return Polled::Unspecified(status),
        };
        let Some(spec) = spec else {
            return Polled::Unspecified(Status::new(Code::Unknown, "got empty metric spec"));
        };
        let mut read = self.read(&spec.metric_name).await;
        if read.is_err() {
            // The scaler is built anew, and both reads are repeated, at once and once.
            self.client = ExternalScalerClient::new(self.endpoint.connect_lazy());
            read = self.read(&spec.metric_name).await;
        }
        match read {
            Ok((value, active)) => Polled::Answered(Answer { value, target: target_of(&spec), active }),
            Err(status) => Polled::Failed(status),
        }
    }

    /// The value, then the activity; a value without an activity is thrown away.
    async fn read(&mut self, metric_name: &str) -> Result<(f64, bool), Status> {
        let request =
            GetMetricsRequest { scaled_object_ref: Some(self.reference.clone()), metric_name: metric_name.to_owned() };
        let metrics = self.client.get_metrics(request).await?.into_inner();
        let active = self.client.is_active(self.reference.clone()).await?.into_inner().result;
        // Whatever name they carry, all values count for the one that was asked for.
        Ok((metrics.metric_values.iter().map(value_of).sum(), active))
    }
}

/// `GetMetrics` in external_scaler.go and `GenerateMetricInMili` in scaler.go: the double where it is above
/// zero, else the integer; never negative; three decimals.
pub fn value_of(metric: &MetricValue) -> f64 {
    let MetricValue { metric_name: _, metric_value, metric_value_float } = metric;
    let value = if *metric_value_float > 0.0 { *metric_value_float } else { integer(*metric_value) };
    if value.is_finite() && value > 0.0 { (value * 1000.0).round() / 1000.0 } else { 0.0 }
}

/// `GetMetricSpecForScaling`: the double, cut to thousandths, where it is above zero, else the integer.
pub fn target_of(spec: &MetricSpec) -> f64 {
    let MetricSpec { metric_name: _, target_size, target_size_float } = spec;
    if *target_size_float > 0.0 { (*target_size_float * 1000.0).trunc() / 1000.0 } else { integer(*target_size) }
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "KEDA does the same")]
fn integer(value: i64) -> f64 {
    value as f64
}
