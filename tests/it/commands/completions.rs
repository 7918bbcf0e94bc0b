//! Completions as a shell uses them, and the man pages.

use std::path::Path;

use clap::CommandFactory;
use clapometer::{batch::cli::Arguments, command};

use super::SOON;
use crate::support::executable::Executable;

/// Completes the last word of a command line as bash does, and returns what it would offer.
async fn offered(program: &str, script: &str, words: &[&str]) -> Vec<String> {
    let line = words.join(" ");
    let position = words.len() - 1;
    let ask = format!(
        "source ./script; COMP_WORDS=({line} ''); COMP_CWORD={position}; \
         $(complete -p {program} | sed 's/.*-F \\([^ ]*\\).*/\\1/') {program} \"${{COMP_WORDS[{position}]}}\" \"\"; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let bash = Executable::new(Path::new("/bin/bash"), ["-c", &ask]).file("script", script);
    let finished = bash.finish(SOON).await;
    assert_eq!(finished.errors, "", "{words:?}");
    finished.output.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn bash_completes_commands_and_options_of_both_programs() {
    for (program, executable, words, wanted) in [
        ("clapometer", Executable::clapometer(["completions", "bash"]), ["clapometer", "ch"], "check"),
        ("postgres-batch", Executable::postgres_batch(["completions", "bash"]), ["postgres-batch", "pr"], "prune"),
    ] {
        let script = executable.finish(SOON).await;
        assert_eq!((script.code(), script.errors.as_str()), (Some(0), ""));
        assert_eq!(offered(program, &script.output, &words).await, [wanted]);
    }
    let script = Executable::clapometer(["completions", "bash"]).finish(SOON).await.output;
    let options = offered("clapometer", &script, &["clapometer", "check", "--off"]).await;
    assert_eq!(options, ["--offline"]);
}

#[tokio::test]
async fn zsh_and_fish_have_theirs_and_no_other_shell_does() {
    let zsh = Executable::clapometer(["completions", "zsh"]).finish(SOON).await;
    assert!(zsh.output.starts_with("#compdef clapometer\n"), "{}", zsh.output);
    let fish = Executable::postgres_batch(["completions", "fish"]).finish(SOON).await;
    assert!(fish.output.contains("complete -c postgres-batch"), "{}", fish.output);
    let other = Executable::clapometer(["completions", "tcsh"]).finish(SOON).await;
    assert_eq!(other.code(), Some(2));
}

#[test]
fn each_command_has_a_man_page() {
    let directory = tempfile::tempdir().unwrap();
    for program in [command::command_line(), Arguments::command()] {
        clap_mangen::generate_to(program, directory.path()).unwrap();
    }
    for (page, text) in [
        ("clapometer.1", "Exit codes"),
        ("clapometer-check.1", "offline"),
        ("postgres-batch.1", "PGHOST"),
        ("postgres-batch-work.1", "lease"),
    ] {
        let found = std::fs::read_to_string(directory.path().join(page)).unwrap();
        assert!(found.contains(text), "{page}: {found}");
    }
}

#[tokio::test]
async fn the_log_has_the_format_that_is_asked_for() {
    let database = "databases: {claps: {host: 127.0.0.1, port: 1, user: me}}\n";
    for (format, is_json, is_told) in [("text", false, false), ("json", true, false), ("yaml", true, true)] {
        let executable = Executable::serve(database).variable("CLAPOMETER_LOG_FORMAT", format);
        let mut process = executable.start();
        crate::support::wait::eventually("it serves", SOON, || process.errors().contains("serving")).await;
        assert_eq!(process.ended(), None);
        let log = process.errors();
        assert_eq!(log.starts_with('{'), is_json, "{format}: {log}");
        assert_eq!(log.contains("neither text nor json"), is_told, "{format}: {log}");
    }
}

#[tokio::test]
async fn a_misspelt_level_does_not_silence_the_log() {
    let database = "databases: {claps: {host: 127.0.0.1, port: 1, user: me}}\n";
    let mut process = Executable::serve(database).variable("RUST_LOG", "wran").start();
    crate::support::wait::eventually("it serves", SOON, || process.errors().contains("serving")).await;
    assert_eq!(process.ended(), None);
    assert!(process.errors().contains("RUST_LOG is neither a level"), "{}", process.errors());
}
