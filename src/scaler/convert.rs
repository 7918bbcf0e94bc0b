//! Converts a reading into an answer. How KEDA uses the fields: pkg/scalers/external_scaler.go.

use super::metadata::{ActivitySource, Trigger};
use crate::{
    fault::Fault,
    postgres::without_row,
    proto::{GetMetricSpecResponse, GetMetricsResponse, MetricSpec, MetricValue},
    query::KEEPER,
    reading::Numbers,
    scaling::{self, Target},
};

/// Returns the one MetricSpec of a trigger.
#[allow(deprecated, reason = "KEDA before 2.17 reads only the integer")]
pub(super) fn spec(name: &str, target: Target) -> GetMetricSpecResponse {
    let spec = MetricSpec {
        metric_name: name.to_owned(),
        target_size: scaling::integer(target.get()),
        target_size_float: target.get(),
    };
    GetMetricSpecResponse { metric_specs: vec![spec] }
}

/// Returns the one MetricValue of a trigger.
#[allow(deprecated, reason = "KEDA takes the integer where the double is not above zero, so both must agree")]
pub(super) fn value(trigger: &Trigger, numbers: Option<Numbers>) -> Result<GetMetricsResponse, Fault> {
    let reported = reported(trigger, known(trigger, numbers)?);
    let value = MetricValue {
        metric_name: trigger.query().name.clone(),
        metric_value: scaling::integer(reported),
        metric_value_float: reported,
    };
    Ok(GetMetricsResponse { metric_values: vec![value] })
}

/// Returns the value that an answer tells.
pub(super) fn told(answer: &GetMetricsResponse) -> f64 {
    answer.metric_values.iter().map(|value| value.metric_value_float).sum()
}

/// Returns the one MetricValue of the keeper.
pub(super) fn keeper() -> GetMetricsResponse {
    let value = MetricValue { metric_name: KEEPER.to_owned(), ..MetricValue::default() };
    GetMetricsResponse { metric_values: vec![value] }
}

/// Returns whether a trigger is active.
pub(super) fn is_active(trigger: &Trigger, numbers: Option<Numbers>) -> Result<bool, Fault> {
    Ok(trigger.activation.is_exceeded_by(activity(trigger, numbers)?))
}

/// Returns the number that decides whether a trigger is active.
pub(super) fn activity(trigger: &Trigger, numbers: Option<Numbers>) -> Result<f64, Fault> {
    let numbers = known(trigger, numbers)?;
    Ok(match trigger.activity_source {
        ActivitySource::Reported => reported(trigger, numbers),
        ActivitySource::ValueColumn => numbers.value,
        ActivitySource::ActivityColumn => numbers.activity.unwrap_or(numbers.value),
    })
}

fn reported(trigger: &Trigger, numbers: Numbers) -> f64 {
    scaling::reported(numbers.value, trigger.divide_by, trigger.rounding)
}

/// Returns the numbers of the trigger's own row, or those that a missing row stands for.
fn known(trigger: &Trigger, numbers: Option<Numbers>) -> Result<Numbers, Fault> {
    match (numbers, &trigger.group) {
        (Some(numbers), _) => Ok(numbers),
        (None, Some(key)) => {
            trigger.key.source.missed(key);
            without_row(trigger.query())
        }
        // A reload that makes a query grouped makes it another query, so this cannot happen.
        (None, None) => Err(Fault::Bug),
    }
}
