//! The usual fixture: a scaler with its client and metrics, a table with a NOTIFY trigger, followers of streams.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use clapometer::proto::{IsActiveResponse, ScaledObjectRef};
use serde_json::Value;
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::Client;
use tonic::{Status, Streaming};

use super::{
    admin,
    cluster::Cluster,
    database::{Access, Database},
    executable::{Executable, Running, Serving},
    grpc::{Scaler, trigger},
    wait,
};

/// The bound for what takes milliseconds, unless the machine is busy.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// The bound for an answer once the database is back: the contract's two seconds, and some more for a busy machine.
pub(crate) const RECOVERY: Duration = Duration::from_millis(2_000 + 1_000);

/// The latest time after a mark at which readings become stale again, which is a second, and some more.
pub(crate) const REREADS: Duration = Duration::from_millis(1_200);

/// The table, and the trigger that notifies of its commits.
const TABLE: &str = "
    CREATE TABLE jobs (id serial PRIMARY KEY, queue text NOT NULL DEFAULT 'mail');
    GRANT SELECT ON jobs TO scaler;
    CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN PERFORM pg_notify('jobs', ''); RETURN NULL; END$$;
    CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON jobs FOR EACH STATEMENT EXECUTE FUNCTION tell();
";

/// Makes a database with the table.
pub(crate) async fn jobs(cluster: &Cluster) -> Database<'_> {
    Database::like(cluster, "jobs_template", async |template| template.execute(TABLE).await).await
}

/// A query that only notifications make read again while a test lasts: its readings may get a minute old.
pub(crate) const NOTIFIED: &str = "
  jobs: {sql: SELECT count(*) FROM jobs, max_age: 1m, notify: {channel: jobs, resync: 1m}}
";

/// Returns a configuration with one database and these queries.
pub(crate) fn configuration(access: &Access, queries: &str) -> String {
    format!("databases:\n{}queries:{queries}", access.yaml("claps"))
}

/// A scaler with its client.
pub(crate) struct Fixture {
    pub(crate) serving: Serving,
    pub(crate) scaler: Scaler,
}

impl Fixture {
    /// Starts one with these queries.
    pub(crate) async fn with(access: &Access, queries: &str) -> Self {
        Self::configured(&configuration(access, queries)).await
    }

    /// Starts one with [`NOTIFIED`], and waits until it listens.
    pub(crate) async fn listening(access: &Access) -> Self {
        let fixture = Self::with(access, NOTIFIED).await;
        fixture.listens().await;
        fixture
    }

    /// Starts one with this configuration file.
    pub(crate) async fn configured(configuration: &str) -> Self {
        Self::start(Executable::serve(configuration)).await
    }

    /// Starts an executable that serves, and waits until it has tried to connect to each of its databases: the first
    /// call would open a session beside the first one.
    pub(crate) async fn start(executable: Executable) -> Self {
        let serving = executable.serving().await;
        let all_tried = wait::first("all databases were tried", SOON * 2, async || {
            let page = admin::get(serving.admin, "/api/status").await;
            let status: Value = serde_json::from_str(&page).expect("the status is JSON");
            let is_tried = |database: &Value| database["state"] != "unknown";
            status["databases"].as_array().expect("a list").iter().all(is_tried).then_some(())
        });
        // A database that hangs is the test's to find.
        let _ = timeout(SOON, all_tried).await;
        let scaler = Scaler::at(serving.grpc);
        Self { serving, scaler }
    }

    /// Waits until LISTEN is healthy, and until no reading is stale any more because it has just become so.
    ///
    /// The end of that is a matter of time, which no metric shows: a reading is stale if it was sent before the mark,
    /// or again a tenth of a second and a second after it. Nothing may happen meanwhile that would leave another mark.
    pub(crate) async fn listens(&self) {
        self.reaches_metric("clapometer_listen_up", "database=\"claps\"", 1.0, SOON).await;
        tokio::time::sleep(REREADS).await;
    }

    /// Waits until a metric has a value.
    pub(crate) async fn reaches_metric(&self, metric: &str, label: &str, value: f64, within: Duration) {
        let what = format!("{metric}{{{label}}} is {value}");
        wait::first(&what, within, async || (self.metric(metric, label).await == Some(value)).then_some(())).await;
    }

    /// Returns a metric's sample with this label, or without labels if the text is empty.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> Option<f64> {
        sample(&admin::get(self.serving.admin, "/metrics").await, name, label)
    }

    /// Counts the statements that were sent for a query so far.
    pub(crate) async fn statements(&self, query: &str) -> f64 {
        let label = format!("query=\"{query}\"");
        self.metric("clapometer_query_statements_total", &label).await.unwrap_or_default()
    }

    /// Opens StreamIsActive and follows it.
    pub(crate) async fn follow(&self, trigger: &ScaledObjectRef) -> Follower<IsActiveResponse> {
        Follower::new(self.scaler.activity(trigger).await.expect("the stream is opened"))
    }

    /// Counts the lines of the log whose message begins with this text.
    pub(crate) fn logged(&self, message: &str) -> usize {
        self.serving.process.count_logged(message)
    }

    /// Waits until the log has as many such lines as it must have.
    ///
    /// # Panics
    /// When it has more, or not as many soon.
    pub(crate) async fn logs(&self, message: &str, times: usize) {
        self.serving.process.logs(message, times).await;
    }

    /// Replaces the configuration file.
    pub(crate) fn write(&self, configuration: &str) {
        write(&self.serving.process, "clapometer.yaml", configuration);
    }

    /// Replaces the configuration file, and waits until a reload of it is done: that of the signal, or one of a look
    /// that was due at the same moment.
    pub(crate) async fn reload(&self, configuration: &str) {
        let applied = "clapometer_config_reloads_total";
        let before = self.metric(applied, "result=\"applied\"").await.unwrap_or_default();
        self.write(configuration);
        self.serving.process.signal(rustix::process::Signal::HUP);
        wait::first("the configuration is reloaded", SOON, async || {
            self.metric(applied, "result=\"applied\"").await.filter(|now| *now > before)
        })
        .await;
    }
}

/// Replaces a file in a process's directory at once, as editors and Kubernetes do.
pub(crate) fn write(process: &Running, name: &str, content: &str) {
    let path = process.directory().join(name);
    let new = path.with_extension("new");
    fs::write(&new, content).expect("the directory is ours");
    fs::rename(new, path).expect("the directory is ours");
}

/// Returns the trigger of the query `jobs`.
pub(crate) fn jobs_trigger() -> ScaledObjectRef {
    trigger("jobs", &[])
}

/// Returns the same trigger under another object's name, which makes it another trigger.
pub(crate) fn named(trigger: &ScaledObjectRef, name: impl ToString) -> ScaledObjectRef {
    ScaledObjectRef { name: name.to_string(), ..trigger.clone() }
}

/// Adds a job to the table.
pub(crate) async fn add(client: &Client) {
    client.batch_execute("INSERT INTO jobs DEFAULT VALUES").await.expect("the table is there");
}

/// Empties the table.
pub(crate) async fn clear(client: &Client) {
    client.batch_execute("DELETE FROM jobs").await.expect("the table is there");
}

/// Reads a stream on a task of its own.
pub(crate) struct Follower<T> {
    heard: Arc<Mutex<Vec<(Instant, T)>>>,
    end: JoinHandle<Result<(), Status>>,
}

impl<T: Clone + Send + 'static> Follower<T> {
    pub(crate) fn new(mut stream: Streaming<T>) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&heard);
        let end = tokio::spawn(async move {
            while let Some(message) = stream.message().await? {
                writer.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), message));
            }
            Ok(())
        });
        Self { heard, end }
    }

    /// Returns the messages so far, each with its time.
    pub(crate) fn heard(&self) -> Vec<(Instant, T)> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns whether the stream is still open.
    pub(crate) fn is_open(&self) -> bool {
        !self.end.is_finished()
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it does not come `within` that time.
    pub(crate) async fn ends(self, within: Duration) -> Result<(), Status> {
        wait::bounded("the stream's end", within, self.end).await.expect("the reader does not panic")
    }
}

impl Follower<IsActiveResponse> {
    /// Returns the states so far.
    pub(crate) fn states(&self) -> Vec<bool> {
        self.heard().into_iter().map(|(_, message)| message.result).collect()
    }

    /// Waits until exactly these states have come, from the first on.
    ///
    /// # Panics
    /// When others come, or they do not come `within` that time.
    pub(crate) async fn says(&self, states: &[bool], within: Duration) {
        wait::eventually(&format!("the stream says {states:?}"), within, || {
            let heard = self.states();
            assert!(states.starts_with(&heard), "the stream said {heard:?} instead of {states:?}");
            heard == states
        })
        .await;
    }
}

/// Returns a metric's sample with this label, or without labels if the text is empty.
fn sample(text: &str, name: &str, label: &str) -> Option<f64> {
    let line = text.lines().find(|line| {
        line.strip_prefix(name).is_some_and(|rest| match label {
            "" => rest.starts_with(' '),
            label => rest.starts_with('{') && rest.contains(label),
        })
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_sample_is_found_by_name_and_label() {
    let text = "up 1\nupper{a=\"x\"} 2\nup{a=\"y\",b=\"z\"} 3.5\n# EOF\n";
    assert_eq!(sample(text, "up", ""), Some(1.0));
    assert_eq!(sample(text, "up", "b=\"z\""), Some(3.5));
    assert_eq!(sample(text, "upper", "a=\"x\""), Some(2.0));
    assert_eq!(sample(text, "up", "a=\"x\""), None);
}
