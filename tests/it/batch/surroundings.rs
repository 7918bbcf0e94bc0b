//! The surroundings in which a process starts: signals that are blocked, and a stderr that takes nothing.

use std::path::Path;

use super::{
    ground::{SOON, queue, report, request},
    program::shell,
};
use crate::support::{cluster::Cluster, executable::Executable, wait::first};

const PROGRAM: &str = env!("CARGO_BIN_EXE_postgres-batch");

/// A supervisor that blocks signals while it starts a process leaves them blocked in it.
#[tokio::test]
async fn a_worker_whose_signals_are_blocked_sees_its_program_end_and_stops_when_asked() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 2, 600).await;
    let blocked = |arguments: &[&'static str]| {
        let words = [&["--block-signal=CHLD,TERM,INT,HUP", PROGRAM, "work"], arguments].concat();
        Executable::new(Path::new("/usr/bin/env"), words).variables(database.owner().environment())
    };
    let finished = blocked(&["--", "true"]).finish(SOON).await;
    assert_eq!((finished.code(), &report(&finished)["clap"]), (Some(0), &1.into()), "{finished:?}");

    let waiting = blocked(&[]).start();
    let held = async || (database.value::<i64>("SELECT held FROM clap_backlog").await == 1).then_some(());
    first("the worker is at work", SOON, held).await;
    let finished = waiting.terminate(SOON).await;
    assert_eq!(finished.code(), Some(143), "{finished:?}");
}

/// The exit code is what Kubernetes decides by, also where a message cannot be written.
#[tokio::test]
async fn an_exit_code_is_right_although_nobody_can_read_why() {
    let nowhere = [("PGHOST", "127.0.0.1"), ("PGPORT", "1"), ("PGUSER", "nobody")];
    for (arguments, code) in [
        (&["list"][..], 69),
        (&["work", "--", "/nowhere/program"], 78),
        (&["work", "--lease", "1ms"], 2),
        (&["migrate", "print"], 0),
    ] {
        let full = ["-c", "exec \"$0\" \"$@\" 2>/dev/full", PROGRAM];
        let words = [&full[..], arguments].concat();
        let mut program = Executable::new(Path::new("/bin/sh"), words);
        for (name, value) in nowhere {
            program = program.variable(name, value);
        }
        let finished = program.finish(SOON).await;
        assert_eq!(finished.code(), Some(code), "{arguments:?}: {finished:?}");
    }
}

/// Whoever reads the report reads the last line.
#[tokio::test]
async fn the_report_is_a_line_of_its_own_although_the_program_has_not_ended_its_last_one() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let finished = shell(&database, &[], "printf 'no newline' >&2; exit 3").finish(SOON).await;
    let last: serde_json::Value = serde_json::from_str(finished.errors.lines().last().unwrap()).unwrap();
    assert_eq!((&last["outcome"], &last["exit_code"]), (&"FAILED".into(), &10.into()), "{finished:?}");
}

/// Some platforms switch it on for every table. The view counts what its owner sees. PostgreSQL does not look at what a
/// policy says: one that hides nothing is an error, too.
#[tokio::test]
async fn policies_that_apply_to_the_worker_are_an_error_and_not_nothing_to_do() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    database
        .execute(
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO scaler; ALTER TABLE make_it_clap ENABLE ROW LEVEL SECURITY",
        )
        .await;
    let as_worker =
        |arguments: &[&'static str]| Executable::postgres_batch(arguments).variables(database.scaler().environment());
    for policy in ["SELECT", "CREATE POLICY everything ON make_it_clap USING (true)"] {
        database.execute(policy).await;
        for arguments in [&["work"][..], &["list"], &["retry", "1"]] {
            let finished = as_worker(arguments).finish(SOON).await;
            assert_eq!(finished.code(), Some(if arguments == ["work"] { 78 } else { 1 }), "{finished:?}");
            let said =
                format!("{}{}", finished.output, finished.errors).split_whitespace().collect::<Vec<_>>().join(" ");
            for words in ["cannot tell whether the policies would hide rows", "DISABLE ROW LEVEL", "BYPASSRLS", "owner"]
            {
                assert!(said.contains(words), "{arguments:?}: {words}: {finished:?}");
            }
        }
    }
    let listed = Executable::postgres_batch(["list"]).variables(database.owner().environment()).finish(SOON).await;
    assert_eq!(listed.code(), Some(0), "no policy applies to the owner: {listed:?}");
    database.execute("ALTER TABLE make_it_clap DISABLE ROW LEVEL SECURITY").await;
    let worked = as_worker(&["work"]).finish(SOON).await;
    assert_eq!((worked.code(), &report(&worked)["clap"]), (Some(0), &1.into()), "{worked:?}");
}
