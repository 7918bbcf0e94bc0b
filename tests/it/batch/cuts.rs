//! A worker whose wire is cut after some byte, in either direction, with its first COMMIT held up and without.
//!
//! Whatever is lost, the worker's outcome must be what the tables say. `CUT_STEP=1` cuts after every byte; without it
//! a prime number of bytes lies between two cuts.

use std::time::Duration;

use clapometer::batch::worker::{
    self, Rules,
    lease::Terms,
    outcome::{Outcome, RetryBy},
    work::{Ending, FinalState, Work},
};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::ground::{SOON, job, queue, source};
use crate::support::{
    cluster::Cluster,
    database::Database,
    proxy::{Cut, CutBy, Mode, Proxy, Side},
    wait::first,
};

/// Lets the first COMMIT of a claim wait for a lock, as it may wait for a standby or for the disk.
const HOLD: &str = "
    CREATE SEQUENCE commits;
    GRANT USAGE ON commits TO owner;
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF nextval('commits') = 1 THEN PERFORM pg_advisory_xact_lock_shared(42, 42); END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON clap DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION hold()";

/// Selects whether the held COMMIT may go on: somebody waits for its end, or its own worker does.
const AWAITED: &str = "
    SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objsubid = 1
                      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())),
           EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objsubid = 2
                      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";

/// Selects what the tables say at the end.
const BOOKS: &str = "
    SELECT coalesce((SELECT format('%s %s-%s', status, iteration, interruptions) FROM clap), 'none'),
           coalesce((SELECT string_agg(outcome, ' ' ORDER BY iteration) FROM clap_attempt), 'none')";

/// A case: the things that happen to a worker.
#[derive(Debug, Clone, Copy)]
struct Case {
    cut: Cut,
    /// True if its first COMMIT is held up until somebody waits for it.
    held: bool,
    /// True if SIGTERM comes with the cut.
    interrupted: bool,
    /// The end of its work.
    ends: FinalState,
}

/// A database with one request at a time, and the wire to it.
struct Lane<'a> {
    database: Database<'a>,
    observer: Client,
    holder: Client,
    proxy: Proxy,
}

impl<'a> Lane<'a> {
    async fn new(cluster: &'a Cluster) -> Self {
        let database = queue(cluster).await;
        database.execute(HOLD).await;
        let (observer, holder) = (database.connect().await, database.connect().await);
        let proxy = Proxy::to_cluster(cluster).await;
        Self { database, observer, holder, proxy }
    }

    /// Runs a worker to its end; returns the outcome, the books, and whether the wire was cut.
    async fn run(&self, case: Case) -> (Outcome, (String, String), bool) {
        let reset = "TRUNCATE make_it_clap, clap_voided_session RESTART IDENTITY CASCADE;
                     SELECT setval('commits', 1, false);
                     INSERT INTO make_it_clap (max_attempts) VALUES (1)";
        self.observer.batch_execute(reset).await.unwrap();
        if case.held {
            self.holder.batch_execute("SELECT pg_advisory_lock(42, 42)").await.unwrap();
        }
        let (before, accepted) = (self.proxy.cuts(), self.proxy.accepted());
        self.proxy.set(Mode::Cut(case.cut));
        let access = self.database.owner().by_way_of(self.proxy.address());
        let mut store = clapometer::batch::store::Store::new(source(&access), None);
        let interrupt = CancellationToken::new();
        let token = interrupt.clone();
        let worker = tokio::spawn(async move { worker::run(&mut store, &job("a"), &rules(case.ends), &token).await.0 });
        first("the worker has ended, or is waited for", SOON, async || {
            let cut = self.proxy.cuts() > before;
            if cut && case.interrupted {
                interrupt.cancel();
            }
            if !case.held {
                return worker.is_finished().then_some(());
            }
            let row = self.observer.query_one(AWAITED, &[]).await.unwrap();
            let (looked_up, held_up): (bool, bool) = (row.get(0), row.get(1));
            let by_its_worker = held_up && (!cut || self.proxy.accepted() > accepted + 1);
            (worker.is_finished() || looked_up || by_its_worker).then_some(())
        })
        .await;
        if case.held {
            self.holder.batch_execute("SELECT pg_advisory_unlock(42, 42)").await.unwrap();
        }
        let outcome = crate::support::wait::bounded("the worker's end", SOON, worker).await.unwrap();
        // What the wire has swallowed arrives now, late.
        self.proxy.set(Mode::Deliver);
        let ours = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'owner' AND datname = current_database()";
        first("no session of the worker is left", SOON, async || {
            (self.observer.query_one(ours, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
        })
        .await;
        let books = self.observer.query_one(BOOKS, &[]).await.unwrap();
        (outcome, (books.get(0), books.get(1)), self.proxy.cuts() > before)
    }

    /// Runs a worker, and holds its outcome against the books; returns whether the wire was cut.
    async fn check(&self, case: Case) -> bool {
        let (outcome, (clap, attempts), cut) = self.run(case).await;
        let books = (&*clap, &*attempts);
        let true_to_the_books = match &outcome {
            Outcome::Success => books == ("SUCCESS 1-0", "SUCCESS"),
            Outcome::Dead { .. } => books == ("DEAD 1-0", "FAILED"),
            // Nothing is held: nothing was claimed, or it was given back.
            Outcome::Interrupted if case.interrupted => {
                [("none", "none"), ("FAILED 1-1", "INTERRUPTED")].contains(&books)
            }
            _ => false,
        };
        assert!(true_to_the_books, "{case:?}: {outcome:?}, and the books say {books:?}");
        cut
    }
}

fn rules(ends: FinalState) -> Rules {
    Rules {
        terms: Terms { lease: Duration::from_secs(60), heartbeat: Duration::from_secs(15) },
        timeout: None,
        grace: Duration::from_secs(1),
        retry_by: RetryBy::Queue,
        job_retries: 0,
        reserve: None,
        backoff: Duration::from_secs(15),
        backoff_cap: Duration::from_secs(15),
        permanent_exit_codes: Vec::new(),
        max_interruptions: 10,
        work: Work::Wait(Ending { final_state: ends, fail_first: 0 }),
    }
}

/// Cuts after more and more bytes, until the wire is never cut.
async fn cut_everywhere(side: Side, by: &[CutBy], step: usize, interrupted: bool) {
    let lane = Lane::new(Cluster::shared().await).await;
    let mut after = 0;
    for number in 0.. {
        let case = |held| Case {
            cut: Cut { side, after, by: by[number % by.len()] },
            held,
            interrupted,
            ends: if number % 4 == 3 { FinalState::Failed } else { FinalState::Success },
        };
        let cut = lane.check(case(false)).await;
        lane.check(case(true)).await;
        if !cut {
            break;
        }
        after += step;
    }
    assert!(after > 1_500, "a conversation has more than {after} bytes");
}

fn step(usual: usize) -> usize {
    std::env::var("CUT_STEP").ok().and_then(|step| step.parse().ok()).unwrap_or(usual)
}

#[tokio::test]
async fn a_worker_whose_wire_breaks_tells_the_truth() {
    for side in [Side::Client, Side::Server] {
        cut_everywhere(side, &[CutBy::Reset, CutBy::Close], step(101), false).await;
    }
}

#[tokio::test]
async fn a_worker_whose_wire_breaks_at_its_sigterm_tells_the_truth() {
    for side in [Side::Client, Side::Server] {
        cut_everywhere(side, &[CutBy::Close, CutBy::Reset], step(127), true).await;
    }
}

/// The server never learns that its client is gone, and what the wire has swallowed reaches it when all is over.
#[tokio::test]
async fn a_worker_whose_wire_swallows_tells_the_truth() {
    let cluster = Cluster::shared().await;
    // From the first transaction on: a silent server is given up after the time of a statement.
    let cases = [(Side::Client, 600..4_200), (Side::Server, 900..2_800)].into_iter();
    let cases = cases.flat_map(|(side, bytes)| bytes.step_by(step(331)).map(move |after| (side, after)));
    for lane in cases.collect::<Vec<_>>().chunks(8) {
        let running = lane.iter().map(async |&(side, after)| {
            let lane = Lane::new(cluster).await;
            let cut = Cut { side, after, by: CutBy::Silence };
            for interrupted in [false, true] {
                lane.check(Case { cut, held: false, interrupted, ends: FinalState::Success }).await;
            }
        });
        futures_util::future::join_all(running).await;
    }
}
