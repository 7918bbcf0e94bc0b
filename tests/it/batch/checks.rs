//! Interleavings, step by step, each a check that says yes or why not.
//!
//! They take the statements as an argument, so that `mutants` can show that each of them notices
//! the statement that it is there for being broken.

use std::time::Duration;

use anyhow::{Result, ensure};
use clapometer::batch::{
    status::{AttemptOutcome, Status},
    store::{Attempt, Backoff, Claim, Failure, FencingToken, Job, Statement, Store},
    transaction::Error,
};
use tokio_postgres::types::Type;

use super::ground::{LONG, Overrides, end_back_off, expire_leases, job, pod, request, soon, store_with};
use crate::support::database::Database;

const ALL: [Claim; 5] = [Claim::Fast, Claim::Resume, Claim::TakeOver, Claim::Fresh, Claim::Unread];

const NO_BACKOFF: Backoff = Backoff { reserve: Duration::ZERO, base: Duration::ZERO, cap: Duration::ZERO };

fn failure() -> Failure {
    Failure { exit_code: 1, error: "exit code 1".to_owned(), permanent: false }
}

/// Claims and confirms, as a worker does before it starts the program.
async fn claim(store: &mut Store, claim: Claim, job: &Job) -> Result<Option<Attempt>> {
    let attempt = unconfirmed(store, claim, job).await?;
    if let Some(attempt) = &attempt {
        ensure!(store.renew(attempt, LONG, soon()).await?.is_some(), "a claim could not be confirmed");
    }
    Ok(attempt)
}

/// Claims as a worker that dies before it has confirmed.
async fn unconfirmed(store: &mut Store, claim: Claim, job: &Job) -> Result<Option<Attempt>> {
    Ok(store.claim(claim, job, FencingToken::draw(), LONG, soon()).await?)
}

/// Marks dead as some Job does that has no clap of its own, and returns the ids.
async fn marked_dead(store: &mut Store) -> Result<Vec<i64>> {
    Ok(store.mark_dead(&job("nobody"), soon()).await?.into_iter().map(|(id, _)| id).collect())
}

/// The claim of a new clap, which must be there.
async fn new_claim(store: &mut Store, job: &Job) -> Result<Attempt> {
    claim(store, Claim::Fresh, job).await?.ok_or_else(|| anyhow::anyhow!("there was no request to claim"))
}

/// Reads a clap's row: status, attempts started, interruptions.
async fn clap(database: &Database<'_>, id: i64) -> Result<(String, i32, i32)> {
    let sql = "SELECT status, iteration, interruptions FROM clap WHERE id = $1";
    let row = database.connect().await.query_one(sql, &[&id]).await?;
    Ok((row.get(0), row.get(1), row.get(2)))
}

async fn outcomes(database: &Database<'_>, id: i64) -> Result<Vec<String>> {
    let sql = "SELECT outcome FROM clap_attempt WHERE clap_id = $1 ORDER BY iteration";
    Ok(database.connect().await.query(sql, &[&id]).await?.iter().map(|row| row.get(0)).collect())
}

/// A clap whose lease holds belongs to its Job alone, running or between two tries.
pub(super) async fn a_held_clap_is_nobody_elses(database: &Database<'_>, overrides: &Overrides) -> Result<()> {
    request(database, 1, 0).await;
    let mut store = store_with(database, overrides);
    let mine = new_claim(&mut store, &job("a")).await?;
    for way in ALL {
        ensure!(claim(&mut store, way, &job("b")).await?.is_none(), "{way:?} took a running clap from its Job");
    }
    let reserved = Backoff { reserve: LONG, ..NO_BACKOFF };
    store.fail(&mine, &failure(), &reserved, soon()).await?;
    end_back_off(database).await;
    for way in ALL {
        ensure!(claim(&mut store, way, &job("b")).await?.is_none(), "{way:?} took a reserved clap from its Job");
    }
    ensure!(claim(&mut store, Claim::Resume, &pod("a", "next")).await?.is_some(), "the Job's next pod found nothing");
    Ok(())
}

/// Once another Job has taken over, its former owner can write nothing.
pub(super) async fn a_former_owner_is_fenced(database: &Database<'_>, overrides: &Overrides) -> Result<()> {
    request(database, 1, 0).await;
    let mut store = store_with(database, overrides);
    let former = new_claim(&mut store, &job("a")).await?;
    expire_leases(database).await;
    let Some(owner) = claim(&mut store, Claim::TakeOver, &job("b")).await? else { anyhow::bail!("nobody took over") };
    ensure!((owner.id, owner.iteration) == (former.id, 2), "took over {owner:?}");

    ensure!(store.renew(&former, LONG, soon()).await?.is_none(), "the former owner renewed its lease");
    ensure!(store.succeed(&former, soon()).await?.is_none(), "the former owner succeeded");
    ensure!(store.fail(&former, &failure(), &NO_BACKOFF, soon()).await?.is_none(), "the former owner failed");
    ensure!(store.release(&former, 10, soon()).await?.is_none(), "the former owner released");
    ensure!(store.cancelled(&former, soon()).await?.is_none(), "the former owner cancelled");
    ensure!(clap(database, owner.id).await? == ("RUNNING".to_owned(), 2, 0), "the new owner's clap was touched");

    ensure!(store.succeed(&owner, soon()).await? == Some(Status::Success), "the owner could not succeed");
    ensure!(outcomes(database, owner.id).await? == ["LOST", "SUCCESS"], "the attempts are booked otherwise");
    let settled = store.settled(former.token, soon()).await?;
    ensure!(settled == Some((AttemptOutcome::Lost, Status::Success)), "the former owner is told {settled:?}");
    Ok(())
}

/// An attempt that has been booked cannot be booked again.
pub(super) async fn an_end_is_booked_once(database: &Database<'_>, overrides: &Overrides) -> Result<()> {
    request(database, 1, 0).await;
    let mut store = store_with(database, overrides);
    let mine = new_claim(&mut store, &job("a")).await?;
    ensure!(store.succeed(&mine, soon()).await? == Some(Status::Success), "could not succeed");
    ensure!(store.renew(&mine, LONG, soon()).await?.is_none(), "renewed after the end");
    ensure!(store.succeed(&mine, soon()).await?.is_none(), "succeeded twice");
    ensure!(store.fail(&mine, &failure(), &NO_BACKOFF, soon()).await?.is_none(), "failed after success");
    ensure!(store.release(&mine, 10, soon()).await?.is_none(), "released after success");
    ensure!(clap(database, mine.id).await?.0 == "SUCCESS", "success did not last");
    Ok(())
}

/// A row that kills its worker costs its attempts and one Job that buries it; then it counts nowhere.
pub(super) async fn a_poison_row_is_marked_dead(database: &Database<'_>, overrides: &Overrides) -> Result<()> {
    database.execute("INSERT INTO make_it_clap (max_attempts) VALUES (3)").await;
    let mut store = store_with(database, overrides);
    let mut started = 0;
    for number in 0..10 {
        let job = job(&format!("job-{number}"));
        if started == 3 {
            ensure!(claim(&mut store, Claim::TakeOver, &job).await?.is_none(), "tried once more than max_attempts");
        }
        let marked = marked_dead(&mut store).await?;
        if !marked.is_empty() {
            ensure!(marked == [1] && started == 3, "marked {marked:?} after {started} attempts");
            break;
        }
        let due = claim(&mut store, Claim::TakeOver, &job).await?;
        let found = if due.is_some() { due } else { claim(&mut store, Claim::Fresh, &job).await? };
        ensure!(found.is_some(), "attempt {} found nothing", started + 1);
        started += 1;
        ensure!(clap(database, 1).await?.1 == started, "attempt {started} was not counted when it started");
        ensure!(marked_dead(&mut store).await?.is_empty(), "a clap whose lease holds was marked dead");
        let held: i64 = database.value("SELECT held FROM clap_backlog").await;
        ensure!(held == 1, "a running clap counts as held {held} times");
        expire_leases(database).await;
        let claimable: i64 = database.value("SELECT claimable FROM clap_backlog").await;
        ensure!(claimable == 1, "an expired clap counts as claimable {claimable} times");
    }
    ensure!(clap(database, 1).await? == ("DEAD".to_owned(), 3, 0), "ends as {:?}", clap(database, 1).await?);
    ensure!(outcomes(database, 1).await? == ["LOST"; 3], "the attempts are booked otherwise");
    let counted: i64 = database.value("SELECT claimable + held + waiting FROM clap_backlog").await;
    ensure!(counted == 0, "a dead clap is still counted");
    Ok(())
}

/// Two pods of one Job that claim at the same moment get one clap between them.
pub(super) async fn two_pods_get_one_clap(database: &Database<'_>, overrides: &Overrides) -> Result<()> {
    request(database, 2, 0).await;
    let first = database.connect().await;
    let backend: i32 = first.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    first.batch_execute("BEGIN").await?;
    let token = FencingToken::draw().get();
    let sql = overrides.get(&Statement::Fresh).map_or(Statement::Fresh.sql(), String::as_str);
    let taken = first
        .query_typed(
            sql,
            &[
                (&token, Type::INT8),
                (&"a", Type::TEXT),
                (&"a-name", Type::TEXT),
                (&"one", Type::TEXT),
                (&None::<String>, Type::TEXT),
                (&600.0, Type::FLOAT8),
                (&None::<i64>, Type::INT8),
            ],
        )
        .await?;
    ensure!(taken.len() == 1, "the first pod found nothing");

    // The second pod cannot see the first one's claim, and waits on the unique index.
    let mut store = store_with(database, overrides);
    let second =
        tokio::spawn(
            async move { store.claim(Claim::Fresh, &pod("a", "two"), FencingToken::draw(), LONG, soon()).await },
        );
    let waits = format!("SELECT count(*) FROM pg_stat_activity WHERE {backend} = ANY (pg_blocking_pids(pid))");
    let mut finished = false;
    while !finished && database.value::<i64>(&waits).await == 0 {
        finished = second.is_finished();
    }
    first.batch_execute("COMMIT").await?;
    let second = second.await?;
    ensure!(matches!(second, Err(Error::Collision(_))), "the second pod got {second:?}");
    let claps: i64 = database.value("SELECT count(*) FROM clap WHERE job_uid = 'a'").await;
    ensure!(claps == 1, "one Job has {claps} claps");
    Ok(())
}

/// The next pod of a Job resumes the Job's clap, back-off or not; another pod beside a living one waits.
pub(super) async fn a_job_keeps_its_clap(database: &Database<'_>, overrides: &Overrides) -> Result<()> {
    request(database, 2, 0).await;
    let mut store = store_with(database, overrides);
    let mine = new_claim(&mut store, &pod("a", "one")).await?;
    for way in ALL {
        ensure!(claim(&mut store, way, &pod("a", "two")).await?.is_none(), "{way:?}: a second pod took something");
    }
    let Some(standing) = store.previous_clap(&pod("a", "two"), soon()).await? else { anyhow::bail!("no standing") };
    ensure!(standing.mine && standing.status == Status::Running && !standing.lease.is_zero(), "{standing:?}");

    let hour = Backoff { base: LONG, cap: LONG, ..NO_BACKOFF };
    store.fail(&mine, &failure(), &hour, soon()).await?;
    ensure!(claim(&mut store, Claim::TakeOver, &job("b")).await?.is_none(), "another Job ignored the back-off");
    let Some(resumed) = claim(&mut store, Claim::Resume, &pod("a", "two")).await? else { anyhow::bail!("not resumed") };
    ensure!((resumed.id, resumed.iteration, resumed.job_attempts) == (mine.id, 2, 2), "resumed {resumed:?}");

    let Some(restarted) = claim(&mut store, Claim::Resume, &pod("a", "two")).await? else {
        anyhow::bail!("a restarted container must not wait for its own lease")
    };
    ensure!(restarted.iteration == 3, "restarted {restarted:?}");
    ensure!(outcomes(database, mine.id).await? == ["FAILED", "LOST", "RUNNING"], "the attempts are booked otherwise");
    Ok(())
}

/// A Job that had its clap takes no other, however its clap ended.
pub(super) async fn one_job_one_clap(database: &Database<'_>, overrides: &Overrides) -> Result<()> {
    request(database, 3, 0).await;
    let mut store = store_with(database, overrides);
    let done = new_claim(&mut store, &job("a")).await?;
    store.succeed(&done, soon()).await?;
    ensure!(claim(&mut store, Claim::Fast, &pod("a", "next")).await?.is_none(), "a settled Job took another request");
    let due = new_claim(&mut store, &job("b")).await?;
    store.fail(&due, &failure(), &NO_BACKOFF, soon()).await?;
    for way in ALL {
        ensure!(claim(&mut store, way, &pod("a", "next")).await?.is_none(), "{way:?}: a settled Job took another clap");
    }
    Ok(())
}

/// The quick way takes what is due first, and else a request. It leaves a clap to the others whose attempts are spent.
pub(super) async fn what_is_due_goes_first(database: &Database<'_>, overrides: &Overrides) -> Result<()> {
    database.execute("INSERT INTO make_it_clap (max_attempts) VALUES (1), (5), (5), (5)").await;
    let mut store = store_with(database, overrides);
    let mut quick = async |uid: &str| claim(&mut store, Claim::Fast, &job(uid)).await;
    let Some(last) = quick("a").await? else { anyhow::bail!("no clap is due, and the quick way found nothing") };
    ensure!((last.id, last.iteration, last.job_attempts) == (1, 1, 1), "claimed {last:?}");
    let Some(other) = quick("b").await? else { anyhow::bail!("a held clap is not due") };
    ensure!(other.id == 2, "claimed {other:?}");

    // A crashed last attempt has to be marked dead, and a crashed first one taken over.
    expire_leases(database).await;
    ensure!(quick("c").await?.is_none(), "the quick way overtook what is due");
    ensure!(marked_dead(&mut store).await? == [1], "the crashed last attempt was not marked dead");
    let Some(mine) = claim(&mut store, Claim::Fast, &job("c")).await? else { anyhow::bail!("nobody took over") };
    ensure!((mine.id, mine.iteration, mine.job_attempts) == (2, 2, 1), "took over {mine:?}");
    ensure!(outcomes(database, 2).await? == ["LOST", "RUNNING"], "the attempts are booked otherwise");

    let hour = Backoff { base: LONG, cap: LONG, ..NO_BACKOFF };
    store.fail(&mine, &failure(), &hour, soon()).await?;
    let waits = claim(&mut store, Claim::Fast, &job("d")).await?;
    ensure!(waits.is_some_and(|clap| clap.id == 3), "a clap in back-off is not due");
    end_back_off(database).await;
    let Some(again) = claim(&mut store, Claim::Fast, &job("e")).await? else { anyhow::bail!("nobody tried again") };
    ensure!((again.id, again.iteration) == (2, 3), "the quick way overtook a retry: {again:?}");
    // The last resort, when somebody else is writing to what is due.
    store.fail(&again, &failure(), &NO_BACKOFF, soon()).await?;
    let new = claim(&mut store, Claim::Fresh, &job("f")).await?;
    ensure!(new.is_some_and(|clap| clap.id == 4), "a request that nobody has tried was not taken");
    let Some(due) = claim(&mut store, Claim::Fast, &job("g")).await? else { anyhow::bail!("nobody tried again") };
    store.fail(&due, &failure(), &hour, soon()).await?;
    ensure!(claim(&mut store, Claim::Fast, &job("h")).await?.is_none(), "the quick way ignored the back-off");
    Ok(())
}

/// Interruptions cost no attempt until they run out; then they cost attempts, and end.
pub(super) async fn interruptions_are_bounded(database: &Database<'_>, overrides: &Overrides) -> Result<()> {
    database.execute("INSERT INTO make_it_clap (max_attempts) VALUES (2)").await;
    let mut store = store_with(database, overrides);
    let mut mine = new_claim(&mut store, &job("job-0")).await?;
    let mut statuses = Vec::new();
    for number in 1..10 {
        let Some(status) = store.release(&mine, 3, soon()).await? else { anyhow::bail!("could not release") };
        statuses.push(status);
        match claim(&mut store, Claim::TakeOver, &job(&format!("job-{number}"))).await? {
            Some(next) => mine = next,
            None => break,
        }
    }
    let mut expected = vec![Status::Failed; 4];
    expected.push(Status::Dead);
    ensure!(statuses == expected, "three interruptions and two attempts went {statuses:?}");
    ensure!(clap(database, mine.id).await? == ("DEAD".to_owned(), 5, 3), "{:?}", clap(database, mine.id).await?);
    Ok(())
}

/// Failures back off, doubling up to the cap, and end when the attempts are spent, or at once when permanent.
pub(super) async fn failures_back_off_and_end(database: &Database<'_>, overrides: &Overrides) -> Result<()> {
    database.execute("INSERT INTO make_it_clap (max_attempts) VALUES (4), (4)").await;
    let mut store = store_with(database, overrides);
    let backoff = Backoff { reserve: Duration::ZERO, base: Duration::from_secs(100), cap: Duration::from_secs(300) };
    let mut mine = new_claim(&mut store, &job("job-0")).await?;
    for (number, expected) in [(1, 100.0), (2, 200.0), (3, 300.0)] {
        let status = store.fail(&mine, &failure(), &backoff, soon()).await?;
        ensure!(status == Some(Status::Failed), "failure {number} booked {status:?}");
        let waits: f64 =
            database.value("SELECT extract(epoch FROM next_attempt_at - finished_at)::float8 FROM clap").await;
        ensure!((expected * 0.9..=expected * 1.1).contains(&waits), "failure {number} waits {waits} s");
        let waiting: i64 = database.value("SELECT waiting FROM clap_backlog").await;
        ensure!(waiting == 1, "a clap in back-off counts as waiting {waiting} times");
        end_back_off(database).await;
        let next = claim(&mut store, Claim::TakeOver, &job(&format!("job-{number}"))).await?;
        mine = next.ok_or_else(|| anyhow::anyhow!("failure {number} is not tried again"))?;
    }
    let last = store.fail(&mine, &failure(), &backoff, soon()).await?;
    ensure!(last == Some(Status::Dead), "the last failure booked {last:?}");

    let other = new_claim(&mut store, &job("other")).await?;
    let permanent = Failure { permanent: true, ..failure() };
    let first = store.fail(&other, &permanent, &backoff, soon()).await?;
    ensure!(first == Some(Status::Dead), "a permanent failure booked {first:?}");
    Ok(())
}

/// A claim whose answer was lost is found again by its token. One that was not committed when it was looked for can
/// never be.
pub(super) async fn an_unseen_claim_is_found_by_its_token(
    database: &Database<'_>,
    overrides: &Overrides,
) -> Result<()> {
    request(database, 1, 7).await;
    let mut store = store_with(database, overrides);
    let voided = FencingToken::draw();
    ensure!(store.find_by_token(&job("a"), voided, soon()).await?.is_none(), "found what was never claimed");
    for way in ALL {
        ensure!(store.claim(way, &job("a"), voided, LONG, soon()).await?.is_none(), "{way:?}: a voided token claimed");
    }
    let token = FencingToken::draw();
    let seen = store.claim(Claim::Fresh, &job("a"), token, LONG, soon()).await?;
    let found = store.find_by_token(&job("a"), token, soon()).await?;
    let key =
        |attempt: &Option<Attempt>| attempt.as_ref().map(|attempt| (attempt.id, attempt.iteration, attempt.token));
    ensure!(seen.is_some() && key(&found) == key(&seen), "claimed {seen:?}, found {found:?}");
    expire_leases(database).await;
    for (way, job) in [(Claim::Fast, job("b")), (Claim::TakeOver, job("b")), (Claim::Resume, pod("a", "next"))] {
        ensure!(store.claim(way, &job, voided, LONG, soon()).await?.is_none(), "{way:?}: a voided token claimed");
    }
    claim(&mut store, Claim::TakeOver, &job("b")).await?;
    ensure!(store.find_by_token(&job("a"), token, soon()).await?.is_none(), "found what another Job has");
    Ok(())
}

/// An attempt whose worker never confirmed it costs the clap nothing, at most ten times.
pub(super) async fn an_unconfirmed_attempt_is_free(database: &Database<'_>, overrides: &Overrides) -> Result<()> {
    database.execute("INSERT INTO make_it_clap (max_attempts) VALUES (1)").await;
    let mut store = store_with(database, overrides);
    ensure!(unconfirmed(&mut store, Claim::Fresh, &job("job-0")).await?.is_some(), "there was nothing to claim");
    for number in 1..=10 {
        expire_leases(database).await;
        ensure!(marked_dead(&mut store).await?.is_empty(), "an attempt that nobody confirmed killed the clap");
        let way = match number {
            1 => Claim::Resume,
            2 => Claim::Fast,
            _ => Claim::TakeOver,
        };
        let job = if number == 1 { pod("job-0", "next") } else { job(&format!("job-{number}")) };
        ensure!(unconfirmed(&mut store, way, &job).await?.is_some(), "attempt {number} found nothing");
        ensure!(
            clap(database, 1).await? == ("RUNNING".to_owned(), number + 1, number),
            "{:?}",
            clap(database, 1).await?
        );
    }
    expire_leases(database).await;
    ensure!(claim(&mut store, Claim::TakeOver, &job("late")).await?.is_none(), "tried without an end");
    ensure!(marked_dead(&mut store).await? == [1], "never marked dead");

    database.execute("INSERT INTO make_it_clap (max_attempts) VALUES (1)").await;
    ensure!(claim(&mut store, Claim::Fresh, &job("confirmed")).await?.is_some(), "there was nothing to claim");
    expire_leases(database).await;
    ensure!(claim(&mut store, Claim::TakeOver, &job("next")).await?.is_none(), "a confirmed attempt was free");
    ensure!(marked_dead(&mut store).await? == [2], "a confirmed attempt was free");
    Ok(())
}
