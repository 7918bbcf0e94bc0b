//! `clapometer simulate`: simulates a ScaledJob under a workload, and variants of it.

mod html;
mod json;
mod report;
mod text;
mod workload;

use std::path::PathBuf;

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};

use self::{
    report::Report,
    workload::{Arriving, Span},
};
use super::{Exit, chosen::Chosen, misused, warn_of_version, whole};
use crate::{
    file,
    keda::{
        comparison::{compare, recommended},
        model::{CountedRows, Milliseconds, Scenario},
        version::Version,
        workload::Workload,
    },
    lint::{Counted, Options, counted, lint},
    manifest::{Kind, Node, Trigger},
    scaling::{Activation, Divisor, Target},
    terminal::{complain, print, style::ColorChoice},
};

/// The longest wait for the rows that are left, after the last has arrived.
const PATIENCE: Milliseconds = 12 * 3_600_000;

/// KEDA's `pollingInterval` where it is not set.
const DEFAULT_POLLING_SECONDS: i64 = 30;

/// More runs would take too long.
const MOST_RUNS: u64 = 1_000;

/// Rules of `lint` about a word that the API server refuses, from KEDA 2.20 on. Before, KEDA took its default.
const REFUSED_WORDS: [&str; 2] = ["word-rejected", "strategy-word-rejected"];
const WITH_REFUSED_WORDS: Version = Version::new(2, 20, 0);

/// Types of triggers, with the key of their target and its default.
const TARGETS: [(&str, &str, Option<f64>); 9] = [
    ("external", "targetQueryValue", Some(1.0)),
    ("postgresql", "targetQueryValue", None),
    ("mysql", "queryValue", None),
    ("mssql", "targetValue", None),
    ("rabbitmq", "value", None),
    ("redis", "listLength", Some(5.0)),
    ("aws-sqs-queue", "queueLength", Some(5.0)),
    ("azure-queue", "queueLength", Some(5.0)),
    ("azure-servicebus", "messageCount", Some(5.0)),
];

/// The numbers that a key of a trigger's metadata may have, and what to say of others.
struct Expected {
    has: fn(f64) -> bool,
    otherwise: &'static str,
}

/// The scaler's own keys.
const TARGET: Expected = Expected { has: |number| Target::new(number).is_some(), otherwise: Target::EXPECTED };
const DIVISOR: Expected = Expected { has: |number| Divisor::new(number).is_some(), otherwise: Divisor::EXPECTED };
const ACTIVATION: Expected =
    Expected { has: |number| Activation::new(number).is_some(), otherwise: Activation::EXPECTED };

/// The keys of KEDA's own triggers.
const ABOVE_ZERO: Expected =
    Expected { has: |number| number.is_finite() && number > 0.0, otherwise: "must be a number above 0" };
const FINITE: Expected = Expected { has: f64::is_finite, otherwise: "must be a number" };

const EXAMPLES: &str = "\
It runs KEDA's own arithmetic over rows that arrive, polls, pods that start, claim a row, work and end. Each \
Job works one row. It needs no cluster and no database. docs/simulate.md says what is simulated and what is not. \
A ScaledObject is not simulated: clapometer get --manifest FILE says what KEDA would do with it now.

Exit codes:
   0  it was simulated
   1  the page of --html could not be written
   2  wrong usage, or a file that cannot be read

Examples:
  clapometer simulate scaled-job.yaml --arrivals 9/m --duration 40s --counts outstanding
  clapometer simulate scaled-job.yaml --arrivals 60 --duration 20s..60s --start 2s..6s
  clapometer simulate scaled-job.yaml --arrivals arrivals.csv --duration 40s --html report.html
  psql -AtF, -c 'SELECT created_at, extract(epoch FROM done_at - started_at)
    FROM task' >arrivals.csv";

/// Simulate a ScaledJob under a workload, and say what would be better
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Simulate {
    /// The manifest with the ScaledJob (YAML or JSON); `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The ScaledJob to take if there are several
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    object: Option<String>,
    /// The trigger to take if there are several; KEDA counts from 0
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    trigger: Option<usize>,
    /// When rows arrive: a rate such as 9/m, a number of rows at once such as 60, or a CSV file of times, which may
    /// have the seconds of the work in a second column
    #[arg(long, value_name = "RATE|N|FILE", value_parser = Arriving::parse)]
    arrivals: Arriving,
    /// For how long rows arrive at a rate
    #[arg(long = "for", value_name = "DURATION", value_parser = workload::duration, default_value = "1h")]
    period: Milliseconds,
    /// How long the work on a row takes, such as 40s or 20s..60s
    #[arg(long, value_name = "DURATION", value_parser = Span::parse)]
    duration: Option<Span>,
    /// How long a Job's pod takes to start
    #[arg(long, value_name = "DURATION", value_parser = Span::parse, default_value = "2s..6s")]
    start: Span,
    /// What the trigger's query counts [default: as the trigger says; SQL counts only what is pending]
    #[arg(long, value_enum)]
    counts: Option<Counts>,
    /// The trigger's target [default: as the trigger says]
    #[arg(long, value_name = "NUMBER", value_parser = above_zero)]
    target: Option<f64>,
    /// A Job is pending until it has claimed its row: it claims in an init container, or pendingPodConditions wait
    /// for a readiness probe that passes only then
    #[arg(long)]
    pending_until_claim: bool,
    /// The version of KEDA
    #[arg(long, value_name = "VERSION", default_value_t = Version::NEWEST)]
    keda: Version,
    /// The seed of the random numbers: the same seed gives the same output
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<u64>)]
    seed: u64,
    /// The number of runs of each ScaledJob that is compared, each with other random numbers
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = runs)]
    runs: u64,
    /// Write one page with plots to this file, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Counts {
    /// The rows that wait
    Pending,
    /// The rows that wait, and those that workers hold
    Outstanding,
}

impl Simulate {
    pub(super) fn run(self) -> Exit {
        match self.simulate() {
            Ok(exit) => exit,
            Err(problem) => misused("simulate", &problem),
        }
    }

    fn simulate(&self) -> Result<Exit, String> {
        let workload = self.workload()?;
        let chosen = Chosen::read(&self.file, &[Kind::ScaledJob], self.object.as_deref(), self.keda)?;
        self.check_words(&chosen)?;
        let scenario = self.scenario(&chosen, workload.arrivals.period())?;
        warn_of_version(self.keda);
        let candidates = compare(&scenario, &workload, self.seed, self.runs);
        let recommended = recommended(&candidates, &scenario.scaled_job);
        let report = Report {
            object: chosen.object.to_string(),
            arrivals: self.arrivals.described(self.period),
            scenario: &scenario,
            workload: &workload,
            candidates: &candidates,
            recommended,
            seed: self.seed,
            runs: self.runs,
        };
        if let Some(path) = &self.html
            && let Err(error) = file::replace(path, html::page(&report).as_bytes())
        {
            complain(&format!("--html: cannot write {}: {error}", path.display()));
            return Ok(Exit::Failure);
        }
        if self.json {
            print(&format!("{:#}\n", json::document(&report)));
        } else {
            print(&text::page(&report, ColorChoice::for_stdout()));
        }
        Ok(Exit::Success)
    }

    /// Refuses a word that KEDA's API refuses.
    fn check_words(&self, chosen: &Chosen) -> Result<(), String> {
        let name = Some(chosen.object.to_string());
        let report = lint(&chosen.sources, Options { keda: self.keda, counts: None });
        let refused = report.findings.iter().filter(|_| self.keda >= WITH_REFUSED_WORDS).find(|finding| {
            REFUSED_WORDS.contains(&finding.rule.name) && finding.file == chosen.file && finding.object == name
        });
        refused.map_or(Ok(()), |finding| {
            Err(format!("{}:{}: {} {}", finding.file, finding.line, finding.why, finding.how))
        })
    }

    fn workload(&self) -> Result<Workload, String> {
        let arrivals = self.arrivals.arrivals(self.period)?;
        let duration = match &self.duration {
            Some(span) => span.clone().range(),
            None if arrivals.have_durations() => 0..=0,
            None => return Err("--duration: how long does the work on a row take?".to_owned()),
        };
        Ok(Workload { arrivals, duration })
    }

    /// Returns what is simulated, without rows.
    fn scenario(&self, chosen: &Chosen, period: Milliseconds) -> Result<Scenario, String> {
        let object = &chosen.object;
        let triggers: Vec<Trigger<'_>> = object.triggers().collect();
        let trigger = match (self.trigger, triggers.as_slice()) {
            (Some(place), triggers) => *triggers
                .get(place)
                .ok_or_else(|| format!("--trigger {place}: counted from 0, {object} has only {}", triggers.len()))?,
            (None, [trigger]) => *trigger,
            (None, []) => return Err(format!("{object} has no trigger")),
            (None, triggers) => {
                return Err(format!("{object} has {} triggers, so one must be taken with --trigger", triggers.len()));
            }
        };
        let told = self.counts.map(|counts| match counts {
            Counts::Pending => Counted::Pending,
            Counts::Outstanding => Counted::Outstanding,
        });
        let count = match told.or_else(|| counted(trigger)) {
            Some(Counted::Pending) => CountedRows::Pending,
            Some(Counted::Outstanding) => CountedRows::Outstanding,
            None => {
                return Err(
                    "--counts: does the trigger count only rows that wait (pending), or those that workers hold, too (outstanding)?".to_owned()
                );
            }
        };
        let polling = object.spec(&["pollingInterval"]).and_then(Node::integer).unwrap_or(DEFAULT_POLLING_SECONDS);
        let polling_seconds = Milliseconds::try_from(polling.max(1)).unwrap_or(1);
        let mut scenario = Scenario::new(count, polling_seconds.saturating_mul(1_000), Vec::new());
        scenario.scaled_job = object.scaled_job(self.keda);
        scenario.target = self.target(trigger)?;
        scenario.pod_start = self.start.clone().range();
        scenario.active_if_claimable = trigger.is_external();
        let activation = if trigger.is_external() { &ACTIVATION } else { &FINITE };
        scenario.activation = number(trigger, "activationTargetQueryValue", activation)?.unwrap_or(0.0);
        scenario.pending_until_claim = self.pending_until_claim;
        scenario.until = period.saturating_add(PATIENCE);
        Ok(scenario)
    }

    fn target(&self, trigger: Trigger<'_>) -> Result<f64, String> {
        let kind = if trigger.is_external() { "external" } else { trigger.kind() };
        let known = TARGETS.iter().find(|(name, ..)| *name == kind);
        let written = match known {
            Some((_, key, default)) if self.target.is_none() => {
                let expected = if trigger.is_external() { &TARGET } else { &ABOVE_ZERO };
                number(trigger, key, expected)?.or(*default)
            }
            _ => None,
        };
        // A value that the query divides and rounds up, and that KEDA divides again, is divided by both.
        let divided = trigger.is_external().then(|| number(trigger, "divideBy", &DIVISOR));
        let divisor = divided.transpose()?.flatten().unwrap_or(1.0);
        let target = self.target.or(written.map(|target| target * divisor));
        match target {
            Some(target) if target.is_finite() && target > 0.0 => Ok(target),
            Some(_) => Err("the target times divideBy is too large or too small a number".to_owned()),
            None => Err(format!("--target: which target has this trigger of type {}?", trigger.kind())),
        }
    }
}

fn above_zero(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (ABOVE_ZERO.has)(*number));
    number.ok_or_else(|| ABOVE_ZERO.otherwise.to_owned())
}

fn runs(text: &str) -> Result<u64, String> {
    let runs = text.parse().ok().filter(|runs| (1..=MOST_RUNS).contains(runs));
    runs.ok_or_else(|| format!("must be a whole number from 1 to {MOST_RUNS}"))
}

/// Returns a number of a trigger's metadata, if it is there. To the scaler an empty text is a number that is wrong.
///
/// # Errors
/// Says that it is not as expected: KEDA or the scaler refuses the trigger, and would not take the default.
fn number(trigger: Trigger<'_>, key: &str, expected: &Expected) -> Result<Option<f64>, String> {
    let is_empty = |node: &Node| node.is_null() || (!trigger.is_external() && node.text() == Some(""));
    match trigger.number(key) {
        Some(number) if (expected.has)(number) => Ok(Some(number)),
        None if trigger.metadata(key).is_none_or(is_empty) => Ok(None),
        _ => Err(format!("line {}: {key} {}, or the trigger is refused", trigger.line(key), expected.otherwise)),
    }
}
