//! `clapometer get`: asks a running scaler as KEDA does.

mod address;
mod failure;
mod text;
mod watch;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::json;
use tonic::{Response, Status, transport::Channel};

use self::{address::Address, failure::Failure};
use super::{Exit, count_cap, misused, runtime};
use crate::{
    keda::{
        scaled_job::{Jobs, ScaledJob, ScalerAnswer},
        scaled_object,
        values::{metric_value, target_size},
    },
    proto::{GetMetricsRequest, ScaledObjectRef, external_scaler_client::ExternalScalerClient},
    scaler::UNSEEN_KEY,
    terminal::{print, style::ColorChoice},
};

/// How long a call may take: twice what the scaler allows itself. KEDA itself sets no limit.
const CALL_SECONDS: u64 = 5;

/// What is said of a grouped query's key that the scaler has never read.
const UNSEEN: &str = "no reading since the scaler's start has had this key: if it is misspelt, its zero means nothing";

/// KEDA resolves `fooFromEnv` to a secret; what is given under such a key is never shown.
const FROM_ENVIRONMENT: &str = "FromEnv";

const EXAMPLES: &str = "\
It calls GetMetricSpec, GetMetrics and IsActive, in this order and on one connection. The scaler takes \
it for one more trigger: its limits and its metrics count it.

Exit codes:
   0  the scaler answered
   1  it answered with an error
   2  wrong usage
  69  it cannot be reached, or answers UNAVAILABLE

Examples:
  clapometer get outstanding-claps
  clapometer get outstanding-claps --metadata divideBy=10 --max-replicas 10
  clapometer get depth --namespace mail --metadata param.queue=outbox --watch
  kubectl -n clapometer port-forward service/clapometer 9090 & clapometer get outstanding-claps \\
    --tls-ca ca.crt --tls-cert tls.crt --tls-key tls.key --tls-server-name clapometer.clapometer.svc";

/// Ask a running scaler as KEDA does, and show what KEDA would make of it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Get {
    /// The query, as a trigger's metadata names it
    query: String,
    #[command(flatten)]
    address: Address,
    /// The namespace that the trigger says it is in
    #[arg(long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// The name of the ScaledJob or ScaledObject
    #[arg(long, value_name = "NAME", default_value = "clapometer-get")]
    name: String,
    /// More of the trigger's metadata, one or several; may be repeated. QUERY comes before it
    #[arg(long = "metadata", value_name = "KEY=VALUE", num_args = 1..)]
    metadata: Vec<String>,
    /// The ScaledJob's maxReplicaCount
    #[arg(long, value_name = "N", default_value_t = 100)]
    max_replicas: u32,
    /// Then open StreamIsActive, and print each change until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// One JSON document instead of text
    #[arg(long, conflicts_with = "watch")]
    json: bool,
}

/// What a scaler answered.
struct Answers {
    metric: String,
    answer: ScalerAnswer,
    /// The count has reached a limit of its own.
    at_least: bool,
    /// The key of a grouped query has been in no reading.
    is_unseen: bool,
    /// Of GetMetricSpec, GetMetrics and IsActive.
    durations: [Duration; 3],
}

impl Get {
    pub(super) fn run(self) -> Exit {
        let reference = match self.reference() {
            Ok(reference) => reference,
            Err(problem) => return misused("get", &problem),
        };
        let endpoint = match self.address.endpoint() {
            Ok(endpoint) => endpoint,
            Err(problem) => return misused("get", &problem),
        };
        let colors = ColorChoice::for_stdout();
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("cannot start the runtime: {error}");
                return Exit::Failure;
            }
        };
        let is_secure = self.address.is_secure();
        runtime.block_on(async {
            let channel = match address::connect(&endpoint).await {
                Ok(channel) => channel,
                Err(error) => return self.show_failure(&Failure::unreachable(&error, is_secure), colors),
            };
            let mut client = ExternalScalerClient::new(channel);
            let answers = match ask(&mut client, &reference, is_secure).await {
                Ok(answers) => answers,
                Err(failure) => return self.show_failure(&failure, colors),
            };
            if self.json {
                self.print_document(&answers);
            } else {
                print(&text::page(&self.heading(), &answers, self.max_replicas, colors));
            }
            if self.watch {
                return watch::until_interrupted(&mut client, &reference, is_secure, colors).await;
            }
            Exit::Success
        })
    }

    /// The request's part that says who asks for what.
    fn reference(&self) -> Result<ScaledObjectRef, String> {
        let mut metadata = HashMap::from([
            ("scalerAddress".to_owned(), self.address.shown().to_owned()),
            ("query".to_owned(), self.query.clone()),
        ]);
        for (index, pair) in self.metadata.iter().enumerate() {
            let Some((key, value)) = pair.split_once('=') else {
                // Not quoted: what has no `=` may be a secret in the wrong place.
                return Err(format!("--metadata number {} must be KEY=VALUE", index + 1));
            };
            if key == "query" {
                return Err("--metadata query: the query is the argument QUERY".to_owned());
            }
            if metadata.insert(key.to_owned(), value.to_owned()).is_some() && key != "scalerAddress" {
                return Err(format!("--metadata {key}: is given twice"));
            }
        }
        Ok(ScaledObjectRef { name: self.name.clone(), namespace: self.namespace.clone(), scaler_metadata: metadata })
    }

    fn heading(&self) -> String {
        let metadata: Vec<String> = self.metadata.iter().map(|pair| shown(pair)).collect();
        let with = if metadata.is_empty() { String::new() } else { format!(", with {}", metadata.join(" ")) };
        format!("{}  at {}, as {}/{}{with}", self.query, self.address.shown(), self.namespace, self.name)
    }

    fn show_failure(&self, failure: &Failure, colors: ColorChoice) -> Exit {
        if self.json {
            let document = serde_json::to_string_pretty(failure).expect("a failure has no keys that are not text");
            print(&format!("{document}\n"));
        } else {
            print(&text::failure(&self.heading(), failure, colors));
        }
        failure.exit
    }

    fn print_document(&self, answers: &Answers) {
        let Answers { metric, answer, at_least, is_unseen, durations } = answers;
        let [spec, metrics, activity] = durations.map(|duration| duration.as_secs_f64());
        let document = json!({
            "metric": metric,
            "target": answer.target,
            "value": answer.value,
            "at_least": at_least,
            "active": answer.active,
            "scaled_job": {"max_replicas": self.max_replicas, "starts": jobs_started(*answer, self.max_replicas)},
            "scaled_object": {"replicas": answer.active.then(|| scaled_object::replicas(*answer))},
            "remarks": remark(*answer).into_iter().chain(is_unseen.then_some(UNSEEN)).collect::<Vec<_>>(),
            "seconds": {"GetMetricSpec": spec, "GetMetrics": metrics, "IsActive": activity},
        });
        print(&format!("{document:#}\n"));
    }
}

/// KEDA's three calls of a poll.
async fn ask(
    client: &mut ExternalScalerClient<Channel>,
    reference: &ScaledObjectRef,
    is_secure: bool,
) -> Result<Answers, Failure> {
    let begun = Instant::now();
    let answer = client.get_metric_spec(reference.clone());
    let specs = bounded("GetMetricSpec", answer, is_secure).await?.into_inner();
    let spec = specs.metric_specs.into_iter().next().ok_or_else(|| Failure::empty("GetMetricSpec"))?;
    let spec_took = begun.elapsed();

    let begun = Instant::now();
    let request =
        GetMetricsRequest { scaled_object_ref: Some(reference.clone()), metric_name: spec.metric_name.clone() };
    let answer = bounded("GetMetrics", client.get_metrics(request), is_secure).await?;
    let is_unseen = answer.metadata().contains_key(UNSEEN_KEY);
    let metric = answer.into_inner().metric_values.into_iter().next().ok_or_else(|| Failure::empty("GetMetrics"))?;
    let metrics_took = begun.elapsed();

    let begun = Instant::now();
    let active = bounded("IsActive", client.is_active(reference.clone()), is_secure).await?.into_inner().result;
    let answer = ScalerAnswer { value: metric_value(&metric), target: target_size(&spec), active };
    let divisor = reference.scaler_metadata.get("divideBy").and_then(|text| text.trim().parse().ok()).unwrap_or(1.0);
    Ok(Answers {
        at_least: count_cap::is_read_by_builtin(&spec.metric_name) && count_cap::may_be_more(answer.value * divisor),
        metric: spec.metric_name,
        answer,
        is_unseen,
        durations: [spec_took, metrics_took, begun.elapsed()],
    })
}

async fn bounded<T>(
    rpc: &'static str,
    call: impl Future<Output = Result<Response<T>, Status>>,
    is_secure: bool,
) -> Result<Response<T>, Failure> {
    match tokio::time::timeout(Duration::from_secs(CALL_SECONDS), call).await {
        Ok(answer) => answer.map_err(|status| Failure::of(rpc, &status, is_secure)),
        Err(_) => Err(Failure::silent(rpc, CALL_SECONDS)),
    }
}

/// The number of Jobs that KEDA starts for a ScaledJob that has none, with the strategy `default`.
fn jobs_started(answer: ScalerAnswer, max_replicas: u32) -> i64 {
    ScaledJob::with_max_replica_count(max_replicas.into()).decide(&[answer], Jobs::default()).created
}

/// The explanation of an answer that may surprise.
fn remark(answer: ScalerAnswer) -> Option<&'static str> {
    match (answer.value > 0.0, answer.active) {
        (true, false) => Some(
            "a value above zero, but inactive: KEDA starts nothing. The activity is not above the activation \
             threshold; of a query that counts what is outstanding: all of it is held, and nothing waits",
        ),
        (false, true) => {
            Some("active with a value of zero: a ScaledJob starts nothing, a ScaledObject keeps one replica")
        }
        (false, false) => Some("nothing to do"),
        (true, true) => None,
    }
}

/// A pair of the metadata as it may be shown.
fn shown(pair: &str) -> String {
    match pair.split_once('=') {
        Some((key, _)) if key.ends_with(FROM_ENVIRONMENT) => format!("{key}=(hidden)"),
        _ => pair.to_owned(),
    }
}
