//! Gauges whose labels are what they tell. Each sample is 1, and there is one for each thing that is so now.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::MetricType,
};

/// The facts that hold now. Clones share their state.
#[derive(Debug)]
pub struct Facts<L>(Arc<Mutex<Vec<L>>>);

impl<L> Facts<L> {
    /// Says all that is so now.
    pub fn set(&self, facts: Vec<L>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = facts;
    }
}

impl<L> Clone for Facts<L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L> Default for Facts<L> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<L: EncodeLabelSet> EncodeMetric for Facts<L> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for labels in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            encoder.encode_family(labels)?.encode_gauge(&1_i64)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}
