//! What is wrong with a configuration: every fault at once, each with the place to mend.

use std::{cell::RefCell, fmt, path::PathBuf};

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A line of the file, counted from 1.
    Line(u64),
    /// An environment variable, by its name.
    Variable(String),
    /// Nowhere in particular: the configuration as a whole.
    Whole,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key's path, such as `queries.outstanding-claps.target`; empty for the file as a whole.
    pub path: String,
    /// Where it stands.
    pub place: Place,
    /// What was found and what would be right; never a secret.
    pub message: String,
}

/// Everything that is wrong with a configuration, in the file's order; at least one fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    file: Option<PathBuf>,
    faults: Vec<Fault>,
}

impl Faults {
    /// Sorts by line, then the variables, then what has no place.
    pub(crate) fn new(file: Option<PathBuf>, mut faults: Vec<Fault>) -> Self {
        faults.sort_by(|a, b| (&a.place, &a.path).cmp(&(&b.place, &b.path)));
        faults.dedup();
        Self { file, faults }
    }

    /// The faults, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }
}

/// One fault a line: `clapometer.yaml:12: queries.jobs.target: found 0, must be ...`.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match (&fault.place, &self.file) {
                (Place::Line(line), Some(file)) => write!(f, "{}:{line}: ", file.display())?,
                (Place::Line(line), None) => write!(f, "line {line}: ")?,
                (Place::Variable(name), _) => write!(f, "{name}: ")?,
                (Place::Whole, Some(file)) => write!(f, "{}: ", file.display())?,
                (Place::Whole, None) => {}
            }
            if !fault.path.is_empty() {
                write!(f, "{}: ", fault.path)?;
            }
            f.write_str(&fault.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Gathers faults while checking goes on.
#[derive(Debug, Default)]
pub(crate) struct Findings(RefCell<Vec<Fault>>);

impl Findings {
    /// Notes one fault.
    pub(crate) fn add(&self, place: Place, path: impl Into<String>, message: impl Into<String>) {
        self.0.borrow_mut().push(Fault { path: path.into(), place, message: message.into() });
    }

    /// Notes faults that were found elsewhere.
    pub(crate) fn extend(&self, faults: &Faults) {
        self.0.borrow_mut().extend(faults.faults.iter().cloned());
    }

    /// Whether nothing was found so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// What was found.
    pub(crate) fn into_faults(self, file: Option<PathBuf>) -> Faults {
        Faults::new(file, self.0.into_inner())
    }
}
