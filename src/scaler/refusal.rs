//! Why a request is refused before anything is read.
//!
//! The texts land in Kubernetes Events: they name keys, never values, since a value may be a
//! secret in the wrong place.

/// Characters of a key that are shown, and bytes of one that may be a misspelling.
const LONGEST: usize = 63;

/// A request that cannot be served as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The message or its metadata is malformed.
    #[error("{0}")]
    Invalid(String),
    /// No such query, text that nobody approved, or not for this namespace: one answer for all,
    /// so that nobody learns which.
    #[error("no query of this name or text is configured for this namespace; ask the scaler's operator")]
    Denied,
}

impl Refusal {
    /// About one key of the metadata.
    pub(super) fn key(key: &str, problem: impl std::fmt::Display) -> Self {
        Self::Invalid(format!("{}: {problem}", shown(key)))
    }
}

/// A key as it may be shown: short and printable, since anybody chooses it.
fn shown(key: &str) -> String {
    let printable = key.chars().map(|c| if c.is_control() { '?' } else { c });
    let shown: String = printable.clone().take(LONGEST).collect();
    if printable.count() > LONGEST { format!("{shown}...") } else { shown }
}

/// The nearest of `candidates`, as a hint.
///
/// None for what is longer than any name: comparing 64 KiB with each is slow, and nobody else is answered meanwhile.
pub(super) fn nearest<'a>(found: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Farther than this it is no misspelling.
    const SIMILAR: f64 = 0.8;
    if found.len() > LONGEST {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| {
            (strsim::jaro_winkler(&found.to_ascii_lowercase(), &candidate.to_ascii_lowercase()), candidate)
        })
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}
