//! `clapometer check` warns of an index that was never finished, and of none that somebody is building.

use super::{SOON, configuration, run};
use crate::support::{cluster::Cluster, database::Database, wait};

const QUERY: &str = "  jobs: {sql: SELECT count(*) FROM app.job WHERE key > 0}\n";

async fn jobs(cluster: &Cluster) -> Database<'_> {
    let database = Database::empty(cluster).await;
    database
        .execute(
            "CREATE SCHEMA app; CREATE TABLE app.job (key bigint); INSERT INTO app.job VALUES (1), (1);
             GRANT USAGE ON SCHEMA app TO scaler; GRANT SELECT ON app.job TO scaler",
        )
        .await;
    database
}

#[tokio::test]
async fn an_index_that_was_never_finished_is_named_with_what_mends_it() {
    let database = jobs(Cluster::shared().await).await;
    let config = configuration(&database.scaler(), QUERY);
    let client = database.connect().await;
    client.batch_execute("CREATE UNIQUE INDEX CONCURRENTLY \"Open\" ON app.job (key)").await.unwrap_err();
    client.batch_execute("REINDEX INDEX CONCURRENTLY app.\"Open\"").await.unwrap_err();

    let checked = run(&config, &["check"]).await;
    assert_eq!(checked.code(), Some(0), "{}", checked.output);
    let words = checked.output.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "the index app.\"Open\" of app.job is invalid, as a CREATE INDEX CONCURRENTLY that failed leaves it",
        "-> REINDEX INDEX CONCURRENTLY app.\"Open\"; or, if it is not needed, DROP INDEX CONCURRENTLY app.\"Open\";",
        "the index app.\"Open_ccnew\" of app.job is invalid, as a REINDEX CONCURRENTLY that failed leaves it",
        "-> DROP INDEX CONCURRENTLY app.\"Open_ccnew\";",
    ] {
        assert!(words.contains(part), "{part} is missing: {}", checked.output);
    }

    client.batch_execute("DROP INDEX CONCURRENTLY app.\"Open_ccnew\"").await.unwrap();
    client.batch_execute("DELETE FROM app.job WHERE ctid = '(0,1)'").await.unwrap();
    client.batch_execute("REINDEX INDEX CONCURRENTLY app.\"Open\"").await.unwrap();
    let checked = run(&config, &["check"]).await;
    assert!(!checked.output.contains("is invalid"), "{}", checked.output);
}

#[tokio::test]
async fn an_index_that_is_being_built_or_dropped_has_no_warning() {
    let database = jobs(Cluster::shared().await).await;
    let config = configuration(&database.scaler(), QUERY);
    for work in ["CREATE INDEX CONCURRENTLY open ON app.job (key)", "DROP INDEX CONCURRENTLY app.open"] {
        let writer = database.connect().await;
        writer.batch_execute("BEGIN; INSERT INTO app.job VALUES (2)").await.unwrap();
        let builder = database.connect().await;
        let building = tokio::spawn(async move { builder.batch_execute(work).await });
        let is_invalid =
            "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('app.open') AND NOT indisvalid)";
        wait::first("the index is there, and invalid", SOON, async || {
            database.value::<bool>(is_invalid).await.then_some(())
        })
        .await;
        let checked = run(&config, &["check"]).await;
        assert_eq!(checked.code(), Some(0), "{}", checked.output);
        assert!(!checked.output.contains("is invalid"), "{work}: {}", checked.output);
        assert!(!checked.output.contains("was not looked at"), "{work}: {}", checked.output);
        writer.batch_execute("COMMIT").await.unwrap();
        building.await.unwrap().unwrap();
    }
}
