//! The parameters of a connection, which are read again for each new connection.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    connection::Connection,
    params::Params,
    variables::{URL, variable},
};
use crate::blocking;

/// The parameters of a connection as they were written; [`ConnectionSource::resolve`] reads the files behind them.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionSource(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    params: Params,
    connect_timeout: Option<Duration>,
    loaded: Connection,
}

/// Compares the parameters; the others come from them.
impl PartialEq for Inner {
    fn eq(&self, other: &Self) -> bool {
        let Self { params, connect_timeout: _, loaded: _ } = self;
        *params == other.params
    }
}

impl ConnectionSource {
    /// Keeps the parameters of a connection, which were just assembled to `loaded`.
    pub(crate) fn new(params: Params, connect_timeout: Option<Duration>, loaded: Connection) -> Self {
        Self(Arc::new(Inner { params, connect_timeout, loaded }))
    }

    /// Returns the connection as it was when the configuration was loaded.
    pub fn as_loaded(&self) -> &Connection {
        &self.0.loaded
    }

    pub(crate) fn params(&self) -> &Params {
        &self.0.params
    }

    /// Returns whether nobody has written a parameter. A connection string may have any.
    pub fn is_unset(&self, parameter: &str) -> bool {
        let texts = &self.0.params.texts;
        !texts.contains_key(parameter) && !texts.contains_key("url")
    }

    /// Returns the name under which a person finds a parameter: its key or its variable, or the connection string that
    /// has it.
    pub fn name_of(&self, parameter: &str) -> String {
        let Params { texts, prefix, variables, .. } = &self.0.params;
        let unset = || variable(parameter).filter(|_| !variables.is_empty() && !texts.contains_key(parameter));
        match variables.get(parameter).copied().or_else(unset) {
            Some(URL) => format!("{parameter} in {URL}"),
            Some(name) => name.to_owned(),
            None if texts.contains_key("url") && !texts.contains_key(parameter) => {
                format!("{parameter} in {prefix}url")
            }
            None => format!("{prefix}{parameter}"),
        }
    }

    /// Returns the names of two parameters, with what they have in common once.
    pub fn names_of(&self, first: &str, second: &str) -> String {
        let (one, other) = (self.name_of(first), self.name_of(second));
        if let (Some((one, place)), Some((other, same))) = (one.split_once(" in "), other.split_once(" in "))
            && place == same
        {
            return format!("{one} and {other} in {place}");
        }
        let prefix = &self.0.params.prefix;
        match other.strip_prefix(prefix.as_str()) {
            Some(short) if one.starts_with(prefix.as_str()) => format!("{one} and {short}"),
            _ => format!("{one} and {other}"),
        }
    }

    /// Reads every file that a parameter comes from.
    ///
    /// # Errors
    /// Returns sentences that name each wrong key, and never a value. Blocks, because it reads small files.
    pub fn resolve(&self) -> Result<Connection, String> {
        let prefix = &self.0.params.prefix;
        self.0.params.assemble().map(|(connection, _)| connection).map_err(|problems| {
            let sentences: Vec<String> =
                problems.iter().map(|problem| format!("{prefix}{}: {}", problem.key, problem.message)).collect();
            sentences.join("; ")
        })
    }

    /// Does as [`ConnectionSource::resolve`] without blocking the caller's thread.
    ///
    /// # Errors
    /// Those of [`ConnectionSource::resolve`].
    pub async fn resolve_aside(&self) -> Result<Connection, String> {
        if !self.0.params.names_files() {
            return self.resolve();
        }
        let source = self.clone();
        blocking::run_or_here("credentials", move || source.resolve()).await
    }

    /// Returns the `connect_timeout` of a URL or of `PGCONNECT_TIMEOUT`.
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.0.connect_timeout
    }

    /// Returns the files that a connection depends on: references, the password file, certificates. Blocks: a reference
    /// may be a URL that names certificates.
    pub fn files(&self) -> Vec<PathBuf> {
        self.0.params.files()
    }
}
