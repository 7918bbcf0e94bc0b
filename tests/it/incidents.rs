//! "Why did it not scale at 03:12?" Incidents are made, and found from `/metrics` alone, from the log alone, from the
//! status page alone, and from `clapometer why` alone.

use std::{
    fs,
    time::{Duration, Instant},
};

use clapometer::proto::ScaledObjectRef;
use serde_json::Value;
use tonic::Code;

use crate::support::{
    admin,
    cluster::{Cluster, SCALER_PASSWORD},
    database::Database,
    executable::{Executable, Serving, log_lines},
    fixture::{self, Fixture, SOON, jobs, named},
    grpc::trigger,
    proxy::{Mode, Proxy},
    wait,
};

/// The texts that no line of the log and no metric may tell, beside password and address: a part of the SQL, and a
/// value of a trigger.
const SQL: &str = "canary_of_the_sql";
const VALUE: &str = "canary-of-a-value";

/// Time for what is seen soon, unless the machine is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time for an outage to be noticed and to end.
const OUTAGE: Duration = Duration::from_secs(15);

fn queries(namespaces: &str) -> String {
    format!(
        "queries:
  jobs: {{sql: SELECT count(*) AS {SQL} FROM jobs, max_age: 0s, namespaces: [{namespaces}]}}
  by-queue: {{sql: \"SELECT count(*) AS {SQL} FROM jobs WHERE queue = $1\", max_age: 0s, parameters: {{queue: text}}}}
  grouped: {{sql: \"SELECT queue, count(*) AS {SQL} FROM jobs GROUP BY 1\", value_column: {SQL}, group_by: queue, \
            on_no_row: error, max_age: 0s}}
"
    )
}

fn configuration(database: &str) -> String {
    format!("databases:\n{database}{}", queries("'*'"))
}

/// The lines of the log with this message.
fn lines(fixture: &Fixture, message: &str) -> Vec<Value> {
    let mut log = fixture.serving.process.log();
    log.retain(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message)));
    log
}

/// Waits for a line of the log with this message and these fields.
async fn told(fixture: &mut Fixture, message: &str, fields: &[(&str, &str)]) {
    let what = format!("{message} {fields:?}");
    let wanted = |line: &Value| {
        line["message"].as_str().is_some_and(|text| text.starts_with(message))
            && fields.iter().all(|(name, text)| line[*name].as_str().is_some_and(|field| field.contains(text)))
    };
    fixture.serving.process.logged(&what, OUTAGE, wanted).await;
}

/// Waits until the status names a problem of this subject, whose text or remedy has these words.
async fn shows(fixture: &Fixture, subject: &str, words: &str) {
    wait::until(&format!("{subject}: {words}"), PATIENCE, async || {
        let problems = problems(fixture).await;
        let has = |problem: &Value, member: &str| problem[member].as_str().is_some_and(|text| text.contains(words));
        let mut of_subject = problems.iter().filter(|problem| problem["subject"] == subject);
        let found = of_subject.any(|problem| has(problem, "text") || has(problem, "remedy"));
        if found { Ok(()) } else { Err(format!("{problems:#?}")) }
    })
    .await;
}

async fn problems(fixture: &Fixture) -> Vec<Value> {
    let status = admin::get(fixture.serving.admin, "/api/status").await;
    let status: Value = serde_json::from_str(&status).unwrap_or_else(|error| panic!("{error}: {status}"));
    status["problems"].as_array().unwrap_or_else(|| panic!("no problems in {status}")).clone()
}

/// Waits until `clapometer why` says these words of an object in the namespace `default`.
async fn why(fixture: &Fixture, name: &str, words: &str) {
    let (object, address) = (format!("default/{name}"), fixture.serving.admin.to_string());
    wait::until(&format!("why {object}: {words}"), PATIENCE, async || {
        let told = Executable::clapometer(["why", &object, "--admin-address", &address]).finish(PATIENCE).await.output;
        let flat = told.split_whitespace().collect::<Vec<_>>().join(" ");
        if flat.contains(words) { Ok(()) } else { Err(told) }
    })
    .await;
}

/// Returns the metric of the trigger `name` in the namespace `default`.
async fn of_trigger(fixture: &Fixture, metric: &str, name: &str, query: &str, code: Option<&str>) -> Option<f64> {
    let code = code.map(|code| format!(",code=\"{code}\"")).unwrap_or_default();
    let series = format!("{metric}{{namespace=\"default\",name=\"{name}\",query=\"{query}\"{code}}} ");
    let text = admin::get(fixture.serving.admin, "/metrics").await;
    text.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
}

/// Ends the process, and looks for what must not be told.
async fn tells_nothing_secret(serving: Serving, database: &Database<'_>) {
    let metrics = admin::get(serving.admin, "/metrics").await;
    let log = serving.process.terminate(SOON).await.errors;
    assert!(!log_lines(&log).is_empty());
    for canary in [SCALER_PASSWORD, SQL, VALUE, "pg_sleep", "SELECT", &database.scaler().dbname] {
        for (what, text) in [("a metric", &metrics), ("the log", &log)] {
            let line = text.lines().find(|line| line.contains(canary));
            assert!(line.is_none(), "{what} tells {canary}: {line:?}");
        }
    }
    assert!(!metrics.contains("127.0.0.1"), "a metric tells a host");
}

#[tokio::test]
async fn a_wrong_key_after_a_deployment_and_its_mending_are_seen_for_the_trigger() {
    let database = jobs(Cluster::shared().await).await;
    let mut fixture = Fixture::configured(&configuration(&database.scaler().yaml("claps"))).await;
    let right = named(&trigger("jobs", &[("divideBy", "1")]), "mailer");
    let wrong = named(&trigger("jobs", &[("divedBy", VALUE)]), "mailer");
    let requests = "clapometer_trigger_requests_total";

    fixture.scaler.reaches(&right, 0.0, SOON).await;
    assert!(fixture.scaler.value(&named(&right, "other")).await.is_ok());
    assert_eq!(of_trigger(&fixture, "clapometer_trigger_value", "mailer", "jobs", None).await, Some(0.0));
    assert_eq!(of_trigger(&fixture, "clapometer_trigger_target", "mailer", "jobs", None).await, Some(1.0));
    for _ in 0..3 {
        assert_eq!(fixture.scaler.refusal(&wrong).await.code(), Code::InvalidArgument);
    }
    assert!(of_trigger(&fixture, requests, "mailer", "jobs", Some("InvalidArgument")).await.is_some_and(|n| n >= 3.0));
    assert_eq!(of_trigger(&fixture, requests, "other", "jobs", Some("InvalidArgument")).await, None);
    let fields = [("namespace", "default"), ("name", "mailer"), ("query", "jobs"), ("code", "InvalidArgument")];
    told(&mut fixture, "a trigger is refused", &fields).await;
    told(&mut fixture, "a trigger is refused", &[("error", "divedBy: unknown key; did you mean divideBy?")]).await;
    assert_eq!(fixture.scaler.refusal(&named(&wrong, "clapometer-get")).await.code(), Code::InvalidArgument);
    assert_eq!(lines(&fixture, "a trigger is refused").len(), 1, "once for all polls, and not of a person who looks");
    let status = admin::get(fixture.serving.admin, "/api/status").await;
    assert!(status.contains("mailer") && !status.contains("clapometer-get"), "{status}");

    assert!(fixture.scaler.value(&named(&trigger("jobs", &[("divideBy", "2")]), "mailer")).await.is_ok());
    told(&mut fixture, "a trigger that was refused is answered again", &fields[..3]).await;
    assert!(of_trigger(&fixture, requests, "mailer", "jobs", Some("OK")).await.is_some_and(|n| n >= 2.0));
    tells_nothing_secret(fixture.serving, &database).await;
}

#[tokio::test]
async fn a_namespace_that_a_reload_forbids_and_a_query_that_nobody_has_are_seen_for_the_trigger() {
    let database = jobs(Cluster::shared().await).await;
    let access = database.scaler().yaml("claps");
    let mut fixture = Fixture::configured(&configuration(&access)).await;
    let mailer = named(&trigger("jobs", &[]), "mailer");
    fixture.scaler.reaches(&mailer, 0.0, SOON).await;
    fixture.reload(&format!("databases:\n{access}{}", queries("billing"))).await;
    told(&mut fixture, "configuration reloaded", &[("changed", "queries.jobs.namespaces ([*] to [billing])")]).await;
    let page = admin::get(fixture.serving.admin, "/").await;
    assert!(page.contains("Changed lately: the configuration"), "{page}");
    assert!(page.contains("changed queries.jobs.namespaces ([*] to [billing])"), "{page}");
    assert_eq!(fixture.scaler.refusal(&mailer).await.code(), Code::PermissionDenied);
    told(&mut fixture, "a trigger is refused", &[("name", "mailer"), ("code", "PermissionDenied")]).await;
    fixture.reload(&configuration(&access)).await;
    fixture.scaler.reaches(&mailer, 0.0, SOON).await;
    told(&mut fixture, "a trigger that was refused is answered again", &[("name", "mailer")]).await;

    // A misspelt name is shown, an SQL text is not.
    for (name, query) in [("typo", "jbos"), ("sql", &*format!("SELECT {SQL}"))] {
        let unknown = named(&trigger(query, &[]), name);
        assert_eq!(fixture.scaler.refusal(&unknown).await.code(), Code::PermissionDenied);
    }
    let denied = Some("PermissionDenied");
    let requests = "clapometer_trigger_requests_total";
    assert!(of_trigger(&fixture, requests, "typo", "jbos", denied).await.is_some());
    assert!(of_trigger(&fixture, requests, "sql", "invalid-trigger", denied).await.is_some());
    told(&mut fixture, "a trigger is refused", &[("name", "typo"), ("query", "jbos")]).await;
    fixture.scaler.reaches(&named(&mailer, "typo"), 0.0, SOON).await;
    told(&mut fixture, "a trigger that was refused is answered again", &[("name", "typo"), ("query", "jbos")]).await;
    tells_nothing_secret(fixture.serving, &database).await;
}

#[tokio::test]
async fn a_queue_without_a_row_is_seen_for_its_trigger_alone() {
    let database = jobs(Cluster::shared().await).await;
    database.execute("INSERT INTO jobs (queue) VALUES ('mail')").await;
    let mut fixture = Fixture::configured(&configuration(&database.scaler().yaml("claps"))).await;
    let mail = named(&trigger("grouped", &[("param.queue", "mail")]), "mail");
    let other = named(&trigger("grouped", &[("param.queue", VALUE)]), "other");
    fixture.scaler.reaches(&mail, 1.0, SOON).await;
    assert_eq!(fixture.scaler.refusal(&other).await.code(), Code::FailedPrecondition);
    let fields = [("name", "other"), ("code", "FailedPrecondition"), ("error", "no row")];
    told(&mut fixture, "a trigger is refused", &fields).await;
    assert_eq!(of_trigger(&fixture, "clapometer_trigger_value", "mail", "grouped", None).await, Some(1.0));
    assert_eq!(of_trigger(&fixture, "clapometer_trigger_value", "other", "grouped", None).await, None);
}

#[tokio::test]
async fn a_query_with_parameters_has_a_value_for_each_trigger_and_none_of_its_own() {
    let database = jobs(Cluster::shared().await).await;
    database.execute("INSERT INTO jobs (queue) VALUES ('mail'), ('mail'), ('pdf')").await;
    let fixture = Fixture::configured(&configuration(&database.scaler().yaml("claps"))).await;
    for (queue, value) in [("mail", 2.0), ("pdf", 1.0), ("none", 0.0)] {
        let of_queue = named(&trigger("by-queue", &[("param.queue", queue)]), queue);
        fixture.scaler.reaches(&of_queue, value, SOON).await;
        assert!(fixture.scaler.active(&of_queue).await.is_ok());
    }
    fixture.scaler.reaches(&trigger("jobs", &[]), 3.0, SOON).await;
    for (queue, value) in [("mail", 2.0), ("pdf", 1.0), ("none", 0.0)] {
        assert_eq!(of_trigger(&fixture, "clapometer_trigger_value", queue, "by-queue", None).await, Some(value));
        let is_active = f64::from(u8::from(value > 0.0));
        assert_eq!(of_trigger(&fixture, "clapometer_trigger_active", queue, "by-queue", None).await, Some(is_active));
    }
    assert_eq!(fixture.metric("clapometer_query_value", "query=\"jobs\"").await, Some(3.0));
    assert_eq!(fixture.metric("clapometer_query_value", "query=\"by-queue\"").await, None);
    assert_eq!(fixture.metric("clapometer_query_activity", "query=\"by-queue\"").await, None);
    // A failure is not the first that its counter has seen.
    let reasons = "query=\"jobs\",database=\"claps\",reason=\"rejected\"";
    assert_eq!(fixture.metric("clapometer_query_errors_total", reasons).await, Some(0.0));
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_known_at_the_start_and_each_change_of_the_cause_is_told() {
    let cluster = Cluster::private().await;
    let database = jobs(&cluster).await;
    let proxy = Proxy::to_cluster(&cluster).await;
    proxy.set(Mode::Reset);
    let access = database.scaler().by_way_of(proxy.address());
    let mut fixture = Fixture::configured(&configuration(&access.yaml("claps"))).await;
    told(&mut fixture, "configuration in force", &[("databases", "claps"), ("queries", "by-queue, grouped, jobs")])
        .await;
    told(&mut fixture, "database fails", &[("database", "claps"), ("reason", "unreachable")]).await;
    fixture.reaches_metric("clapometer_database_up", "database=\"claps\"", 0.0, OUTAGE).await;
    // The calls of a trigger open the breaker, and from then on the database is probed.
    for _ in 0..5 {
        assert!(fixture.scaler.value(&trigger("jobs", &[])).await.is_err());
    }
    fixture.reaches_metric("clapometer_database_breaker_open", "database=\"claps\"", 1.0, OUTAGE).await;

    database.execute("ALTER ROLE scaler PASSWORD 'rotated-and-not-told'").await;
    proxy.set(Mode::Pass);
    told(&mut fixture, "database still fails", &[("error", "password authentication failed")]).await;
    shows(&fixture, "database claps", "refuses the password").await;
    why(&fixture, "claps", ". The server refuses the password").await;
    database.execute(&format!("ALTER ROLE scaler NOLOGIN PASSWORD '{SCALER_PASSWORD}'")).await;
    told(&mut fixture, "database still fails", &[("error", "not permitted to log in")]).await;
    shows(&fixture, "database claps", "The role may not log in").await;
    database.execute("ALTER ROLE scaler LOGIN").await;
    told(&mut fixture, "database answers again", &[("database", "claps")]).await;
    fixture.reaches_metric("clapometer_database_up", "database=\"claps\"", 1.0, OUTAGE).await;
    let failures = fixture.metric("clapometer_database_failures_total", "database=\"claps\"").await;
    assert!(failures.is_some_and(|failures| failures >= 3.0));
    let told = fixture.serving.process.log().len();
    assert!(told < 20, "{told} lines for one outage");
}

#[tokio::test]
async fn a_query_that_gets_slow_and_then_breaks_is_told_with_each_cause() {
    let database = jobs(Cluster::shared().await).await;
    let access = database.scaler().yaml("claps");
    let slow = format!("{}  view: {{sql: SELECT n FROM depth, max_age: 0s, timeout: 100ms}}\n", queries("'*'"));
    database.execute("CREATE VIEW depth AS SELECT count(*) AS n FROM jobs; GRANT SELECT ON depth TO scaler").await;
    let mut fixture = Fixture::configured(&format!("databases:\n{access}{slow}")).await;
    let mailer = named(&trigger("view", &[]), "mailer");
    fixture.scaler.reaches(&mailer, 0.0, SOON).await;

    database.execute("CREATE OR REPLACE VIEW depth AS SELECT count(*) AS n FROM jobs, pg_sleep(30)").await;
    fixture.scaler.refuses(&mailer, Code::DeadlineExceeded, SOON).await;
    told(&mut fixture, "query fails", &[("query", "view"), ("reason", "statement_timeout")]).await;
    database.execute("REVOKE SELECT ON depth FROM scaler").await;
    fixture.scaler.refuses(&mailer, Code::FailedPrecondition, SOON).await;
    told(&mut fixture, "query still fails", &[("reason", "rejected"), ("error", "permission denied")]).await;
    shows(&fixture, "query view", "GRANT SELECT").await;
    why(&fixture, "mailer", "A grant is missing").await;
    for reason in ["statement_timeout", "rejected"] {
        let labels = format!("query=\"view\",database=\"claps\",reason=\"{reason}\"");
        assert!(fixture.metric("clapometer_query_errors_total", &labels).await.is_some_and(|errors| errors >= 1.0));
    }
    let requests = "clapometer_trigger_requests_total";
    assert!(of_trigger(&fixture, requests, "mailer", "view", Some("DeadlineExceeded")).await.is_some());
    assert_eq!(of_trigger(&fixture, "clapometer_trigger_value", "mailer", "view", None).await, None);

    database
        .execute("CREATE OR REPLACE VIEW depth AS SELECT count(*) AS n FROM jobs; GRANT SELECT ON depth TO scaler")
        .await;
    fixture.scaler.reaches(&mailer, 0.0, SOON).await;
    told(&mut fixture, "query answers again", &[("query", "view")]).await;
    tells_nothing_secret(fixture.serving, &database).await;
}

#[tokio::test]
async fn changes_that_no_notification_announces_are_told_once_and_so_is_the_first_that_one_does() {
    let database = jobs(Cluster::shared().await).await;
    let access = database.scaler().yaml("claps");
    let query = "  jobs: {sql: SELECT count(*) FROM jobs, max_age: 1m, notify: {channel: jobs, resync: 1s}}";
    let fixture = Fixture::configured(&format!("databases:\n{access}queries:\n{query}\n")).await;
    let mailer = named(&trigger("jobs", &[]), "mailer");
    fixture.scaler.reaches(&mailer, 0.0, SOON).await;
    fixture.reaches_metric("clapometer_listen_up", "database=\"claps\"", 1.0, PATIENCE).await;
    database.execute("DROP TRIGGER tell ON jobs").await;
    let insert = "INSERT INTO jobs (queue) VALUES ('mails')";
    let change = async |fixture: &Fixture, statement: &str, message: &str| {
        wait::first(message, PATIENCE, async || {
            database.execute(statement).await;
            drop(fixture.scaler.value(&mailer).await);
            (!lines(fixture, message).is_empty()).then_some(())
        })
        .await;
    };
    change(&fixture, insert, "a change came without a notification").await;
    shows(&fixture, "query jobs", "clapometer notify-sql").await;
    why(&fixture, "mailer", "is the NOTIFY trigger of the table gone or disabled?").await;
    let counted = fixture.metric("clapometer_query_unannounced_changes_total", "query=\"jobs\"").await;
    assert!(counted.is_some_and(|changes| changes >= 1.0), "{counted:?}");

    change(&fixture, &format!("BEGIN; {insert}; NOTIFY jobs; COMMIT"), "changes are announced by notifications again")
        .await;
    wait::first("the problem is gone", PATIENCE, async || problems(&fixture).await.is_empty().then_some(())).await;
    assert_eq!(lines(&fixture, "a change came without a notification").len(), 1);
}

#[tokio::test]
async fn another_search_path_of_the_role_is_told() {
    let database = jobs(Cluster::shared().await).await;
    let mut fixture = Fixture::configured(&configuration(&database.scaler().yaml("claps"))).await;
    let mailer = named(&trigger("jobs", &[]), "mailer");
    database.execute("INSERT INTO jobs (queue) VALUES ('mails')").await;
    fixture.scaler.reaches(&mailer, 1.0, SOON).await;
    database
        .execute(
            "CREATE SCHEMA archive; CREATE TABLE archive.jobs (LIKE jobs); GRANT USAGE ON SCHEMA archive TO scaler;
             GRANT SELECT ON archive.jobs TO scaler;
             DO $$BEGIN
               EXECUTE format('ALTER ROLE scaler IN DATABASE %I SET search_path = archive, public', current_database());
             END$$;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'scaler'",
        )
        .await;
    fixture.scaler.reaches(&mailer, 0.0, PATIENCE).await;
    told(&mut fixture, "the search_path of the role has changed", &[("database", "claps")]).await;
    shows(&fixture, "database claps", "names of tables may mean others").await;
    why(&fixture, "mailer", "The search_path of the role in claps changed").await;
    let changed_at =
        fixture.metric("clapometer_database_search_path_changed_timestamp_seconds", "database=\"claps\"").await;
    assert!(changed_at.is_some_and(|at| at > 0.0), "{changed_at:?}");
    tells_nothing_secret(fixture.serving, &database).await;
}

#[tokio::test]
async fn a_pool_that_one_query_keeps_busy_is_told_with_the_query() {
    let database = jobs(Cluster::shared().await).await;
    let access = database.scaler().with("pool_size", 1).yaml("claps");
    let queries = "queries:
  jobs: {sql: SELECT count(*) FROM jobs, max_age: 0s}
  ledger: {sql: 'SELECT $1 FROM pg_sleep(1.2)', max_age: 0s, parameters: {number: bigint}}
";
    let mut fixture = Fixture::configured(&format!("databases:\n{access}{queries}")).await;
    let mailer = named(&trigger("jobs", &[]), "mailer");
    fixture.scaler.reaches(&mailer, 0.0, SOON).await;
    let ledgers: Vec<ScaledObjectRef> =
        (1..=4_u8).map(|number| named(&trigger("ledger", &[("param.number", &number.to_string())]), number)).collect();
    let message = "readings wait for a connection:";
    wait::first(message, 4 * PATIENCE, async || {
        drop(futures_util::future::join_all(ledgers.iter().map(|ledger| fixture.scaler.value(ledger))).await);
        (!lines(&fixture, message).is_empty()).then_some(())
    })
    .await;
    told(&mut fixture, message, &[("database", "claps"), ("held_by", "ledger")]).await;
    shows(&fixture, "database claps", "readings wait for a connection").await;
    fixture.scaler.reaches(&mailer, 0.0, PATIENCE).await;
    why(&fixture, "mailer", "most of the time they are held by ledger").await;
    assert_eq!(lines(&fixture, message).len(), 1, "once, however many wait");
    tells_nothing_secret(fixture.serving, &database).await;
}

#[tokio::test]
async fn a_file_that_gets_broken_is_told_and_so_is_its_mending() {
    let database = jobs(Cluster::shared().await).await;
    let good = configuration(&database.scaler().yaml("claps"));
    let mut fixture = Fixture::configured(&good).await;
    fixture.reaches_metric("clapometer_config_reloads_total", "result=\"rejected\"", 0.0, SOON).await;
    fixture.write(&good.replace("max_age: 0s", "max_age: 0sec"));
    told(&mut fixture, "configuration not reloaded", &[("problem", "queries.jobs.max_age")]).await;
    shows(&fixture, "configuration", "queries.jobs.max_age").await;
    fixture.reaches_metric("clapometer_config_valid", "", 0.0, SOON).await;
    fixture.write(&format!("{good}  - {VALUE}: {VALUE}: {VALUE}\n"));
    shows(&fixture, "configuration", "the file cannot be read as YAML: look there, and just before").await;
    let status = admin::get(fixture.serving.admin, "/api/status").await;
    assert!(!status.contains(VALUE), "{status}");
    fixture.reload(&format!("{good}  more: {{sql: SELECT 7}}\n")).await;
    told(&mut fixture, "configuration reloaded", &[("changed", "queries.more added")]).await;
    fixture.reaches_metric("clapometer_config_valid", "", 1.0, SOON).await;
}

#[tokio::test]
async fn a_query_file_that_gets_broken_is_shown_until_it_is_mended_whatever_else_is_reloaded() {
    let database = jobs(Cluster::shared().await).await;
    let main = format!("queries_from: {{path: teams}}\n{}", configuration(&database.scaler().yaml("claps")));
    let good = "queries:\n  invoices: {sql: SELECT 7, max_age: 0s}\n";
    let executable = Executable::serve(&main);
    fs::create_dir(executable.directory().join("teams")).expect("the directory is ours");
    let mut fixture = Fixture::start(executable.file("teams/billing.yaml", good)).await;
    let invoices = named(&trigger("invoices", &[]), "invoices");
    fixture.scaler.reaches(&invoices, 7.0, SOON).await;
    assert_eq!(problems(&fixture).await, Vec::<Value>::new());

    fixture::write(&fixture.serving.process, "teams/billing.yaml", &good.replace("0s", "0sec"));
    told(&mut fixture, "query file refused", &[("problem", "queries.invoices.max_age")]).await;
    shows(&fixture, "query file billing.yaml", "queries.invoices.max_age").await;
    why(&fixture, "invoices", "queries.invoices.max_age").await;
    fixture.reload(&format!("{main}  more: {{sql: SELECT 8}}\n")).await;
    shows(&fixture, "query file billing.yaml", "queries.invoices.max_age").await;
    why(&fixture, "invoices", "the configuration was reloaded: queries.more added").await;
    fixture::write(&fixture.serving.process, "teams/billing.yaml", &format!("{good}\tmore: {VALUE}\n"));
    shows(&fixture, "query file billing.yaml", "the file cannot be read as YAML: look there, and just before").await;
    why(&fixture, "invoices", "line 3: the file cannot be read as YAML").await;

    fixture::write(&fixture.serving.process, "teams/billing.yaml", good);
    wait::first("the problem is gone", PATIENCE, async || problems(&fixture).await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_misspelt_key_and_a_query_that_outlasts_calls_are_told() {
    let database = jobs(Cluster::shared().await).await;
    let access = database.scaler().yaml("claps");
    let queries = "queries:
  by-key: {sql: 'SELECT queue, count(*) AS n FROM jobs GROUP BY 1', value_column: n, group_by: queue, max_age: 0s}
  slow: {sql: 'SELECT 7 FROM pg_sleep(3)', timeout: 30s, max_age: 0s}
";
    let mut fixture = Fixture::configured(&format!("databases:\n{access}{queries}")).await;
    let typo = named(&trigger("by-key", &[("param.queue", VALUE)]), "typo");
    fixture.scaler.reaches(&typo, 0.0, SOON).await;
    shows(&fixture, "query by-key", "counts as zero").await;
    why(&fixture, "typo", "is the trigger's key spelt right?").await;
    assert!(!admin::get(fixture.serving.admin, "/").await.contains(VALUE), "the page tells a key");

    let slow = named(&trigger("slow", &[]), "slow");
    assert_eq!(fixture.scaler.refusal(&slow).await.code(), Code::DeadlineExceeded);
    shows(&fixture, "trigger default/slow, query slow", "raise `max_age`").await;
    why(&fixture, "slow", "raise `max_age`").await;
    let is_told = |line: &Value| line["query"] == "slow" && line["took"].is_string();
    fixture.serving.process.logged("that it takes long", PATIENCE, is_told).await;
}

#[tokio::test]
async fn made_up_names_fill_neither_the_metrics_nor_the_log() {
    let database = jobs(Cluster::shared().await).await;
    let fixture = Fixture::configured(&configuration(&database.scaler().yaml("claps"))).await;
    let mailer = named(&trigger("jobs", &[]), "mailer");
    fixture.scaler.reaches(&mailer, 0.0, SOON).await;
    let began = Instant::now();
    let made_up: Vec<ScaledObjectRef> = (0..3_000).map(|number| named(&trigger("nothing", &[]), number)).collect();
    for some in made_up.chunks(100) {
        let refused = futures_util::future::join_all(some.iter().map(|trigger| fixture.scaler.value(trigger))).await;
        assert!(refused.iter().all(Result::is_err));
    }
    let text = admin::get(fixture.serving.admin, "/metrics").await;
    let count = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(count("clapometer_trigger_last_request_timestamp_seconds{"), 501);
    assert!(admin::metric(fixture.serving.admin, "clapometer_triggers_untracked_total").await >= 2_500.0);
    assert_eq!(of_trigger(&fixture, "clapometer_trigger_value", "mailer", "jobs", None).await, Some(0.0));
    let (single, counted) = ("a trigger is refused", "more requests were refused than are logged one by one");
    wait::eventually("the log counts refusals", SOON, || fixture.logged(counted) > 0).await;
    let (singles, counts) = (fixture.logged(single), fixture.logged(counted));
    let minutes = 1 + usize::try_from(began.elapsed().as_secs() / 60).unwrap();
    assert!((100..=100 * minutes).contains(&singles), "{singles} lines in {minutes} minutes");
    assert!(counts <= minutes, "{counts} lines in {minutes} minutes");
}

#[tokio::test]
async fn lost_notifications_are_told_and_shown() {
    let cluster = Cluster::private().await;
    let database = jobs(&cluster).await;
    let proxy = Proxy::to_cluster(&cluster).await;
    let access = database.scaler();
    let listening = access.clone().with("listen_host", "127.0.0.1").with("listen_port", proxy.address().port());
    let mut fixture = Fixture::listening(&listening).await;
    let _stream = fixture.follow(&trigger("jobs", &[])).await;
    proxy.set(Mode::Reset);
    told(&mut fixture, "notifications do not arrive", &[("database", "claps"), ("reason", "closed")]).await;
    fixture.reaches_metric("clapometer_listen_up", "database=\"claps\"", 0.0, OUTAGE).await;
    let refused = "database=\"claps\",reason=\"unreachable\"";
    fixture.reaches_metric("clapometer_listen_failure", refused, 1.0, OUTAGE).await;
    fixture.scaler.reaches(&trigger("jobs", &[]), 0.0, SOON).await;
    proxy.set(Mode::Pass);
    told(&mut fixture, "notifications arrive again", &[("database", "claps")]).await;
    fixture.reaches_metric("clapometer_listen_up", "database=\"claps\"", 1.0, OUTAGE).await;
    assert_eq!(fixture.metric("clapometer_listen_failure", refused).await, None);
    why(&fixture, "claps", "notifications of claps did not arrive any more (closed)").await;
}

#[tokio::test]
async fn a_process_that_stood_still_says_so() {
    let database = jobs(Cluster::shared().await).await;
    let mut fixture = Fixture::configured(&configuration(&database.scaler().yaml("claps"))).await;
    let mailer = named(&trigger("jobs", &[]), "mailer");
    fixture.scaler.reaches(&mailer, 0.0, SOON).await;
    assert_eq!(fixture.metric("clapometer_standstill_seconds_total", "").await, Some(0.0));
    why(&fixture, "mailer", "the process started").await;

    fixture.serving.process.signal(rustix::process::Signal::STOP);
    // This is the standstill, and not a wait for anything.
    tokio::time::sleep(Duration::from_secs(5)).await;
    fixture.serving.process.signal(rustix::process::Signal::CONT);
    let message = "the process stood still";
    told(&mut fixture, message, &[("lasted", "s")]).await;
    assert!(fixture.metric("clapometer_standstill_seconds_total", "").await.is_some_and(|seconds| seconds >= 4.0));
    why(&fixture, "mailer", "The process itself stood still for").await;
    why(&fixture, "mailer", "the process had stood still for").await;
    let page = admin::get(fixture.serving.admin, "/").await;
    assert!(page.contains("this process stood still") && page.contains("this process started"), "{page}");
    fixture.scaler.reaches(&mailer, 0.0, SOON).await;
    tells_nothing_secret(fixture.serving, &database).await;
}

#[tokio::test]
async fn a_quiet_day_is_a_page_of_log() {
    let database = jobs(Cluster::shared().await).await;
    let configuration = configuration(&database.scaler().yaml("claps"));
    let serving = Executable::serve(&configuration).serving().await;
    let fixture = Fixture { scaler: crate::support::grpc::Scaler::at(serving.grpc), serving };
    for round in 0..200 {
        for name in ["a", "b", "c"] {
            let of_queue = named(&trigger("by-queue", &[("param.queue", name)]), name);
            fixture.scaler.reaches(&of_queue, 0.0, SOON).await;
            assert_eq!(fixture.scaler.active(&of_queue).await.ok(), Some(false), "round {round}");
        }
    }
    wait::first("the metrics", SOON, async || {
        of_trigger(&fixture, "clapometer_trigger_requests_total", "a", "by-queue", Some("OK"))
            .await
            .filter(|n| *n >= 400.0)
    })
    .await;
    let log = fixture.serving.process.log();
    assert!(log.len() <= 5, "{log:#?}");
}
