//! Presets: what each state of each library's rows counts as, on tables with the library's documented columns.
//!
//! A table of states is a case for each: rows in a queue of their own, and what the real executable makes of them.

mod apalis;
mod good_job;
mod graphile_worker;
mod init;
mod oban;
mod pg_boss;
mod pgmq;
mod postgres_batch;
mod procrastinate;
mod que;
mod river;
mod solid_queue;

use std::time::Duration;

use clapometer::reading::stalled_rows;
use serde_json::Value as Json;
use tonic::Code;

use crate::support::{
    admin,
    cluster::Cluster,
    database::Database,
    executable::Executable,
    fixture::{Fixture, SOON, configuration},
    grpc::trigger,
    wait,
};

/// A library's tables, and how the tests make rows.
struct Library {
    preset: &'static str,
    /// Tables with the library's columns.
    tables: &'static str,
    /// The schema of the tables.
    schema: &'static str,
    /// The way in which a query picks the rows of a case.
    picks: Picks,
    /// Inserts one row that can be claimed two seconds from now into the queue `later`.
    later: &'static str,
    /// Makes a state that the preset does not know, and a row in it in the queue `odd`; absent where rows have no
    /// column for their state.
    unknown: Option<&'static str>,
    /// Takes away a column that the preset needs.
    cripple: &'static str,
}

/// A way in which a query picks rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Picks {
    /// By `queue`, which may be left out.
    Queue,
    /// By `queue`, which is a table.
    Table,
    /// By the only one of `tasks`.
    Task,
}

/// One state: rows in a queue of this name, and what they count as.
struct Case {
    queue: &'static str,
    rows: &'static str,
    claimable: u32,
    held: u32,
    stalled: u32,
    /// Claimable for long-lived workers, stalled for others.
    rescued: u32,
}

/// A case whose rows count as nothing.
const fn neither(queue: &'static str, rows: &'static str) -> Case {
    Case { queue, rows, claimable: 0, held: 0, stalled: 0, rescued: 0 }
}

const fn claimable(queue: &'static str, rows: &'static str, claimable: u32) -> Case {
    Case { claimable, ..neither(queue, rows) }
}

const fn held(queue: &'static str, rows: &'static str, held: u32) -> Case {
    Case { held, ..neither(queue, rows) }
}

const fn stalled(queue: &'static str, rows: &'static str, stalled: u32) -> Case {
    Case { stalled, ..neither(queue, rows) }
}

const fn rescued(queue: &'static str, rows: &'static str, rescued: u32) -> Case {
    Case { rescued, ..neither(queue, rows) }
}

impl Library {
    async fn database<'c>(&self, cluster: &'c Cluster) -> Database<'c> {
        let database = Database::empty(cluster).await;
        let schema = self.schema;
        let grants = format!(
            "GRANT USAGE ON SCHEMA {schema} TO scaler; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO scaler;
             ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO scaler;"
        );
        database.execute(&format!("{};{grants}", self.tables.trim_end().trim_end_matches(';'))).await;
        database
    }

    /// A query of this preset with more keys.
    fn query(&self, name: &str, keys: &str) -> String {
        format!("\n  {name}: {{preset: {}{keys}}}", self.preset)
    }

    /// The option that picks the rows of a case.
    fn picking(&self, case: &str) -> String {
        match self.picks {
            Picks::Queue | Picks::Table => format!(", queue: {case}"),
            Picks::Task => format!(", tasks: [{case}]"),
        }
    }

    /// A query of all queues, where there can be one.
    fn all(&self, keys: &str) -> String {
        if self.picks == Picks::Queue { self.query("all", keys) } else { String::new() }
    }

    /// Checks a table of states, each with its own queue given and with all queues at once.
    async fn states(&self, cases: &[Case]) {
        let database = self.database(Cluster::shared().await).await;
        let mut queries = String::new();
        for Case { queue, rows, .. } in cases {
            database.execute(rows).await;
            for workers in ["long-lived", "one-row"] {
                let keys = format!("{}, workers: {workers}", self.picking(queue));
                queries += &self.query(&format!("{queue}.{workers}"), &keys);
            }
        }
        queries += &self.all(", workers: long-lived");
        let configuration = configuration(&database.scaler(), &format!("{queries}\n"));
        let document = check(&configuration, 0).await;
        let mut wrong = Vec::new();
        for Case { queue, claimable, held, stalled, rescued, .. } in cases {
            let expected = [claimable + held + rescued, claimable + held + rescued, *stalled];
            let found = numbers(&document, &format!("{queue}.long-lived"));
            wrong.extend((found != expected).then(|| format!("{queue}, long-lived: {found:?}, not {expected:?}")));
            let expected = [claimable + held, *claimable, stalled + rescued];
            let found = numbers(&document, &format!("{queue}.one-row"));
            wrong.extend((found != expected).then(|| format!("{queue}, one-row: {found:?}, not {expected:?}")));
        }
        assert!(wrong.is_empty(), "value, activity, stalled:\n{}", wrong.join("\n"));

        if self.picks != Picks::Queue {
            return;
        }
        let fixture = Fixture::configured(&configuration).await;
        for Case { queue, claimable, held, rescued, .. } in cases {
            let all = trigger("all", &[("param.queue", queue)]);
            assert_eq!(fixture.scaler.value(&all).await.unwrap(), f64::from(claimable + held + rescued), "{queue}");
        }
        let stalled: u32 = cases.iter().map(|case| case.stalled).sum();
        let found = fixture.metric("clapometer_query_stalled", "query=\"all\"").await;
        assert_eq!(found, Some(f64::from(stalled)));
        self.tells_stalled_rows(&fixture, stalled).await;
    }

    /// Looks for stalled rows where somebody looks whose Jobs do not start.
    async fn tells_stalled_rows(&self, fixture: &Fixture, stalled: u32) {
        let status: Json = serde_json::from_str(&admin::get(fixture.serving.admin, "/api/status").await).unwrap();
        let problems = status["problems"].as_array().unwrap().iter();
        let texts: Vec<_> = problems.filter(|problem| problem["word"] == "stalled").map(|one| &one["text"]).collect();
        let history = admin::get(fixture.serving.admin, "/api/triggers/default/claps").await;
        let history: Json = serde_json::from_str(&history).unwrap();
        let told = "rows are stalled: no worker gets them, and they are not counted";
        if stalled == 0 {
            assert!(texts.is_empty(), "{texts:?}");
            assert_eq!((&history["triggers"][0]["stalled"], fixture.logged(told)), (&Json::Null, 0));
            return;
        }
        let text = format!("{}, and counted in neither number: no worker gets them", stalled_rows(stalled.into()));
        assert_eq!(texts, [&text]);
        assert_eq!(history["triggers"][0]["stalled"]["rows"], stalled, "{history:#}");
        wait::first("the log says so", Duration::from_secs(60), async || (fixture.logged(told) > 0).then_some(()))
            .await;
        assert_eq!(fixture.logged(told), 1);
    }

    /// Checks what holds for every library.
    async fn behaves(&self) {
        let database = self.database(Cluster::shared().await).await;
        let queries =
            self.query("later", &format!("{}, max_age: 1m", self.picking("later"))) + &self.all(", max_age: 1m");
        let unseen = if self.picks == Picks::Queue { self.query("unseen", ", queue: never") } else { String::new() };
        let configuration = configuration(&database.scaler(), &format!("{queries}{unseen}\n"));
        let fixture = Fixture::configured(&configuration).await;
        let (later, all) = (trigger("later", &[]), trigger("all", &[("param.queue", "later")]));
        database.execute(self.later).await;
        assert_eq!(fixture.scaler.value(&later).await.unwrap(), 0.0, "it is not due yet");
        fixture.scaler.reaches(&later, 1.0, SOON).await;
        if self.picks == Picks::Queue {
            fixture.scaler.reaches(&all, 1.0, SOON).await;
            assert_eq!(fixture.scaler.value(&trigger("unseen", &[])).await.unwrap(), 0.0);
            let document = check(&configuration, 0).await;
            let warned = |query: &str| warnings(&document, query).iter().any(|text| text.contains("never been seen"));
            assert!(warned("unseen") && !warned("later"), "{document:#}");
        }
        drop(fixture);

        if let Some(unknown) = self.unknown {
            database.execute(unknown).await;
            self.is_refused(&database, "odd", "unknown_state", "newer than the preset").await;
        }
        let database = self.database(Cluster::shared().await).await;
        database.execute(self.later).await;
        database.execute(self.cripple).await;
        self.is_refused(&database, "later", "rejected", "the preset expects the columns of").await;
    }

    async fn is_refused(&self, database: &Database<'_>, queue: &str, reason: &str, advice: &str) {
        let queries = self.query("one", &self.picking(queue)) + &self.all("") + "\n";
        let configuration = configuration(&database.scaler(), &queries);
        let fixture = Fixture::configured(&configuration).await;
        let all = (self.picks == Picks::Queue).then(|| trigger("all", &[("param.queue", "another")]));
        for trigger in [trigger("one", &[])].into_iter().chain(all) {
            assert_eq!(fixture.scaler.refusal(&trigger).await.code(), Code::FailedPrecondition, "{}", self.preset);
        }
        let document = check(&configuration, 1).await;
        let one = query(&document, "one");
        assert_eq!(one["reason"], reason, "{one:#}");
        assert!(one["advice"].as_str().unwrap().contains(advice), "{one:#}");
    }
}

/// Runs `clapometer check --json`.
async fn check(configuration: &str, code: i32) -> Json {
    let executable = Executable::clapometer(["check", "--json", "--config", "clapometer.yaml"]);
    let finished = executable.file("clapometer.yaml", configuration).finish(Duration::from_secs(30)).await;
    assert_eq!(finished.code(), Some(code), "{}{}", finished.output, finished.errors);
    serde_json::from_str(&finished.output).unwrap()
}

fn query<'d>(document: &'d Json, name: &str) -> &'d Json {
    let queries = document["databases"][0]["queries"].as_array().unwrap();
    queries.iter().find(|query| query["name"] == name).unwrap_or_else(|| panic!("{name} is not in {document:#}"))
}

fn warnings<'d>(document: &'d Json, name: &str) -> Vec<&'d str> {
    query(document, name)["warnings"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|warning| warning["text"].as_str())
        .collect()
}

/// The value, the activity and the number of stalled rows of a query.
fn numbers(document: &Json, name: &str) -> [u32; 3] {
    let whole = |key: &str| u32::try_from(query(document, name)[key].as_u64().unwrap()).unwrap();
    let stalled = warnings(document, name).into_iter().find(|text| text.contains("stalled"));
    let stalled = stalled.map_or(0, |text| text.split(' ').next().unwrap().parse().unwrap());
    [whole("value"), whole("activity"), stalled]
}
