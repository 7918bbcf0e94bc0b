//! Findings as a JSON document.

use serde_json::{Value, json};

use crate::{keda::version::Version, lint::Report};

/// Returns all findings, and what was looked at.
pub(super) fn document(report: &Report, keda: Version) -> Value {
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            json!({
                "file": finding.file,
                "line": finding.line,
                "object": finding.object,
                "severity": finding.severity.to_string(),
                "rule": finding.rule.name,
                "why": finding.why,
                "source": finding.rule.source,
                "how": finding.how,
            })
        })
        .collect();
    json!({
        "keda": keda.to_string(),
        "documents": report.documents,
        "objects": report.objects,
        "allowed": report.allowed,
        "findings": findings,
    })
}
