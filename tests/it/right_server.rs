//! Never a silent zero from the wrong server: standbys that are behind, promoted, demoted, and hosts that come back.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use serde_json::Value;
use tonic::Code;

use crate::support::{
    admin,
    cluster::{Cluster, SCALER_PASSWORD, Settings},
    database::{self, Database},
    executable::{Executable, Finished, Serving},
    fixture::RECOVERY,
    grpc::{Scaler, trigger},
    pooler::Pooler,
    proxy::{Mode, Proxy},
    skip::skip,
    wait,
};

const SOON: Duration = Duration::from_secs(20);

const ROWS: &str = "CREATE TABLE rows (); GRANT SELECT ON rows TO scaler";
const SIXTY: &str = "INSERT INTO rows SELECT FROM generate_series(1, 60)";

fn configuration(dbname: &str, ports: &[u16], further: &str) -> String {
    let hosts = vec!["127.0.0.1"; ports.len()].join(",");
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let mut text = format!(
        "databases:\n  claps:\n    host: {hosts}\n    port: '{}'\n    dbname: {dbname}\n    user: scaler\n    \
         password: {SCALER_PASSWORD}\n    sslmode: disable\n",
        ports.join(",")
    );
    writeln!(text, "{further}\nqueries:\n  rows: {{sql: SELECT count(*) FROM rows, max_age: 0s}}").unwrap();
    text
}

async fn serving(dbname: &str, ports: &[u16], further: &str) -> Serving {
    Executable::serve(&configuration(dbname, ports, further)).serving().await
}

async fn check(dbname: &str, ports: &[u16], further: &str) -> Finished {
    let check = Executable::clapometer(["check", "--config", "clapometer.yaml"]);
    check.file("clapometer.yaml", &configuration(dbname, ports, further)).finish(SOON).await
}

async fn superuser(cluster: &Cluster, statement: &str) {
    database::connect(&cluster.superuser("postgres")).await.batch_execute(statement).await.unwrap();
}

async fn is_standby(serving: &Serving) -> f64 {
    admin::metric(serving.admin, "clapometer_database_is_standby").await
}

/// A primary, its database, and a standby whose replay stands still since before the rows came.
async fn behind(primary: &Cluster) -> (Database<'_>, Cluster) {
    let database = Database::empty(primary).await;
    database.execute(ROWS).await;
    let standby = primary.standby().await;
    standby.pause_replay().await;
    database.execute(SIXTY).await;
    (database, standby)
}

#[tokio::test]
async fn of_several_hosts_a_standby_is_not_asked_unless_that_is_written() {
    let primary = Cluster::private().await;
    let (database, standby) = behind(&primary).await;
    let serving = serving(database.name(), &[primary.port(), standby.port()], "").await;
    let scaler = Scaler::at(serving.grpc);
    let rows = trigger("rows", &[]);
    scaler.reaches(&rows, 60.0, SOON).await;
    assert_eq!(is_standby(&serving).await, 0.0);

    primary.stop().await;
    scaler.refuses(&rows, Code::Unavailable, SOON).await;
    for _ in 0..20 {
        let answer = scaler.value(&rows).await;
        assert!(answer.is_err(), "{answer:?} while the primary is away");
    }
    primary.start().await;
    scaler.reaches(&rows, 60.0, RECOVERY).await;
}

#[tokio::test]
async fn each_host_says_why_it_gives_no_session() {
    let primary = Cluster::private().await;
    let gone = Cluster::private().await;
    gone.stop().await;
    let database = Database::empty(&primary).await;
    database.execute(ROWS).await;
    let standby = "    target_session_attrs: standby";
    for ports in [[primary.port(), gone.port()], [gone.port(), primary.port()]] {
        let checked = check(database.name(), &ports, standby).await;
        assert_eq!(checked.code(), Some(69), "{checked:?}");
        let text = checked.output.split_whitespace().collect::<Vec<_>>().join(" ");
        let (kind, refused) = (format!("127.0.0.1:{}: the server is a primary", primary.port()), "Connection refused");
        assert!(text.contains(&kind) && text.contains(refused), "{text}");
        assert!(text.contains("-> name a host of the kind"), "what to do follows from the server that answers: {text}");
    }
}

#[tokio::test]
async fn a_primary_that_is_read_only_by_default_is_called_so_unless_only_the_role_is() {
    let primary = Cluster::private().await;
    let database = Database::empty(&primary).await;
    database.execute(ROWS).await;
    let ports = [primary.port(), primary.port()];
    // As dynamic credentials do it: the role that logs in takes another one on.
    superuser(
        &primary,
        "ALTER ROLE scaler SET default_transaction_read_only = on; CREATE ROLE reader; GRANT reader TO scaler;
         ALTER ROLE scaler SET role = reader",
    )
    .await;
    database.execute("GRANT SELECT ON rows TO reader").await;
    let checked = check(database.name(), &ports, "").await;
    assert_eq!(checked.code(), Some(0), "{checked:?}");

    superuser(
        &primary,
        &format!(
            "ALTER ROLE scaler RESET ALL; ALTER DATABASE {} SET default_transaction_read_only = on",
            database.name()
        ),
    )
    .await;
    let checked = check(database.name(), &ports, "").await;
    assert_eq!(checked.code(), Some(69), "{checked:?}");
    let text = checked.output.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("a primary whose default_transaction_read_only is on"), "{text}");
}

#[tokio::test]
async fn a_preferred_host_is_gone_back_to_and_the_standby_is_seen_meanwhile() {
    let primary = Cluster::private().await;
    let (database, standby) = behind(&primary).await;
    let any = "    target_session_attrs: any";
    let ports = [primary.port(), standby.port()];
    let mut serving = serving(database.name(), &ports, any).await;
    let scaler = Scaler::at(serving.grpc);
    let rows = trigger("rows", &[]);
    scaler.reaches(&rows, 60.0, SOON).await;

    primary.stop().await;
    scaler.reaches(&rows, 0.0, SOON).await;
    assert_eq!(is_standby(&serving).await, 1.0);
    let is_told = |line: &Value| line["message"] == "readings come from a standby" && line["level"] == "WARN";
    serving.process.logged("the standby", SOON, is_told).await;
    wait::first("the status tells it", SOON, async || {
        let status = admin::get(serving.admin, "/api/status").await;
        status.contains("came from a primary before").then_some(())
    })
    .await;
    primary.start().await;
    scaler.reaches(&rows, 60.0, SOON).await;
    assert_eq!(is_standby(&serving).await, 0.0);

    let checked = check(database.name(), &ports, any).await;
    assert!(checked.output.contains("target_session_attrs"), "{checked:?}");
    let checked = check(database.name(), &ports, "").await;
    assert!(!checked.output.contains("target_session_attrs"), "{checked:?}");
}

#[tokio::test]
async fn prefer_standby_makes_do_with_a_primary_until_a_standby_is_there() {
    let primary = Cluster::private().await;
    let database = Database::empty(&primary).await;
    database.execute(ROWS).await;
    let standby = primary.standby().await;
    standby.stop().await;
    let prefer = "    target_session_attrs: prefer-standby";
    let serving = serving(database.name(), &[primary.port(), standby.port()], prefer).await;
    let scaler = Scaler::at(serving.grpc);
    let rows = trigger("rows", &[]);
    scaler.reaches(&rows, 0.0, SOON).await;
    assert_eq!(is_standby(&serving).await, 0.0);
    standby.start().await;
    wait::first("the standby is asked", SOON, async || {
        let _ = scaler.value(&rows).await;
        (is_standby(&serving).await == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn behind_a_pooler_a_demoted_primary_is_not_believed() {
    let primary = Cluster::private().await;
    let database = Database::empty(&primary).await;
    database.execute(ROWS).await;
    database.execute(SIXTY).await;
    let Some(pooler) = Pooler::before(&database.scaler(), 4).await else { return skip("PgBouncer is not installed") };
    let wish = "    target_session_attrs: read-write";
    let serving = serving(database.name(), &[pooler.address().port()], wish).await;
    let scaler = Scaler::at(serving.grpc);
    let rows = trigger("rows", &[]);
    scaler.reaches(&rows, 60.0, SOON).await;

    primary.demote().await;
    scaler.refuses(&rows, Code::Unavailable, SOON).await;
    for _ in 0..20 {
        let answer = scaler.value(&rows).await;
        assert!(answer.is_err(), "{answer:?} from a standby");
    }
    // The first cause is that the server restarts.
    wait::first("the log names the wrong server", SOON, async || {
        let answer = scaler.value(&rows).await;
        assert!(answer.is_err(), "{answer:?} from a standby");
        serving.process.errors().contains("wrong_server").then_some(())
    })
    .await;
    primary.promote().await;
    scaler.reaches(&rows, 60.0, SOON).await;
}

#[tokio::test]
async fn behind_a_pooler_each_kind_of_server_is_what_was_asked_for() {
    let primary = Cluster::private().await;
    let database = Database::empty(&primary).await;
    database.execute(ROWS).await;
    database.execute(SIXTY).await;
    let standby = primary.standby().await;
    let access = database.scaler().by_way_of(([127, 0, 0, 1], standby.port()).into());
    let Some(pooler) = Pooler::before(&access, 4).await else { return skip("PgBouncer is not installed") };
    let pooled = database.scaler().by_way_of(pooler.address());
    // Whether a standby will do, and whether a primary will.
    let kinds = [
        ("any", true, true),
        ("read-write", false, true),
        ("read-only", true, false),
        ("primary", false, true),
        ("standby", true, false),
        ("prefer-standby", true, true),
    ];
    let (mut databases, mut queries) = (String::new(), String::new());
    for (kind, ..) in kinds {
        databases += &pooled.clone().with("target_session_attrs", kind).yaml(kind);
        writeln!(queries, "  of-{kind}: {{sql: SELECT count(*) FROM rows, database: {kind}, max_age: 0s}}").unwrap();
    }
    let configuration = format!("databases:\n{databases}queries:\n{queries}");
    let serving = Executable::serve(&configuration).serving().await;
    let scaler = Scaler::at(serving.grpc);
    let expect = async |is_promoted: bool| {
        for (kind, standby_will_do, primary_will_do) in kinds {
            let asked = trigger(&format!("of-{kind}"), &[]);
            match if is_promoted { primary_will_do } else { standby_will_do } {
                true => scaler.reaches(&asked, 60.0, SOON).await,
                false => scaler.refuses(&asked, Code::Unavailable, SOON).await,
            }
        }
    };
    expect(false).await;
    standby.promote().await;
    expect(true).await;
}

#[tokio::test]
async fn a_frozen_primary_is_not_replaced_by_a_standby_that_is_behind() {
    let primary = Cluster::private().await;
    let (database, standby) = behind(&primary).await;
    for attrs in ["", "    target_session_attrs: primary"] {
        let serving = serving(database.name(), &[primary.port(), standby.port()], attrs).await;
        let scaler = Scaler::at(serving.grpc);
        let rows = trigger("rows", &[]);
        scaler.reaches(&rows, 60.0, SOON).await;
        primary.freeze();
        scaler.refuses(&rows, Code::Unavailable, SOON).await;
        for _ in 0..20 {
            let answer = scaler.value(&rows).await;
            assert!(answer.is_err(), "{answer:?} while the primary is frozen");
        }
        primary.thaw();
        scaler.reaches(&rows, 60.0, RECOVERY).await;
    }
}

#[tokio::test]
async fn a_standby_that_is_promoted_is_none_any_more() {
    let primary = Cluster::private().await;
    let database = Database::empty(&primary).await;
    database.execute(ROWS).await;
    let standby = primary.standby().await;
    let serving = serving(database.name(), &[standby.port()], "    target_session_attrs: standby").await;
    let scaler = Scaler::at(serving.grpc);
    let rows = trigger("rows", &[]);
    scaler.reaches(&rows, 0.0, SOON).await;
    standby.promote().await;
    scaler.refuses(&rows, Code::Unavailable, SOON).await;
}

#[tokio::test]
async fn a_standby_further_behind_than_max_lag_is_no_source() {
    let primary = Cluster::private().await;
    let database = Database::empty(&primary).await;
    database.execute(ROWS).await;
    superuser(&primary, "GRANT pg_read_all_stats TO scaler").await;
    let standby = primary.standby().await;
    let serving = serving(database.name(), &[standby.port()], "    max_lag: 500ms").await;
    let scaler = Scaler::at(serving.grpc);
    let rows = trigger("rows", &[]);
    // A primary at rest sends nothing: what there is has been replayed.
    scaler.reaches(&rows, 0.0, SOON).await;
    let lag = "clapometer_database_standby_lag_seconds";
    assert!(admin::get(serving.admin, "/metrics").await.contains(&format!("{lag}{{")));
    // Before its first transaction a standby does not know how far it is behind.
    database.execute("INSERT INTO rows DEFAULT VALUES").await;
    scaler.reaches(&rows, 1.0, SOON).await;
    standby.pause_replay().await;
    database.execute(SIXTY).await;
    scaler.refuses(&rows, Code::Unavailable, SOON).await;
    wait::first("the lag is told", SOON, async || (admin::metric(serving.admin, lag).await > 0.5).then_some(())).await;
    for _ in 0..20 {
        let answer = scaler.value(&rows).await;
        assert!(answer.is_err(), "{answer:?} from a standby that is behind");
    }
    wait::eventually("the log says so", SOON, || serving.process.errors().contains("lagging")).await;
    standby.resume_replay().await;
    scaler.reaches(&rows, 61.0, RECOVERY).await;

    // Nothing comes any more, and nobody knows what the primary does.
    primary.stop().await;
    scaler.refuses(&rows, Code::Unavailable, SOON).await;
}

#[tokio::test]
async fn a_standby_that_has_just_come_back_is_no_source_until_it_has_heard_what_it_missed() {
    let settings = Settings::default().authenticate("host replication postgres 127.0.0.1/32 trust");
    let primary = Cluster::with_settings(settings).await;
    let database = Database::empty(&primary).await;
    database.execute(ROWS).await;
    superuser(&primary, "GRANT pg_read_all_stats TO scaler").await;
    let standby = primary.standby().await;
    let wire = Proxy::to(SocketAddr::from(([127, 0, 0, 1], primary.port()))).await;
    standby.follow_by_way_of(wire.address()).await;
    let serving = serving(database.name(), &[standby.port()], "    max_lag: 500ms").await;
    let scaler = Scaler::at(serving.grpc);
    let rows = trigger("rows", &[]);
    database.execute("INSERT INTO rows DEFAULT VALUES").await;
    scaler.reaches(&rows, 1.0, SOON).await;

    wire.set(Mode::Close);
    scaler.refuses(&rows, Code::Unavailable, SOON).await;
    database.execute("DELETE FROM rows").await;
    database.execute(SIXTY).await;
    // The receiver is connected for a while before the first message comes.
    wire.set(Mode::Slow(Duration::from_millis(400)));
    let observer = database::connect(&standby.superuser("postgres")).await;
    let has_heard =
        "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE last_msg_send_time <> last_msg_receipt_time)";
    wait::first("the standby hears from its primary", SOON, async || {
        if let Ok(value) = scaler.value(&rows).await {
            assert_eq!(value, 60.0, "from a standby that has just connected again");
        }
        observer.query_one(has_heard, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    wire.set(Mode::Pass);
    scaler.reaches(&rows, 60.0, SOON).await;
}

#[tokio::test]
async fn the_role_that_is_read_only_by_itself_finds_the_primary() {
    let primary = Cluster::private().await;
    let database = Database::empty(&primary).await;
    database.execute(ROWS).await;
    superuser(&primary, "ALTER ROLE scaler SET default_transaction_read_only = on").await;
    let ports = [primary.port(), primary.port()];
    let serving = serving(database.name(), &ports, "    target_session_attrs: read-write").await;
    Scaler::at(serving.grpc).reaches(&trigger("rows", &[]), 0.0, SOON).await;

    superuser(&primary, "ALTER ROLE scaler RESET default_transaction_read_only").await;
    let name = database.name();
    superuser(&primary, &format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let refused = self::serving(name, &ports, "    target_session_attrs: read-write").await;
    assert_eq!(Scaler::at(refused.grpc).refusal(&trigger("rows", &[])).await.code(), Code::Unavailable);
}
