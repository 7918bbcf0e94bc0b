//! Says what KEDA will do with a manifest that its author may not expect.
//!
//! Each trap is a [`Rule`] with a name, a severity, the versions of KEDA that it holds for, and the place in KEDA's
//! source where it comes from. The rules are grouped by what they look at, in the files below. Nothing here reads
//! files, knows a cluster, or prints. `docs/lint.md` has a section for each rule.

mod allowed;
mod counting;
mod findings;
mod rule;
mod rules;
#[cfg(test)]
mod tests;

use self::{
    allowed::Allowed,
    findings::Findings,
    rules::{Subject, documents, structure},
};
pub use self::{
    counting::Counted,
    findings::Finding,
    rule::{Rule, Severity},
    rules::all,
};
use crate::{
    keda::version::Version,
    manifest::{Manifest, Trigger},
};

/// Returns what a trigger counts, as far as it shows.
pub fn counted(trigger: Trigger<'_>) -> Option<Counted> {
    counting::of(trigger, None).map(|count| count.counted)
}

/// The options for a look at manifests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The version of KEDA.
    pub keda: Version,
    /// The rows that the triggers' queries count, if the caller says so.
    pub counts: Option<Counted>,
}

/// A file to look at.
#[derive(Debug)]
pub struct Source {
    /// Its name in findings.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// The numbers of what was looked at, and the findings.
#[derive(Debug)]
pub struct Report {
    /// The findings, by file and line.
    pub findings: Vec<Finding>,
    /// The number of KEDA's objects.
    pub objects: usize,
    /// The number of documents of any kind.
    pub documents: usize,
    /// The number of findings that comments in the files allow.
    pub allowed: usize,
}

/// Checks manifests. Some rules look at all of them together: what one object lacks, another may bring.
pub fn lint(sources: &[Source], options: Options) -> Report {
    let read: Vec<(&Source, Manifest)> = sources.iter().map(|source| (source, Manifest::read(&source.text))).collect();
    let everything: Vec<_> = read.iter().flat_map(|(_, manifest)| &manifest.objects).collect();
    let mut report = Report { findings: Vec::new(), objects: 0, documents: 0, allowed: 0 };
    for (source, manifest) in &read {
        let allowed = Allowed::read(&source.text);
        let mut findings = Findings::new(&source.name, options.keda, &allowed);
        documents::check(manifest, &allowed, &mut findings);
        structure::check_kinds(manifest, &mut findings);
        for object in &manifest.objects {
            findings.begin(object);
            rules::check(&Subject { object, everything: &everything, options }, &mut findings);
        }
        let (mut found, suppressed) = findings.into_sorted();
        report.findings.append(&mut found);
        report.allowed += suppressed;
        report.objects += manifest.objects.len();
        report.documents += manifest.documents;
    }
    report
}
