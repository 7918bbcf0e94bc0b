//! The findings in one file.

use std::ops::Range;

use super::{
    allowed::Allowed,
    rule::{Rule, Severity},
};
use crate::{keda::version::Version, manifest::Object};

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The object, if it is about one.
    pub object: Option<String>,
    /// The severity; never worse than that of its rule.
    pub severity: Severity,
    /// The rule.
    pub rule: &'static Rule,
    /// Says what KEDA does, in one sentence.
    pub why: String,
    /// Says what to do, in one sentence.
    pub how: String,
}

/// Gathers what is found in one file.
pub(super) struct Findings<'a> {
    file: &'a str,
    keda: Version,
    allowed: &'a Allowed,
    object: Option<&'a Object>,
    /// The lines of the document that is looked at: a comment anywhere in it counts.
    scope: Range<usize>,
    found: Vec<Finding>,
    suppressed: usize,
}

impl<'a> Findings<'a> {
    pub(super) fn new(file: &'a str, keda: Version, allowed: &'a Allowed) -> Self {
        Self { file, keda, allowed, object: None, scope: 0..0, found: Vec::new(), suppressed: 0 }
    }

    /// Returns the version of KEDA that is asked about.
    pub(super) fn keda(&self) -> Version {
        self.keda
    }

    /// Says that what follows is about this object.
    pub(super) fn begin(&mut self, object: &'a Object) {
        self.object = Some(object);
        self.scope = object.lines.clone();
    }

    /// Says that what follows is about a document without an object.
    pub(super) fn begin_document(&mut self, lines: Range<usize>) {
        self.object = None;
        self.scope = lines;
    }

    /// Adds a finding with the severity of its rule.
    pub(super) fn add(&mut self, rule: &'static Rule, line: usize, why: impl Into<String>, how: impl Into<String>) {
        self.add_as(rule.severity, rule, line, why, how);
    }

    /// Adds a finding that is not as bad as its rule may be.
    pub(super) fn add_as(
        &mut self,
        severity: Severity,
        rule: &'static Rule,
        line: usize,
        why: impl Into<String>,
        how: impl Into<String>,
    ) {
        if !rule.holds_for(self.keda) {
            return;
        }
        if self.allowed.has(rule.name, &self.scope) {
            self.suppressed += 1;
            return;
        }
        let object = self.object.map(ToString::to_string);
        let finding =
            Finding { file: self.file.to_owned(), line, object, severity, rule, why: why.into(), how: how.into() };
        if !self.found.contains(&finding) {
            self.found.push(finding);
        }
    }

    /// Returns what was found, by line, and how much of it comments allow.
    pub(super) fn into_sorted(mut self) -> (Vec<Finding>, usize) {
        self.found.sort_by_key(|finding| (finding.line, finding.severity, finding.rule.name));
        (self.found, self.suppressed)
    }
}
