//! The seed's story, with real Jobs: v1, v2 and v3 of the article, and what its author missed.

use std::{collections::BTreeMap, fs, path::Path};

use super::ground::{SOON, batch, end_back_off, queue, report, request};
use crate::support::{cluster::Cluster, database::Database, executable::Finished};

/// A Job's pod that works for real.
async fn work(database: &Database<'_>, job: &str, pod: &str, variables: &[(&'static str, &str)]) -> Finished {
    let mut executable = batch(database, ["work"]).variable("JOB_UID", job).variable("POD_NAME", pod);
    for (name, value) in variables {
        executable = executable.variable(name, *value);
    }
    executable.finish(SOON).await
}

async fn clap(database: &Database<'_>) -> String {
    database.value("SELECT format('%s %s %s', id, status, iteration) FROM clap").await
}

/// v1: sixty rows, at most ten Jobs at a time, a row each.
#[tokio::test]
async fn v1_sixty_rows_are_done_by_sixty_jobs() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 60, 0).await;
    let mut outcomes = BTreeMap::new();
    for _ in 0..6 {
        let jobs: Vec<_> = (0..10).map(|_| batch(&database, Vec::new()).start()).collect();
        for job in jobs {
            let finished = job.finish(SOON).await;
            *outcomes.entry(report(&finished)["outcome"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
    }
    assert_eq!(outcomes, BTreeMap::from([("SUCCESS".to_owned(), 60)]));
    assert_eq!(database.value::<i64>("SELECT count(DISTINCT session_id) FROM clap WHERE status = 'SUCCESS'").await, 60);
    assert_eq!(database.value::<i64>("SELECT claimable + held FROM clap_backlog").await, 0);
}

/// v2: `FINAL_STATE=FAILED`. In the article the second try found nothing; here each takes the same clap, until it is
/// dead.
#[tokio::test]
async fn v2_a_job_that_always_fails_takes_its_clap_again_until_it_is_dead() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 2, 0).await;
    let mut codes = Vec::new();
    for pod in 1..=6 {
        let variables = [("FINAL_STATE", "FAILED"), ("POSTGRES_BATCH_RETRY_BY", "job")];
        let finished = work(&database, "vqhs7", &format!("vqhs7-{pod}"), &variables).await;
        codes.push(finished.code().unwrap());
    }
    // The sixth finds its clap settled: it does not start another one.
    assert_eq!(codes, [1, 1, 1, 1, 11, 0]);
    assert_eq!(clap(&database).await, "1 DEAD 5");
    assert_eq!(database.value::<i64>("SELECT claimable FROM clap_backlog").await, 1, "only the other row waits");
}

/// v2 as the queue retries it: every attempt is a new Job.
#[tokio::test]
async fn v2_new_jobs_take_the_failed_clap_again_until_it_is_dead() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let mut codes = Vec::new();
    for job in 1..=6 {
        let finished = work(&database, &format!("job-{job}"), "pod", &[("FINAL_STATE", "FAILED")]).await;
        codes.push(finished.code().unwrap());
        if job == 1 {
            let idle = work(&database, "too-early", "pod", &[]).await;
            assert_eq!(report(&idle)["outcome"], "NOTHING_TO_DO", "a clap in back-off is nobody's");
        }
        end_back_off(&database).await;
    }
    assert_eq!(codes, [10, 10, 10, 10, 11, 0]);
    assert_eq!(clap(&database).await, "1 DEAD 5");
}

/// v3: fails three times and succeeds on the fourth try of the same Job, on the same clap.
#[tokio::test]
async fn v3_the_fourth_try_of_the_same_job_succeeds_on_the_same_clap() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 2, 0).await;
    let mut seen = Vec::new();
    for pod in ["h2z24", "gsj54", "6d7bb", "v9hqc"] {
        let variables = [("FAIL_FIRST", "3"), ("POSTGRES_BATCH_RETRY_BY", "job")];
        let finished = work(&database, "mqmg7", pod, &variables).await;
        seen.push((finished.code().unwrap(), clap(&database).await));
        let reserved: i64 = database.value("SELECT reserved FROM clap_backlog").await;
        assert_eq!(reserved, i64::from(finished.code() == Some(1)), "between two tries the clap is kept for its Job");
    }
    let expected = [(1, "1 FAILED 1"), (1, "1 FAILED 2"), (1, "1 FAILED 3"), (0, "1 SUCCESS 4")];
    assert_eq!(seen, expected.map(|(code, clap)| (code, clap.to_owned())));
    let pods = "SELECT string_agg(pod_name || ' ' || outcome, ', ' ORDER BY iteration) FROM clap_attempt";
    assert_eq!(
        database.value::<String>(pods).await,
        "h2z24 FAILED, gsj54 FAILED, 6d7bb FAILED, v9hqc SUCCESS",
        "who tried, and how it ended, stands beside the clap and not in the request"
    );
}

/// v3 as the seed deploys it. Its query counts no clap that has failed, so that the Job itself must try again.
#[tokio::test]
async fn v3_works_with_the_built_in_trigger() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples/scaled-job-builtin-trigger.yaml");
    let example = fs::read_to_string(example).unwrap();
    let lines: Vec<&str> = example.lines().map(str::trim).collect();
    let query = lines.iter().find_map(|line| line.strip_prefix("query: \"")?.strip_suffix(";\"")).unwrap();
    // The variables that it sets to a text, and those that the downward API fills.
    let mut variables = vec![("FAIL_FIRST", "3")];
    for pair in lines.windows(2) {
        if let ("- name: POSTGRES_BATCH_RETRY_BY", Some(value)) = (pair[0], pair[1].strip_prefix("value: ")) {
            variables.push(("POSTGRES_BATCH_RETRY_BY", value));
        }
    }
    let knows_its_job = lines.contains(&"- name: JOB_UID");

    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let mut codes = Vec::new();
    for pod in ["h2z24", "gsj54", "6d7bb", "v9hqc"] {
        let job = if knows_its_job { "mqmg7" } else { pod };
        codes.push(work(&database, job, pod, &variables).await.code().unwrap());
        assert_eq!(database.value::<i64>(query).await, 0, "KEDA starts no other Job");
    }
    assert_eq!((codes, &*clap(&database).await), (vec![1, 1, 1, 0], "1 SUCCESS 4"));
}

/// The seed's own environment, and none of libpq's.
#[tokio::test]
async fn the_seeds_environment_is_enough() {
    let database = queue(Cluster::shared().await).await;
    request(&database, 1, 0).await;
    let access = database.owner();
    let finished = crate::support::executable::Executable::postgres_batch(Vec::<String>::new())
        .variable("PG_HOST", &access.host)
        .variable("PG_PORT", access.port.to_string())
        .variable("PG_USERNAME", &access.user)
        .variable("PGPASSWORD", &access.password)
        .variable("PGDATABASE", &access.dbname)
        .finish(SOON)
        .await;
    assert_eq!((finished.code(), clap(&database).await), (Some(0), "1 SUCCESS 1".to_owned()), "{finished:?}");
}
