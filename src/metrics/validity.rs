//! The gauge of valid files: one sample without labels for the main file, and one for each query file.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::MetricType,
};

/// The files of the configuration, each valid or not. Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct Validity(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    main: bool,
    query_files: BTreeMap<String, bool>,
}

impl Validity {
    /// Says whether the main file is valid.
    pub fn set(&self, is_valid: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).main = is_valid;
    }

    /// Returns whether the main file is valid, and the names of the query files that are not.
    pub fn invalid(&self) -> (bool, Vec<String>) {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let invalid = files.query_files.iter().filter(|(_, is_valid)| !**is_valid);
        (files.main, invalid.map(|(name, _)| name.clone()).collect())
    }

    /// Says which query files there are, and whether each is valid.
    pub fn set_query_files(&self, query_files: BTreeMap<String, bool>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).query_files = query_files;
    }
}

impl EncodeMetric for Validity {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        encoder.encode_gauge(&i64::from(files.main))?;
        for (file, is_valid) in &files.query_files {
            encoder.encode_family(&[("file", file.as_str())])?.encode_gauge(&i64::from(*is_valid))?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}
