//! What a connection is made from, kept to be read again for each new connection.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{connection::Connection, params::Params};

/// Where a connection's parts come from; [`ConnectionSource::resolve`] reads them as of now.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionSource(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    params: Params,
    connect_timeout: Option<Duration>,
}

/// The timeout is part of the parts that it comes from, or of the database.
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

    /// Reads every file that a part comes from.
    ///
    /// # Errors
    /// A sentence that names the key and what is wrong with it, never a value. Blocking: the
    /// files are small, but they are files.
    pub fn resolve(&self) -> Result<Connection, String> {
        let prefix = &self.0.params.prefix;
        self.0.params.assemble().map(|(connection, _)| connection).map_err(|problems| {
            let sentences: Vec<String> =
                problems.iter().map(|problem| format!("{prefix}{}: {}", problem.key, problem.message)).collect();
            sentences.join("; ")
        })
    }

    /// The `connect_timeout` of a URL or of `PGCONNECT_TIMEOUT`.
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.0.connect_timeout
    }

    /// The files that a connection depends on: references, the password file, certificates.
    pub fn files(&self) -> Vec<PathBuf> {
        self.0.params.files()
    }
}
