//! The text of an answer or a failure.

use super::{answers::Answers, failure::Failure};
use crate::{
    command::count_cap,
    keda::scaled_job::ScalerAnswer,
    terminal::{
        reading_width,
        style::{ColorChoice, Style},
        text::{elapsed, number, printable, wrapped},
    },
};

/// The width of the first column: `GetMetricSpec`.
const KEY: usize = 15;

/// Shows the answers, and what KEDA would do with them.
pub(super) fn page(heading: &str, answers: &Answers, max_replicas: u32, colors: ColorChoice) -> String {
    let ScalerAnswer { value, target, active } = answers.answer;
    let row = |key: &str, text: &str, duration: Option<std::time::Duration>| {
        let key = colors.padded(Style::Quiet, key, KEY);
        let took = duration.map_or_else(String::new, |duration| colors.paint(Style::Quiet, &elapsed(duration)));
        let text = colors.padded(Style::Heading, &printable(text), if took.is_empty() { 0 } else { 48 });
        format!("  {key}{}", format!("{text}{took}").trim_end())
    };
    let [spec, metrics, activity] = answers.durations;
    let at_least = if answers.at_least { "at least " } else { "" };
    let mut lines = vec![
        title(heading, colors),
        String::new(),
        row("GetMetricSpec", &format!("metric {}, target {}", answers.metric, number(target)), Some(spec)),
        row("GetMetrics", &format!("{at_least}{}", number(value)), Some(metrics)),
        row("IsActive", if active { "active" } else { "inactive" }, Some(activity)),
        String::new(),
    ];
    let plain = |key: &str, text: &str| {
        let room = reading_width().saturating_sub(2 + KEY);
        let text = wrapped(&printable(text), room).join(&format!("\n  {}", " ".repeat(KEY)));
        format!("  {}{text}", colors.padded(Style::Quiet, key, KEY))
    };
    lines.push(plain("ScaledJob", &for_job(answers, max_replicas)));
    lines.push(plain("ScaledObject", &for_object(answers, max_replicas)));
    if !at_least.is_empty() {
        lines.push(plain("note", count_cap::REMARK));
    }
    lines.extend(answers.remarks().into_iter().map(|remark| plain("note", remark)));
    lines.join("\n") + "\n"
}

/// Shows a failed call.
pub(super) fn failure(heading: &str, failure: &Failure, colors: ColorChoice) -> String {
    let Failure { rpc, code, message, advice, exit: _ } = failure;
    let key = colors.padded(Style::Quiet, rpc.unwrap_or("connect"), KEY);
    let code = colors.paint(Style::Bad, code);
    let arrow = colors.paint(Style::Quiet, "->");
    let indent = " ".repeat(KEY);
    let room = reading_width().saturating_sub(5 + KEY);
    let message = wrapped(&printable(message), room).join(&format!("\n  {indent}"));
    let advice = wrapped(advice, room).join(&format!("\n     {indent}"));
    format!("{}\n\n  {key}{code}\n  {indent}{message}\n  {indent}{arrow} {advice}\n", title(heading, colors))
}

fn title(heading: &str, colors: ColorChoice) -> String {
    match heading.split_once("  ") {
        Some((name, rest)) => format!("{}  {}", colors.paint(Style::Heading, &printable(name)), printable(rest)),
        None => colors.paint(Style::Heading, &printable(heading)),
    }
}

fn for_job(answers: &Answers, max_replicas: u32) -> String {
    let jobs = answers.jobs_started(max_replicas);
    if jobs == 0 {
        return "KEDA starts no Job".to_owned();
    }
    let plural = if jobs == 1 { "Job" } else { "Jobs" };
    format!(
        "KEDA starts {jobs} {plural}: {} / {}, none running, maxReplicaCount {max_replicas}, strategy default",
        number(answers.answer.value),
        number(answers.answer.target)
    )
}

fn for_object(answers: &Answers, max_replicas: u32) -> String {
    let Some(replicas) = answers.replicas(max_replicas) else {
        return "KEDA scales to minReplicaCount once cooldownPeriod has passed".to_owned();
    };
    let plural = if replicas == 1 { "replica" } else { "replicas" };
    format!(
        "KEDA wants {replicas} {plural}: {} / {} (AverageValue), maxReplicaCount {max_replicas}",
        number(answers.answer.value),
        number(answers.answer.target)
    )
}
