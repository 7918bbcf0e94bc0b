//! `clapometer get`: asks a running scaler as KEDA does, and shows what KEDA would do with the answer.

mod address;
mod answers;
mod asked;
mod call;
mod failure;
mod object;
mod object_text;
mod page;
mod text;
mod verdict;
mod watch;

use std::collections::HashMap;

use clap::{Args, builder::NonEmptyStringValueParser};

use self::{
    address::{Address, Target},
    answers::Answers,
    failure::Failure,
    object::ObjectOptions,
};
use super::{Exit, misused, start_runtime, whole};
use crate::{
    proto::{ScaledObjectRef, external_scaler_client::ExternalScalerClient},
    recorder::LOOKING,
    terminal::{print, style::ColorChoice},
};

/// The suffix of keys whose value KEDA resolves to a secret; such a value is never shown.
const FROM_ENVIRONMENT: &str = "FromEnv";

/// The namespace of a trigger, if nothing says another one.
const NAMESPACE: &str = "default";

const USAGE: &str = "\
clapometer get [OPTIONS] <QUERY>
       clapometer get [OPTIONS] --manifest <FILE>";

const EXAMPLES: &str = "\
It calls GetMetricSpec, GetMetrics and IsActive, in this order and on one connection. The scaler's \
limits and its metrics count these calls. Under the name clapometer-get they are a person's: its status \
page, its log and its alerts ignore them. Under another --name they are KEDA's.

With --manifest it asks for each external trigger of one ScaledJob or ScaledObject, with the metadata, \
strategy and limits that stand there. It asks nothing of a cluster: how many Jobs or replicas there are \
is told by --running, --pending and --replicas.

Exit codes:
   0  the scaler answered
   1  it answered with an error, or the manifest has no trigger to ask for
   2  wrong usage
  69  it cannot be reached, or answers UNAVAILABLE

Examples:
  clapometer get outstanding-claps
  clapometer get outstanding-claps --metadata divideBy=10 --max-replicas 10
  clapometer get depth --namespace mail --metadata param.queue=outbox --watch
  clapometer get --manifest scaled-job.yaml --address 127.0.0.1:9090 --running 3
  kubectl -n clapometer port-forward service/clapometer 9090 & sleep 2
  clapometer get outstanding-claps --tls-ca ca.crt --tls-cert tls.crt --tls-key tls.key \\
    --tls-server-name clapometer.clapometer.svc";

/// Ask a running scaler as KEDA does, and show what KEDA would do
#[derive(Debug, Args)]
#[command(override_usage = USAGE, after_help = EXAMPLES)]
pub(super) struct Get {
    /// The name of the query, as in a trigger's metadata
    #[arg(required_unless_present = "manifest", conflicts_with = "manifest", value_parser = NonEmptyStringValueParser::new())]
    query: Option<String>,
    #[command(flatten)]
    address: Address,
    /// The namespace of the ScaledJob or ScaledObject [default: the manifest's, or default]
    #[arg(long, value_name = "NAMESPACE", value_parser = NonEmptyStringValueParser::new())]
    namespace: Option<String>,
    /// The name of the object that asks. The answer does not depend on it
    #[arg(long, value_name = "NAME", default_value = LOOKING)]
    name: String,
    /// Further metadata of the trigger, one or several pairs; may be repeated. QUERY comes first
    #[arg(long = "metadata", value_name = "KEY=VALUE", num_args = 1..)]
    metadata: Vec<String>,
    /// maxReplicaCount of the ScaledJob or ScaledObject
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "manifest", value_parser = whole::<u32>)]
    max_replicas: u32,
    /// Then open StreamIsActive and print each change until Ctrl-C
    #[arg(long, conflicts_with = "manifest")]
    watch: bool,
    /// Print one JSON document instead of text
    #[arg(long, conflicts_with = "watch")]
    json: bool,
    #[command(flatten)]
    object: ObjectOptions,
}

impl Get {
    pub(super) fn run(self) -> Exit {
        let exit = match &self.query {
            Some(query) => self.ask(query),
            None => self.object.run(&self),
        };
        exit.unwrap_or_else(|problem| misused("get", &problem))
    }

    fn ask(&self, query: &str) -> Result<Exit, String> {
        let target = self.address.target();
        let reference = self.reference(query, &target)?;
        let endpoint = target.endpoint()?;
        let colors = ColorChoice::for_stdout();
        let runtime = match start_runtime() {
            Ok(runtime) => runtime,
            Err(exit) => return Ok(exit),
        };
        let heading = self.heading(query, &target);
        let is_secure = target.is_secure();
        Ok(runtime.block_on(async {
            let channel = match address::connect(&endpoint).await {
                Ok(channel) => channel,
                Err(error) => return self.show_failure(&heading, &Failure::unreachable(&error, is_secure), colors),
            };
            let mut client = ExternalScalerClient::new(channel);
            let answers = match Answers::ask(&mut client, &reference, is_secure).await {
                Ok(answers) => answers,
                Err(failure) => return self.show_failure(&heading, &failure, colors),
            };
            if self.json {
                print(&format!("{:#}\n", answers.document(self.max_replicas)));
            } else {
                print(&text::page(&heading, &answers, self.max_replicas, colors));
            }
            if self.watch {
                return watch::until_interrupted(&mut client, &reference, is_secure, colors).await;
            }
            Exit::Success
        }))
    }

    /// Builds the part of the request that says which object asks for which query.
    fn reference(&self, query: &str, target: &Target<'_>) -> Result<ScaledObjectRef, String> {
        let given = self.metadata()?;
        if given.iter().any(|(key, _)| *key == "query") {
            return Err("--metadata query: the query is the argument QUERY".to_owned());
        }
        let mut metadata = HashMap::from([
            ("scalerAddress".to_owned(), target.shown().to_owned()),
            ("query".to_owned(), query.to_owned()),
        ]);
        metadata.extend(given.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())));
        let namespace = self.namespace.as_deref().unwrap_or(NAMESPACE).to_owned();
        Ok(ScaledObjectRef { name: self.name.clone(), namespace, scaler_metadata: metadata })
    }

    /// Returns the pairs of `--metadata`.
    fn metadata(&self) -> Result<Vec<(&str, &str)>, String> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for (index, pair) in self.metadata.iter().enumerate() {
            let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                // An argument without `=` may be a secret in the wrong place, so it is not quoted.
                return Err(format!("--metadata number {} must be KEY=VALUE", index + 1));
            };
            if pairs.iter().any(|(known, _)| *known == key) {
                return Err(format!("--metadata {key}: is given twice"));
            }
            pairs.push((key, value));
        }
        Ok(pairs)
    }

    /// Returns the pairs of `--metadata` in a form that may be shown.
    fn shown_metadata(&self) -> String {
        let metadata: Vec<String> = self.metadata.iter().map(|pair| shown(pair)).collect();
        if metadata.is_empty() { String::new() } else { format!(", with {}", metadata.join(" ")) }
    }

    fn heading(&self, query: &str, target: &Target<'_>) -> String {
        let namespace = self.namespace.as_deref().unwrap_or(NAMESPACE);
        format!("{query}  at {}, as {namespace}/{}{}", target.shown(), self.name, self.shown_metadata())
    }

    fn show_failure(&self, heading: &str, failure: &Failure, colors: ColorChoice) -> Exit {
        if self.json {
            let document = serde_json::to_string_pretty(failure).expect("a failure has no keys that are not text");
            print(&format!("{document}\n"));
        } else {
            print(&text::failure(heading, failure, colors));
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
