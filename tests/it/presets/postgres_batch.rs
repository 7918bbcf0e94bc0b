//! postgres-batch: the preset counts as the built-in queries do.

use std::time::Duration;

use super::{check, configuration, numbers};
use crate::support::{cluster::Cluster, database::Database, executable::Executable};

#[tokio::test]
async fn it_counts_as_the_built_in_queries_do() {
    let database = Database::empty(Cluster::shared().await).await;
    let migrated = Executable::postgres_batch(["migrate", "up"]).variables(database.owner().environment());
    assert_eq!(migrated.finish(Duration::from_secs(30)).await.code(), Some(0));
    database.execute("INSERT INTO make_it_clap (duration_seconds) VALUES (1), (2), (3)").await;
    let queries = "
  job: {preset: postgres-batch}
  object: {preset: postgres-batch, workers: long-lived, schema: public}
";
    let document = check(&configuration(&database.owner(), queries), 0).await;
    for (preset, built_in) in [("job", "outstanding-claps"), ("object", "clap-workers")] {
        assert_eq!(numbers(&document, preset), [3, 3, 0], "{document:#}");
        assert_eq!(numbers(&document, preset), numbers(&document, built_in));
    }
}
