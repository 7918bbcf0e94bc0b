//! Many scrapes of a long page at a time: calls and probes are answered beside them.

use std::collections::HashSet;

use futures_util::future::{join_all, select};

use super::{SOON, Victim};
use crate::support::{admin, cluster::Cluster, database::Database, fixture::named, wait};

/// The contract: so many triggers have series of their own.
const TRIGGERS: usize = 2_000;

const SCRAPES: usize = 100;

#[tokio::test]
async fn calls_and_probes_are_answered_beside_a_hundred_scrapes_of_two_thousand_triggers() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let port = victim.fixture.serving.admin;
    for first in (0..TRIGGERS).step_by(100) {
        let asking = (first..first + 100).map(async |number| {
            let one = named(&Victim::trigger(), format!("a-scaled-job-with-a-name-of-the-usual-length-{number}"));
            victim.scaler().active(&one).await.unwrap();
        });
        join_all(asking).await;
    }

    let mut late = Vec::new();
    let start = std::time::Instant::now();
    let scrapes = join_all((0..SCRAPES).map(|_| admin::get(port, "/metrics")));
    let asking = async {
        loop {
            // Each answer has the contract's bound.
            victim.answers().await;
            late.extend(victim.late_probe().await);
        }
    };
    let pages = match select(Box::pin(scrapes), Box::pin(asking)).await {
        futures_util::future::Either::Left((pages, _)) => pages,
        futures_util::future::Either::Right((never, _)) => never,
    };
    let took = start.elapsed();
    assert!(late.len() < 2, "late probes: {late:?}");
    let series = |page: &String| page.matches("\nclapometer_trigger_active{").count();
    assert!(pages.iter().all(|page| series(page) == TRIGGERS), "{:?}", pages.first());
    let length = pages[0].len();
    let distinct: HashSet<String> = pages.into_iter().collect();
    println!("{SCRAPES} scrapes of {length} bytes in {took:.1?}, of {} pages", distinct.len());
    assert!(distinct.len() <= 3, "{} pages were made for them", distinct.len());

    wait::bounded("the memory's size", SOON, victim.is_unharmed()).await;
}
