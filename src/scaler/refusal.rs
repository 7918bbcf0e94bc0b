//! Refusals: a request that is answered with an error before anything is read.
//!
//! The texts end up in Kubernetes Events. They name keys, never values, because a value may be a
//! secret in the wrong place.

use std::borrow::Cow;

/// The most characters of a key that are shown.
const LONGEST_KEY: usize = 63;

/// The most problems that a refusal lists. It counts the others.
const MOST_LISTED: usize = 8;

/// A request that cannot be served as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The message or its metadata is malformed.
    #[error("{0}")]
    Invalid(String),
    /// There is no such query, nobody approved the text, or the namespace may not use it. All have the same answer, so
    /// that callers cannot find out which.
    #[error("no query of this name or text is configured for this namespace; ask the scaler's operator")]
    Denied,
}

/// The problems that one stage has found, each with its key.
#[derive(Debug, Default)]
pub(super) struct KeyProblems<'a>(Vec<(Cow<'a, str>, Cow<'static, str>)>);

impl<'a> KeyProblems<'a> {
    /// Notes a problem.
    pub(super) fn note(&mut self, key: impl Into<Cow<'a, str>>, problem: impl Into<Cow<'static, str>>) {
        self.0.push((key.into(), problem.into()));
    }

    /// Returns the value, or notes the problem if there is none.
    pub(super) fn expect<T>(&mut self, key: &'a str, value: Option<T>, problem: &'static str) -> Option<T> {
        if value.is_none() {
            self.note(key, problem);
        }
        value
    }

    /// Refuses if there are problems, in the order of their keys: a map has another order each time, and the same
    /// faults must have the same text.
    pub(super) fn into_result(self) -> Result<(), Refusal> {
        let Self(mut problems) = self;
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort_unstable();
        let listed = problems.iter().take(MOST_LISTED).map(|(key, problem)| format!("{}: {problem}", shown(key)));
        let mut texts: Vec<String> = listed.collect();
        if problems.len() > MOST_LISTED {
            texts.push(format!("{} more", problems.len() - MOST_LISTED));
        }
        Err(Refusal::Invalid(texts.join("; ")))
    }
}

/// Returns a key as it may be shown: short and printable, because callers choose it.
fn shown(key: &str) -> String {
    let printable = key.chars().map(|c| if c.is_control() { '?' } else { c });
    let shown: String = printable.clone().take(LONGEST_KEY).collect();
    if printable.count() > LONGEST_KEY { format!("{shown}...") } else { shown }
}
