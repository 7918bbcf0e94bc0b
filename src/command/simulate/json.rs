//! The simulation as a JSON document.

use serde_json::{Value, json};

use super::report::{Report, counts};
use crate::{
    json::value as number,
    keda::comparison::{Candidate, Variant, seconds},
};

/// Returns what was simulated, and the figures of every variant.
pub(super) fn document(report: &Report<'_>) -> Value {
    let (least, most) = report.scenario.pod_start.clone().into_inner();
    json!({
        "keda": report.scenario.scaled_job.keda.to_string(),
        "object": report.object,
        "seed": report.seed,
        "runs": report.runs,
        "rows": report.workload.arrivals.len(),
        "arrivals": report.arrivals,
        "start_seconds": [number(seconds(least)), number(seconds(most))],
        "min_replicas": report.scenario.scaled_job.min_replica_count,
        "max_replicas": report.most_jobs(),
        "recommendation": report.recommendation(),
        "reason": report.reason(),
        "notes": report.notes(),
        "candidates": report.candidates.iter().map(|one| candidate(report, one)).collect::<Vec<_>>(),
    })
}

fn candidate(report: &Report<'_>, candidate: &Candidate) -> Value {
    let Candidate { variant, figures, is_given } = candidate;
    let Variant { strategy, count, target, polling_interval } = variant;
    let wait = |percent| number(seconds(figures.wait(percent)));
    json!({
        "given": is_given,
        "recommended": std::ptr::eq(candidate, report.recommended),
        "strategy": strategy.word(),
        "counts": counts(*count),
        "target": number(*target),
        "polling_interval_seconds": number(seconds(*polling_interval)),
        "wait_seconds": {"p50": wait(50), "p95": wait(95), "p99": wait(99), "max": wait(100)},
        "jobs": number(figures.jobs),
        "idle_jobs": number(figures.idle_jobs),
        "peak": figures.peak,
        "pod_hours": number(figures.pod_hours),
        "unclaimed": number(figures.unclaimed),
        "end_seconds": figures.end.map(|end| number(seconds(end))),
    })
}
