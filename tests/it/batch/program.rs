//! A program per row: what it is given, how it ends, how it is stopped; and a worker that is told to go.

use std::{fs, path::Path};

use rustix::process::{Pid, Signal};

use super::ground::{SOON, batch, end_back_off, expire_leases, queue, queue_in, report, request};
use crate::support::{
    cluster::Cluster,
    database::Database,
    executable::{Executable, Running},
    wait::{eventually, first},
};

/// Short, so that a lost lease is seen soon; a heartbeat every half second.
pub(super) const SHORT_LEASE: [&str; 4] = ["--lease", "3s", "--beat", "500ms"];

/// As many heartbeats, and a lease that a busy machine does not lose.
const SAFE_LEASE: [&str; 4] = ["--lease", "30s", "--beat", "500ms"];

pub(super) fn shell(database: &Database<'_>, options: &[&'static str], script: &'static str) -> Executable {
    let arguments = ["work"].into_iter().chain(options.iter().copied()).chain(["--", "sh", "-c", script]);
    batch(database, arguments)
}

/// Waits until the program has written its process id into the file.
pub(super) async fn pid_in(process: &Running, file: &str) -> u32 {
    let path = process.directory().join(file);
    first("the program has started", SOON, async || fs::read_to_string(&path).ok()?.trim().parse().ok()).await
}

/// Gone, or dead and not yet reaped by whoever is init here.
pub(super) fn is_gone(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

pub(super) async fn clap(database: &Database<'_>) -> String {
    let sql = "SELECT format('%s %s-%s %s', status, iteration, interruptions, coalesce(last_error, '')) FROM clap";
    database.value::<String>(sql).await.trim().to_owned()
}

#[tokio::test]
async fn a_program_is_given_its_row_in_the_environment_and_as_json() {
    let database = queue(Cluster::shared().await).await;
    database
        .execute("INSERT INTO make_it_clap (duration_seconds, payload) VALUES (7, '{\"to\": \"a b\", \"n\": 12345678901234567890.5}')")
        .await;
    let script = "cat > row.json; echo \"$CLAP_ID $CLAP_ITERATION $CLAP_DURATION_SECONDS $CLAP_PAYLOAD\"; echo $CLAP_SESSION_ID > session; echo done";
    let process = shell(&database, &[], script).start();
    let directory = process.directory().to_owned();
    let finished = process.finish(SOON).await;

    assert_eq!(finished.code(), Some(0), "{finished:?}");
    assert_eq!(
        finished.output, "1 1 7 {\"n\": 12345678901234567890.5, \"to\": \"a b\"}\ndone\n",
        "stdout is the program's"
    );
    let row = fs::read_to_string(directory.join("row.json")).unwrap();
    assert!(row.contains("12345678901234567890.5"), "no digit of a number is lost: {row}");
    let row: serde_json::Value = serde_json::from_str(&row).unwrap();
    let session = fs::read_to_string(directory.join("session")).unwrap().trim().to_owned();
    assert_eq!(row["session_id"].to_string(), session);
    assert_eq!(database.value::<i64>("SELECT session_id FROM clap").await.to_string(), session);
    assert_eq!(report(&finished)["outcome"], "SUCCESS");
}

/// However it was claimed: as a request, or as a clap that is due again.
#[tokio::test]
async fn a_program_is_given_the_requests_key_and_time() {
    let database = queue(Cluster::shared().await).await;
    database
        .execute(
            "INSERT INTO make_it_clap (request_key, requested_at) VALUES
             ('invoice \"7\"', '2026-02-03 04:05:06.5+01'), (NULL, 'infinity')",
        )
        .await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let process = shell(&database, &["--backoff", "0s"], "cat > row.json; exit $((2 - CLAP_ITERATION))").start();
        let directory = process.directory().to_owned();
        process.finish(SOON).await;
        let row = fs::read_to_string(directory.join("row.json")).unwrap();
        let row: serde_json::Value = serde_json::from_str(&row).unwrap();
        seen.push(serde_json::json!([row["id"], row["iteration"], row["request_key"], row["requested_at"]]));
    }
    let expected = serde_json::json!([
        [1, 1, "invoice \"7\"", "2026-02-03T03:05:06.500000Z"],
        [1, 2, "invoice \"7\"", "2026-02-03T03:05:06.500000Z"],
        [2, 1, null, "infinity"],
        [2, 2, null, "infinity"],
    ]);
    assert_eq!(serde_json::Value::Array(seen), expected);
}

#[tokio::test]
async fn a_payload_too_long_for_a_variable_comes_by_stdin() {
    let database = queue(Cluster::shared().await).await;
    database.execute("INSERT INTO make_it_clap (payload) VALUES (to_jsonb(repeat('x', 300000)))").await;
    let finished = shell(&database, &[], "echo ${CLAP_PAYLOAD-none}; wc -c").finish(SOON).await;
    assert_eq!(finished.code(), Some(0), "{finished:?}");
    let counted: Vec<&str> = finished.output.split_whitespace().collect();
    assert!(counted[0] == "none" && counted[1].parse::<u32>().unwrap() > 300_000, "{counted:?}");
}

#[tokio::test]
async fn a_program_that_reads_nothing_is_no_failure() {
    let database = queue(Cluster::shared().await).await;
    database.execute("INSERT INTO make_it_clap (payload) VALUES (to_jsonb(repeat('x', 300000)))").await;
    let finished = shell(&database, &[], "exec true").finish(SOON).await;
    assert_eq!(finished.code(), Some(0), "{finished:?}");
}

#[tokio::test]
async fn what_a_failed_program_said_last_is_kept() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let script =
        "i=0; while [ $i -lt 2000 ]; do echo line $i >&2; i=$((i+1)); done; echo 'the disk is full' >&2; exit 3";
    let finished = shell(&database, &[], script).finish(SOON).await;
    assert_eq!(finished.code(), Some(10), "{finished:?}");
    assert!(finished.errors.contains("line 0\n"), "stderr is passed through whole");
    let error: String = database.value("SELECT error FROM clap_attempt").await;
    assert!(error.starts_with("exit code 3: ") && error.ends_with("the disk is full"), "{error}");
    assert!((3_000..4_300).contains(&error.len()), "{} bytes", error.len());
    assert_eq!(database.value::<i32>("SELECT exit_code FROM clap").await, 3);
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_apart() {
    let table: [(&str, i32, i32, &str); 4] = [
        ("exit 1", 10, 1, "FAILED"),
        ("exit 65", 11, 65, "DEAD"),
        ("kill -9 $$", 10, 137, "FAILED"),
        ("kill -15 $$", 10, 143, "FAILED"),
    ];
    for (script, job_code, clap_code, status) in table {
        let database = queue(Cluster::shared().await).await;
        request(&database, 1, 0).await;
        let finished = shell(&database, &[], script).finish(SOON).await;
        assert_eq!(finished.code(), Some(job_code), "{script}: {finished:?}");
        assert_eq!(report(&finished)["outcome"], status, "{script}");
        let row: String = database.value("SELECT format('%s %s', status, exit_code) FROM clap").await;
        assert_eq!(row, format!("{status} {clap_code}"), "{script}");
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_costs_no_attempt() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let finished = batch(&database, ["work", "--", "no-such-program"]).finish(SOON).await;
    let is_told = finished.errors.starts_with("postgres-batch: there is no program no-such-program on PATH: ");
    assert!(finished.code() == Some(78) && is_told, "{finished:?}");
    assert_eq!(database.value::<i64>("SELECT pending FROM clap_backlog").await, 1);
}

/// Whatever looks like an option of ours, or of a parser in between: each argument is the program's own.
#[tokio::test]
async fn a_program_sees_its_arguments_as_they_were_written() {
    use std::os::unix::fs::PermissionsExt;

    let table: [&[&str]; 8] = [
        &["-h", "database"],
        &["--help"],
        &["-V"],
        &["--version"],
        &["--schema", "x", "--lease=1s"],
        &["--", "x"],
        &["", "a b", "--", "-h"],
        &["__execute", "1", "true"],
    ];
    for arguments in table {
        let database = queue(Cluster::shared().await).await;
        request(&database, 1, 0).await;
        let worker = batch(&database, ["work", "--", "./tells"].into_iter().chain(arguments.iter().copied()))
            .file("tells", "#!/bin/sh\nprintf '%s\\n' \"$@\" > seen\n");
        fs::set_permissions(worker.directory().join("tells"), fs::Permissions::from_mode(0o755)).unwrap();
        let process = worker.start();
        let directory = process.directory().to_owned();
        let finished = process.finish(SOON).await;
        assert_eq!((finished.code(), &*finished.output), (Some(0), ""), "{arguments:?}: {finished:?}");
        let seen = fs::read_to_string(directory.join("seen"));
        let seen = seen.unwrap_or_else(|error| panic!("{arguments:?}: the program has not run: {error}"));
        assert_eq!(seen.split_terminator('\n').collect::<Vec<_>>(), arguments);
    }
}

/// A file in the worker's directory that may be executed.
fn executable(database: &Database<'_>, options: &[&'static str], content: &[u8]) -> Executable {
    use std::os::unix::fs::PermissionsExt;

    let arguments = ["work"].into_iter().chain(options.iter().copied()).chain(["--", "./program"]);
    let worker = batch(database, arguments);
    fs::write(worker.directory().join("program"), content).unwrap();
    fs::set_permissions(worker.directory().join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    worker
}

/// The Job is to blame, not the row: it goes on when the Job is mended, and meanwhile no Job is started at every poll.
#[tokio::test]
async fn a_program_that_cannot_be_started_costs_no_attempt_and_backs_off() {
    let database = queue(Cluster::shared().await).await;
    database.execute("INSERT INTO make_it_clap (max_attempts) VALUES (1)").await;
    let cases: [(&[u8], &str); 3] = [
        (b"#!/bin/sh\r\ntouch ran\n", "names the interpreter \"/bin/sh\\r\""),
        (b"touch ran\n", "has no #! line"),
        (b"\x7fELF and nothing more", "Exec format error"),
    ];
    for (number, (content, expected)) in (0..).zip(cases) {
        end_back_off(&database).await;
        let process = executable(&database, &["--backoff", "100s", "--backoff-cap", "250s"], content).start();
        let directory = process.directory().to_owned();
        let finished = process.finish(SOON).await;
        assert_eq!((finished.code(), report(&finished)["outcome"].as_str()), (Some(78), Some("MISCONFIGURED")));
        let message = report(&finished)["message"].as_str().unwrap().to_owned();
        assert!(message.contains("cannot run ./program") && message.contains(expected), "{message}");
        assert!(!directory.join("ran").exists(), "there is no shell in between");
        let booked = clap(&database).await;
        assert!(booked.starts_with(&format!("FAILED {n}-{n} cannot run", n = number + 1)), "{booked}");
        let backlog: String =
            database.value("SELECT format('%s %s %s', claimable, held, waiting) FROM clap_backlog").await;
        assert_eq!(backlog, "0 0 1", "no Job is started for it");
        let wait: f64 =
            database.value("SELECT extract(epoch FROM next_attempt_at - finished_at)::float8 FROM clap").await;
        let usual = [100.0, 200.0, 250.0][number];
        assert!((usual * 0.89..usual * 1.11).contains(&wait), "release {number} waits {wait} s");
    }
    end_back_off(&database).await;
    let mended = executable(&database, &[], b"#!/bin/sh\nexit 126\n").finish(SOON).await;
    assert_eq!((mended.code(), report(&mended)["outcome"].as_str()), (Some(11), Some("DEAD")), "126 of its own counts");
    assert_eq!(clap(&database).await, "DEAD 4-3 exit code 126");
}

/// A database in LATIN1 has no arrow; the failure is booked all the same.
#[tokio::test]
async fn a_failure_is_booked_whatever_the_databases_encoding() {
    let database = queue_in(Cluster::shared().await, "LATIN1").await;
    request(&database, 1, 0).await;
    let finished = shell(&database, &[], "echo 'a \u{2192} b' >&2; exit 3").finish(SOON).await;
    assert_eq!(finished.code(), Some(10), "{finished:?}");
    assert_eq!(clap(&database).await, "FAILED 1-0 exit code 3: a ? b");
}

/// Every signal by which a supervisor or a terminal may end a worker gives the clap back.
#[tokio::test]
async fn every_signal_that_asks_a_worker_to_stop_gives_the_clap_back() {
    for signal in [Signal::HUP, Signal::QUIT, Signal::INT] {
        let database = queue(Cluster::shared().await).await;
        request(&database, 1, 0).await;
        let process = shell(&database, &[], "echo $$ > pid; exec sleep 600").start();
        pid_in(&process, "pid").await;
        process.signal(signal);
        let finished = process.finish(SOON).await;
        assert_eq!((finished.code(), &*clap(&database).await), (Some(143), "FAILED 1-1 interrupted"), "{signal:?}");
    }
}

/// Whoever started the worker has stopped reading its stderr, and the pipe is full.
#[tokio::test]
async fn a_worker_whose_report_nobody_reads_ends() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    // More than the worker's pipe holds, and less than it holds together with the program's.
    let script = "head -c 100000 /dev/zero | tr '\\0' x >&2; exit 3";
    let mut worker = std::process::Command::new(env!("CARGO_BIN_EXE_postgres-batch"))
        .args(["work", "--", "sh", "-c", script])
        .envs(database.owner().environment())
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let status = first("the worker has ended", SOON, async || worker.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(10));
    assert!(clap(&database).await.starts_with("FAILED 1-0 exit code 3"), "{}", clap(&database).await);
}

#[tokio::test]
async fn a_program_does_not_inherit_that_sigpipe_is_ignored() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let finished = shell(&database, &[], "grep SigIgn /proc/self/status").finish(SOON).await;
    let ignored = finished.output.trim().rsplit('\t').next().map(|mask| u64::from_str_radix(mask, 16).unwrap());
    let sigpipe = 1 << (Signal::PIPE.as_raw() - 1);
    assert_eq!((finished.code(), ignored.map(|mask| mask & sigpipe)), (Some(0), Some(0)), "{finished:?}");
}

#[tokio::test]
async fn a_program_without_a_name_costs_no_attempt() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let finished = batch(&database, ["work", "--", "", "--send"]).finish(SOON).await;
    assert_eq!((finished.code(), &*finished.errors), (Some(78), "postgres-batch: the name of the program is empty\n"));
    assert_eq!(database.value::<i64>("SELECT pending FROM clap_backlog").await, 1);
}

#[tokio::test]
async fn sigterm_reaches_the_program_and_gives_the_clap_back() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let script = "trap 'echo told > told; exit 7' TERM; echo $$ > pid; while :; do sleep 0.05; done";
    let process = shell(&database, &[], script).start();
    let pid = pid_in(&process, "pid").await;
    let directory = process.directory().to_owned();

    let finished = process.terminate(SOON).await;

    assert_eq!(finished.code(), Some(143), "{finished:?}");
    assert!(directory.join("told").exists(), "the program was not asked");
    assert!(is_gone(pid));
    assert_eq!(clap(&database).await, "FAILED 1-1 interrupted");
    let again = batch(&database, ["work"]).finish(SOON).await;
    assert_eq!(report(&again)["outcome"], "SUCCESS", "it is due at once");
}

#[tokio::test]
async fn an_interruption_that_kills_the_clap_says_so() {
    let database = queue(Cluster::shared().await).await;
    database.execute("INSERT INTO make_it_clap (max_attempts) VALUES (1)").await;
    let process = shell(&database, &["--max-interruptions", "0"], "echo $$ > pid; exec sleep 600").start();
    pid_in(&process, "pid").await;
    let finished = process.terminate(SOON).await;
    assert_eq!((finished.code(), &*clap(&database).await), (Some(11), "DEAD 1-0 interrupted"), "{finished:?}");
    assert_eq!(report(&finished)["outcome"], "DEAD");
    let message = report(&finished)["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("interrupted, and neither") && message.ends_with("nobody will try again"), "{message}");
}

#[tokio::test]
async fn a_program_that_finishes_when_told_to_stop_has_succeeded() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let script = "trap 'exit 0' TERM; echo $$ > pid; while :; do sleep 0.05; done";
    let process = shell(&database, &[], script).start();
    pid_in(&process, "pid").await;
    let finished = process.terminate(SOON).await;
    assert_eq!((finished.code(), &*clap(&database).await), (Some(0), "SUCCESS 1-0"), "{finished:?}");
}

#[tokio::test]
async fn a_program_that_ignores_sigterm_is_killed_after_the_grace() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let script = "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done";
    let process = shell(&database, &["--grace", "300ms"], script).start();
    let pid = pid_in(&process, "pid").await;
    let finished = process.terminate(SOON).await;
    assert_eq!((finished.code(), &*clap(&database).await), (Some(143), "FAILED 1-1 interrupted"), "{finished:?}");
    assert!(is_gone(pid));
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_has_failed() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let finished = shell(&database, &["--timeout", "200ms", "--grace", "200ms"], "exec sleep 600").finish(SOON).await;
    assert_eq!(finished.code(), Some(10), "{finished:?}");
    assert!(clap(&database).await.starts_with("FAILED 1-0 timed out after 200ms"), "{}", clap(&database).await);
}

/// It ends in good order when it is asked to, as many servers do: that does not make its work done.
#[tokio::test]
async fn a_program_that_was_stopped_for_the_limit_or_an_operator_has_not_succeeded() {
    let script = "trap 'exit 0' TERM; echo $$ > pid; while :; do sleep 0.05; done";
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let finished = shell(&database, &["--timeout", "500ms"], script).finish(SOON).await;
    assert_eq!(finished.code(), Some(10), "{finished:?}");
    assert!(clap(&database).await.starts_with("FAILED 1-0 timed out after 500ms; exit code 0"), "{finished:?}");

    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let process = shell(&database, &SAFE_LEASE, script).start();
    pid_in(&process, "pid").await;
    batch(&database, ["cancel", "1"]).finish(SOON).await;
    let finished = process.finish(SOON).await;
    assert_eq!((finished.code(), &*clap(&database).await), (Some(12), "CANCELLED 1-0 cancelled"), "{finished:?}");
}

#[tokio::test]
async fn a_killed_worker_takes_its_program_with_it() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let mut process = shell(&database, &[], "echo $$ > pid; exec sleep 600").start();
    let pid = pid_in(&process, "pid").await;
    process.signal(Signal::KILL);
    eventually("the worker is dead", SOON, || process.ended().is_some()).await;
    eventually("its program is dead", SOON, || is_gone(pid)).await;
    assert_eq!(clap(&database).await, "RUNNING 1-0", "nobody was left to book anything");

    expire_leases(&database).await;
    let next = batch(&database, ["work"]).finish(SOON).await;
    assert_eq!((report(&next)["outcome"].as_str(), report(&next)["iteration"].as_i64()), (Some("SUCCESS"), Some(2)));
}

#[tokio::test]
async fn what_a_program_leaves_behind_is_killed() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let process = shell(&database, &[], "sleep 600 & echo $! > pid; exit 0").start();
    let pid = pid_in(&process, "pid").await;
    let finished = process.finish(SOON).await;
    assert_eq!(finished.code(), Some(0), "{finished:?}");
    eventually("the background process is dead", SOON, || is_gone(pid)).await;
}

/// A process that has left the program's group is not ours to kill, and may hold its stderr for as long as it likes.
#[tokio::test]
async fn a_worker_does_not_wait_for_what_has_escaped() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let script = "setsid sh -c 'echo $$ > pid; exec sleep 60' > /dev/null & exec sleep 600";
    let process = shell(&database, &["--grace", "100ms"], script).start();
    let escaped = pid_in(&process, "pid").await;
    let finished = process.terminate(SOON).await;
    let alive = !is_gone(escaped);
    rustix::process::kill_process(Pid::from_raw(escaped.cast_signed()).unwrap(), Signal::KILL).unwrap();
    assert!(alive, "it was to outlive the worker");
    assert_eq!((finished.code(), &*clap(&database).await), (Some(143), "FAILED 1-1 interrupted"), "{finished:?}");
}

#[tokio::test]
async fn a_worker_that_has_lost_its_clap_kills_its_program() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let process = shell(&database, &SHORT_LEASE, "echo $$ > pid; exec sleep 600").start();
    let pid = pid_in(&process, "pid").await;
    database.execute("UPDATE clap SET session_id = 1").await;
    let finished = process.finish(SOON).await;
    assert_eq!((finished.code(), report(&finished)["outcome"].as_str()), (Some(75), Some("LOST")), "{finished:?}");
    assert!(is_gone(pid));
}

#[tokio::test]
async fn a_cancelled_clap_stops_at_its_next_heartbeat() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let process = shell(&database, &SAFE_LEASE, "echo $$ > pid; exec sleep 600").start();
    let pid = pid_in(&process, "pid").await;
    let cancel = batch(&database, ["cancel", "1"]).finish(SOON).await;
    assert_eq!(cancel.output, "clap 1: is being worked on; stops at its next heartbeat (RUNNING)\n");
    let finished = process.finish(SOON).await;
    assert_eq!((finished.code(), &*clap(&database).await), (Some(12), "CANCELLED 1-0 cancelled"), "{finished:?}");
    assert!(is_gone(pid));
}

/// The recipe for effects in the same database: the program books its own success with them. How it ends then counts
/// no more, and the lease neither.
#[tokio::test]
async fn a_program_may_book_its_own_success() {
    for outlives_the_lease in [false, true] {
        let database = queue(Cluster::shared().await).await;
        request(&database, 1, 0).await;
        let script = "echo $$ > pid; while [ ! -e go ]; do sleep 0.05; done; exit 1";
        let lease = if outlives_the_lease { SHORT_LEASE } else { SAFE_LEASE };
        let process = shell(&database, &lease, script).start();
        let pid = pid_in(&process, "pid").await;
        let booked = "SELECT booked.status FROM clap, clap_succeed(clap.id, clap.session_id) AS booked";
        assert_eq!(database.value::<String>(booked).await, "SUCCESS");
        if outlives_the_lease {
            let over = "SELECT clock_timestamp() > finished_at + interval '4 seconds' FROM clap";
            first("the lease would be over", SOON, async || database.value::<bool>(over).await.then_some(())).await;
            assert!(!is_gone(pid), "a program that has booked its success may take its time");
        }
        fs::write(process.directory().join("go"), "").unwrap();
        let finished = process.finish(SOON).await;
        assert_eq!(
            (finished.code(), report(&finished)["outcome"].as_str()),
            (Some(0), Some("SUCCESS")),
            "{finished:?}"
        );
        assert_eq!(clap(&database).await, "SUCCESS 1-0");
    }
}

#[tokio::test]
async fn orphans_are_reaped_by_a_worker_that_is_pid_1() {
    let unshare = Path::new("/usr/bin/unshare");
    let isolated = std::process::Command::new(unshare).args(["--pid", "--fork", "--mount-proc", "true"]).status();
    if !isolated.is_ok_and(|status| status.success()) {
        crate::support::skip::skip("no process namespace can be made here");
        return;
    }
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    // Each inner shell leaves its own child to PID 1; the count is of zombies a moment after they have ended.
    let script =
        "for i in 1 2 3; do sh -c 'sleep 0.1 & exit 0'; done; sleep 1; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l";
    let worker = crate::support::executable::path("postgres-batch");
    let arguments = ["--pid", "--fork", "--mount-proc", worker.to_str().unwrap(), "work", "--", "sh", "-c", script];
    let finished = Executable::new(unshare, arguments).variables(database.owner().environment()).finish(SOON).await;
    assert_eq!((finished.code(), finished.output.trim()), (Some(0), "0"), "{finished:?}");
}
