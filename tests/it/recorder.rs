//! The flight recorder, as the admin port tells it: what KEDA was told about a trigger, and when that changed.

use std::time::Duration;

use serde_json::Value;
use tonic::Code;

use crate::support::{
    admin,
    cluster::{Cluster, SCALER_PASSWORD},
    database::Database,
    fixture::{Fixture, SOON, add, jobs, named},
    grpc::trigger,
    proxy::{Mode, Proxy},
    wait,
};

/// Time for an outage to be noticed and to end.
const OUTAGE: Duration = Duration::from_secs(15);

/// The texts that must not be told: a part of the SQL, a value of a parameter and a key of a group.
const SQL: &str = "canary_of_the_sql";
const VALUE: &str = "canary-of-a-value";

fn configuration(access: &str, namespaces: &str) -> String {
    format!(
        "databases:\n{access}queries:
  jobs: {{sql: SELECT count(*) AS {SQL} FROM jobs, max_age: 0s, namespaces: [{namespaces}], target: 5}}
  by-queue: {{sql: \"SELECT count(*) AS {SQL} FROM jobs WHERE queue = $1\", max_age: 0s, parameters: {{queue: text}}}}
  grouped: {{sql: \"SELECT queue, count(*) AS {SQL} FROM jobs GROUP BY 1\", value_column: {SQL}, group_by: queue, \
            on_no_row: error, max_age: 0s}}
"
    )
}

async fn history(fixture: &Fixture, path: &str) -> Value {
    let body = admin::get(fixture.serving.admin, &format!("/api/triggers/{path}")).await;
    for canary in [SCALER_PASSWORD, SQL, VALUE, "SELECT", "127.0.0.1"] {
        assert!(!body.contains(canary), "it tells {canary}: {body}");
    }
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// The changes of each trigger of an object, each as short as can be.
fn changes(history: &Value) -> Vec<Vec<String>> {
    let short = |change: &Value| {
        let what = [&change["value"], &change["active"], &change["code"]].map(|what| match what {
            Value::Null => String::new(),
            Value::String(text) => format!(" {text}"),
            other => format!(" {other}"),
        });
        format!("{}{}", change["kind"].as_str().unwrap(), what.concat())
    };
    let of = |trigger: &Value| trigger["changes"].as_array().unwrap().iter().map(short).collect();
    history["triggers"].as_array().unwrap().iter().map(of).collect()
}

fn incidents(history: &Value) -> Vec<&str> {
    history["incidents"].as_array().unwrap().iter().map(|incident| incident["kind"].as_str().unwrap()).collect()
}

async fn poll(fixture: &Fixture, trigger: &clapometer::proto::ScaledObjectRef) -> Option<(f64, bool)> {
    let value = fixture.scaler.value(trigger).await.ok()?;
    Some((value, fixture.scaler.active(trigger).await.ok()?))
}

#[tokio::test]
async fn every_change_of_a_trigger_is_told_in_its_order() {
    let cluster = Cluster::private().await;
    let database: Database<'_> = jobs(&cluster).await;
    let proxy = Proxy::to_cluster(&cluster).await;
    let access = database.scaler().by_way_of(proxy.address()).yaml("claps");
    let fixture = Fixture::configured(&configuration(&access, "'*'")).await;
    let client = database.connect().await;
    let mailer = named(&trigger("jobs", &[]), "mailer");

    fixture.scaler.reaches(&mailer, 0.0, SOON).await;
    for _ in 0..3 {
        assert_eq!(poll(&fixture, &mailer).await, Some((0.0, false)));
    }
    add(&client).await;
    assert_eq!(poll(&fixture, &mailer).await, Some((1.0, true)));
    let wrong = named(&trigger("jobs", &[("divedBy", VALUE)]), "mailer");
    assert_eq!(fixture.scaler.refusal(&wrong).await.code(), Code::InvalidArgument);
    assert_eq!(poll(&fixture, &mailer).await, Some((1.0, true)));
    fixture.reload(&configuration(&access, "billing")).await;
    assert_eq!(fixture.scaler.refusal(&mailer).await.code(), Code::PermissionDenied);
    fixture.reload(&configuration(&access, "'*'")).await;
    fixture.scaler.reaches(&mailer, 1.0, SOON).await;
    assert_eq!(poll(&fixture, &mailer).await, Some((1.0, true)));
    proxy.set(Mode::Reset);
    fixture.scaler.refuses(&mailer, Code::Unavailable, SOON).await;
    proxy.set(Mode::Pass);
    fixture.scaler.reaches(&mailer, 1.0, OUTAGE).await;

    let told = history(&fixture, "default/mailer").await;
    let [mut answered, refused] = <[_; 2]>::try_from(changes(&told)).unwrap();
    assert!(answered.iter().any(|change| change == "no_value Unavailable"), "{answered:?}");
    // The first answers and an outage may have several errors, each with a text of its own.
    answered.retain(|change| !change.starts_with("no_"));
    let news = ["value 1", "activity true"];
    assert_eq!(answered, [&["value 0", "activity false"][..], &news, &news, &news, &news[..1]].concat());
    assert_eq!(refused, ["metadata", "refusal InvalidArgument", "refusal PermissionDenied"]);
    let mut happened = incidents(&told);
    happened.dedup();
    assert!(happened.ends_with(&["reload", "database_down", "database_up"]), "{happened:?}");
    let first = &told["triggers"][0];
    assert_eq!(
        (&first["query"], &first["databases"], &first["target"]),
        (&"jobs".into(), &vec!["claps"].into(), &5.into())
    );
    assert_eq!(first["is_silent"], false);
    let text = told["triggers"].to_string();
    assert!(text.contains("divedBy: unknown key; did you mean divideBy?"), "{text}");
    assert!(text.contains(r#""keys":"1 new key""#), "{text}");
}

#[tokio::test]
async fn an_outage_that_a_reload_ends_has_its_end_and_is_no_part_of_the_next_one() {
    let database = jobs(Cluster::shared().await).await;
    let access = database.scaler();
    let wrong = access.clone().with_password("wrong").yaml("claps");
    let fixture = Fixture::configured(&configuration(&wrong, "'*'")).await;
    let mailer = named(&trigger("jobs", &[]), "mailer");
    fixture.scaler.refuses(&mailer, Code::Unavailable, SOON).await;
    assert_eq!(incidents(&history(&fixture, "default/mailer").await).last(), Some(&"database_down"));
    fixture.reload(&configuration(&access.yaml("claps"), "'*'")).await;
    fixture.scaler.reaches(&mailer, 0.0, OUTAGE).await;
    let told = history(&fixture, "default/mailer").await;
    let mut happened = incidents(&told);
    happened.retain(|kind| *kind != "reload");
    happened.dedup();
    assert_eq!(happened, ["database_down", "database_up"], "{told}");
}

#[tokio::test]
async fn neither_a_parameter_nor_the_key_of_a_group_is_told_and_each_trigger_is() {
    let database = jobs(Cluster::shared().await).await;
    let access = database.scaler().yaml("claps");
    let fixture = Fixture::configured(&configuration(&access, "'*'")).await;
    let by_queue = named(&trigger("by-queue", &[("param.queue", VALUE)]), "mailer");
    let grouped = named(&trigger("grouped", &[("param.queue", VALUE)]), "mailer");
    fixture.scaler.reaches(&by_queue, 0.0, SOON).await;
    assert_eq!(fixture.scaler.refusal(&grouped).await.code(), Code::FailedPrecondition);
    let told = history(&fixture, "default/mailer").await;
    let mut queries: Vec<&str> =
        told["triggers"].as_array().unwrap().iter().map(|trigger| trigger["query"].as_str().unwrap()).collect();
    queries.sort_unstable();
    assert_eq!(queries, ["by-queue", "grouped"]);
    assert!(changes(&told).concat().contains(&"no_value FailedPrecondition".to_owned()));
}

#[tokio::test]
async fn a_stream_is_told_and_an_object_that_never_asked_has_no_trigger() {
    let database = jobs(Cluster::shared().await).await;
    let access = database.scaler().yaml("claps");
    let fixture = Fixture::configured(&configuration(&access, "'*'")).await;
    let stream = fixture.follow(&named(&trigger("jobs", &[]), "pusher")).await;
    stream.says(&[false], SOON).await;
    let told = wait::first("the message is told", SOON, async || {
        let told = history(&fixture, "default/pusher").await;
        (changes(&told) == [["pushed false"]]).then_some(told)
    })
    .await;
    assert!(told["remembers_since"].as_str() >= told["started_at"].as_str());
    for (path, problem) in [
        ("default/nobody", None),
        ("nobody/pusher", None),
        ("default", Some("the path is")),
        ("default/pusher/more", Some("the path is")),
        ("default/pusher?at=yesterday", Some("RFC 3339")),
        ("default/pusher?since=-5", Some("seconds")),
    ] {
        let answer = history(&fixture, path).await;
        match problem {
            None => assert_eq!(answer["triggers"], Value::Array(Vec::new()), "{path}"),
            Some(problem) => assert!(answer["error"].as_str().is_some_and(|text| text.contains(problem)), "{answer}"),
        }
    }
    let past = history(&fixture, "default/pusher?at=2001-01-01T00:00:00%2B01:00").await;
    assert_eq!(past["at"], "2000-12-31T23:00:00Z");
    assert_eq!(past["triggers"][0]["changes"], Value::Array(Vec::new()));
}
