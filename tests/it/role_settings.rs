//! The settings of a reading's transaction: its own limits and names, which do not stay with the session.

use std::time::Duration;

use crate::support::{
    cluster::Cluster,
    database::Database,
    executable::Executable,
    grpc::{Scaler, trigger},
    wait,
};

/// A path with a tenant's possible schema names: one has a quote, which ends a literal, one a backslash, which does
/// not.
const SEARCH_PATH: &str = r#""it's", "back\slash", public"#;

#[tokio::test]
async fn a_reading_runs_under_its_own_settings_and_leaves_none_behind() {
    let database = Database::empty(Cluster::shared().await).await;
    let expected = [
        ("transaction_isolation", "read committed"),
        ("transaction_read_only", "on"),
        ("statement_timeout", "1500ms"),
        ("lock_timeout", "700ms"),
        ("idle_in_transaction_session_timeout", "5s"),
        ("application_name", "clapometer/settings"),
        ("row_security", "off"),
        ("search_path", &format!("{SEARCH_PATH}, pg_temp")),
    ];
    let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let rows = expected.map(|(name, value)| format!("({}, {})", literal(name), literal(value)));
    let sql = format!(
        "SELECT count(*) FROM (VALUES {}) AS e (name, value) WHERE current_setting(name) = value",
        rows.join(", ")
    );
    let access = database
        .scaler()
        .with("pool_size", 1)
        .with("lock_timeout", "700ms")
        .with("search_path", format!("'{}'", SEARCH_PATH.replace('\'', "''")))
        .yaml("claps");
    let configuration =
        format!("databases:\n{access}queries:\n  settings:\n    timeout: 1500ms\n    sql: |\n      {sql}\n");
    let serving = Executable::serve(&configuration).serving().await;

    let held = Scaler::at(serving.grpc).value(&trigger("settings", &[])).await.expect("a reading");

    assert_eq!(held, 8.0, "of {expected:?}");
    wait::first("the session has its own name again", Duration::from_secs(10), async || {
        let named = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = ";
        let ours: i64 = database.value(&format!("{named}'clapometer'")).await;
        (ours == 1).then_some(())
    })
    .await;
}
