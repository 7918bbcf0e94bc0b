//! Many claim at once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use clapometer::batch::store::{Claim, SessionId};
use tokio::{sync::Barrier, task::JoinSet};

use super::ground::{LONG, SOON, batch, job, queue, report, request, soon, store};
use crate::support::cluster::Cluster;

/// 64 workers claim 1,000 rows: each row goes to one of them, and nobody goes away empty-handed while rows wait.
#[tokio::test]
async fn every_row_is_claimed_once_and_no_claim_is_empty_while_rows_wait() {
    const WORKERS: usize = 64;
    const ROWS: u32 = 1_000;
    let cluster = Cluster::private().await;
    let database = queue(&cluster).await;
    request(&database, ROWS, 0).await;

    let left = Arc::new(AtomicUsize::new(1_000));
    let together = Arc::new(Barrier::new(WORKERS));
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (left, together, mut store) = (Arc::clone(&left), Arc::clone(&together), store(&database));
        // Connects: 64 at once would take a debug build longer than a session may.
        store.mark_dead(soon()).await.unwrap();
        workers.spawn(async move {
            let (mut claimed, mut empty_handed) = (Vec::new(), 0);
            together.wait().await;
            for number in 0.. {
                // A row counts as waiting until some claim of it has begun: with fewer rows than
                // workers a claim may rightly find nothing.
                let waiting = left.load(Ordering::SeqCst);
                let job = job(&format!("job-{worker}-{number}"));
                let claim = store.claim(Claim::Fresh, &job, SessionId::draw(), LONG, soon()).await.unwrap();
                let waiting_still = left.load(Ordering::SeqCst);
                match claim {
                    Some(claim) => {
                        left.fetch_sub(1, Ordering::SeqCst);
                        claimed.push(claim.id);
                        store.succeed(&claim, soon()).await.unwrap().expect("the claim is ours");
                    }
                    None if waiting_still > WORKERS => empty_handed += 1,
                    None if waiting == 0 => break,
                    None => {}
                }
            }
            (claimed, empty_handed)
        });
    }
    let (mut times, mut empty_handed) = (BTreeMap::new(), 0);
    while let Some(worker) = workers.join_next().await {
        let (claimed, empty) = worker.unwrap();
        empty_handed += empty;
        for id in claimed {
            *times.entry(id).or_insert(0) += 1;
        }
    }
    assert_eq!((times.len(), times.values().max()), (1_000, Some(&1)));
    assert_eq!(empty_handed, 0, "claims that found nothing although rows waited");
    assert_eq!(
        database.value::<i64>("SELECT count(*) FROM clap WHERE status = 'SUCCESS' AND iteration = 1").await,
        1_000
    );
}

/// The same with real Jobs, more of them than rows.
#[tokio::test]
async fn jobs_beyond_the_rows_find_nothing_and_say_so() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 12, 0).await;
    let jobs: Vec<_> = (0..20).map(|_| batch(&database, ["work"]).start()).collect();
    let mut outcomes = BTreeMap::new();
    for job in jobs {
        let finished = job.finish(SOON).await;
        assert_eq!(finished.code(), Some(0), "{finished:?}");
        *outcomes.entry(report(&finished)["outcome"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(outcomes, BTreeMap::from([("SUCCESS".to_owned(), 12), ("NOTHING_TO_DO".to_owned(), 8)]));
    assert_eq!(database.value::<i64>("SELECT count(*) FROM clap_attempt").await, 12);
}
