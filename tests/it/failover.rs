//! Several hosts: a real standby that is promoted, hosts that are dead, and LISTEN where there is none.

use std::{fmt::Write as _, time::Duration};

use tonic::Code;

use crate::support::{
    admin,
    cluster::{Cluster, SCALER_PASSWORD, Settings},
    database::Database,
    executable::{Executable, Serving},
    fixture::RECOVERY,
    grpc::{ANSWER, Scaler, trigger},
    proxy::{Mode, Proxy},
    wait,
};

const SOON: Duration = Duration::from_secs(10);

/// A scaler that knows these ports, in this order.
async fn serving(dbname: &str, ports: &[u16], further: &str) -> Serving {
    let hosts = vec!["127.0.0.1"; ports.len()].join(",");
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let mut text = format!(
        "databases:\n  claps:\n    host: {hosts}\n    port: '{}'\n    dbname: {dbname}\n    user: scaler\n    \
         password: {SCALER_PASSWORD}\n    sslmode: disable\n",
        ports.join(",")
    );
    writeln!(text, "{further}\nqueries:\n  rows: {{sql: SELECT count(*) FROM rows, max_age: 200ms, {NOTIFY}}}")
        .unwrap();
    writeln!(text, "  standby: {{sql: SELECT pg_is_in_recovery()::int, max_age: 0s}}").unwrap();
    Executable::serve(&text).serving().await
}

const NOTIFY: &str = "notify: {channel: claps, resync: 30s}";

const ROWS: &str = "CREATE TABLE rows (); GRANT SELECT ON rows TO scaler;
    INSERT INTO rows SELECT FROM generate_series(1, 3)";

#[tokio::test]
async fn a_promoted_standby_is_found_within_two_seconds_when_its_primary_is_killed() {
    let primary = Cluster::with_settings(Settings::default().durable()).await;
    let database = Database::empty(&primary).await;
    database.execute(ROWS).await;
    let standby = primary.standby().await;
    let ports = [primary.port(), standby.port()];
    let serving = serving(database.name(), &ports, "    target_session_attrs: read-write").await;
    let scaler = Scaler::at(serving.grpc);
    let rows = trigger("rows", &[]);
    scaler.reaches(&rows, 3.0, SOON).await;
    database.execute("INSERT INTO rows DEFAULT VALUES").await;
    scaler.reaches(&rows, 4.0, SOON).await;
    standby.catches_up_with(&primary).await;

    // On a busy machine the first connection may have failed, too.
    let outages =
        || (serving.process.count_logged("database fails"), serving.process.count_logged("database answers again"));
    let (fails, answers) = outages();
    primary.kill().await;
    scaler.refuses(&rows, Code::Unavailable, SOON).await;
    standby.promote().await;
    scaler.reaches(&rows, 4.0, RECOVERY).await;

    let name = database.name();
    crate::support::database::connect(&standby.superuser(name))
        .await
        .batch_execute("INSERT INTO rows DEFAULT VALUES")
        .await
        .unwrap();
    scaler.reaches(&rows, 5.0, RECOVERY).await;
    wait::eventually("the log has the end", SOON, || outages().1 > answers).await;
    assert_eq!(outages(), (fails + 1, answers + 1), "{}", serving.process.errors());
}

#[tokio::test]
async fn hosts_that_hang_do_not_keep_the_one_that_answers_from_being_found() {
    let cluster = Cluster::shared().await;
    let database = Database::empty(cluster).await;
    database.execute(ROWS).await;
    let mut proxies = Vec::new();
    for _ in 0..3 {
        let proxy = Proxy::to_cluster(cluster).await;
        proxy.set(Mode::Blackhole);
        proxies.push(proxy);
    }
    let mut ports: Vec<u16> = proxies.iter().map(|proxy| proxy.address().port()).collect();
    let dead = ports.clone();
    ports.push(cluster.port());
    // Three hosts that are waited for in vain, one after the other, would take six seconds.
    let found = serving(database.name(), &ports, "    connect_timeout: 2s").await;
    Scaler::at(found.grpc).reaches(&trigger("rows", &[]), 3.0, ANSWER).await;

    // The breaker's probes, which are bounded by a second, find it as well.
    let hidden = serving(database.name(), &dead, "").await;
    let scaler = Scaler::at(hidden.grpc);
    scaler.refuses(&trigger("rows", &[]), Code::Unavailable, Duration::from_secs(20)).await;
    // It opens after failures in a row, which need calls.
    wait::first("the breaker is open", SOON, async || {
        scaler.refusal(&trigger("rows", &[])).await;
        (admin::metric(hidden.admin, "clapometer_database_breaker_open").await == 1.0).then_some(())
    })
    .await;
    proxies[2].set(Mode::Pass);
    scaler.reaches(&trigger("rows", &[]), 3.0, RECOVERY).await;
}

#[tokio::test]
async fn each_wish_for_a_kind_of_server_is_fulfilled_by_that_kind() {
    let primary = Cluster::private().await;
    let database = Database::empty(&primary).await;
    database.execute(ROWS).await;
    let standby = primary.standby().await;
    for (wish, ports, is_standby) in [
        ("read-write", [standby.port(), primary.port()], 0.0),
        ("read-only", [primary.port(), standby.port()], 1.0),
        ("any", [standby.port(), primary.port()], 1.0),
    ] {
        let serving = serving(database.name(), &ports, &format!("    target_session_attrs: {wish}")).await;
        // The other kind is never found, however often it is asked.
        Scaler::at(serving.grpc).reaches(&trigger("standby", &[]), is_standby, SOON).await;
        for _ in 0..5 {
            assert_ne!(
                Scaler::at(serving.grpc).value(&trigger("standby", &[])).await.ok(),
                Some(1.0 - is_standby),
                "{wish}"
            );
        }
    }
    let nowhere = serving(database.name(), &[standby.port()], "    target_session_attrs: read-write").await;
    let refusal = Scaler::at(nowhere.grpc).refusal(&trigger("standby", &[])).await;
    assert_eq!(refusal.code(), Code::Unavailable);
}

#[tokio::test]
async fn on_a_standby_readings_are_polled_and_that_is_said_once_until_it_is_promoted() {
    let primary = Cluster::private().await;
    let database = Database::empty(&primary).await;
    database.execute(ROWS).await;
    let standby = primary.standby().await;
    let serving = serving(database.name(), &[standby.port()], "").await;
    let scaler = Scaler::at(serving.grpc);
    scaler.reaches(&trigger("rows", &[]), 3.0, SOON).await;
    wait::eventually("it is said", SOON, || serving.process.count_logged("notifications do not arrive") == 1).await;

    // Polled: far sooner than `resync`, without a notification.
    database.execute("INSERT INTO rows DEFAULT VALUES").await;
    standby.catches_up_with(&primary).await;
    scaler.reaches(&trigger("rows", &[]), 4.0, RECOVERY).await;
    // Several attempts to listen later it has not been said again.
    let refusals = || standby.log().matches("cannot execute LISTEN during recovery").count();
    wait::eventually("three attempts", Duration::from_secs(20), || refusals() >= 3).await;
    assert_eq!(serving.process.count_logged("notifications do not arrive"), 1, "{}", serving.process.errors());
    assert_eq!(admin::metric(serving.admin, "clapometer_listen_up").await, 0.0);

    standby.promote().await;
    wait::eventually("notifications arrive", Duration::from_secs(20), || {
        serving.process.count_logged("notifications arrive again") == 1
    })
    .await;
    scaler.reaches(&trigger("rows", &[]), 4.0, RECOVERY).await;
}
