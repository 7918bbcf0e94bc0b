//! The numbers that KEDA takes from a scaler's messages.
//!
//! *Source:* `GetMetricsAndActivity` and `buildMetricSpecs` of pkg/scalers/external_scaler.go, and
//! `quantityFromFloat64` of pkg/scalers/scaler.go, of kedacore/keda v2.21.0; `AsApproximateFloat64` of
//! k8s.io/apimachinery's `Quantity`.

#![expect(deprecated, reason = "KEDA reads the integer fields too")]

use crate::proto::{MetricSpec, MetricValue};

/// The greatest quantity of Kubernetes; greater ones become this one.
const GREATEST: f64 = 9_223_372_036_854_775_807.0;

/// Returns the value that KEDA takes from a metric: the double if it is above zero, else the
/// integer; never negative, with three decimals.
pub fn metric_value(metric: &MetricValue) -> f64 {
    let MetricValue { metric_name: _, metric_value, metric_value_float } = metric;
    quantity(if *metric_value_float > 0.0 { *metric_value_float } else { integer(*metric_value) })
}

/// Returns the target that KEDA takes from a specification: the double with three decimals if it is
/// above zero, else the integer, which may be negative.
pub fn target_size(spec: &MetricSpec) -> f64 {
    let MetricSpec { metric_name: _, target_size, target_size_float } = spec;
    if *target_size_float > 0.0 { quantity(*target_size_float) } else { integer(*target_size) }
}

/// Returns a number after its way through a `Quantity`. KEDA writes it with three decimals; Kubernetes reads up to 18
/// digits as thousandths, more of them as billionths, and multiplies.
fn quantity(value: f64) -> f64 {
    if !value.is_finite() || value < 0.0 {
        return 0.0;
    }
    let mut digits = format!("{value:.3}").replace('.', "");
    let mut unit = 1e-3;
    if digits.len() > 18 {
        digits.push_str("000000");
        unit = 1e-9;
    }
    let units: f64 = digits.parse().expect("digits are a number");
    (units * unit).min(GREATEST)
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "KEDA does the same")]
fn integer(value: i64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_double_counts_where_it_is_above_zero() {
        let value = |metric_value, metric_value_float| {
            super::metric_value(&MetricValue { metric_name: String::new(), metric_value, metric_value_float })
        };
        assert_eq!(value(5, 0.0), 5.0, "a double of zero cannot override");
        assert_eq!(value(5, 6.5), 6.5);
        assert_eq!(value(-5, 0.0), 0.0);
        assert_eq!(value(7, f64::NAN), 7.0);
        assert_eq!(value(7, f64::INFINITY), 0.0);
        assert_eq!(value(0, 0.0004), 0.0);
        assert_eq!(value(0, 0.001), 0.001);
    }

    #[test]
    fn the_target_is_read_likewise() {
        let target = |target_size, target_size_float| {
            super::target_size(&MetricSpec { metric_name: String::new(), target_size, target_size_float })
        };
        assert_eq!(target(3, 2.5), 2.5);
        assert_eq!(target(3, 0.0), 3.0);
        assert_eq!(target(0, 0.0), 0.0);
    }
}
