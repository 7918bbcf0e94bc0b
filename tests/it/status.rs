//! The state of everything over HTTP, as a person who was woken up sees it.

mod browser;

use std::time::Duration;

use clapometer::proto::ScaledObjectRef;
use futures_util::{StreamExt, future::join_all, stream};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tonic::Code;

use crate::{
    hostile::held::OtherClient,
    support::{
        admin,
        cluster::{Cluster, SCALER_PASSWORD},
        database::Database,
        fixture::{self, Fixture, SOON, jobs, named},
        grpc::{Scaler, trigger},
        proxy::{Mode, Proxy},
        wait,
    },
};

/// The texts that must not be shown: a part of the SQL, the value of a parameter, a key of a group, another value of
/// metadata.
const SQL: &str = "canary_of_the_sql";
const PARAMETER: &str = "canary-of-a-parameter";
const KEY: &str = "canary-of-a-key";
const VALUE: &str = "canary-of-a-value";

/// Time for an outage to be noticed and to end.
const OUTAGE: Duration = Duration::from_secs(15);

/// The bound of an answer beside a flood of pages; that of the contract is 2.5 s.
const FLOODED: Duration = Duration::from_millis(1_500);

const QUERIES: &str = "
  jobs: {sql: SELECT count(*) AS canary_of_the_sql FROM jobs, max_age: 0s}
  by-queue: {sql: 'SELECT count(*) AS canary_of_the_sql FROM jobs WHERE queue = $1', max_age: 0s, parameters: {queue: text}}
  grouped: {sql: 'SELECT queue, count(*) AS canary_of_the_sql FROM jobs GROUP BY 1', value_column: canary_of_the_sql, \
            group_by: queue, on_no_row: error, max_age: 0s}
  missing: {sql: SELECT count(*) FROM canary_of_the_sql, max_age: 0s}
";

async fn status(fixture: &Fixture) -> Value {
    let answer = admin::request(fixture.serving.admin, "GET", "/api/status").await;
    assert_eq!((answer.status(), answer.header("content-type")), (200, Some("application/json")), "{}", answer.head);
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body))
}

async fn page(fixture: &Fixture, path: &str) -> String {
    let answer = admin::request(fixture.serving.admin, "GET", path).await;
    assert_eq!(
        (answer.status(), answer.header("content-type")),
        (200, Some("text/html; charset=utf-8")),
        "{}",
        answer.head
    );
    answer.body
}

/// Returns the entry of a list with this name.
fn entry(status: &Value, list: &str, name: &str) -> Value {
    let entries = status[list].as_array().unwrap_or_else(|| panic!("no {list} in {status}"));
    let found = entries.iter().find(|entry| entry["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} among {list}: {entries:#?}")).clone()
}

/// Waits until the entry of a list with this name has these members.
async fn shows(fixture: &Fixture, list: &str, name: &str, members: Value) -> Value {
    let what = format!("{list}.{name} has {members}");
    wait::until(&what, OUTAGE, async || {
        let entry = entry(&status(fixture).await, list, name);
        let wanted = members.as_object().expect("members");
        if wanted.iter().all(|(key, value)| entry[key] == *value) { Ok(entry) } else { Err(entry.to_string()) }
    })
    .await
}

/// Returns the events with this word: what each is about, and whether it lasts.
async fn events(fixture: &Fixture, word: &str) -> Vec<(String, bool)> {
    let status = status(fixture).await;
    let events = status["events"].as_array().unwrap_or_else(|| panic!("no events in {status}"));
    let of_word = events.iter().filter(|event| event["word"] == word);
    let subject = |event: &Value| event["name"].as_str().or(event["database"].as_str()).unwrap_or_default().to_owned();
    of_word.map(|event| (subject(event), event["until"].is_null())).collect()
}

/// Looks for what must not be shown.
fn shows_nothing_secret(text: &str, database: &Database<'_>) {
    let access = database.scaler();
    for canary in
        [SQL, PARAMETER, KEY, VALUE, SCALER_PASSWORD, "SELECT", "127.0.0.1", "\"scaler\"", &access.dbname, "FROM jobs"]
    {
        assert!(!text.contains(canary), "{canary} is shown: {text}");
    }
}

#[tokio::test]
async fn what_is_answered_refused_and_failing_is_shown_as_it_changes() {
    let database = jobs(Cluster::shared().await).await;
    database.execute("INSERT INTO jobs DEFAULT VALUES").await;
    let fixture = Fixture::with(&database.scaler(), QUERIES).await;
    let before = status(&fixture).await;
    assert_eq!((&before["triggers"], &before["reloads"]), (&json!([]), &json!([])));
    let jobs = entry(&before, "queries", "jobs");
    assert_eq!(
        (&jobs["state"], &jobs["value"], &jobs["databases"]),
        (&json!("unread"), &json!(null), &json!(["claps"]))
    );

    let mailer = named(&trigger("jobs", &[]), "mailer");
    fixture.scaler.reaches(&mailer, 1.0, SOON).await;
    assert!(fixture.scaler.active(&mailer).await.unwrap());
    let answered = json!({"namespace": "default", "query": "jobs", "state": "answered", "value": 1, "active": true,
        "code": "OK", "error": null});
    shows(&fixture, "triggers", "mailer", answered.clone()).await;
    let jobs = shows(&fixture, "queries", "jobs", json!({"state": "good", "value": 1, "activity": 1})).await;
    let history = jobs["history"].as_array().unwrap();
    assert_eq!((history.len(), &history[59], &history[0]), (60, &json!(1), &json!(null)));
    assert!(jobs["statements"].as_u64() >= Some(1) && jobs["duration_seconds"].as_f64() < Some(2.5), "{jobs}");
    let up = json!({"state": "up", "role": "primary", "privileged": false, "breaker": "closed", "notifications": null});
    let claps = shows(&fixture, "databases", "claps", up).await;
    assert!(claps["statements"].as_u64() >= Some(1), "{claps}");

    // A misspelt key: refused until it is mended.
    let wrong = named(&trigger("jobs", &[("divedBy", VALUE)]), "mailer");
    assert_eq!(fixture.scaler.refusal(&wrong).await.code(), Code::InvalidArgument);
    let refused = json!({"state": "refused", "code": "InvalidArgument",
        "error": "divedBy: unknown key; did you mean divideBy?", "requests": {"InvalidArgument": 2, "OK": 2}});
    shows(&fixture, "triggers", "mailer", refused).await;
    assert_eq!(status(&fixture).await["triggers"][0]["name"], "mailer", "what needs a person comes first");
    fixture.scaler.reaches(&named(&trigger("jobs", &[("divideBy", "1")]), "mailer"), 1.0, SOON).await;
    shows(&fixture, "triggers", "mailer", json!({"state": "answered", "error": null, "code": "OK"})).await;

    // A query that fails, and everybody who asks for it.
    let lost = named(&trigger("missing", &[]), "lost");
    assert_eq!(fixture.scaler.refusal(&lost).await.code(), Code::FailedPrecondition);
    let text = "the database rejected the query (SQLSTATE 42P01)";
    shows(&fixture, "triggers", "lost", json!({"state": "failing", "code": "FailedPrecondition", "error": text})).await;
    shows(&fixture, "queries", "missing", json!({"state": "failing", "reason": "rejected", "error": text})).await;
    assert_eq!(status(&fixture).await["queries"][0]["name"], "missing");
    let events = status(&fixture).await["events"].to_string();
    assert!(events.contains("(SQLSTATE 42P01): a table or view was gone"), "{events}");

    // Values of parameters and keys are nowhere.
    let by_queue = named(&trigger("by-queue", &[("param.queue", PARAMETER)]), "by-queue");
    fixture.scaler.reaches(&by_queue, 0.0, SOON).await;
    shows(&fixture, "queries", "by-queue", json!({"state": "good", "value": null, "history": []})).await;
    let grouped = named(&trigger("grouped", &[("param.queue", KEY)]), "grouped");
    assert_eq!(fixture.scaler.refusal(&grouped).await.code(), Code::FailedPrecondition);
    shows(&fixture, "triggers", "grouped", json!({"state": "refused", "error": "the query returned no row"})).await;
    shows(&fixture, "queries", "grouped", json!({"state": "good", "value": null, "keys": 1})).await;
    shows_nothing_secret(&status(&fixture).await.to_string(), &database);
    let page = page(&fixture, "/").await;
    for text in ["1 query fails", "<bdi>default</bdi>/<bdi>grouped</bdi>", text, "the query returned no row", "1 key"] {
        assert!(page.contains(text), "{text} in {page}");
    }
    shows_nothing_secret(&page, &database);
}

#[tokio::test]
async fn metadata_that_changed_say_what_it_was_before_also_where_the_new_one_is_refused() {
    let database = jobs(Cluster::shared().await).await;
    let fixture = Fixture::with(&database.scaler(), QUERIES).await;
    let of_queue = |queue: &str| named(&trigger("by-queue", &[("param.queue", queue)]), "queue");
    let mailer = named(&trigger("jobs", &[]), "mailer");
    fixture.scaler.reaches(&of_queue(PARAMETER), 0.0, SOON).await;
    // One that is asked for as briefly as a poll takes may be one of several.
    wait::first("it was asked for in more than one poll", OUTAGE, async || {
        fixture.scaler.value(&mailer).await.expect("it is served");
        let history = admin::get(fixture.serving.admin, "/api/triggers/default/mailer").await;
        let history: Value = serde_json::from_str(&history).expect("JSON");
        let at = |what: &str| OffsetDateTime::parse(history["triggers"][0][what].as_str().unwrap(), &Rfc3339).unwrap();
        (at("last_asked_at") - at("first_asked_at") > Duration::from_secs(6)).then_some(())
    })
    .await;

    // A misspelt parameter.
    let wrong = named(&trigger("by-queue", &[("param.queu", VALUE)]), "queue");
    assert_eq!(fixture.scaler.refusal(&wrong).await.code(), Code::InvalidArgument);
    let row = shows(&fixture, "triggers", "queue", json!({"state": "refused"})).await;
    assert_eq!(row["changed"]["keys"], "param.queue, 1 new key", "{row}");
    let has_event = async |text: &str| {
        let status = status(&fixture).await;
        let events = status["events"].as_array().expect("events").iter().filter(|event| event["word"] == "changed");
        let mut texts = events.filter_map(|event| event["text"].as_str());
        if texts.any(|told| told == text) { Ok(()) } else { Err(status["events"].to_string()) }
    };
    wait::until("its event", SOON, async || has_event("the metadata changed: param.queue, 1 new key").await).await;

    // A misspelt query.
    let misspelt = named(&trigger("jbos", &[]), "mailer");
    assert_eq!(fixture.scaler.refusal(&misspelt).await.code(), Code::PermissionDenied);
    let text = "the query changed from jobs to jbos";
    wait::until("the event of another query", OUTAGE, async || has_event(text).await).await;
    let status = status(&fixture).await;
    let mut rows = status["triggers"].as_array().expect("triggers").iter();
    let row = rows.find(|row| row["query"] == "jbos").expect("it has a row");
    assert_eq!((&row["state"], &row["changed"]["numbers"]), (&json!("refused"), &json!("query jobs to jbos")));
    let page = page(&fixture, "/").await;
    assert!(page.contains(text) && page.contains(": query jobs to jbos</span>"), "{page}");
    for shown in [status.to_string(), page] {
        shows_nothing_secret(&shown, &database);
        assert!(!shown.contains("param.queu,"), "a key that nobody knows: {shown}");
    }
}

#[tokio::test]
async fn an_outage_is_shown_with_its_beginning_and_its_end() {
    let cluster = Cluster::private().await;
    let database = jobs(&cluster).await;
    let proxy = Proxy::to_cluster(&cluster).await;
    let fixture = Fixture::with(&database.scaler().by_way_of(proxy.address()), QUERIES).await;
    let mailer = named(&trigger("jobs", &[]), "mailer");
    fixture.scaler.reaches(&mailer, 0.0, SOON).await;
    shows(&fixture, "databases", "claps", json!({"state": "up", "breaker": "closed"})).await;

    proxy.set(Mode::Reset);
    for _ in 0..5 {
        assert!(fixture.scaler.value(&mailer).await.is_err());
    }
    let down = shows(&fixture, "databases", "claps", json!({"state": "down", "breaker": "open"})).await;
    assert!(down["error"].as_str().unwrap().starts_with("the "), "{down}");
    let failing = shows(&fixture, "triggers", "mailer", json!({"state": "failing", "code": "Unavailable"})).await;
    assert_eq!(failing["value"], Value::Null);
    shows(&fixture, "queries", "jobs", json!({"state": "failing"})).await;
    assert!(page(&fixture, "/").await.contains("1 database is down, 1 query fails, 1 trigger is failing</h2>"));
    assert!(events(&fixture, "failing").await.contains(&("mailer".to_owned(), true)), "it lasts");
    // It lasts from its beginning on, whatever the faults after the first.
    assert!(fixture.scaler.value(&mailer).await.is_err());
    let since = shows(&fixture, "triggers", "mailer", json!({"state": "failing"})).await["since"].clone();
    let near = |a: &Value, b: &Value| a.as_str().unwrap()[..17] == b.as_str().unwrap()[..17];
    assert!(near(&since, &failing["since"]), "{since} and {failing}");

    proxy.set(Mode::Pass);
    shows(&fixture, "databases", "claps", json!({"state": "up", "breaker": "closed", "error": null})).await;
    fixture.scaler.reaches(&mailer, 0.0, SOON).await;
    shows(&fixture, "triggers", "mailer", json!({"state": "answered", "value": 0})).await;
    shows(&fixture, "queries", "jobs", json!({"state": "good", "error": null})).await;
    assert!(page(&fixture, "/").await.contains("Nothing fails now. Changed lately: "));
    assert_eq!(events(&fixture, "down").await, [("claps".to_owned(), false)]);
    let failing = events(&fixture, "failing").await;
    assert!(
        !failing.is_empty() && failing.iter().all(|failing| *failing == ("mailer".to_owned(), false)),
        "{failing:?}"
    );
    shows_nothing_secret(&status(&fixture).await.to_string(), &database);
}

#[tokio::test]
async fn reloads_are_shown_with_their_faults_and_without_what_was_found() {
    let database = jobs(Cluster::shared().await).await;
    let good = fixture::configuration(&database.scaler(), QUERIES);
    let fixture = Fixture::configured(&good).await;
    fixture.reload(&format!("{good}  more: {{sql: SELECT 7}}\n")).await;
    let bad = good.replace("max_age: 0s}\n  missing: {", "max_age: 0s, on_null: nil}\n  missing: {target: 0, ");
    let bad = bad.replace("    user: scaler", &format!("    user: scaler\n    sslmode: {VALUE}"));
    let bad = bad.replace("SELECT count(*) FROM canary", "DELETE FROM canary");
    fixture.write(&bad);
    fixture.reaches_metric("clapometer_config_valid", "", 0.0, OUTAGE).await;
    let seen = status(&fixture).await;
    let (rejected, applied) = (&seen["reloads"][0], &seen["reloads"][1]);
    assert_eq!((&applied["result"], &applied["changed"]), (&json!("applied"), &json!("queries.more added")));
    let faults: Vec<&str> =
        rejected["faults"].as_array().unwrap().iter().map(|fault| fault.as_str().unwrap()).collect();
    let has = |wanted: &str| faults.iter().any(|fault| fault.contains(wanted));
    assert!(has("queries.missing.target: found 0, must be"), "{faults:#?}");
    assert!(has("databases.claps.sslmode: wrong; the log says how"), "{faults:#?}");
    assert!(faults.iter().all(|fault| fault.starts_with("line ")), "{faults:#?}");
    shows_nothing_secret(&seen.to_string(), &database);
    let page = page(&fixture, "/").await;
    assert!(page.contains("databases.claps.sslmode: wrong; the log says how"), "{page}");
    assert!(page.contains("The configuration on disk is rejected</h2>"), "{page}");
    shows_nothing_secret(&page, &database);
    let history = admin::get(fixture.serving.admin, "/api/triggers/default/nobody").await;
    assert!(history.contains("reload_rejected") && history.contains("queries.more added"), "{history}");
    shows_nothing_secret(&history, &database);
    fixture.reload(&good).await;
    assert_eq!(status(&fixture).await["reloads"][0]["result"], "applied");
}

#[tokio::test]
async fn two_thousand_triggers_with_hostile_names_are_all_there_and_made_up_ones_are_last() {
    let database = jobs(Cluster::shared().await).await;
    let fixture = Fixture::with(&database.scaler(), QUERIES).await;
    let hostile =
        ["</script><script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "a\u{202e}b\u{0}\n&amp;", "né"];
    let triggers: Vec<ScaledObjectRef> =
        (0..1_600).map(|number| named(&trigger("jobs", &[]), format!("{}{number}", hostile[number % 4]))).collect();
    for some in triggers.chunks(100) {
        assert!(join_all(some.iter().map(|trigger| fixture.scaler.active(trigger))).await.iter().all(Result::is_ok));
    }
    let known = named(&trigger("jobs", &[("nonsense", VALUE)]), "zzz-known");
    for _ in 0..2 {
        fixture.scaler.refusal(&known).await;
    }
    for number in 0..500 {
        let mut made_up = named(&trigger("jobs", &[(hostile[number % 4], VALUE)]), format!("{}{number}", hostile[1]));
        hostile[number % 3].clone_into(&mut made_up.namespace);
        assert!(fixture.scaler.active(&made_up).await.is_err());
    }
    let seen = status(&fixture).await;
    let shown = seen["triggers"].as_array().unwrap();
    assert!(shown.len() == 2_000, "{} triggers", shown.len());
    assert!(seen["untracked_requests"].as_u64() > Some(0), "{}", seen["untracked_requests"]);
    assert_eq!(shown[0]["name"], "zzz-known", "{}", shown[0]);
    for number in [0, 1, 2, 3, 1_599] {
        entry(&seen, "triggers", &format!("{}{number}", hostile[number % 4]));
    }
    shows_nothing_secret(&seen.to_string(), &database);

    let page = page(&fixture, "/").await;
    assert!(page.len() < 100 * 1024, "{} bytes", page.len());
    assert!(!page.contains("<img") && page.matches("<script>").count() == 1 && !page.contains('\0'), "{page}");
    assert!(page.contains("page 1 of 40") && page.contains("zzz-known"), "{page}");
    shows_nothing_secret(&page, &database);
    let found = self::page(&fixture, "/?find=N%C3%A91599&sort=name").await;
    assert!(found.contains("<bdi>n\u{e9}1599</bdi>") && !found.contains("page 1 of"), "{found}");
}

#[tokio::test]
async fn a_reload_that_changes_a_query_keeps_the_last_hour_of_its_value_and_marks_it() {
    let database = jobs(Cluster::shared().await).await;
    database.execute("INSERT INTO jobs (queue) VALUES ('a'), ('b'), ('c')").await;
    let good = fixture::configuration(&database.scaler(), QUERIES);
    let fixture = Fixture::configured(&good).await;
    let mailer = named(&trigger("jobs", &[]), "mailer");
    fixture.scaler.reaches(&mailer, 3.0, SOON).await;
    assert_eq!(shows(&fixture, "queries", "jobs", json!({"value": 3})).await["changed_at"], Value::Null);

    let wrong = good.replace("FROM jobs, max_age: 0s}", "FROM jobs WHERE queue = 'none', max_age: 0s}");
    fixture.reload(&format!("{wrong}  other: {{sql: SELECT 7, max_age: 0s}}\n")).await;
    fixture.scaler.reaches(&mailer, 0.0, SOON).await;
    fixture.scaler.reaches(&named(&trigger("other", &[]), "mailer"), 7.0, SOON).await;
    let changed = shows(&fixture, "queries", "jobs", json!({"value": 0})).await;
    let history = changed["history"].as_array().expect("a history");
    assert!(history.contains(&json!(3)) && changed["changed_at"].is_string(), "{changed}");
    let other = shows(&fixture, "queries", "other", json!({"value": 7, "changed_at": null})).await;
    assert!(!other["history"].as_array().expect("a history").contains(&json!(3)), "{other}");
    let page = page(&fixture, "/").await;
    assert!(page.contains("changed by a reload at ") && page.contains("stroke-dasharray"), "{page}");
    shows_nothing_secret(&page, &database);
}

#[tokio::test]
async fn calls_are_answered_beside_a_flood_of_pages() {
    let database = jobs(Cluster::shared().await).await;
    database.execute("INSERT INTO jobs (queue) VALUES ('a'), ('b'), ('c')").await;
    let fixture = Fixture::with(&database.scaler(), QUERIES).await;
    for some in (0..2_000).collect::<Vec<_>>().chunks(100) {
        let triggers = some.iter().map(|number| named(&trigger("jobs", &[]), format!("a-scaled-job-of-{number}")));
        let triggers: Vec<ScaledObjectRef> = triggers.collect();
        assert!(
            join_all(triggers.iter().map(|trigger| fixture.scaler.active(trigger))).await.iter().all(Result::is_ok)
        );
    }
    let (address, port) = (fixture.serving.grpc, fixture.serving.admin);
    let other = OtherClient::start(move || Scaler::at(address), named(&trigger("jobs", &[]), "a-scaled-job-of-7"));
    other.is_answered(1).await;
    let paths = ["/", "/api/status", "/", "/?sort=asked", "/", "/?find=scaled-job-of-7"];
    // One peer may have 256 connections.
    let loads = stream::iter((0..300).map(|number| admin::request(port, "GET", paths[number % paths.len()])));
    let answers = loads.buffer_unordered(200).collect::<Vec<_>>().await;
    other.is_answered(1).await;
    let slowest = other.slowest();
    other.end();
    assert!(slowest < FLOODED, "{slowest:?}");
    assert!(answers.iter().all(|answer| answer.status() == 200 && !answer.body.is_empty()));
}

#[tokio::test]
async fn it_is_read_with_get_and_head_and_nothing_else() {
    let database = jobs(Cluster::shared().await).await;
    let fixture = Fixture::with(&database.scaler(), QUERIES).await;
    let port = fixture.serving.admin;
    for path in ["/api/status", "/", "/?state=refused"] {
        let (get, head) = (admin::request(port, "GET", path).await, admin::request(port, "HEAD", path).await);
        assert_eq!((get.status(), head.status(), &*head.body), (200, 200, ""));
        assert_eq!(get.header("content-type"), head.header("content-type"));
        assert_eq!(get.header("cache-control"), Some("no-store"));
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            assert_eq!(admin::request(port, method, path).await.status(), 405, "{method}");
        }
    }
    let policy = admin::request(port, "HEAD", "/").await.header("content-security-policy").map(str::to_owned);
    assert!(policy.is_some_and(|policy| policy.starts_with("default-src 'none'; style-src 'sha256-")));
    let process = &status(&fixture).await["process"];
    assert_eq!(process["version"], env!("CARGO_PKG_VERSION"));
    assert!(process["started_at"].as_str() <= process["now"].as_str(), "{process}");
    assert!(!process["name"].as_str().unwrap().is_empty());
}
