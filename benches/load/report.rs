//! The common parts of the measurements: a table's rows, medians, and the files of results.

use std::{fs, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One line of the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    /// The baseline that it is compared with.
    pub(crate) baseline: String,
    pub(crate) bar: String,
    pub(crate) measured: String,
    pub(crate) holds: bool,
}

/// The middle one; of an even number the lower.
///
/// # Panics
/// When there are none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

/// Returns the path of a result, in the target directory.
pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Writes a result.
///
/// # Panics
/// When the target directory is not writable.
pub(crate) fn write(name: &str, result: &Value) {
    let path = path(name);
    let text = serde_json::to_string_pretty(result).expect("a value is JSON");
    fs::write(&path, text + "\n").expect("the target directory is writable");
    println!("{}", path.display());
}
