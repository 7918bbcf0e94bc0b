//! Zeros that PostgreSQL itself would tell: temporary tables of the same name, statistics that are masked.

use std::time::Duration;

use tonic::Code;

use crate::support::{
    cluster::Cluster,
    database::{self, Database},
    executable::Executable,
    fixture::{Fixture, configuration},
    grpc::trigger,
    pooler::Pooler,
    skip::skip,
};

const SOON: Duration = Duration::from_secs(20);

const ROWS: &str = "CREATE TABLE rows (); GRANT SELECT ON rows TO scaler;
    INSERT INTO rows SELECT FROM generate_series(1, 60)";

const COUNT: &str = "\n  rows: {sql: SELECT count(*) FROM rows, max_age: 0s}\n";

#[tokio::test]
async fn a_temporary_table_in_a_pooled_session_is_not_counted() {
    let database = Database::empty(Cluster::shared().await).await;
    database.execute(ROWS).await;
    let Some(pooler) = Pooler::before(&database.scaler(), 1).await else { return skip("PgBouncer is not installed") };
    let pooled = database.scaler().by_way_of(pooler.address());
    let other = database::connect(&pooled.driver()).await;
    // Each is what another client may leave behind in the one session that there is.
    other.batch_execute("CREATE TEMPORARY TABLE rows ()").await.unwrap();
    let rows = trigger("rows", &[]);
    for access in [
        pooled.clone(),
        pooled.clone().with("search_path", "public"),
        pooled.clone().with("search_path", "'pg_temp, public'"),
    ] {
        let fixture = Fixture::with(&access, COUNT).await;
        fixture.scaler.reaches(&rows, 60.0, SOON).await;
        assert_eq!(fixture.scaler.value(&rows).await.unwrap(), 60.0);
        other.batch_execute("SET search_path = pg_temp").await.unwrap();
        assert_eq!(fixture.scaler.value(&rows).await.unwrap(), 60.0);
        other.batch_execute("RESET search_path").await.unwrap();
    }
}

const ACTIVE: &str = "SELECT count(*) FROM pg_stat_activity WHERE state = ''active''";

#[tokio::test]
async fn a_count_of_masked_statistics_is_refused_and_check_names_the_grant() {
    let cluster = Cluster::private().await;
    let database = Database::empty(&cluster).await;
    database
        .execute(
            "CREATE VIEW busy AS SELECT a.pid, a.state FROM pg_stat_activity a WHERE a.state = 'active';
             GRANT SELECT ON busy TO scaler",
        )
        .await;
    let queries = format!(
        "\n  active: {{sql: '{ACTIVE}', max_age: 0s}}\n  view: {{sql: SELECT count(*) FROM busy, max_age: 0s}}\n  \
         sessions: {{sql: 'SELECT count(*) FROM pg_stat_activity WHERE usename = current_user', max_age: 0s}}\n"
    );
    let fixture = Fixture::with(&database.scaler(), &queries).await;
    for masked in ["active", "view", "active"] {
        let refusal = fixture.scaler.refusal(&trigger(masked, &[])).await;
        assert_eq!(refusal.code(), Code::FailedPrecondition, "{masked}: {refusal}");
        assert!(refusal.message().contains("masks"), "{masked}: {refusal}");
    }
    assert!(fixture.scaler.value(&trigger("sessions", &[])).await.unwrap() >= 1.0, "what is never masked is counted");

    let file = configuration(&database.scaler(), &queries);
    let check = || Executable::clapometer(["check", "--config", "clapometer.yaml"]).file("clapometer.yaml", &file);
    let checked = check().finish(SOON).await;
    assert_eq!(checked.code(), Some(1), "{checked:?}");
    assert!(checked.output.contains("GRANT pg_read_all_stats"), "{checked:?}");

    let superuser = database::connect(&cluster.superuser(database.name())).await;
    superuser.batch_execute("GRANT pg_read_all_stats TO scaler").await.unwrap();
    assert_eq!(check().finish(SOON).await.code(), Some(0));
    let granted = Fixture::with(&database.scaler(), &queries).await;
    assert!(granted.scaler.value(&trigger("active", &[])).await.unwrap() >= 1.0);
    assert!(granted.scaler.value(&trigger("view", &[])).await.unwrap() >= 1.0);
}
