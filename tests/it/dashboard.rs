//! The dashboard and the alert rules against the real `/metrics`, by a real Prometheus: every panel shows something, and every
//! metric that they name exists.

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

/// Every expression of the dashboard with its panel's title, its variables filled in.
fn panels() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("deploy/helm/clapometer/files/dashboard.json")).expect("JSON");
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression");
            let filled = expression
                .replace("$job", "clapometer")
                .replace("$database", ".*")
                .replace("$query", ".*")
                .replace("$__rate_interval", "30s");
            assert!(!filled.contains('$'), "an unknown variable: {filled}");
            expressions.push((panel["title"].as_str().expect("a title").to_owned(), filled));
        }
    }
    expressions
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
        for query in ["jobs", "jobs", "noticed", "grouped", "broken", "away"] {
            let mut client = client.clone();
            tasks.push(tokio::spawn(async move {
                let mut tick = time::interval(Duration::from_millis(100));
                loop {
                    tick.tick().await;
                    let request =
                        GetMetricsRequest { scaled_object_ref: Some(trigger(query)), metric_name: query.to_owned() };
                    // Two of them fail, as they must: their codes are what is shown.
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
async fn scrape(program: &Path, targets: &[SocketAddr]) -> (SocketAddr, Running) {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let targets = targets.iter().map(|target| format!("'{target}'")).collect::<Vec<_>>().join(", ");
    let configuration = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n  \
           - job_name: clapometer\n    honor_labels: true\n    static_configs: [{{targets: [{targets}]}}]\n"
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
    let plain = configuration(&database, "");
    let mut serving = Executable::serve(&plain).serving().await;
    let certificates = Certificates::generate();
    let with_tls = Executable::serve(&configuration(&database, "server: {tls: {cert: tls.crt, key: tls.key}}\n"))
        .file("tls.crt", &certificates.server.certificate)
        .file("tls.key", &certificates.server.key)
        .serving()
        .await;

    let (address, _prometheus) = scrape(&program, &[serving.admin, with_tls.admin]).await;
    let _traffic = Traffic::start(&serving, &database).await;
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
}

#[test]
fn names_of_metrics_are_found_in_an_expression() {
    let found = metrics("sum by (le) (rate(clapometer_a_bucket{job=\"x\"}[5m])) > 0 and on (query) up");
    assert_eq!(found, BTreeSet::from(["clapometer_a_bucket".to_owned()]));
}
