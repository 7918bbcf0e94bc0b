//! A place in the configuration: its path, its location, and the notes about it.

use std::{cell::RefCell, path::PathBuf};

use serde_json::Value as Json;

use super::{
    effective::Effective,
    source::{Environment, Path, Tree},
};
use crate::{
    conninfo::Secret,
    diagnostics::{Diagnostics, Location},
};

/// The state that all places of one configuration share.
pub(super) struct Context<'a> {
    pub(super) tree: &'a Tree,
    pub(super) environment: &'a Environment,
    pub(super) diagnostics: &'a Diagnostics,
    pub(super) effective: RefCell<Effective>,
}

/// The path of a section or of a key.
pub(super) struct Site<'a> {
    context: &'a Context<'a>,
    path: Path,
}

impl<'a> Site<'a> {
    /// Returns the place of the whole configuration.
    pub(super) fn root(context: &'a Context<'a>) -> Self {
        Self { context, path: Path::new() }
    }

    /// Returns the place of a key below this one.
    pub(super) fn below(&self, name: &str) -> Self {
        Self { context: self.context, path: self.path.iter().cloned().chain([name.to_owned()]).collect() }
    }

    /// Returns the path, as messages write it.
    pub(super) fn path(&self) -> String {
        self.path.join(".")
    }

    /// Returns the last name of the path.
    pub(super) fn name(&self) -> &str {
        self.path.last().map(String::as_str).unwrap_or_default()
    }

    /// Returns the location of the path, or of its nearest parent that has one.
    pub(super) fn location(&self) -> Location {
        let places = &self.context.tree.places;
        let mut depths = (1..=self.path.len()).rev();
        depths.find_map(|depth| places.get(&self.path[..depth]).cloned()).unwrap_or(Location::Whole)
    }

    /// Returns whether a variable set the value, which is then text, even for a number.
    pub(super) fn is_set_by_variable(&self) -> bool {
        matches!(self.location(), Location::Variable(_))
    }

    /// Returns whether neither the file nor a variable sets anything here.
    pub(super) fn is_untouched(&self) -> bool {
        let mut places = self.context.tree.places.iter().filter(|(path, _)| path.starts_with(&self.path));
        places.all(|(_, location)| *location == Location::Whole)
    }

    /// Notes that the file or variable of a reference is missing: a fault where the configuration is served, else a
    /// note.
    pub(super) fn missing(&self, message: impl Into<String>) {
        match self.context.environment.is_elsewhere() {
            true => self.context.diagnostics.note(self.location(), self.path(), message),
            false => self.fault(message),
        }
    }

    /// Returns whether the configuration may be checked on another machine than the one that serves it.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.context.environment.is_elsewhere()
    }

    /// Notes a fault of this place.
    pub(super) fn fault(&self, message: impl Into<String>) {
        self.context.diagnostics.add(self.location(), self.path(), message);
    }

    /// Notes a value in force for `clapometer config`.
    pub(super) fn note(&self, shown: Json) {
        let places = &self.context.tree.places;
        self.context.effective.borrow_mut().insert(&self.path, shown, |path| places.get(path).cloned());
    }

    /// Notes a comment in place of a key that is not set.
    pub(super) fn remark(&self, remark: String) {
        self.context.effective.borrow_mut().remark(&self.path, remark);
    }

    /// Notes a file that a value is read from.
    pub(super) fn note_file(&self, file: PathBuf) {
        self.context.effective.borrow_mut().files.push(file);
    }

    /// Returns the value of a variable.
    pub(super) fn variable(&self, name: &str) -> Option<Secret> {
        self.context.environment.get(name).map(|value| Secret::new(value.to_owned()))
    }
}
