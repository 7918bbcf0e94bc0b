//! `get --manifest`: asks for the triggers of one object of a manifest.

use std::{collections::HashMap, path::PathBuf};

use clap::{Args, builder::NonEmptyStringValueParser};

use super::{
    FROM_ENVIRONMENT, Get, NAMESPACE,
    address::{self, Target},
    answers::Answers,
    asked::{Asked, Outcome},
    failure::Failure,
    object_text,
    page::Page,
    verdict::{Current, Verdict},
};
use crate::{
    command::{Exit, chosen::Chosen, start_runtime, warn_of_version, whole},
    keda::{scaled_job::Jobs, version::Version},
    lint::{Options, Severity, lint},
    manifest::{Kind, Object, Trigger, boolean},
    proto::{ScaledObjectRef, external_scaler_client::ExternalScalerClient},
    terminal::{print, style::ColorChoice},
};

/// The options of `get --manifest`.
#[derive(Debug, Args)]
#[command(next_help_heading = "With a manifest")]
pub(super) struct ObjectOptions {
    /// Ask for the external triggers of a ScaledJob or a ScaledObject in this file (YAML or JSON; `-` is
    /// standard input) instead of QUERY, and show what KEDA does with that object now
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// The object to take if there are several, as NAME or KIND/NAME
    #[arg(long, value_name = "NAME", requires = "manifest", conflicts_with = "query", value_parser = NonEmptyStringValueParser::new())]
    object: Option<String>,
    /// Ask for the trigger at this place only; KEDA counts from 0
    #[arg(long, value_name = "N", requires = "manifest", conflicts_with = "query", value_parser = whole::<usize>)]
    trigger: Option<usize>,
    /// The ScaledJob's unfinished Jobs whose pod runs [default: 0]
    #[arg(long, value_name = "N", requires = "manifest", conflicts_with = "query", value_parser = whole::<u32>)]
    running: Option<u32>,
    /// The ScaledJob's unfinished Jobs whose pod does not run yet [default: 0]
    #[arg(long, value_name = "N", requires = "manifest", conflicts_with = "query", value_parser = whole::<u32>)]
    pending: Option<u32>,
    /// The replicas that the ScaledObject's target has [default: 0]
    #[arg(long, value_name = "N", requires = "manifest", conflicts_with = "query", value_parser = whole::<u16>)]
    replicas: Option<u16>,
    /// The version of KEDA
    #[arg(long, value_name = "VERSION", default_value_t = Version::NEWEST, requires = "manifest", conflicts_with = "query")]
    keda: Version,
}

impl ObjectOptions {
    /// Asks for the triggers of the object, and shows what KEDA does.
    ///
    /// # Errors
    /// Says what is wrong with the options, or with the file.
    pub(super) fn run(&self, get: &Get) -> Result<Exit, String> {
        let path = self.manifest.as_deref().ok_or("--manifest or QUERY must be given")?;
        let chosen = Chosen::read(path, &[Kind::ScaledJob, Kind::ScaledObject], self.object.as_deref(), self.keda)?;
        let current = self.current(&chosen.object)?;
        let triggers: Vec<Trigger<'_>> = chosen.object.triggers().collect();
        if let Some(place) = self.trigger.filter(|place| *place >= triggers.len()) {
            return Err(format!("--trigger {place}: counted from 0, {} has only {}", chosen.object, triggers.len()));
        }
        let mut requests = Vec::new();
        for (index, trigger) in triggers.into_iter().enumerate() {
            let is_left_out = self.trigger.is_some_and(|place| place != index);
            requests.push((trigger, self.request(get, &chosen.object, trigger, is_left_out)?));
        }
        let runtime = match start_runtime() {
            Ok(runtime) => runtime,
            Err(exit) => return Ok(exit),
        };
        warn_of_version(self.keda);
        let mut asked = Vec::new();
        for (index, (trigger, request)) in requests.into_iter().enumerate() {
            let address = request.as_ref().ok().map(|(target, _)| target.shown().to_owned());
            let outcome = match request {
                Ok((target, reference)) => runtime.block_on(ask(&target, &reference))?,
                Err(reason) => Outcome::NotAsked(reason),
            };
            asked.push(Asked { index, trigger, address, outcome });
        }
        let exit = exit(&asked);
        let verdict = Verdict::of(&chosen.object, &asked, current, self.keda);
        let remarks = self.remarks(get, &chosen, &asked);
        let page = Page { object: &chosen.object, file: &chosen.file, keda: self.keda, asked, verdict, remarks };
        if get.json {
            print(&format!("{:#}\n", page.document()));
        } else {
            print(&object_text::page(&page, ColorChoice::for_stdout()));
        }
        Ok(exit)
    }

    /// Returns what there is of the object already.
    fn current(&self, object: &Object) -> Result<Current, String> {
        let Self { running, pending, replicas, .. } = self;
        match object.kind {
            Kind::ScaledJob if replicas.is_some() => {
                Err(format!("--replicas is for a ScaledObject, and this is {object}"))
            }
            Kind::ScaledObject if running.or(*pending).is_some() => {
                Err(format!("--running and --pending are for a ScaledJob, and this is {object}"))
            }
            _ => {
                let (running, pending) = (i64::from(running.unwrap_or(0)), i64::from(pending.unwrap_or(0)));
                Ok(Current {
                    jobs: Jobs { unfinished: running + pending, pending },
                    replicas: i32::from(replicas.unwrap_or(0)),
                    is_assumed: self.running.or(self.pending).is_none() && replicas.is_none(),
                })
            }
        }
    }

    /// Returns the scaler to ask with what to ask it, or why nobody is asked.
    fn request<'a>(
        &self,
        get: &'a Get,
        object: &Object,
        trigger: Trigger<'_>,
        is_left_out: bool,
    ) -> Result<Result<(Target<'a>, ScaledObjectRef), &'static str>, String> {
        if is_left_out {
            return Ok(Err("--trigger names another one"));
        }
        if !trigger.is_external() {
            return Ok(Err(match trigger.kind() {
                "" => "it has no type",
                "cpu" | "memory" => "the autoscaler reads it from the metrics server",
                "cron" => "KEDA computes it from the clock",
                _ => "KEDA's own scaler reads it, with credentials from the cluster",
            }));
        }
        let namespace = match (object.namespace(), get.namespace.as_deref()) {
            (Some(own), Some(given)) if own != given => {
                return Err(format!("--namespace {given}: the manifest has the namespace {own}"));
            }
            (own, given) => own.or(given).unwrap_or(NAMESPACE).to_owned(),
        };
        let target = get.address.target_of(trigger);
        let mut metadata: HashMap<String, String> = trigger
            .pairs()
            .filter(|(key, _, _)| !key.ends_with(FROM_ENVIRONMENT))
            .map(|(key, text, _)| (key.to_owned(), text.to_owned()))
            .collect();
        metadata.extend(get.metadata()?.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())));
        // The object's own name would make the scaler take this for a poll of KEDA, and miss the next one.
        let reference = ScaledObjectRef { name: get.name.clone(), namespace, scaler_metadata: metadata };
        Ok(Ok((target, reference)))
    }

    fn remarks(&self, get: &Get, chosen: &Chosen, asked: &[Asked<'_>]) -> Vec<String> {
        let mut remarks = Vec::new();
        let given = get.metadata().unwrap_or_default();
        for Asked { index, trigger, outcome, .. } in asked {
            if let Outcome::NotAsked(_) = outcome {
                continue;
            }
            let resolved = trigger.pairs().map(|(key, _, _)| key).filter(|key| key.ends_with(FROM_ENVIRONMENT));
            remarks.extend(resolved.filter(|key| given.iter().all(|(known, _)| known != key)).map(|key| {
                format!(
                    "trigger {index}: {key} is left out, because KEDA resolves it in the cluster; --metadata {key}=VALUE \
                     gives it"
                )
            }));
            if trigger.text("unsafeSsl").and_then(boolean) == Some(true) {
                remarks.push(format!("trigger {index}: unsafeSsl lets KEDA take any certificate; here it is checked"));
            }
        }
        let report = lint(&chosen.sources, Options { keda: self.keda, counts: None });
        let name = Some(chosen.object.to_string());
        let errors = report.findings.iter().filter(|finding| {
            finding.severity == Severity::Error && finding.file == chosen.file && finding.object == name
        });
        remarks.extend(
            errors.map(|finding| format!("line {}: {} (lint: {})", finding.line, finding.why, finding.rule.name)),
        );
        remarks
    }
}

/// Makes the calls of one poll.
async fn ask(target: &Target<'_>, reference: &ScaledObjectRef) -> Result<Outcome, String> {
    let is_secure = target.is_secure();
    let channel = match address::connect(&target.endpoint()?).await {
        Ok(channel) => channel,
        Err(error) => return Ok(Outcome::Failed(Failure::unreachable(&error, is_secure))),
    };
    let mut client = ExternalScalerClient::new(channel);
    Ok(match Answers::ask(&mut client, reference, is_secure).await {
        Ok(answers) => Outcome::Answered(answers),
        Err(failure) => Outcome::Failed(failure),
    })
}

/// An error answer is worse than no answer, and nothing to ask is no success.
fn exit(asked: &[Asked<'_>]) -> Exit {
    let failures: Vec<Exit> = asked
        .iter()
        .filter_map(|asked| match &asked.outcome {
            Outcome::Failed(failure) => Some(failure.exit),
            Outcome::Answered(_) | Outcome::NotAsked(_) => None,
        })
        .collect();
    let is_nobody_asked = asked.iter().all(|asked| matches!(asked.outcome, Outcome::NotAsked(_)));
    match failures.first() {
        Some(_) if failures.contains(&Exit::Failure) => Exit::Failure,
        Some(exit) => *exit,
        None if is_nobody_asked => Exit::Failure,
        None => Exit::Success,
    }
}
