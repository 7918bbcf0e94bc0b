//! The statements of a worker, step by step: each check holds for the statements as they are.

use clapometer::batch::store::{Claim, FencingToken, Job};

use super::{
    checks,
    ground::{LONG, Overrides, job, queue, request, soon, store},
};
use crate::support::cluster::Cluster;

/// A test per check, with a database of its own.
macro_rules! holds {
    ($($check:ident),+ $(,)?) => { $(
        #[tokio::test]
        async fn $check() {
            let database = queue(Cluster::shared().await).await;
            checks::$check(&database, &Overrides::new()).await.unwrap();
        }
    )+ };
}

holds!(
    a_held_clap_is_nobody_elses,
    a_former_owner_is_fenced,
    an_end_is_booked_once,
    a_poison_row_is_marked_dead,
    two_pods_get_one_clap,
    a_job_keeps_its_clap,
    one_job_one_clap,
    what_is_due_goes_first,
    interruptions_are_bounded,
    failures_back_off_and_end,
    an_unseen_claim_is_found_by_its_token,
    an_unconfirmed_attempt_is_free,
);

#[tokio::test]
async fn removing_a_claps_row_makes_its_request_pending_again() {
    for removal in ["DELETE FROM clap", "TRUNCATE clap CASCADE"] {
        let database = queue(Cluster::shared().await).await;
        request(&database, 1, 0).await;
        let claimed =
            store(&database).claim(Claim::Fresh, &job("a"), FencingToken::draw(), LONG, soon()).await.unwrap();
        assert!(claimed.is_some());
        assert_eq!(database.value::<i64>("SELECT pending FROM clap_backlog").await, 0);

        database.execute(removal).await;

        assert_eq!(database.value::<i64>("SELECT pending FROM clap_backlog").await, 1, "{removal}");
    }
}

#[tokio::test]
async fn heartbeats_touch_no_index() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let mut store = store(&database);
    let claim = store.claim(Claim::Fresh, &job("a"), FencingToken::draw(), LONG, soon()).await.unwrap().unwrap();
    for _ in 0..50 {
        assert_eq!(store.renew(&claim, LONG, soon()).await.unwrap(), Some(false));
    }
    // The worker's session reports what it did when it ends.
    drop(store);
    let sql = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'clap'";
    let client = database.connect().await;
    let counted = crate::support::wait::first("the statistics have arrived", super::ground::SOON, async || {
        let row = client.query_one(sql, &[]).await.unwrap();
        let (updates, hot): (i64, i64) = (row.get(0), row.get(1));
        (updates >= 50).then_some((updates, hot))
    })
    .await;
    assert_eq!(counted, (50, 50));
}

#[tokio::test]
async fn an_identity_may_hold_any_text() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let odd = Job {
        uid: "o'brien; DROP TABLE clap --".to_owned(),
        name: None,
        pod: "πod \"1\"".to_owned(),
        node: Some(String::new()),
    };
    let claimed = store(&database).claim(Claim::Fresh, &odd, FencingToken::draw(), LONG, soon()).await.unwrap();
    assert!(claimed.is_some());
    assert_eq!(database.value::<String>("SELECT job_uid || pod_name FROM clap").await, odd.uid + &odd.pod);
}
