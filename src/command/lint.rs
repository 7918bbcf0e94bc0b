//! `clapometer lint`: says what KEDA will do with manifests that their author may not expect.

mod github;
mod json;
mod text;

use std::{io, path::PathBuf};

use clap::{Args, ValueEnum};

use super::{Exit, input, misused, warn_of_version};
use crate::{
    keda::version::Version,
    lint::{Counted, Options, Severity, lint},
    terminal::{print, style::ColorChoice},
};

const EXAMPLES: &str = "\
It looks at ScaledJobs, ScaledObjects, TriggerAuthentications and ClusterTriggerAuthentications; other \
objects are passed over. It needs no cluster and no configuration. docs/lint.md explains each rule. \
A comment anywhere in a document allows a rule for it: `# clapometer-lint: allow NAME`.

Exit codes:
   0  there is no error; there may be warnings and notes
   1  there is an error
   2  wrong usage, a file that cannot be opened, or no object of KEDA at all

Examples:
  clapometer lint scaled-job.yaml
  clapometer lint deploy/ --format github
  helm template ./chart | clapometer lint -
  kubectl get scaledjobs,scaledobjects -A -o yaml | clapometer lint --keda 2.20.2";

/// Check manifests for what KEDA does with them
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Lint {
    /// Manifests (YAML or JSON); `-` is standard input; of a directory, its .yaml, .yml and .json files
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,
    /// The form of the output
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The version of KEDA
    #[arg(long, value_name = "VERSION", default_value_t = Version::NEWEST)]
    keda: Version,
    /// What the triggers' queries count [default: SQL counts only what is pending]
    #[arg(long, value_enum)]
    counts: Option<Counts>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON document
    Json,
    /// Annotations of GitHub Actions
    Github,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Counts {
    /// The rows that wait
    Pending,
    /// The rows that wait, and those that workers hold
    Outstanding,
}

impl Lint {
    pub(super) fn run(self) -> Exit {
        let sources = match input::read(&self.files, &mut io::stdin().lock()) {
            Ok(sources) => sources,
            Err(problem) => return misused("lint", &problem),
        };
        warn_of_version(self.keda);
        let counts = self.counts.map(|counts| match counts {
            Counts::Pending => Counted::Pending,
            Counts::Outstanding => Counted::Outstanding,
        });
        let report = lint(&sources, Options { keda: self.keda, counts });
        // What looked at nothing must not pass for a clean manifest.
        if report.objects == 0 && report.findings.is_empty() && report.allowed == 0 {
            let problem = match report.documents {
                0 => input::without_documents(&self.files, &sources),
                documents => input::without_objects(&self.files, documents),
            };
            return misused("lint", &problem);
        }
        print(&match self.format {
            Format::Text => text::page(&report, self.keda, ColorChoice::for_stdout()),
            Format::Json => format!("{:#}\n", json::document(&report, self.keda)),
            Format::Github => github::annotations(&report),
        });
        let has_error = report.findings.iter().any(|finding| finding.severity == Severity::Error);
        if has_error { Exit::Failure } else { Exit::Success }
    }
}
