//! The form of a rule, and how bad a finding can be.

use std::fmt;

use crate::keda::version::Version;

/// One trap.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name in output, in comments that allow it, and in `docs/lint.md`. It never changes.
    pub name: &'static str,
    /// The severity of its worst findings.
    pub severity: Severity,
    /// The first version of KEDA that it holds for, if not all do.
    pub since: Option<Version>,
    /// The first version of KEDA that it no longer holds for, if there is one.
    pub until: Option<Version>,
    /// Its reason: a file of kedacore/keda, an issue, or what else decides.
    pub source: &'static str,
}

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Does not work, or not as written. `clapometer lint` exits with 1.
    Error,
    /// Works, but not as its author may expect.
    Warning,
    /// Good to know.
    Note,
}

impl Rule {
    /// A rule for all versions of KEDA that are supported.
    pub(super) const fn new(name: &'static str, severity: Severity, source: &'static str) -> Self {
        Self { name, severity, since: None, until: None, source }
    }

    /// Holds from this version on.
    pub(super) const fn since(self, since: Version) -> Self {
        Self { since: Some(since), ..self }
    }

    /// Holds before this version.
    pub(super) const fn until(self, until: Version) -> Self {
        Self { until: Some(until), ..self }
    }

    /// Returns whether it holds for a version of KEDA.
    pub fn holds_for(&self, keda: Version) -> bool {
        self.since.is_none_or(|since| keda >= since) && self.until.is_none_or(|until| keda < until)
    }

    /// Says for which versions it holds.
    pub fn versions(&self) -> String {
        match (self.since, self.until) {
            (None, None) => format!("KEDA {} and later", Version::OLDEST),
            (Some(since), None) => format!("KEDA {since} and later"),
            (None, Some(until)) => format!("KEDA before {until}"),
            (Some(since), Some(until)) => format!("KEDA {since} and later, before {until}"),
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}
