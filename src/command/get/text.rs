//! The text of an answer or a failure.

use super::{
    answers::Answers,
    call::{CALLS, Call},
    failure::Failure,
};
use crate::{
    command::count_cap,
    terminal::{
        reading_width,
        style::{ColorChoice, Style},
        text::{elapsed, number, printable, wrapped},
    },
};

/// The width of the first column: `GetMetricSpec`.
const KEY: usize = 15;

/// The width of the second column, where there is room, and of the third: `123 ms`.
const ANSWER: usize = 47;
const DURATION: usize = 8;

/// The words for a call after one that failed.
const NOT_MADE: &str = "not asked: KEDA stops at the first call that fails";

/// Shows the answers, and what KEDA would do with them.
pub(super) fn page(heading: &str, answers: &Answers, max_replicas: u32, colors: ColorChoice) -> String {
    let mut lines = vec![title(heading, colors), String::new()];
    lines.extend(calls(&answers.calls, colors));
    lines.push(String::new());
    lines.push(line("ScaledJob", &for_job(answers, max_replicas), colors));
    lines.push(line("ScaledObject", &for_object(answers, max_replicas), colors));
    lines.extend(notes(answers).into_iter().map(|note| line("note", note, colors)));
    lines.join("\n") + "\n"
}

/// Returns a line for each call that was answered.
pub(super) fn calls(calls: &[Call], colors: ColorChoice) -> impl Iterator<Item = String> {
    calls.iter().map(move |Call { rpc, answer, took }| {
        let room = reading_width().saturating_sub(2 + KEY);
        let text = colors.padded(Style::Heading, &printable(answer), ANSWER.min(room.saturating_sub(DURATION)));
        below(rpc, &format!("{text} {}", colors.paint(Style::Quiet, &elapsed(*took))), colors)
    })
}

/// Returns explanations of a surprising answer.
pub(super) fn notes(answers: &Answers) -> Vec<&'static str> {
    answers.at_least.then_some(count_cap::REMARK).into_iter().chain(answers.remarks()).collect()
}

/// Returns a key with its text. The further lines of the text are aligned below its first.
pub(super) fn line(key: &str, text: &str, colors: ColorChoice) -> String {
    below(key, &printable(text), colors)
}

fn below(key: &str, text: &str, colors: ColorChoice) -> String {
    let text = wrapped(text, reading_width().saturating_sub(2 + KEY)).join(&format!("\n  {}", " ".repeat(KEY)));
    format!("  {}{text}", colors.padded(Style::Quiet, key, KEY))
}

/// Shows a poll in which a call failed under a heading.
pub(super) fn failure(heading: &str, failure: &Failure, colors: ColorChoice) -> String {
    format!("{}\n\n{}\n", title(heading, colors), failed(failure, colors))
}

/// Shows a poll in which a call failed: the calls before it, the failed one, and those that KEDA does not make then.
pub(super) fn failed(failure: &Failure, colors: ColorChoice) -> String {
    let Failure { rpc, code, message, advice, exit: _, before } = failure;
    let mut lines: Vec<String> = calls(before, colors).collect();
    let key = colors.padded(Style::Quiet, rpc.unwrap_or("connect"), KEY);
    let code = colors.paint(Style::Bad, code);
    let arrow = colors.paint(Style::Quiet, "->");
    let indent = " ".repeat(KEY);
    let room = reading_width().saturating_sub(5 + KEY);
    let message = wrapped(&printable(message), room).join(&format!("\n  {indent}"));
    let advice = wrapped(advice, room).join(&format!("\n     {indent}"));
    lines.push(format!("  {key}{code}\n  {indent}{message}\n  {indent}{arrow} {advice}"));
    let after = CALLS.into_iter().skip_while(|call| Some(*call) != *rpc).skip(1);
    lines.extend(after.map(|call| line(call, NOT_MADE, colors)));
    lines.join("\n")
}

pub(super) fn title(heading: &str, colors: ColorChoice) -> String {
    let title = match heading.split_once("  ") {
        Some((name, rest)) => format!("{}  {}", colors.paint(Style::Heading, &printable(name)), printable(rest)),
        None => colors.paint(Style::Heading, &printable(heading)),
    };
    wrapped(&title, reading_width().saturating_sub(2)).join("\n  ")
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
