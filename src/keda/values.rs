//! The numbers that KEDA takes from a scaler's messages.
//!
//! *Source:* `GetMetrics` and `GetMetricSpecForScaling` of pkg/scalers/external_scaler.go, and
//! `GenerateMetricInMili` of pkg/scalers/scaler.go, of kedacore/keda.

#![expect(deprecated, reason = "KEDA reads the integer fields too")]

use crate::proto::{MetricSpec, MetricValue};

/// Returns the value that KEDA takes from a metric: the double if it is above zero, else the
/// integer; never negative, with three decimals.
pub fn metric_value(metric: &MetricValue) -> f64 {
    let MetricValue { metric_name: _, metric_value, metric_value_float } = metric;
    let value = if *metric_value_float > 0.0 { *metric_value_float } else { integer(*metric_value) };
    if value.is_finite() && value > 0.0 { (value * 1000.0).round() / 1000.0 } else { 0.0 }
}

/// Returns the target that KEDA takes from a specification: the double, cut to thousandths, if it
/// is above zero, else the integer.
pub fn target_size(spec: &MetricSpec) -> f64 {
    let MetricSpec { metric_name: _, target_size, target_size_float } = spec;
    if *target_size_float > 0.0 { (*target_size_float * 1000.0).trunc() / 1000.0 } else { integer(*target_size) }
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
