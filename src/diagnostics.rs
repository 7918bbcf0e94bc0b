//! What is wrong with a configuration: every fault at once, each with the place to mend.

use std::{cell::RefCell, fmt, path::PathBuf};

/// How much of a wrong value a message shows.
const LONGEST_SHOWN: usize = 60;

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// A line of the file, counted from 1.
    Line(u64),
    /// An environment variable, by its name.
    Variable(String),
    /// Nowhere in particular: the configuration as a whole.
    Whole,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The key's path, such as `queries.outstanding-claps.target`; empty for the file as a whole.
    pub path: String,
    /// Where it stands.
    pub location: Location,
    /// What was found and what would be right; never a secret.
    pub message: String,
}

/// Everything that is wrong with a configuration, in the file's order; at least one fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misconfiguration {
    file: Option<PathBuf>,
    faults: Vec<Diagnostic>,
}

impl Misconfiguration {
    /// Sorts by line, then the variables, then what has no place.
    pub(crate) fn new(file: Option<PathBuf>, mut faults: Vec<Diagnostic>) -> Self {
        faults.sort_by(|a, b| (&a.location, &a.path).cmp(&(&b.location, &b.path)));
        faults.dedup();
        Self { file, faults }
    }

    /// The faults, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.faults.iter()
    }
}

/// One fault a line: `clapometer.yaml:12: queries.jobs.target: found 0, must be ...`.
impl fmt::Display for Misconfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match (&fault.location, &self.file) {
                (Location::Line(line), Some(file)) => write!(f, "{}:{line}: ", file.display())?,
                (Location::Line(line), None) => write!(f, "line {line}: ")?,
                (Location::Variable(name), _) => write!(f, "{name}: ")?,
                (Location::Whole, Some(file)) => write!(f, "{}: ", file.display())?,
                (Location::Whole, None) => {}
            }
            if !fault.path.is_empty() {
                write!(f, "{}: ", fault.path)?;
            }
            f.write_str(&fault.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Misconfiguration {}

/// Gathers faults while checking goes on.
#[derive(Debug, Default)]
pub(crate) struct Diagnostics(RefCell<Vec<Diagnostic>>);

impl Diagnostics {
    /// Notes one fault.
    pub(crate) fn add(&self, location: Location, path: impl Into<String>, message: impl Into<String>) {
        self.0.borrow_mut().push(Diagnostic { path: path.into(), location, message: message.into() });
    }

    /// Notes faults that were found elsewhere.
    pub(crate) fn extend(&self, faults: &Misconfiguration) {
        self.0.borrow_mut().extend(faults.faults.iter().cloned());
    }

    /// Whether nothing was found so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// What was found.
    pub(crate) fn into_error(self, file: Option<PathBuf>) -> Misconfiguration {
        Misconfiguration::new(file, self.0.into_inner())
    }
}

/// The nearest right spelling, or all that would be right.
pub(crate) fn suggestion<'k>(wrong: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    let lower = wrong.to_lowercase().replace('-', "_");
    let nearest = known.clone().min_by_key(|name| strsim::damerau_levenshtein(name, &lower));
    match nearest {
        Some(name) if strsim::damerau_levenshtein(name, &lower) <= name.len().div_ceil(3) => {
            format!("did you mean {name}?")
        }
        _ => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// Text in quotes, shortened.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(LONGEST_SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}
