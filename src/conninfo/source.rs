//! The parameters of a connection, which are read again for each new connection.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{connection::Connection, params::Params};

/// The parameters of a connection as they were written; [`ConnectionSource::resolve`] reads the files behind them.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionSource(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    params: Params,
    connect_timeout: Option<Duration>,
}

/// Compares the parameters; the timeout comes from them.
impl PartialEq for Inner {
    fn eq(&self, other: &Self) -> bool {
        let Self { params, connect_timeout: _ } = self;
        *params == other.params
    }
}

impl ConnectionSource {
    pub(crate) fn new(params: Params, connect_timeout: Option<Duration>) -> Self {
        Self(Arc::new(Inner { params, connect_timeout }))
    }

    pub(crate) fn params(&self) -> &Params {
        &self.0.params
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

    /// Returns the `connect_timeout` of a URL or of `PGCONNECT_TIMEOUT`.
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.0.connect_timeout
    }

    /// Returns the files that a connection depends on: references, the password file, certificates.
    pub fn files(&self) -> Vec<PathBuf> {
        self.0.params.files()
    }
}
