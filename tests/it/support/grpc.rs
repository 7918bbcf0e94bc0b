//! A client that asks the scaler as KEDA does, and checks every answer against the contract's deadline.

#![expect(deprecated, reason = "KEDA reads the integer fields too")]

use std::{net::SocketAddr, time::Duration};

use clapometer::proto::{
    GetMetricsRequest, IsActiveResponse, MetricSpec, MetricValue, ScaledObjectRef,
    external_scaler_client::ExternalScalerClient,
};
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

use super::wait;

/// The contract's deadline of 2.5 s, and half a second for a busy machine.
pub(crate) const ANSWER: Duration = Duration::from_millis(2_500 + 500);

/// One connection to a scaler.
#[derive(Debug, Clone)]
pub(crate) struct Scaler {
    client: ExternalScalerClient<Channel>,
}

impl Scaler {
    /// Makes a client that connects when it is first used, as KEDA's does.
    pub(crate) fn at(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URI");
        Self::over(endpoint.connect_lazy())
    }

    /// Uses a channel that the test has made, for example one with TLS.
    pub(crate) fn over(channel: Channel) -> Self {
        Self { client: ExternalScalerClient::new(channel) }
    }

    /// Returns the generated client, for calls that have no method here.
    pub(crate) fn client(&self) -> ExternalScalerClient<Channel> {
        self.client.clone()
    }

    /// Calls `GetMetricSpec`, which must return exactly one spec.
    pub(crate) async fn spec(&self, trigger: &ScaledObjectRef) -> Result<MetricSpec, Status> {
        let mut client = self.client();
        let call = client.get_metric_spec(trigger.clone());
        let response = wait::bounded("GetMetricSpec", ANSWER, call).await?.into_inner();
        Ok(only(response.metric_specs))
    }

    /// Calls `GetMetrics` for the trigger's own metric, which must return exactly one value.
    #[track_caller]
    pub(crate) fn metric(&self, trigger: &ScaledObjectRef) -> impl Future<Output = Result<MetricValue, Status>> {
        let name = trigger.scaler_metadata.get("query").map_or("", |query| query.trim());
        self.metric_named(trigger, name)
    }

    /// Calls `GetMetrics` for the metric with this name, which must return exactly one value.
    #[track_caller]
    pub(crate) fn metric_named(
        &self,
        trigger: &ScaledObjectRef,
        name: &str,
    ) -> impl Future<Output = Result<MetricValue, Status>> {
        let name = name.to_owned();
        let request = GetMetricsRequest { scaled_object_ref: Some(trigger.clone()), metric_name: name.clone() };
        let mut client = self.client();
        let answer = wait::bounded("GetMetrics", ANSWER, async move { client.get_metrics(request).await });
        async move {
            let value = only(answer.await?.into_inner().metric_values);
            assert_eq!(value.metric_name, name, "the answer is for another metric");
            Ok(value)
        }
    }

    /// Returns the value of `GetMetrics`.
    ///
    /// # Panics
    /// When its two fields disagree: the integer is the double, rounded up.
    #[track_caller]
    pub(crate) fn value(&self, trigger: &ScaledObjectRef) -> impl Future<Output = Result<f64, Status>> {
        let metric = self.metric(trigger);
        async move {
            let MetricValue { metric_name: _, metric_value, metric_value_float } = metric.await?;
            assert_agree(metric_value_float, metric_value);
            Ok(metric_value_float)
        }
    }

    /// Calls `IsActive`.
    #[track_caller]
    pub(crate) fn active(&self, trigger: &ScaledObjectRef) -> impl Future<Output = Result<bool, Status>> {
        let (mut client, request) = (self.client(), trigger.clone());
        let answer = wait::bounded("IsActive", ANSWER, async move { client.is_active(request).await });
        async move { Ok(answer.await?.into_inner().result) }
    }

    /// Opens `StreamIsActive`.
    pub(crate) async fn activity(&self, trigger: &ScaledObjectRef) -> Result<Streaming<IsActiveResponse>, Status> {
        let mut client = self.client();
        let response = wait::bounded("StreamIsActive", ANSWER, client.stream_is_active(trigger.clone())).await?;
        Ok(response.into_inner())
    }

    /// Returns the status of `GetMetrics`; that of `IsActive` must have the same code.
    ///
    /// # Panics
    /// When one of them succeeds, or they differ.
    pub(crate) async fn refusal(&self, trigger: &ScaledObjectRef) -> Status {
        let (metric, active) = tokio::join!(self.metric(trigger), self.active(trigger));
        let metric = metric.expect_err("GetMetrics was to fail");
        let active = active.expect_err("IsActive was to fail");
        assert_eq!(metric.code(), active.code(), "{metric:?} and {active:?}");
        metric
    }

    /// Asks until the value is this one.
    ///
    /// # Panics
    /// At the caller's place, with the last answer, when it is not `within` that time.
    #[track_caller]
    pub(crate) fn reaches(&self, trigger: &ScaledObjectRef, value: f64, within: Duration) -> impl Future<Output = ()> {
        wait::until(&format!("the value is {value}"), within, async move || match self.value(trigger).await {
            Ok(seen) if seen == value => Ok(()),
            other => Err(format!("{other:?}")),
        })
    }

    /// Asks until both reads fail with this code.
    ///
    /// # Panics
    /// At the caller's place, with the last answers, when they do not `within` that time.
    #[track_caller]
    pub(crate) fn refuses(&self, trigger: &ScaledObjectRef, code: Code, within: Duration) -> impl Future<Output = ()> {
        wait::until(&format!("both reads fail with {code:?}"), within, async move || {
            match tokio::join!(self.value(trigger), self.active(trigger)) {
                (Err(value), Err(active)) if value.code() == code && active.code() == code => Ok(()),
                others => Err(format!("{others:?}")),
            }
        })
    }
}

/// Returns a trigger's reference with this query and further metadata, in the namespace `default`.
pub(crate) fn trigger(query: &str, metadata: &[(&str, &str)]) -> ScaledObjectRef {
    let always = [("query", query), ("scalerAddress", "clapometer:9090")];
    let pairs = metadata.iter().chain(&always);
    ScaledObjectRef {
        name: "claps".to_owned(),
        namespace: "default".to_owned(),
        scaler_metadata: pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    }
}

/// Checks that a number's two fields say the same to a KEDA that reads either.
///
/// # Panics
/// When the integer is not the double rounded up.
pub(crate) fn assert_agree(double: f64, integer: i64) {
    assert_eq!(format!("{:.0}", double.ceil()), integer.to_string(), "{double} and {integer} disagree");
}

fn only<T: std::fmt::Debug>(mut items: Vec<T>) -> T {
    assert_eq!(items.len(), 1, "not exactly one: {items:?}");
    items.remove(0)
}

#[cfg(test)]
mod tests {
    use super::{assert_agree, only};

    #[test]
    fn fields_that_agree_pass() {
        for (double, integer) in [(0.0, 0), (6.1, 7), (60.0, 60), (0.001, 1)] {
            assert_agree(double, integer);
        }
    }

    #[test]
    #[should_panic(expected = "6.1 and 6 disagree")]
    fn fields_that_disagree_fail_the_test() {
        assert_agree(6.1, 6);
    }

    #[test]
    #[should_panic(expected = "not exactly one")]
    fn two_values_fail_the_test() {
        only(vec![1, 2]);
    }
}
