//! `clapometer why`: tells what KEDA was told about an object at a moment, as the flight recorders of the processes
//! know it.

mod ask;
mod before;
mod causes;
mod different;
mod moment;
mod outlook;
mod silence;
mod standstill;
mod story;
mod timeline;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use self::{ask::Answered, outlook::Outlook, story::Story};
use super::{Exit, chosen::Chosen, misused, start_runtime};
use crate::{
    config::duration,
    keda::version::Version,
    manifest::Kind,
    recorder::{History, LIFETIME},
    terminal::{print, style::ColorChoice},
};

const EXAMPLES: &str = "\
Each process of clapometer remembers for 24 hours what it told KEDA, and tells it on its admin port. KEDA asks one of \
them at a time: name every pod, or a name that resolves to all. docs/why.md explains what a process cannot know.

Exit codes:
   0  a process remembers that KEDA asked for the object
   1  none does
   2  wrong usage
  69  no process answers

Examples:
  kubectl -n clapometer port-forward deploy/clapometer 9091 & clapometer why billing/invoices
  clapometer why billing/invoices --at 03:12 --since 2h --manifest scaled-job.yaml
  clapometer why billing/invoices --at 2026-11-29T03:12:00+01:00 \\
    --admin-address clapometer-pods.clapometer:9091";

/// Say what KEDA was told about an object, and why it did not scale
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Why {
    /// The ScaledJob or ScaledObject
    #[arg(value_name = "NAMESPACE/NAME", value_parser = object)]
    object: (String, String),
    /// The moment: RFC 3339, HH:MM or HH:MM:SS in local time, which is the latest one past [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// The time before the moment that is shown, too, such as 30m or 6h
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = since)]
    since: Duration,
    /// The admin port of a process; every address that the host resolves to is asked. May be repeated
    #[arg(long = "admin-address", value_name = "HOST:PORT", default_value = "127.0.0.1:9091", value_parser = admin_address)]
    admin_addresses: Vec<String>,
    /// The ScaledJob or ScaledObject (YAML or JSON), to say what KEDA makes of the answers
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

impl Why {
    pub(super) fn run(self) -> Exit {
        let (namespace, name) = &self.object;
        let now = OffsetDateTime::now_utc();
        // Before the runtime starts: the local time is unknown in a process with several threads.
        let (begins_at, at) = match moment::read(self.at.as_deref(), now, moment::local_offset) {
            Ok(moment) => moment,
            Err(problem) => return misused("why", &problem),
        };
        let outlook = match self.manifest.as_ref().map(|path| outlook(path, namespace, name)).transpose() {
            Ok(outlook) => outlook,
            Err(problem) => return misused("why", &problem),
        };
        let runtime = match start_runtime() {
            Ok(runtime) => runtime,
            Err(exit) => return exit,
        };
        let time = at.to_offset(time::UtcOffset::UTC).format(&Rfc3339).expect("RFC 3339 has every year of the clock");
        let mut path = format!("/api/triggers/{namespace}/{name}?since={}", self.since.as_secs());
        if self.at.is_some() {
            // Now is the process's own: its clock may differ from this one.
            path += &format!("&at={time}");
        }
        let answered = runtime.block_on(ask::all(&self.admin_addresses, &path));
        let exit = exit(&answered);
        let story = Story { namespace, name, begins_at, at, is_now: self.at.is_none(), outlook };
        print(&story.page(&answered, ColorChoice::for_stdout()));
        exit
    }
}

fn exit(answered: &[Answered]) -> Exit {
    let histories: Vec<&History> = answered.iter().filter_map(|answered| answered.history.as_ref().ok()).collect();
    if histories.is_empty() {
        Exit::Unavailable
    } else if histories.iter().any(|history| !history.triggers.is_empty()) {
        Exit::Success
    } else {
        Exit::Failure
    }
}

/// Reads the object's manifest.
fn outlook(path: &Path, namespace: &str, name: &str) -> Result<Outlook, String> {
    let chosen = Chosen::read(path, &[Kind::ScaledJob, Kind::ScaledObject], Some(name), Version::OLDEST);
    let object = chosen.map_err(|problem| format!("--manifest: {problem}"))?.object;
    match object.namespace().filter(|known| *known != namespace) {
        Some(other) => Err(format!("--manifest: the object is in the namespace {other}, not in {namespace}")),
        None => Ok(Outlook::of(&object)),
    }
}

/// Reads `NAMESPACE/NAME`, in the characters of Kubernetes' names.
fn object(text: &str) -> Result<(String, String), String> {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
    };
    match text.split_once('/') {
        Some((namespace, name)) if is_name(namespace) && is_name(name) => Ok((namespace.to_owned(), name.to_owned())),
        _ => Err("must be NAMESPACE/NAME, such as billing/invoices".to_owned()),
    }
}

/// Reads the address of an admin port, as it stands in a browser, too.
fn admin_address(text: &str) -> Result<String, String> {
    let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(1..)) if !address.contains('/') => Ok(address.to_owned()),
        _ => Err("must be HOST:PORT, such as 127.0.0.1:9091".to_owned()),
    }
}

fn since(text: &str) -> Result<Duration, String> {
    let since = duration::parse(text).filter(|duration| *duration <= LIFETIME);
    since.ok_or_else(|| "must be a whole number with a unit, up to 24h: 90s, 30m, 6h".to_owned())
}

#[cfg(test)]
mod tests;
