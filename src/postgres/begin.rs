//! The beginning of a reading's transaction: what it may do, and for how long.

use std::time::Duration;

use postgres_protocol::escape::escape_literal;

use super::requirement::Requirement;
use crate::{config, query::Query};

/// The time for which a transaction may be idle on the server. Ours never is for long, unless this process is gone.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(5);

/// Returns the statements that begin a transaction and make its settings, in one message. A SELECT of set_config
/// would take as long to plan as a short statement takes in all. The last statement asks the server what it is, if that
/// matters.
///
/// `row_security = off` turns rows that a policy would hide into an error (42501) instead of a silent zero.
pub(super) fn text(
    database: &config::Database,
    set_path: Option<&str>,
    query: &Query,
    requirement: Option<Requirement>,
) -> String {
    let mut text = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; \
         SET LOCAL statement_timeout = {}; \
         SET LOCAL lock_timeout = {}; \
         SET LOCAL idle_in_transaction_session_timeout = {}; \
         SET LOCAL application_name = {}; \
         SET LOCAL row_security = off",
        query.timeout.as_millis(),
        database.lock_timeout.as_millis(),
        IDLE_IN_TRANSACTION.as_millis(),
        escape_literal(&format!("clapometer/{}", query.name)),
    );
    for statement in set_path.into_iter().chain(requirement.and_then(Requirement::statement)) {
        text += "; ";
        text += statement;
    }
    text
}
