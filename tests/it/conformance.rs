//! grpcurl, Python's grpcio and a Rust client all get the same answers.

use std::{path::PathBuf, time::Duration};

use clapometer::proto::ScaledObjectRef;
use serde_json::{Value, json};
use tonic::Status;

use crate::support::{
    cluster::Cluster,
    database::Database,
    executable::{Executable, Serving},
    grpc::{Scaler, trigger},
    skip::skip,
};

const TOOLS: Duration = Duration::from_secs(60);

/// One question, and the answer that KEDA must get.
struct Question {
    metadata: &'static [(&'static str, &'static str)],
    query: &'static str,
    /// The metric's name in `GetMetrics`; the query's where absent.
    metric: Option<&'static str>,
    /// The metric's name and its target, as both fields say it.
    spec: (&'static str, i64, f64),
    /// Both fields of the value, or a code.
    value: Result<(i64, f64), &'static str>,
    active: Result<bool, &'static str>,
}

impl Question {
    fn reference(&self) -> ScaledObjectRef {
        trigger(self.query, self.metadata)
    }

    fn metric(&self) -> &str {
        self.metric.unwrap_or_else(|| self.query.trim())
    }
}

/// 61 rows wait; seven is the query `seven`, which has a target of its own; `nothing` counts none.
const QUESTIONS: &[Question] = &[
    answered(&[], "pending-claps", ("pending-claps", 1, 1.0), (61, 61.0), true),
    answered(&[("divideBy", "10")], "pending-claps", ("pending-claps", 1, 1.0), (7, 7.0), true),
    answered(&[("divideBy", "10"), ("rounding", "floor")], "pending-claps", ("pending-claps", 1, 1.0), (6, 6.0), true),
    answered(
        &[("divideBy", "10"), ("rounding", "nearest")],
        "pending-claps",
        ("pending-claps", 1, 1.0),
        (6, 6.0),
        true,
    ),
    answered(&[("divideBy", "10"), ("rounding", "none")], "pending-claps", ("pending-claps", 1, 1.0), (7, 6.1), true),
    answered(
        &[("divideBy", "122"), ("rounding", "nearest")],
        "pending-claps",
        ("pending-claps", 1, 1.0),
        (1, 1.0),
        true,
    ),
    answered(&[("divideBy", "0.5")], "pending-claps", ("pending-claps", 1, 1.0), (122, 122.0), true),
    answered(&[("targetQueryValue", "2.5")], "pending-claps", ("pending-claps", 3, 2.5), (61, 61.0), true),
    answered(&[("activationTargetQueryValue", "60")], "pending-claps", ("pending-claps", 1, 1.0), (61, 61.0), true),
    answered(&[("activationTargetQueryValue", "61")], "pending-claps", ("pending-claps", 1, 1.0), (61, 61.0), false),
    answered(&[("enableTLS", "false"), ("unsafeSsl", "false")], " seven ", ("seven", 20, 20.0), (7, 7.0), true),
    answered(&[], "nothing", ("nothing", 1, 1.0), (0, 0.0), false),
    answered(&[], "a-sliver", ("a-sliver", 1, 1.0), (1, 0.001), true),
    Question { metric: Some("s0-seven"), ..refused(&[], "seven", ("seven", 20, 20.0), "INVALID_ARGUMENT") }
        .still_active(),
    Question { metric: Some(""), ..refused(&[], "seven", ("seven", 20, 20.0), "INVALID_ARGUMENT") }.still_active(),
    refused(&[], "no-such-query", ("no-such-query", 1_000_000, 1e6), "PERMISSION_DENIED"),
    refused(&[], "SELECT 1", ("invalid-trigger", 1_000_000, 1e6), "PERMISSION_DENIED"),
    refused(&[], "", ("invalid-trigger", 1_000_000, 1e6), "INVALID_ARGUMENT"),
    refused(&[("divideby", "10")], "seven", ("seven", 20, 20.0), "INVALID_ARGUMENT"),
    refused(&[("divideBy", "0")], "seven", ("seven", 20, 20.0), "INVALID_ARGUMENT"),
    refused(&[("divideBy", "ten")], "seven", ("seven", 20, 20.0), "INVALID_ARGUMENT"),
    refused(&[("rounding", "up")], "seven", ("seven", 20, 20.0), "INVALID_ARGUMENT"),
    refused(&[("targetQueryValue", "-1")], "seven", ("seven", 20, 20.0), "INVALID_ARGUMENT"),
    refused(&[("targetQueryValue", "NaN")], "seven", ("seven", 20, 20.0), "INVALID_ARGUMENT"),
    refused(&[("activationTargetQueryValue", "-1")], "seven", ("seven", 20, 20.0), "INVALID_ARGUMENT"),
    refused(&[("passwordFromEnv", "s3cr3t")], "seven", ("seven", 20, 20.0), "INVALID_ARGUMENT"),
    refused(&[("param.queue", "mail")], "seven", ("seven", 20, 20.0), "INVALID_ARGUMENT"),
    refused(&[("host", "elsewhere")], "seven", ("seven", 20, 20.0), "INVALID_ARGUMENT"),
    refused(&[], "broken", ("broken", 1, 1.0), "FAILED_PRECONDITION"),
    refused(&[], "null", ("null", 1, 1.0), "FAILED_PRECONDITION"),
    refused(&[], "negative", ("negative", 1, 1.0), "FAILED_PRECONDITION"),
    refused(&[], "not-a-number", ("not-a-number", 1, 1.0), "FAILED_PRECONDITION"),
    refused(&[], "two-rows", ("two-rows", 1, 1.0), "FAILED_PRECONDITION"),
];

const fn answered(
    metadata: &'static [(&'static str, &'static str)],
    query: &'static str,
    spec: (&'static str, i64, f64),
    value: (i64, f64),
    active: bool,
) -> Question {
    Question { metadata, query, metric: None, spec, value: Ok(value), active: Ok(active) }
}

const fn refused(
    metadata: &'static [(&'static str, &'static str)],
    query: &'static str,
    spec: (&'static str, i64, f64),
    code: &'static str,
) -> Question {
    Question { metadata, query, metric: None, spec, value: Err(code), active: Err(code) }
}

impl Question {
    /// Only `GetMetrics` carries a metric's name that can be wrong.
    const fn still_active(mut self) -> Self {
        self.active = Ok(true);
        self
    }
}

/// A scaler with the queries of [`QUESTIONS`], and 61 rows.
async fn scaler(database: &Database<'_>) -> Serving {
    database.execute("INSERT INTO make_it_clap (duration_seconds) SELECT 40 FROM generate_series(1, 61)").await;
    let queries = "
  seven: {sql: SELECT 7, target: 20}
  nothing: {sql: SELECT count(*) FROM clap}
  a-sliver: {sql: SELECT 0.0001, rounding: none}
  broken: {sql: SELECT count(*) FROM no_such_table}
  'null': {sql: SELECT NULL::bigint}
  negative: {sql: SELECT -1}
  not-a-number: {sql: \"SELECT 'NaN'::float8\"}
  two-rows: {sql: \"SELECT * FROM generate_series(1, 2)\"}
";
    let configuration = format!("databases:\n{}queries:{queries}", database.scaler().yaml("claps"));
    Executable::serve(&configuration).serving().await
}

/// The answers of all questions in the form that all three clients are brought to.
fn expected(question: &Question, answer: &Value) -> Value {
    let (name, integer, double) = question.spec;
    // The text of a refusal is what a person reads; that all three get the same one is what counts here.
    let refusal = |part: &str, code: &str| json!({"code": code, "message": answer[part]["message"]});
    json!({
        "spec": [{"metricName": name, "targetSize": integer, "targetSizeFloat": double}],
        "metrics": match question.value {
            Ok((integer, double)) =>
                json!([{"metricName": question.metric(), "metricValue": integer, "metricValueFloat": double}]),
            Err(code) => refusal("metrics", code),
        },
        "active": match question.active {
            Ok(active) => json!(active),
            Err(code) => refusal("active", code),
        },
    })
}

#[tokio::test]
async fn a_rust_client_gets_the_answers_of_the_contract() {
    let database = Database::seed(Cluster::shared().await).await;
    let scaler = scaler(&database).await;
    for question in QUESTIONS {
        let answer = ask_in_rust(&scaler, question).await;
        assert_eq!(answer, expected(question, &answer), "{} {:?}", question.query, question.metadata);
        for part in ["metrics", "active"] {
            let message = answer[part]["message"].as_str().unwrap_or("an answer");
            assert!(!message.is_empty(), "{part} of {} is refused without a word", question.query);
        }
    }
}

#[tokio::test]
async fn python_gets_the_same_answers() {
    let Some(python) = tool("python") else { return skip("target/tools/python is missing: scripts/python makes it") };
    let database = Database::seed(Cluster::shared().await).await;
    let scaler = scaler(&database).await;
    let questions = QUESTIONS
        .iter()
        .map(|question| json!({"metadata": question.reference().scaler_metadata, "metric": question.metric()}));
    let client = python_client(&python, &scaler, &["answers"]);
    let questions = serde_json::to_string(&questions.collect::<Vec<_>>()).unwrap();
    let finished = client.input("questions.json", &questions).finish(TOOLS).await;
    assert!(finished.status.success(), "{}", finished.errors);
    let told: Value = serde_json::from_str(&finished.output).unwrap();
    assert_eq!(told["serving"], json!(true));
    for (position, question) in QUESTIONS.iter().enumerate() {
        let answer = ask_in_rust(&scaler, question).await;
        assert_eq!(told["answers"][position], answer, "{} {:?}", question.query, question.metadata);
    }
}

#[tokio::test]
async fn grpcurl_gets_the_same_answers_by_reflection() {
    let Some(grpcurl) = tool("grpcurl") else { return skip("target/tools/python is missing: scripts/python makes it") };
    let database = Database::seed(Cluster::shared().await).await;
    let scaler = scaler(&database).await;
    for question in QUESTIONS {
        let reference = json!({
            "name": "claps", "namespace": "default", "scalerMetadata": question.reference().scaler_metadata,
        });
        let metrics = json!({"scaledObjectRef": reference, "metricName": question.metric()});
        let ask = async |method: &str, request: &Value, field: &str| {
            let answer = ask_with_grpcurl(&grpcurl, &scaler, method, request).await;
            answer.map_or_else(|refusal| refusal, |mut answer| numbers(answer[field].take()))
        };
        let answer = json!({
            "spec": ask("GetMetricSpec", &reference, "metricSpecs").await,
            "metrics": ask("GetMetrics", &metrics, "metricValues").await,
            "active": ask("IsActive", &reference, "result").await,
        });
        assert_eq!(answer, ask_in_rust(&scaler, question).await, "{} {:?}", question.query, question.metadata);
    }
}

#[tokio::test]
async fn five_hundred_streams_of_python_on_one_connection_end_with_ok_on_sigterm() {
    let Some(python) = tool("python") else { return skip("target/tools/python is missing: scripts/python makes it") };
    let database = Database::seed(Cluster::shared().await).await;
    let scaler = scaler(&database).await;
    let client = python_client(&python, &scaler, &["streams", "500", "seven"]).start();
    crate::support::wait::eventually("all streams have spoken", TOOLS, || client.output().contains("open")).await;

    let ended = scaler.process.terminate(Duration::from_secs(5)).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.errors);
    let finished = client.finish(TOOLS).await;
    assert!(finished.output.ends_with("{\"OK\": 500}\n"), "{} {}", finished.output, finished.errors);
}

async fn ask_in_rust(scaler: &Serving, question: &Question) -> Value {
    let client = Scaler::at(scaler.grpc);
    let reference = question.reference();
    json!({
        "spec": in_json(client.spec(&reference).await, |spec| json!([spec_in_json(&spec)])),
        "metrics": in_json(client.metric_named(&reference, question.metric()).await, |value| json!([value_in_json(&value)])),
        "active": in_json(client.active(&reference).await, |active| json!(active)),
    })
}

#[expect(deprecated, reason = "KEDA reads the integer fields too")]
fn spec_in_json(spec: &clapometer::proto::MetricSpec) -> Value {
    let clapometer::proto::MetricSpec { metric_name, target_size, target_size_float } = spec;
    json!({"metricName": metric_name, "targetSize": target_size, "targetSizeFloat": target_size_float})
}

#[expect(deprecated, reason = "KEDA reads the integer fields too")]
fn value_in_json(value: &clapometer::proto::MetricValue) -> Value {
    let clapometer::proto::MetricValue { metric_name, metric_value, metric_value_float } = value;
    json!({"metricName": metric_name, "metricValue": metric_value, "metricValueFloat": metric_value_float})
}

fn in_json<T>(answer: Result<T, Status>, convert: impl FnOnce(T) -> Value) -> Value {
    match answer {
        Ok(answer) => convert(answer),
        Err(status) => refusal_in_json(&format!("{:?}", status.code()), status.message()),
    }
}

/// A refusal, whoever spells the code: `InvalidArgument` becomes `INVALID_ARGUMENT`.
fn refusal_in_json(code: &str, message: &str) -> Value {
    let mut spelled = String::new();
    for letter in code.chars() {
        if letter.is_uppercase() && !spelled.is_empty() {
            spelled.push('_');
        }
        spelled.extend(letter.to_uppercase());
    }
    json!({"code": spelled, "message": message})
}

async fn ask_with_grpcurl(
    grpcurl: &std::path::Path,
    scaler: &Serving,
    method: &str,
    request: &Value,
) -> Result<Value, Value> {
    let arguments = ["-plaintext", "-emit-defaults", "-d", &request.to_string(), &scaler.grpc.to_string()];
    let method = format!("externalscaler.ExternalScaler/{method}");
    let finished = Executable::new(grpcurl, arguments).argument(method).finish(TOOLS).await;
    if finished.status.success() {
        return Ok(serde_json::from_str(&finished.output).unwrap());
    }
    let field = |name: &str| {
        let line = finished.errors.lines().find_map(|line| line.trim().strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {}", finished.errors)).trim().to_owned()
    };
    Err(refusal_in_json(&field("Code:"), &field("Message:")))
}

/// Protobuf's JSON has an int64 as text; whoever reads it wants the number.
fn numbers(mut value: Value) -> Value {
    for member in value.as_array_mut().into_iter().flatten() {
        for field in member.as_object_mut().into_iter().flat_map(serde_json::Map::values_mut) {
            if let Some(number) = field.as_str().and_then(|text| text.parse::<i64>().ok()) {
                *field = json!(number);
            } else if let Some(number) = field.as_f64() {
                *field = json!(number);
            }
        }
    }
    value
}

fn python_client(python: &std::path::Path, scaler: &Serving, arguments: &[&str]) -> Executable {
    let repository = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = repository.join("tests/it/conformance/client.py");
    let client = Executable::new(python, [script.to_str().unwrap(), repository.join("proto").to_str().unwrap()]);
    let scratch = client.directory().to_str().unwrap().to_owned();
    let client = client.argument(scratch).argument(scaler.grpc.to_string());
    arguments.iter().fold(client, |client, argument| client.argument(argument))
}

fn tool(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/python/bin").join(name);
    path.exists().then_some(path)
}
