//! One poll of a `ScaledJob`'s trigger, call by call as KEDA makes it.
//!
//! *Source:* `pkg/scalers/external_scaler.go`, `pkg/scaling/cache/scalers_cache.go` and
//! `pkg/scaling/scale_handler.go` of kedacore/keda after v2.20.2.

use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use super::{
    scaled_job::ScalerAnswer,
    values::{metric_value, target_size},
};
use crate::proto::{GetMetricsRequest, ScaledObjectRef, external_scaler_client::ExternalScalerClient};

/// KEDA's side of a trigger of type `external`.
pub struct TriggerPoller {
    endpoint: Endpoint,
    reference: ScaledObjectRef,
    client: ExternalScalerClient<Channel>,
}

/// The result of a poll.
#[derive(Debug)]
pub enum Polled {
    /// Both reads succeeded.
    Answered(ScalerAnswer),
    /// `GetMetricSpec` failed or listed nothing. KEDA logs a line and starts nothing; the `ScaledJob` stays Ready,
    /// and there is no Event.
    Unspecified(Status),
    /// A read failed, and failed again after the scaler was rebuilt. KEDA writes an Event and sets Ready=False;
    /// existing Jobs are untouched.
    Failed(Status),
}

impl TriggerPoller {
    /// A trigger with this metadata. It sends nothing before the first poll.
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

    /// Calls `GetMetricSpec`, `GetMetrics` and `IsActive`, one after the other, without a deadline.
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
            // KEDA rebuilds the scaler and repeats both reads once, without a pause.
            self.client = ExternalScalerClient::new(self.endpoint.connect_lazy());
            read = self.read(&spec.metric_name).await;
        }
        match read {
            Ok((value, active)) => Polled::Answered(ScalerAnswer { value, target: target_size(&spec), active }),
            Err(status) => Polled::Failed(status),
        }
    }

    /// Reads the value, then the activity. A value without an activity is lost.
    async fn read(&mut self, metric_name: &str) -> Result<(f64, bool), Status> {
        let request =
            GetMetricsRequest { scaled_object_ref: Some(self.reference.clone()), metric_name: metric_name.to_owned() };
        let metrics = self.client.get_metrics(request).await?.into_inner();
        let active = self.client.is_active(self.reference.clone()).await?.into_inner().result;
        // KEDA ignores the names of the values: all count for the metric that it asked for.
        Ok((metrics.metric_values.iter().map(metric_value).sum(), active))
    }
}
