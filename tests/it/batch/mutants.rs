//! Broken statements, and the check that notices each; the table in docs/batch.md is this list.

use anyhow::Result;
use clapometer::batch::store::Statement;

use super::{
    checks,
    ground::{Overrides, queue},
};
use crate::support::{cluster::Cluster, database::Database};

/// Breaks one statement: the text must be there, so that a mutant cannot rot into no mutant.
fn broken(statement: &mut String, from: &str, to: &str) {
    assert!(statement.contains(from), "{from:?} is not in {statement}");
    *statement = statement.replace(from, to);
}

/// The texts that a mutant may break: the statements of a worker, and the functions of the tables that some of them
/// call.
struct Mutable {
    overrides: Overrides,
    functions: String,
}

impl Mutable {
    /// The text of a statement, to be broken.
    fn statement(&mut self, statement: Statement) -> &mut String {
        self.overrides.entry(statement).or_insert_with(|| statement.sql().to_owned())
    }
}

/// Runs a check on broken statements, and demands that it fails.
async fn is_noticed(
    mutant: &str,
    mutate: impl FnOnce(&mut Mutable),
    check: impl AsyncFnOnce(&Database<'_>, &Overrides) -> Result<()>,
) {
    let database = queue(Cluster::shared().await).await;
    let functions =
        "SELECT string_agg(pg_get_functiondef(oid), ';') FROM pg_proc WHERE proname IN ('clap_take', 'clap_succeed')";
    let mut mutable = Mutable { overrides: Overrides::new(), functions: database.value(functions).await };
    mutate(&mut mutable);
    database.execute(&mutable.functions).await;
    let verdict = check(&database, &mutable.overrides).await;
    assert!(verdict.is_err(), "{mutant} went unnoticed");
}

#[tokio::test]
async fn a_takeover_without_the_lease_test() {
    is_noticed(
        "a takeover that ignores the lease",
        |b| broken(b.statement(Statement::TakeOver), "AND lease_expires_at <= now()", ""),
        checks::a_held_clap_is_nobody_elses,
    )
    .await;
}

#[tokio::test]
async fn a_resume_without_the_lease_test() {
    is_noticed(
        "a second pod that takes a living pod's clap",
        |b| broken(b.statement(Statement::Resume), "OR lease_expires_at <= now()", "OR true"),
        checks::a_job_keeps_its_clap,
    )
    .await;
}

#[tokio::test]
async fn mark_dead_without_the_lease_test() {
    is_noticed(
        "a living clap that is marked dead",
        |b| broken(b.statement(Statement::MarkDead), "lease_expires_at <= now()", "true"),
        checks::a_poison_row_is_marked_dead,
    )
    .await;
}

#[tokio::test]
async fn mark_dead_that_marks_nothing() {
    is_noticed(
        "a poison row that nobody marks dead",
        |b| broken(b.statement(Statement::MarkDead), "iteration - interruptions >= max_attempts", "false"),
        checks::a_poison_row_is_marked_dead,
    )
    .await;
}

#[tokio::test]
async fn writes_without_the_session() {
    let unfenced = |statement: &mut String| broken(statement, "session_id = $2 AND", "$2 IS NOT NULL AND");
    is_noticed("an unfenced renewal", |b| unfenced(b.statement(Statement::Renew)), checks::a_former_owner_is_fenced)
        .await;
    is_noticed("an unfenced success", |b| unfenced(&mut b.functions), checks::a_former_owner_is_fenced).await;
    is_noticed("an unfenced failure", |b| unfenced(b.statement(Statement::Fail)), checks::a_former_owner_is_fenced)
        .await;
    is_noticed("an unfenced release", |b| unfenced(b.statement(Statement::Release)), checks::a_former_owner_is_fenced)
        .await;
    is_noticed("an unfenced cancel", |b| unfenced(b.statement(Statement::Cancelled)), checks::a_former_owner_is_fenced)
        .await;
}

#[tokio::test]
async fn success_without_the_status() {
    is_noticed(
        "a success that is booked twice",
        |b| broken(&mut b.functions, "AND (status = 'RUNNING') IS TRUE", ""),
        checks::an_end_is_booked_once,
    )
    .await;
}

#[tokio::test]
async fn an_attempt_that_is_counted_at_its_end() {
    is_noticed(
        "an attempt that is counted when it ends",
        |b| {
            broken(b.statement(Statement::TakeOver), "iteration = pick.last + 1", "iteration = pick.last");
            broken(b.statement(Statement::Fail), "SET finished_at", "SET iteration = iteration + 1, finished_at");
            broken(&mut b.functions, "SET status", "SET iteration = iteration + 1, status");
        },
        checks::a_poison_row_is_marked_dead,
    )
    .await;
}

#[tokio::test]
async fn an_attempt_that_opens_before_the_last_one_is_closed() {
    is_noticed(
        "a takeover that leaves the order to the planner",
        |b| {
            broken(
                b.statement(Statement::TakeOver),
                "FROM pick, (SELECT count(*) FROM lost) AS closed_first",
                "FROM pick",
            )
        },
        checks::a_former_owner_is_fenced,
    )
    .await;
}

#[tokio::test]
async fn a_claim_that_does_not_ask_what_its_job_had() {
    let forgetful = "AND NOT EXISTS (SELECT 1 FROM clap_attempt WHERE job_uid = $2)";
    is_noticed("a Job with two claps", |b| broken(&mut b.functions, forgetful, ""), checks::one_job_one_clap).await;
    is_noticed(
        "a Job with two claps",
        |b| broken(b.statement(Statement::TakeOver), forgetful, ""),
        checks::one_job_one_clap,
    )
    .await;
}

#[tokio::test]
async fn a_claim_that_ignores_that_its_session_is_void() {
    let void = "AND NOT EXISTS (SELECT 1 FROM clap_voided_session WHERE session_id = $1)";
    let check = checks::an_unseen_claim_is_found_by_its_token;
    is_noticed("a fresh claim of a voided session", |b| broken(&mut b.functions, void, ""), check).await;
    for statement in [Statement::TakeOver, Statement::Resume] {
        is_noticed("a takeover by a voided session", |b| broken(b.statement(statement), void, ""), check).await;
    }
    is_noticed(
        "a look-up that voids nothing",
        |b| broken(b.statement(Statement::FindByToken), "SELECT $1 WHERE", "SELECT $1 WHERE false AND"),
        check,
    )
    .await;
}

#[tokio::test]
async fn an_attempt_that_costs_before_it_is_confirmed() {
    let check = checks::an_unconfirmed_attempt_is_free;
    let free = "unconfirmed AND interruptions < 10";
    for statement in [Statement::TakeOver, Statement::Resume, Statement::MarkDead] {
        is_noticed(
            "an attempt that costs before it is confirmed",
            |b| broken(b.statement(statement), free, "unconfirmed AND false"),
            check,
        )
        .await;
    }
    for statement in [Statement::TakeOver, Statement::MarkDead] {
        is_noticed("attempts that are free for ever", |b| broken(b.statement(statement), free, "unconfirmed"), check)
            .await;
    }
    is_noticed(
        "a heartbeat that confirms nothing",
        |b| broken(b.statement(Statement::Renew), "unconfirmed = false", "unconfirmed = unconfirmed"),
        check,
    )
    .await;
}

#[tokio::test]
async fn a_takeover_that_ignores_max_attempts() {
    is_noticed(
        "a poison row that is tried for ever",
        |b| broken(b.statement(Statement::TakeOver), "iteration - interruptions < max_attempts", "true"),
        checks::a_poison_row_is_marked_dead,
    )
    .await;
}

#[tokio::test]
async fn a_failure_that_ignores_max_attempts() {
    is_noticed(
        "a failure that never ends",
        |b| broken(b.statement(Statement::Fail), "OR iteration - interruptions >= max_attempts", ""),
        checks::failures_back_off_and_end,
    )
    .await;
}

#[tokio::test]
async fn a_release_that_is_always_free() {
    is_noticed(
        "interruptions without a bound",
        |b| broken(b.statement(Statement::Release), "count(*) < $3", "count(*) < $3 + 1000"),
        checks::interruptions_are_bounded,
    )
    .await;
}

#[tokio::test]
async fn a_due_clap_that_ignores_the_back_off() {
    is_noticed(
        "a retry without back-off",
        |b| broken(b.statement(Statement::TakeOver), "AND next_attempt_at <= now()", ""),
        checks::a_job_keeps_its_clap,
    )
    .await;
}

#[tokio::test]
async fn a_quick_takeover_of_what_it_may_not_take() {
    is_noticed(
        "a quick takeover that ignores the lease",
        |b| broken(&mut b.functions, "               AND lease_expires_at <= now()\n", ""),
        checks::a_held_clap_is_nobody_elses,
    )
    .await;
    for (mutant, condition) in [
        ("a quick takeover that ignores the back-off", "               AND next_attempt_at <= now()\n"),
        ("a quick takeover that ignores max_attempts", "(is_free OR NOT is_spent)\n               AND "),
    ] {
        is_noticed(mutant, |b| broken(&mut b.functions, condition, ""), checks::what_is_due_goes_first).await;
    }
}

#[tokio::test]
async fn a_quick_claim_that_is_wrong_about_what_is_due() {
    let due = "next_attempt_at <= now() AND lease_expires_at <= now()";
    for (mutant, believed) in [
        ("a request that overtakes what is due", "false"),
        ("a request that waits for the claps that are held", "next_attempt_at <= now()"),
        ("a request that waits for the claps in back-off", "lease_expires_at <= now()"),
    ] {
        is_noticed(mutant, |b| broken(&mut b.functions, due, believed), checks::what_is_due_goes_first).await;
    }
    is_noticed(
        "a request that nobody may take while somebody else writes to what is due",
        |b| broken(&mut b.functions, "NOT ($7 AND", "NOT ("),
        checks::what_is_due_goes_first,
    )
    .await;
    is_noticed(
        "a request that overtakes a crash",
        |b| broken(&mut b.functions, "IN ('RUNNING', 'FAILED') AND next", "IN ('FAILED') AND next"),
        checks::what_is_due_goes_first,
    )
    .await;
    is_noticed(
        "a request that overtakes a retry",
        |b| broken(&mut b.functions, "IN ('RUNNING', 'FAILED') AND next", "IN ('RUNNING') AND next"),
        checks::what_is_due_goes_first,
    )
    .await;
}
