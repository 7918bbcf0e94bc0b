//! The commands that operators type: their output and their exit codes.

mod check;
mod check_faults;
mod check_functions;
mod check_indexes;
mod completions;
mod config;
mod get;
mod get_faults;
mod get_manifest;
mod help;
mod lint;
mod migrate;
mod mistakes;
mod misuse;
mod simulate;
mod why;
mod written_files;

use std::time::Duration;

use crate::support::{
    database::Access,
    executable::{Executable, Finished},
};

/// The longest that a command may take; on an idle machine none takes more than a few seconds.
const SOON: Duration = Duration::from_secs(30);

/// Returns a configuration with one database, `claps`, and these queries (YAML, indented by two).
fn configuration(access: &Access, queries: &str) -> String {
    let mut database = access.yaml("claps");
    // On a busy machine a connection takes longer than the usual limit, of which `check` would warn.
    if !database.contains("connect_timeout: ") {
        database.push_str("    connect_timeout: 20s\n");
    }
    format!("databases:\n{database}queries:\n{queries}")
}

/// Runs a command that reads `clapometer.yaml`.
async fn run(configuration: &str, arguments: &[&str]) -> Finished {
    let executable = Executable::clapometer(arguments).file("clapometer.yaml", configuration);
    executable.argument("--config").argument("clapometer.yaml").finish(SOON).await
}

/// Runs a command that reads no file.
async fn run_alone(arguments: &[&str]) -> Finished {
    Executable::clapometer(arguments).finish(SOON).await
}

/// Replaces everything that differs from run to run: `known` pieces, durations, costs.
fn redacted(text: &str, known: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (piece, name) in known {
        text = text.replace(piece, name);
    }
    let lines: Vec<String> = text.lines().map(redacted_line).collect();
    lines.join("\n")
}

fn redacted_line(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let is_number = |word: &str| word.trim_end_matches(',').parse::<f64>().is_ok();
    let word = |index: usize| words.get(index).copied().unwrap_or_default();
    let mut redacted = Vec::new();
    for index in 0..words.len() {
        let before = index.checked_sub(1).map_or("", word);
        redacted.push(match word(index) {
            number if is_number(number) && matches!(word(index + 1), "ms" | "s") => "<n>",
            "ms" | "s" if is_number(before) => "ms",
            number if is_number(number) && before == "cost" => "<cost>,",
            number if is_number(number) && matches!(word(index + 1), "row" | "rows") => "<n>",
            "row" if word(index + 1) == "expected" => "rows",
            other => other,
        });
    }
    redacted.join(" ")
}

#[test]
fn what_differs_from_run_to_run_is_redacted_and_nothing_else() {
    let line = "  ok  jobs  60  active (60 > 0)  1.2 ms\n  plan cost 12.50, 1 row expected\n  (2.4 s): port 5432";
    let expected =
        "  ok  jobs  60  active (60 > 0)  <n> ms\n  plan cost <cost>, <n> rows expected\n  (2.4 s): port <port>";
    assert_eq!(redacted(line, &[("5432", "<port>")]), expected);
}
