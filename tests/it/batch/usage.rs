//! Arguments, variables and connections that a worker cannot work with, and those that it must take.

use std::time::Duration;

use super::ground::{SOON, batch, queue, report, request};
use crate::support::{cluster::Cluster, executable::Executable};

#[tokio::test]
async fn usage_is_checked_before_anything_is_claimed() {
    let long = "q".repeat(64);
    let table: [(&[&str], &str); 6] = [
        (&["work", "--lease", "60s", "--beat", "20s"], "three heartbeats must fit into --lease 1m"),
        (&["work", "--lease", "1s"], "--lease 1s must be at least 2s"),
        (&["work", "--timeout", "0s"], "--timeout must be above zero"),
        (&["work", "--lease", "60"], "a duration is a whole number with a unit"),
        (&["work", "--permanent-exit-codes", "0"], "0 is not an exit code of a failure"),
        (&["--schema", &long, "work"], "a schema's name has at most 63 bytes"),
    ];
    for (arguments, expected) in table {
        let finished = Executable::postgres_batch(arguments.iter().copied()).finish(SOON).await;
        assert_eq!(finished.code(), Some(2), "{arguments:?}: {finished:?}");
        assert!(finished.errors.contains(expected), "{arguments:?}: {}", finished.errors);
    }
}

/// A manifest need not say `work`: options, and a program after `--`, are enough.
#[tokio::test]
async fn work_is_what_is_done_without_a_command() {
    let table: [&[&str]; 4] =
        [&["--", "true"], &["--lease", "10s"], &["--retry-by", "job", "--", "true"], &["--lease=10s", "--beat=1s"]];
    for arguments in table {
        let database = queue(Cluster::shared().await).await;
        request(&database, 1, 0).await;
        let finished = batch(&database, arguments.iter().copied()).finish(SOON).await;
        assert_eq!(finished.code(), Some(0), "{arguments:?}: {finished:?}");
        assert_eq!(report(&finished)["outcome"], "SUCCESS", "{arguments:?}");
    }
    let wrong: [(&[&str], &str); 7] = [
        (&["wrok"], "similar subcommand exists: 'work'"),
        (&["true"], "Usage: postgres-batch [work] [OPTIONS] [-- PROGRAM...]"),
        (&["--lease", "10s", "list"], "unexpected argument 'list'"),
        (&["--leese", "10s"], "similar argument exists: '--lease'"),
        (&["--schema"], "--schema <NAME>"),
        // A variable with the program that is empty is not the seed's work.
        (&["--"], "-- must be followed by a program"),
        (&["work", "--lease", "10s", "--"], "-- must be followed by a program"),
    ];
    for (arguments, expected) in wrong {
        let finished = Executable::postgres_batch(arguments.iter().copied()).finish(SOON).await;
        assert_eq!((finished.code(), &*finished.output), (Some(2), ""), "{arguments:?}: {finished:?}");
        assert!(finished.errors.contains(expected), "{arguments:?}: {}", finished.errors);
    }
}

/// As templates of manifests leave them.
#[tokio::test]
async fn an_empty_variable_is_as_if_it_were_absent() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let mut worker = batch(&database, []);
    let options = "LEASE BEAT TIMEOUT GRACE RETRY_BY JOB_RETRIES RESERVE BACKOFF BACKOFF_CAP PERMANENT_EXIT_CODES \
                   MAX_INTERRUPTIONS SCHEMA";
    for option in options.split_whitespace() {
        worker = worker.variable(&format!("POSTGRES_BATCH_{option}"), "");
    }
    for name in ["FINAL_STATE", "FAIL_FIRST", "JOB_UID", "JOB_NAME", "POD_NAME", "NODE_NAME", "PG_HOST", "DATABASE_URL"]
    {
        worker = worker.variable(name, "");
    }
    let finished = worker.finish(SOON).await;
    assert_eq!(finished.code(), Some(0), "{finished:?}");
    assert_eq!(report(&finished)["outcome"], "SUCCESS");
}

#[tokio::test]
async fn a_job_without_a_database_says_so_and_can_be_retried() {
    let finished = Executable::postgres_batch(["work"])
        .variable("PGHOST", "127.0.0.1")
        .variable("PGPORT", "1")
        .variable("PGUSER", "nobody")
        .finish(Duration::from_secs(60))
        .await;
    assert_eq!(
        (finished.code(), report(&finished)["outcome"].as_str()),
        (Some(69), Some("UNREACHABLE")),
        "{finished:?}"
    );
    // It has tried for a quarter of a minute: one line is enough to know why.
    let said = finished.errors.matches("the database cannot be reached; trying again").count();
    assert_eq!(said, 1, "{}", finished.errors);
}
