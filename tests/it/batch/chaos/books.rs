//! The invariants, I1 to I19: each says what it found wrong.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::effects::Effects;

/// I1 to I12: each query returns the claps that break it.
const BOOKS: [(&str, &str); 12] = [
    (
        "I1 every request has a clap",
        "SELECT m.id FROM make_it_clap m LEFT JOIN clap c USING (id) WHERE c.id IS NULL OR m.pending",
    ),
    ("I2 every clap is over", "SELECT id FROM clap WHERE status NOT IN ('SUCCESS', 'DEAD', 'CANCELLED')"),
    (
        "I3 SUCCESS means one successful attempt, and the other way round",
        "SELECT id FROM clap c
          WHERE (status = 'SUCCESS')::int
             <> (SELECT count(*) FROM clap_attempt WHERE clap_id = c.id AND outcome = 'SUCCESS')",
    ),
    (
        "I4 no successful attempt under a dead clap",
        "SELECT id FROM clap c
          WHERE status = 'DEAD' AND EXISTS (SELECT 1 FROM clap_attempt WHERE clap_id = c.id AND outcome = 'SUCCESS')",
    ),
    (
        "I5 attempts are numbered without gaps",
        "SELECT c.id FROM clap c LEFT JOIN clap_attempt a ON a.clap_id = c.id
          GROUP BY c.id, c.iteration
         HAVING count(a.iteration) <> c.iteration OR max(a.iteration) <> c.iteration OR min(a.iteration) <> 1",
    ),
    (
        "I6 dead means that the attempts are spent or the failure permanent",
        "SELECT id FROM clap
          WHERE status = 'DEAD' AND iteration - interruptions <> max_attempts AND exit_code IS DISTINCT FROM 65",
    ),
    ("I7 no attempt is open", "SELECT clap_id FROM clap_attempt WHERE outcome = 'RUNNING'"),
    (
        "I8 attempts of a clap do not overlap",
        "SELECT clap_id
           FROM (SELECT clap_id, started_at, lag(ended_at) OVER (PARTITION BY clap_id ORDER BY iteration) AS before
                   FROM clap_attempt) a
          WHERE started_at < before",
    ),
    (
        "I9 there are no more attempts than max_attempts",
        "SELECT id FROM clap WHERE iteration - interruptions > max_attempts",
    ),
    ("I10 interruptions keep to theirs", "SELECT id FROM clap WHERE interruptions > 20"),
    (
        "I11 one Job, one clap",
        "SELECT min(clap_id) FROM clap_attempt GROUP BY job_uid HAVING count(DISTINCT clap_id) > 1",
    ),
    (
        "I12 a poison row never succeeds",
        "SELECT c.id FROM clap c JOIN make_it_clap m USING (id)
          WHERE m.payload ->> 'kind' IN ('poison', 'fail', 'permanent') AND c.status = 'SUCCESS'",
    ),
];

/// The faults that were made, by which some of the invariants are judged.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The number of those that may each have cost an attempt its worker.
    pub(super) injected: usize,
    /// The pods that stood still for a while.
    pub(super) paused_pods: BTreeSet<String>,
    /// When a pod ended whose exit code says that it holds nothing, in seconds since 1970: any code but 75, and no
    /// kill.
    pub(super) pods_that_hold_nothing: BTreeMap<String, f64>,
}

/// The verdict of the books and of the world at the end.
#[derive(Debug)]
pub(super) struct Verdict {
    /// One sentence per invariant that does not hold.
    pub(super) violations: Vec<String>,
    /// Claps by status.
    pub(super) statuses: BTreeMap<String, i64>,
    /// Attempts whose worker vanished.
    pub(super) lost_attempts: usize,
    /// Claps whose work was done more than once: killed between the work and its booking.
    pub(super) done_again: usize,
}

/// Holds the books against the invariants, and the world against the books.
pub(super) async fn judge(client: &Client, effects: &Effects, faults: &Faults) -> Verdict {
    let mut violations = broken_books(client).await;
    let ended = effects.ended();
    for row in
        client.query("SELECT clap_id, session_id FROM clap_attempt WHERE outcome = 'SUCCESS'", &[]).await.unwrap()
    {
        let (clap, session): (i64, i64) = (row.get(0), row.get(1));
        match ended.get(&clap) {
            None => violations.push(format!("I13 clap {clap} is booked as done, and nothing was done")),
            Some(sessions) if !sessions.contains(&session) => {
                violations.push(format!("I15 clap {clap} was done by {sessions:?}, and {session} is booked"));
            }
            Some(_) => {}
        }
    }
    for session in effects.started_twice() {
        violations.push(format!("I14 session {session} started twice"));
    }
    for session in effects.overlapping() {
        let sql = "SELECT pod_name, clap_id FROM clap_attempt WHERE session_id = $1";
        let row = client.query_one(sql, &[&session]).await.unwrap();
        let (pod, clap): (String, i64) = (row.get(0), row.get(1));
        if !faults.paused_pods.contains(&pod) {
            violations.push(format!("I16 {pod} went on working on clap {clap} after somebody else had begun"));
        }
    }
    let lost: i64 =
        client.query_one("SELECT count(*) FROM clap_attempt WHERE outcome = 'LOST'", &[]).await.unwrap().get(0);
    let lost_attempts = usize::try_from(lost).unwrap();
    if lost_attempts > faults.injected {
        violations.push(format!("I17 {lost_attempts} attempts were lost to {} faults", faults.injected));
    }
    let started = effects.started();
    for row in client.query("SELECT id FROM clap WHERE status = 'DEAD'", &[]).await.unwrap() {
        let clap: i64 = row.get(0);
        if !started.contains(&clap) {
            violations.push(format!("I18 clap {clap} died, and nobody ever worked on it"));
        }
    }
    // What a pod lost before its end it may have known: it went on to another attempt.
    let lost = "SELECT pod_name, extract(epoch FROM ended_at)::float8 FROM clap_attempt WHERE outcome = 'LOST'";
    for row in client.query(lost, &[]).await.unwrap() {
        let (pod, lost_at): (String, f64) = (row.get(0), row.get(1));
        if faults.pods_that_hold_nothing.get(&pod).is_some_and(|ended_at| lost_at > *ended_at) {
            violations.push(format!("I19 {pod} said that it holds nothing, and held an attempt that was lost"));
        }
    }
    let statuses = client.query("SELECT status, count(*) FROM clap GROUP BY status", &[]).await.unwrap();
    Verdict {
        violations,
        statuses: statuses.iter().map(|row| (row.get(0), row.get(1))).collect(),
        lost_attempts,
        done_again: ended.values().filter(|sessions| sessions.len() > 1).count(),
    }
}

async fn broken_books(client: &Client) -> Vec<String> {
    let mut violations = Vec::new();
    for (invariant, query) in BOOKS {
        let claps: Vec<i64> = client.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        if !claps.is_empty() {
            violations.push(format!("{invariant}: claps {claps:?}"));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{batch::ground::queue, support::cluster::Cluster};

    /// Books in which every invariant that the tables' own constraints leave open is broken.
    const COOKED: &str = "
        ALTER TABLE clap DROP CONSTRAINT clap_budget_respected;
        DROP INDEX clap_attempt_one_success, clap_attempt_session_key;
        INSERT INTO make_it_clap (payload) SELECT '{\"kind\": \"fail\"}' FROM generate_series(1, 9);
        INSERT INTO clap (id, status, session_id, iteration, interruptions, max_attempts, job_uid, started_at, finished_at) VALUES
            (2, 'RUNNING', 1, 1, 0, 5, 'j2', now(), NULL),
            (3, 'SUCCESS', 1, 1, 0, 5, 'j3', now(), now()),
            (4, 'DEAD', 1, 1, 0, 5, 'j4', now(), now()),
            (5, 'DEAD', 1, 3, 0, 5, 'j5', now(), now()),
            (6, 'DEAD', 1, 9, 0, 5, 'j6', now(), now()),
            (7, 'DEAD', 1, 30, 25, 5, 'j7', now(), now());
        INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid, started_at, ended_at, outcome) VALUES
            (2, 1, 21, 'j2', now(), NULL, 'RUNNING'),
            (4, 1, 41, 'j4', now(), now(), 'SUCCESS'),
            (5, 1, 51, 'j4', now(), now() + interval '9 s', 'FAILED'),
            (5, 3, 53, 'j5', now(), now(), 'FAILED')";

    #[tokio::test]
    async fn cooked_books_are_found_out() {
        let database = queue(Cluster::shared().await).await;
        database.execute(COOKED).await;
        let violations = broken_books(&database.connect().await).await.join("\n");
        for (invariant, _) in BOOKS {
            assert!(violations.contains(invariant), "{invariant} went unnoticed in\n{violations}");
        }
    }

    #[tokio::test]
    async fn a_world_that_contradicts_the_books_is_found_out() {
        let database = queue(Cluster::shared().await).await;
        database
            .execute(
                "INSERT INTO make_it_clap SELECT FROM generate_series(1, 3);
                 INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, started_at, finished_at)
                 SELECT n, 'SUCCESS', n * 10 + 2, 2, 5, 'j' || n, now(), now() FROM generate_series(1, 3) n;
                 INSERT INTO clap_attempt (clap_id, iteration, session_id, job_uid, pod_name, started_at, ended_at, outcome)
                 SELECT n, i, n * 10 + i, 'j' || n, 'p' || n || i, now(), now(), CASE i WHEN 1 THEN 'LOST' ELSE 'SUCCESS' END
                   FROM generate_series(1, 3) n, generate_series(1, 2) i",
            )
            .await;
        // Clap 1 was never done; clap 2 by its first attempt; clap 3 overlaps and starts twice.
        let effects = Effects::read("S 2 21\nE 2 21\nS 3 31\nS 3 32\nT 3 31\nE 3 32\nS 3 32\n");
        let client = database.connect().await;
        database.execute("INSERT INTO make_it_clap SELECT; INSERT INTO clap (id, status, session_id, max_attempts, finished_at) VALUES (4, 'DEAD', 0, 5, now())").await;
        let lying = Faults { pods_that_hold_nothing: BTreeMap::from([("p11".to_owned(), 0.0)]), ..Faults::default() };
        let verdict = judge(&client, &effects, &lying).await;
        let violations = verdict.violations.join("\n");
        for invariant in
            ["I13 clap 1", "I15 clap 2", "I14 session 32", "I16 p31", "I17 3 attempts", "I18 clap 4", "I19 p11"]
        {
            assert!(violations.contains(invariant), "{invariant} went unnoticed in\n{violations}");
        }
        let paused = Faults { injected: 3, paused_pods: BTreeSet::from(["p31".to_owned()]), ..Faults::default() };
        let excused = judge(&client, &effects, &paused).await.violations.join("\n");
        assert!(!excused.contains("I16") && !excused.contains("I17"), "a pause may overlap: {excused}");
    }
}
