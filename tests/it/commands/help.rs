//! `--help`, `--version` and wrong usage.

use std::path::Path;

use super::{SOON, run_alone};
use crate::support::executable::{Executable, Finished};

async fn help_of(arguments: &[&str]) -> String {
    help_in(run_alone(arguments).await, arguments)
}

async fn batch_help_of(arguments: &[&str]) -> String {
    help_in(Executable::postgres_batch(arguments).finish(SOON).await, arguments)
}

fn help_in(finished: Finished, arguments: &[&str]) -> String {
    assert_eq!((finished.code(), &*finished.errors), (Some(0), ""), "{arguments:?}");
    let longest = finished.output.lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(110), "a line of the help has {longest:?} characters:\n{}", finished.output);
    finished.output
}

#[tokio::test]
async fn the_help_of_each_command() {
    insta::assert_snapshot!("clapometer", help_of(&["--help"]).await);
    insta::assert_snapshot!("serve", help_of(&["serve", "--help"]).await);
    insta::assert_snapshot!("check", help_of(&["check", "--help"]).await);
    insta::assert_snapshot!("get", help_of(&["get", "--help"]).await);
    insta::assert_snapshot!("lint", help_of(&["lint", "--help"]).await);
    insta::assert_snapshot!("simulate", help_of(&["simulate", "--help"]).await);
    insta::assert_snapshot!("init", help_of(&["init", "--help"]).await);
    insta::assert_snapshot!("migrate", help_of(&["migrate", "--help"]).await);
    insta::assert_snapshot!("why", help_of(&["why", "--help"]).await);
    insta::assert_snapshot!("config", help_of(&["config", "--help"]).await);
}

#[tokio::test]
async fn the_help_of_the_job_and_of_its_default_command() {
    insta::assert_snapshot!("postgres-batch", batch_help_of(&["--help"]).await);
    let work = batch_help_of(&["work", "--help"]).await;
    assert_eq!(batch_help_of(&["--lease", "10s", "--help"]).await, work, "without its name, too");
    insta::assert_snapshot!("postgres-batch-work", work);
}

#[tokio::test]
async fn the_version_has_version_commit_and_compiler() {
    let version = env!("CARGO_PKG_VERSION");
    let (commit, rustc) = (env!("CLAPOMETER_COMMIT"), env!("CLAPOMETER_RUSTC"));
    for (name, executable) in [
        ("clapometer", Executable::clapometer(["--version"])),
        ("postgres-batch", Executable::postgres_batch(["--version"])),
    ] {
        let finished = executable.finish(SOON).await;
        assert_eq!(finished.output, format!("{name} {version} (commit {commit}, {rustc})\n"));
    }
    assert!(rustc.starts_with("rustc 1."), "{rustc}");
}

#[tokio::test]
async fn wrong_usage_exits_with_2_and_says_what_is_wrong() {
    let cases: [(&[&str], &str); 9] = [
        (&[], "Usage: clapometer <COMMAND>"),
        (&["serv"], "similar subcommand exists: 'serve'"),
        (&["check", "--ofline"], "similar argument exists: '--offline'"),
        (&["get"], "clapometer get [OPTIONS] --manifest <FILE>"),
        (&["get", "jobs", "--watch", "--json"], "cannot be used with"),
        (&["get", "jobs", "--tls-cert", "a.crt"], "--tls-key <FILE>"),
        (&["get", "jobs", "--address", "127.0.0.1"], "--address: needs a port; KEDA dials 443"),
        (
            &["get", "jobs", "--tls-ca", "/nowhere/ca.crt"],
            "--tls-ca: /nowhere/ca.crt: the file cannot be read: No such file",
        ),
        (&["get", "jobs", "--metadata", "query=other"], "--metadata query: the query is the argument QUERY"),
    ];
    for (arguments, expected) in cases {
        let finished = run_alone(arguments).await;
        assert_eq!((finished.code(), &*finished.output), (Some(2), ""), "{arguments:?}");
        assert!(finished.errors.contains(expected), "{arguments:?}: {}", finished.errors);
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_panic() {
    let script = format!("{} config | true", env!("CARGO_BIN_EXE_clapometer"));
    let finished = Executable::new(Path::new("/bin/sh"), ["-c", &script]).finish(SOON).await;
    assert_eq!(finished.errors, "");
}

#[tokio::test]
async fn half_of_an_output_is_no_success() {
    let (clapometer, batch) = (env!("CARGO_BIN_EXE_clapometer"), env!("CARGO_BIN_EXE_postgres-batch"));
    for command in [
        format!("{clapometer} notify-sql --table jobs --channel jobs"),
        format!("PGHOST=localhost PGUSER=me {clapometer} config"),
        format!("{batch} migrate print"),
        format!("{clapometer} --help"),
        format!("{clapometer} --version"),
        format!("{clapometer} lint --help"),
        format!("{batch} --help"),
    ] {
        let script = format!("{command} >/dev/full");
        let finished = Executable::new(Path::new("/bin/sh"), ["-c", &script]).finish(SOON).await;
        assert_eq!(finished.code(), Some(1), "{command}: {}", finished.errors);
        assert!(finished.errors.contains("cannot write to standard output"), "{command}: {}", finished.errors);
    }
}
