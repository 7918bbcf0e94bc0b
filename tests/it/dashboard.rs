//! The dashboard and the alert rules against the real `/metrics`, by a real Prometheus: every panel shows something,
//! and every metric that they name exists.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use clapometer::proto::{
    GetMetricsRequest, IsActiveResponse, ScaledObjectRef, external_scaler_client::ExternalScalerClient,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time,
};
use tonic::{Streaming, transport::Channel};

use crate::support::{
    certificates::Certificates,
    cluster::Cluster,
    database::Database,
    executable::{Executable, Running, Serving},
    skip, wait,
};

/// Rates need two scrapes a second apart; a busy machine needs patience.
const PATIENCE: Duration = Duration::from_secs(60);

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The path at which `scripts/prometheus` puts it.
fn prometheus() -> Option<PathBuf> {
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/prometheus")).filter(|path| path.exists())
}

fn dashboard() -> Value {
    serde_json::from_str(&read("deploy/helm/clapometer/files/dashboard.json")).expect("JSON")
}

/// Every expression of the dashboard's panels and annotations with its title, its variables filled in.
fn panels() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let mut expressions = Vec::new();
    let mut add = |title: &Value, expression: &Value, window: &str| {
        let filled = expression
            .as_str()
            .expect("an expression")
            .replace("$job", "clapometer")
            .replace("$namespace", ".*")
            .replace("$database", ".*")
            .replace("$query", ".*")
            .replace("$__rate_interval", window);
        assert!(!filled.contains('$'), "an unknown variable: {filled}");
        expressions.push((title.as_str().expect("a title").to_owned(), filled));
    };
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            add(&panel["title"], &target["expr"], "30s");
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().expect("annotations") {
        // It marks a moment, which may be a while ago when the test looks.
        add(&annotation["name"], &annotation["expr"], "10m");
    }
    expressions
}

/// Returns the faults of a grid of 24 columns, of panels with their title and `x, y, w, h`.
fn faults_of_grid(panels: &[(&str, [u64; 4])]) -> Vec<String> {
    const COLUMNS: u64 = 24;
    let mut faults = Vec::new();
    let bottom = panels.iter().map(|(_, [_, y, _, h])| y + h).max().unwrap_or_default();
    for (x, y) in (0..bottom).flat_map(|y| (0..COLUMNS).map(move |x| (x, y))) {
        let covers = |[left, top, width, height]: [u64; 4]| {
            (left..left + width).contains(&x) && (top..top + height).contains(&y)
        };
        let there: Vec<&str> = panels.iter().filter(|(_, place)| covers(*place)).map(|(title, _)| *title).collect();
        match &there[..] {
            [_] => {}
            [] => faults.push(format!("nothing at {x}, {y}")),
            several => faults.push(format!("{} at {x}, {y}", several.join(" and "))),
        }
    }
    let wide = panels.iter().filter(|(_, [x, _, w, _])| x + w > COLUMNS);
    faults.extend(wide.map(|(title, _)| format!("{title} is too wide")));
    faults
}

/// KEDA's own metrics as its operator shows them (`pkg/metricscollector/prommetrics.go` of v2.21.0): one more error at
/// each scrape.
async fn keda() -> (SocketAddr, JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let labels = "namespace=\"tests\",metric=\"s0-jobs\",scaledObject=\"dashboard\",scaler=\"externalScaler\",\
                  triggerIndex=\"0\",type=\"scaledjob\"";
    let serving = tokio::spawn(async move {
        for errors in 1.. {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 4096];
            // Prometheus sends its request in one piece.
            let _ = socket.read(&mut request).await;
            let body = format!(
                "keda_scaler_metrics_value{{{labels}}} 7\nkeda_scaler_metrics_latency_seconds{{{labels}}} 0.01\n\
                 keda_scaled_object_errors_total{{namespace=\"tests\",scaledObject=\"dashboard\"}} {errors}\n\
                 keda_scaled_job_errors_total{{namespace=\"tests\",scaledJob=\"dashboard\"}} {errors}\n\
                 keda_grpc_client_handled_total{{grpc_type=\"unary\",grpc_service=\"externalscaler.ExternalScaler\",\
                 grpc_method=\"GetMetricSpec\",grpc_code=\"Unavailable\",scaler=\"externalScaler\"}} {errors}\n"
            );
            let head = "HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close";
            let _ = socket.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await;
        }
    });
    (address, serving)
}

/// Every expression of the alert rules with its name.
fn alerts() -> Vec<(String, String)> {
    let rules: Value = serde_saphyr::from_str(&read("deploy/prometheus/alerts.yaml")).expect("YAML");
    let rules = rules["groups"][0]["rules"].as_array().expect("rules").clone();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    rules.iter().map(|rule| (text(&rule["alert"]), text(&rule["expr"]))).collect()
}

/// The names of our metrics in an expression.
fn metrics(expression: &str) -> BTreeSet<String> {
    expression
        .split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'))
        .filter(|word| ["clapometer_", "grpc_server_", "process_"].iter().any(|prefix| word.starts_with(prefix)))
        .map(str::to_owned)
        .collect()
}

/// One GET of Prometheus' API; the `data` of its answer.
async fn api(address: SocketAddr, path: &str) -> Result<Value, String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let request = format!("GET /api/v1/{path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no body")?;
    let body: Value = serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))?;
    if body["status"] == "success" { Ok(body["data"].clone()) } else { Err(body.to_string()) }
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        write!(encoded, "%{byte:02X}").expect("a string takes everything");
        encoded
    })
}

/// Counts the series that an expression has now.
async fn series(address: SocketAddr, expression: &str) -> Result<usize, String> {
    let data = api(address, &format!("query?query={}", percent_encoded(expression))).await?;
    Ok(data["result"].as_array().map_or(0, Vec::len))
}

/// A queue of pgmq, for the metrics that presets alone have.
const QUEUE: &str = "CREATE SCHEMA pgmq; GRANT USAGE ON SCHEMA pgmq TO scaler;
    CREATE TABLE pgmq.meta (queue_name varchar, created_at timestamptz); INSERT INTO pgmq.meta VALUES ('mail', now());
    CREATE TABLE pgmq.q_mail (msg_id bigint, read_ct integer, enqueued_at timestamptz, vt timestamptz, message jsonb);
    GRANT SELECT ON ALL TABLES IN SCHEMA pgmq TO scaler";

/// A scaler with something to show in every metric: queries that work and that fail, a database that is away, LISTEN.
fn configuration(database: &Database<'_>, further: &str) -> String {
    let nowhere = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    format!(
        "{further}databases:\n{}{}queries:\n{}",
        database.scaler().yaml("claps"),
        database.scaler().by_way_of(nowhere).yaml("away"),
        "  jobs: {database: claps, sql: 'SELECT count(*) FROM make_it_clap, pg_sleep(0.05)', max_age: 0s}\n  \
           noticed: {database: claps, sql: SELECT count(*) FROM make_it_clap, notify: {channel: claps, resync: 1s}}\n  \
           broken: {database: claps, sql: SELECT nothing FROM nowhere}\n  \
           grouped: {database: claps, group_by: queue, value_column: depth, \
                     sql: \"SELECT 'a' AS queue, 1 AS depth\"}\n  \
           preset: {database: claps, preset: pgmq, queue: mail}\n  \
           away: {database: away, sql: SELECT 1}\n"
    )
}

fn trigger(query: &str) -> ScaledObjectRef {
    let mut metadata = vec![("query", query)];
    if query == "grouped" {
        metadata.push(("param.queue", "never-seen"));
    }
    ScaledObjectRef {
        name: "dashboard".to_owned(),
        namespace: "tests".to_owned(),
        scaler_metadata: metadata.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
    }
}

/// Asks for every query, two callers at a time, and wakes LISTEN, until dropped.
struct Traffic {
    tasks: Vec<JoinHandle<()>>,
    _stream: Streaming<IsActiveResponse>,
}

impl Traffic {
    async fn start(serving: &Serving, database: &Database<'_>) -> Self {
        let mut client: ExternalScalerClient<Channel> =
            ExternalScalerClient::connect(format!("http://{}", serving.grpc)).await.expect("the server is up");
        let stream = client.stream_is_active(trigger("noticed")).await.expect("a stream").into_inner();
        let mut tasks = Vec::new();
        for query in ["jobs", "jobs", "noticed", "grouped", "broken", "preset", "away", "refused"] {
            let mut client = client.clone();
            tasks.push(tokio::spawn(async move {
                let mut tick = time::interval(Duration::from_millis(100));
                loop {
                    tick.tick().await;
                    let request =
                        GetMetricsRequest { scaled_object_ref: Some(trigger(query)), metric_name: query.to_owned() };
                    // Three of them fail, as they must: their codes are what is shown.
                    drop(client.get_metrics(request).await);
                }
            }));
        }
        let notifier = database.connect().await;
        tasks.push(tokio::spawn(async move {
            let mut tick = time::interval(Duration::from_millis(200));
            loop {
                tick.tick().await;
                notifier.batch_execute("NOTIFY claps").await.expect("NOTIFY works");
            }
        }));
        Self { tasks, _stream: stream }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Starts Prometheus on a free port, scraping these as the chart's ServiceMonitor would.
async fn scrape(program: &Path, targets: &[SocketAddr], keda: SocketAddr) -> (SocketAddr, Running) {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let targets = targets.iter().map(|target| format!("'{target}'")).collect::<Vec<_>>().join(", ");
    let configuration = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n  \
           - job_name: clapometer\n    honor_labels: true\n    static_configs: [{{targets: [{targets}]}}]\n  \
           - job_name: keda\n    honor_labels: true\n    static_configs: [{{targets: ['{keda}']}}]\n"
    );
    let process = Executable::new(program, ["--config.file=prometheus.yaml", "--storage.tsdb.path=data"])
        .argument(format!("--web.listen-address={address}"))
        .file("prometheus.yaml", &configuration)
        .start();
    wait::first("Prometheus answers", PATIENCE, async || api(address, "query?query=1").await.ok()).await;
    (address, process)
}

/// Breaks the configuration file, then mends it, so that both outcomes of a reload are shown.
async fn reload_twice(serving: &mut Serving, configuration: &str) {
    let file = serving.process.directory().join("clapometer.yaml");
    for (text, result) in [("sevrer: {}\n", "rejected"), (&*format!("{configuration}# mended\n"), "applied")] {
        fs::write(&file, text).expect("the file is ours");
        serving.process.signal(rustix::process::Signal::HUP);
        let wanted = format!("clapometer_config_reloads_total{{result=\"{result}\"}} 1");
        let admin = serving.admin;
        wait::first(&format!("a reload is {result}"), PATIENCE, async || {
            let mut stream = TcpStream::connect(admin).await.ok()?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            answer.contains(&wanted).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn every_panel_and_every_alert_finds_its_metrics() {
    let Some(program) = prometheus() else { return skip::skip("no Prometheus: scripts/prometheus gets it") };
    let database = Database::seed(Cluster::shared().await).await;
    database.execute(QUEUE).await;
    let plain = configuration(&database, "");
    let mut serving = Executable::serve(&plain).serving().await;
    let certificates = Certificates::generate();
    let with_tls = Executable::serve(&configuration(&database, "server: {tls: {cert: tls.crt, key: tls.key}}\n"))
        .file("tls.crt", &certificates.server.certificate)
        .file("tls.key", &certificates.server.key)
        .serving()
        .await;

    let (keda, keda_serving) = keda().await;
    let (address, _prometheus) = scrape(&program, &[serving.admin, with_tls.admin], keda).await;
    let _traffic = Traffic::start(&serving, &database).await;
    // An increase is seen between two scrapes only.
    let unloaded = format!("clapometer_config_reloads_total{{instance=\"{}\"}} == 0", serving.admin);
    wait::first("the counters are scraped at 0", PATIENCE, async || {
        (series(address, &unloaded).await.ok()? == 2).then_some(())
    })
    .await;
    reload_twice(&mut serving, &plain).await;

    for (title, expression) in panels() {
        wait::first(&format!("the panel {title} shows something: {expression}"), PATIENCE, async || {
            let found = series(address, &expression).await.unwrap_or_else(|error| panic!("{title}: {error}"));
            (found > 0).then_some(())
        })
        .await;
    }

    let names = api(address, "label/__name__/values").await.expect("Prometheus knows its names");
    let known: BTreeSet<String> = serde_json::from_value(names).expect("a list of names");
    for (title, expression) in alerts() {
        series(address, &expression).await.unwrap_or_else(|error| panic!("{title}: {error}"));
        for name in metrics(&expression) {
            assert!(known.contains(&name), "{title} asks for {name}, which nobody has");
        }
    }
    let states = api(address, &format!("query?query={}", percent_encoded(&state_of_triggers()))).await.expect("states");
    let states = states["result"].as_array().expect("a vector").iter().map(|series| {
        let query = series["metric"]["query"].as_str().expect("a query");
        (query.to_owned(), series["value"][1].as_str().expect("a value").to_owned())
    });
    let states: BTreeSet<(String, String)> = states.collect();
    // On a busy machine another query may have failed once, too.
    for (query, state) in [("away", "1"), ("broken", "1"), ("refused", "2")] {
        assert!(states.contains(&(query.to_owned(), state.to_owned())), "{query} in {states:?}");
    }
    keda_serving.abort();
}

/// The expression that says which triggers do not scale.
fn state_of_triggers() -> String {
    let found = panels().into_iter().find(|(title, _)| title == "Refused, failing or silent");
    found.expect("the panel is there").1
}

#[test]
fn the_panels_of_the_dashboard_leave_no_gap_and_do_not_overlap() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let place = |panel: &Value| ["x", "y", "w", "h"].map(|name| panel["gridPos"][name].as_u64().expect("a number"));
    let grid: Vec<_> = panels.iter().map(|panel| (panel["title"].as_str().expect("a title"), place(panel))).collect();
    assert_eq!(faults_of_grid(&grid), Vec::<String>::new());
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len(), "an id is there twice");
}

#[test]
fn gaps_overlaps_and_wide_panels_are_found() {
    assert!(faults_of_grid(&[("a", [0, 0, 24, 1]), ("b", [0, 1, 12, 2]), ("c", [12, 1, 12, 2])]).is_empty());
    let faults = faults_of_grid(&[("a", [0, 0, 13, 1]), ("b", [12, 0, 13, 1]), ("c", [0, 1, 23, 1])]);
    assert_eq!(faults, ["a and b at 12, 0", "nothing at 23, 1", "b is too wide"]);
}

#[test]
fn each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() {
    let cases: Value = serde_saphyr::from_str(&read("deploy/prometheus/tests/alerts.yaml")).expect("YAML");
    let tests = cases["tests"].as_array().expect("tests").iter();
    let expected: Vec<(String, bool)> = tests
        .flat_map(|test| test["alert_rule_test"].as_array().expect("cases"))
        .map(|case| {
            let fires = case["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
            (case["alertname"].as_str().expect("a name").to_owned(), fires)
        })
        .collect();
    for (alert, _) in alerts() {
        for fires in [true, false] {
            assert!(expected.contains(&(alert.clone(), fires)), "{alert}: no case for {fires}");
        }
    }
}

#[test]
fn names_of_metrics_are_found_in_an_expression() {
    let found = metrics("sum by (le) (rate(clapometer_a_bucket{job=\"x\"}[5m])) > 0 and on (query) up");
    assert_eq!(found, BTreeSet::from(["clapometer_a_bucket".to_owned()]));
}
