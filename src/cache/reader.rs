//! The port to a database.

use std::pin::Pin;

use tokio::sync::watch;

use crate::{
    fault::Fault,
    query::Value,
    reading::{Breaker, ChannelState, ReadResult, Tenant},
};

/// Takes readings of one query from one database: the cache's port. It is a trait so that the cache's own tests can
/// fake readings and drive the clock.
pub trait QueryReader: Send + Sync {
    /// Returns the name of the database.
    fn database(&self) -> &str;

    /// Returns the state of the notification channel, where the query has one.
    fn channel(&self) -> Option<watch::Receiver<ChannelState>>;

    /// Returns the state of the breaker, and its changes.
    fn breaker(&self) -> watch::Receiver<Breaker>;

    /// Returns the fault that a reading would bring now without a statement, if the database is not asked at all.
    fn refusal(&self) -> Option<Fault>;

    /// Takes one reading on behalf of `tenant`, which may change while it waits. Ends by itself.
    fn read<'a>(
        &'a self,
        parameters: &'a [Value],
        tenant: &'a watch::Receiver<Tenant>,
    ) -> Pin<Box<dyn Future<Output = ReadResult> + Send + 'a>>;
}
