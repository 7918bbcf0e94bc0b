//! The adapter between the cache's port and PostgreSQL.

use std::{pin::Pin, sync::Arc};

use tokio::sync::watch;

use crate::{
    cache::QueryReader,
    fault::Fault,
    postgres::{Database, Statement},
    query::{Query, Value},
    reading::{Breaker, ChannelState, ReadResult, Tenant},
};

/// Reads one query from one of its databases.
pub(super) struct PostgresReader {
    statement: Statement,
    database: Arc<Database>,
}

impl PostgresReader {
    pub(super) fn new(query: Arc<Query>, database: Arc<Database>) -> Self {
        Self { statement: Statement::new(query, &database.settings().name), database }
    }
}

impl QueryReader for PostgresReader {
    fn database(&self) -> &str {
        &self.database.settings().name
    }

    fn channel(&self) -> Option<watch::Receiver<ChannelState>> {
        let notify = self.statement.query.notify.as_ref()?;
        Some(self.database.channel(&notify.channel))
    }

    fn breaker(&self) -> watch::Receiver<Breaker> {
        self.database.breaker()
    }

    fn refusal(&self) -> Option<Fault> {
        self.database.refusal()
    }

    fn read<'a>(
        &'a self,
        parameters: &'a [Value],
        tenant: &'a watch::Receiver<Tenant>,
    ) -> Pin<Box<dyn Future<Output = ReadResult> + Send + 'a>> {
        Box::pin(self.database.read(&self.statement, parameters, tenant))
    }
}
