//! `clapometer get`: asks a running scaler as KEDA does, and shows what KEDA would do with the answer.

mod address;
mod answers;
mod failure;
mod text;
mod watch;

use std::collections::HashMap;

use clap::Args;

use self::{address::Address, answers::Answers, failure::Failure};
use super::{Exit, misused, runtime};
use crate::{
    proto::{ScaledObjectRef, external_scaler_client::ExternalScalerClient},
    terminal::{print, style::ColorChoice},
};

/// The suffix of keys whose value KEDA resolves to a secret; such a value is never shown.
const FROM_ENVIRONMENT: &str = "FromEnv";

const EXAMPLES: &str = "\
It calls GetMetricSpec, GetMetrics and IsActive, in this order and on one connection. For the scaler \
this is one more trigger, which its limits and its metrics count.

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

/// Ask a running scaler as KEDA does, and show what KEDA would do
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Get {
    /// The name of the query, as in a trigger's metadata
    query: String,
    #[command(flatten)]
    address: Address,
    /// The namespace of the ScaledJob or ScaledObject
    #[arg(long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// The name of the ScaledJob or ScaledObject
    #[arg(long, value_name = "NAME", default_value = "clapometer-get")]
    name: String,
    /// Further metadata of the trigger, one or several pairs; may be repeated. QUERY comes first
    #[arg(long = "metadata", value_name = "KEY=VALUE", num_args = 1..)]
    metadata: Vec<String>,
    /// maxReplicaCount of the ScaledJob or ScaledObject
    #[arg(long, value_name = "N", default_value_t = 100)]
    max_replicas: u32,
    /// Then open StreamIsActive and print each change until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Print one JSON document instead of text
    #[arg(long, conflicts_with = "watch")]
    json: bool,
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
            let answers = match Answers::ask(&mut client, &reference, is_secure).await {
                Ok(answers) => answers,
                Err(failure) => return self.show_failure(&failure, colors),
            };
            if self.json {
                print(&format!("{:#}\n", answers.document(self.max_replicas)));
            } else {
                print(&text::page(&self.heading(), &answers, self.max_replicas, colors));
            }
            if self.watch {
                return watch::until_interrupted(&mut client, &reference, is_secure, colors).await;
            }
            Exit::Success
        })
    }

    /// Builds the part of the request that says which object asks for which query.
    fn reference(&self) -> Result<ScaledObjectRef, String> {
        let mut metadata = HashMap::from([
            ("scalerAddress".to_owned(), self.address.shown().to_owned()),
            ("query".to_owned(), self.query.clone()),
        ]);
        for (index, pair) in self.metadata.iter().enumerate() {
            let Some((key, value)) = pair.split_once('=') else {
                // An argument without `=` may be a secret in the wrong place, so it is not quoted.
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
}

/// Returns a pair of the metadata in a form that may be shown.
fn shown(pair: &str) -> String {
    match pair.split_once('=') {
        Some((key, _)) if key.ends_with(FROM_ENVIRONMENT) => format!("{key}=(hidden)"),
        _ => pair.to_owned(),
    }
}
