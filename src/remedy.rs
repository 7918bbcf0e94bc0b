//! Advice on each answer that is an error, in one sentence for the person who was woken up by it.
//!
//! The status page and `clapometer why` show it beside the status text, and docs/runbook.md has the same sentences.
//! They do not contain names of an installation.

use crate::{
    fault::{Fault, Limit, SqlState, Unusable},
    recorder::{Connection, EndedBy},
};

/// Returns what to do about a status that KEDA was told; none for one that explains itself.
pub fn of_status(code: &str, text: &str) -> Option<&'static str> {
    match code {
        "InvalidArgument" => {
            Some("Correct the metadata of the trigger: the text names the key. Did a deployment change it?")
        }
        "PermissionDenied" => Some(
            "Is the query's name right, is it in the configuration in force, and does its `namespaces` have this one? Look at \
             reloads and query files that were rejected.",
        ),
        _ => fault_of(text).map(of_fault),
    }
}

/// Returns what to do about a fault.
pub fn of_fault(fault: Fault) -> &'static str {
    match fault {
        Fault::Disabled => "Somebody has switched the database off: `enabled` of the database switches it on.",
        Fault::Unreachable => {
            "The log and `clapometer check` have the step that fails: name, TCP, TLS, password, connections."
        }
        Fault::PrivilegedRole => "Use the role of deploy/postgres/roles.sql: this one can do more than read.",
        Fault::WrongServer => {
            "Was there a failover? Promote a standby, or name the server that `target_session_attrs` asks for in `host`."
        }
        Fault::Lagging => {
            "Look at the standby's replay: is it paused, held up by a long query, or cut off from the primary? Do the servers' clocks differ? `max_lag` is the limit."
        }
        Fault::ConnectionLost => {
            "If it lasts, the server keeps restarting, or a proxy or firewall ends connections: read the server's log."
        }
        Fault::ServerUnavailable(state) => of_server(state),
        Fault::BreakerOpen => {
            "Look at the cause at the database. Once it is back, answers follow within 2 s by themselves. \
             Behind PgBouncer its `server_login_retry` comes on top."
        }
        Fault::DeadlineExceeded => {
            "The statement takes longer than the 2.5 s of a call, or waits for a connection: make it cheaper, or raise `max_age`, \
             so that a late reading serves later calls. If all queries do, the server hangs."
        }
        Fault::StatementTimeout => {
            "Look at the statement's plan (`clapometer check`): an index that is missing, more rows than before, old statistics. \
             `timeout` is the limit, or the server's `transaction_timeout`."
        }
        Fault::LockTimeout => "Find the session that holds the lock: a migration, VACUUM FULL (`pg_blocking_pids`).",
        Fault::Conflict(_) => {
            "On a standby, replay cancels the query (`max_standby_streaming_delay`). On a primary, look for deadlocks."
        }
        Fault::Rejected(state) => of_rejection(state),
        Fault::Unusable(unusable) => of_answer(unusable),
        Fault::Exhausted(limit) => match limit {
            Limit::Cache | Limit::NamespaceQuota => {
                "Too many different parameters are asked for: `group_by` needs one statement for all."
            }
            Limit::TriggerStreams | Limit::Streams => "Too many streams are open: who opens them, if not KEDA?",
        },
        Fault::Bug => "Please report the line of the log.",
    }
}

/// The advice for an object for which KEDA does not ask, while it asks for others.
pub const OF_ONE_SILENCE: &str = "Look at the object first: was it deleted or paused, or its `scalerAddress` changed? Else \
     the operator's loop for it hangs: its log names the object.";

/// Returns where to look while KEDA asks for nothing, by what became of the connection over which it had asked.
pub fn of_silence(connection: Option<Connection>) -> &'static str {
    match connection {
        Some(Connection::Ended { by: EndedBy::Peer, .. }) => {
            "KEDA's operator is away or cannot connect: look at its pod first, then at its log (network, TLS). With several pods of clapometer it may ask another one."
        }
        Some(Connection::Ended { by: EndedBy::Clapometer, .. }) => {
            "With several pods of clapometer, KEDA asks another one by now. With one, its operator is away, hangs or cannot connect (network, TLS): look at its pod and its log."
        }
        Some(Connection::Open) => {
            "KEDA's operator hangs, or all objects were deleted or paused: look at its log first, which ends where it hangs. A restart of it helps."
        }
        None => {
            "Were the objects deleted or paused? Is another pod asked, or does KEDA's operator hang or fail to reach this one?"
        }
    }
}

fn of_server(state: SqlState) -> &'static str {
    match state.as_str() {
        "53300" => "The server has no connection left: see who holds them, or raise `max_connections`.",
        "53100" => "The server's disk is full.",
        "57P03" => "The server is starting or stopping: wait, and read its log if it lasts.",
        _ => "The server's own log says why.",
    }
}

fn of_rejection(state: SqlState) -> &'static str {
    match state.as_str() {
        "42501" => {
            "A grant is missing, or row level security hides rows: the log says which, and the table. GRANT SELECT ON it TO the scaler's role, or ALTER ROLE ... BYPASSRLS."
        }
        "42P01" => {
            "A table or view is gone: the log names it. Was there a migration, or is it in another schema (`search_path`)?"
        }
        "42703" => "A column is gone: the log names it. Did a migration drop it, or give it another name?",
        "42883" => {
            "A function or operator is gone, or its arguments have other types: the log names it. Was there a migration, or is it in another schema (`search_path`)?"
        }
        "42704" | "3F000" => {
            "A type, a schema or the like is gone: the log names it. Was there a migration, or is it in another schema (`search_path`)?"
        }
        _ => "The log has PostgreSQL's message, and `clapometer check` runs the query and advises.",
    }
}

fn of_answer(unusable: Unusable) -> &'static str {
    match unusable {
        Unusable::Null => {
            "Write coalesce(..., 0) in the SQL, or `on_null: zero` if NULL means that there is nothing to do."
        }
        Unusable::NoRow => {
            "Is the key of the trigger spelt right? `on_no_row: zero` counts a key without a row as zero."
        }
        Unusable::SeveralRows => "Count in the SQL, so that one row comes, or use `group_by`.",
        Unusable::NotANumber | Unusable::Infinite => {
            "Look for a division by zero in the SQL, or for NaN or infinity in the table."
        }
        Unusable::Negative => "Look at what the SQL subtracts; write greatest(..., 0) if a negative number means zero.",
        Unusable::WrongType => "Cast the column to a number in the SQL.",
        Unusable::Masked => "GRANT pg_read_all_stats TO the scaler's role.",
        Unusable::UnknownState => {
            "The queue library is newer than the preset: update clapometer, or write the query yourself."
        }
        Unusable::NullKey => "Leave rows without a key out: WHERE ... IS NOT NULL.",
        Unusable::RepeatedKey => "GROUP BY the column that `group_by` names.",
        Unusable::TooManyKeys => "Choose a coarser key, or leave out keys that nobody asks for.",
        Unusable::NotShareable => {
            "Count rows in the SQL, the claimable ones among the outstanding ones, and let no weight be 0 or NULL."
        }
        Unusable::NoSinceColumn => "Raise `total` of the budget above the number of keys, or name a `since_column`.",
    }
}

/// Says what the SQLSTATE in the text of a fault meant, for a time when it is over; none for one without a remedy of its
/// own.
pub fn past_state(text: &str) -> Option<&'static str> {
    let meaning = match fault_of(text)?.sqlstate()?.as_str() {
        "53300" => "the server had no connection left",
        "53100" => "the server's disk was full",
        "57P03" => "the server was starting or stopping",
        "42501" => "a grant was missing, or row level security hid rows",
        "42P01" => "a table or view was gone, or in another schema",
        "42703" => "a column was gone",
        "42883" => "a function or operator was gone, or its arguments had other types",
        "42704" | "3F000" => "a type, a schema or the like was gone",
        "40001" | "40P01" => "transactions stood in each other's way, or the replay of a standby in that of the query",
        _ => return None,
    };
    Some(meaning)
}

/// Returns the fault whose text this is.
fn fault_of(text: &str) -> Option<Fault> {
    let state = text.rsplit_once("(SQLSTATE ").and_then(|(_, state)| SqlState::new(state.strip_suffix(')')?));
    let with_state =
        state.map(|state| [Fault::ServerUnavailable(state), Fault::Conflict(state), Fault::Rejected(state)]);
    Fault::FIXED.into_iter().chain(with_state.into_iter().flatten()).find(|fault| fault.to_string() == text)
}

/// Returns the reason of a database's failure as a sentence without a full stop; the word itself if it is none of ours.
pub fn reason_in_words(reason: &str) -> String {
    Fault::FIXED
        .into_iter()
        .find(|fault| fault.reason() == reason)
        .map_or_else(|| reason.to_owned(), |fault| fault.to_string())
}

/// Returns what to do about a database that failed for this reason.
pub fn of_reason(reason: &str) -> Option<&'static str> {
    Fault::FIXED.into_iter().find(|fault| fault.reason() == reason).map(of_fault)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every fault, with the SQLSTATEs that have a remedy of their own.
    fn faults() -> impl Iterator<Item = Fault> {
        let state = |code| SqlState::new(code).expect("a code");
        let rejected = ["42501", "42P01", "42703", "42883", "42704", "3F000", "22P02"].map(state).map(Fault::Rejected);
        let server = ["53300", "53100", "57P03", "XX000"].map(state).map(Fault::ServerUnavailable);
        Fault::FIXED.into_iter().chain([Fault::Conflict(state("40001"))]).chain(rejected).chain(server)
    }

    #[test]
    fn every_text_that_keda_is_told_has_a_remedy_that_fits_the_page() {
        let reasons: BTreeSet<&str> = faults().map(Fault::reason).collect();
        let missing = Fault::reasons(true).chain(Fault::reasons(false)).filter(|reason| !reasons.contains(reason));
        assert_eq!(missing.collect::<Vec<_>>(), Vec::<&str>::new());
        for fault in faults() {
            assert_eq!(of_status("", &fault.to_string()), Some(of_fault(fault)), "{fault}");
        }
        let refused = ["InvalidArgument", "PermissionDenied"].map(|code| of_status(code, "").expect("a remedy"));
        for remedy in faults().map(of_fault).chain(refused) {
            assert!((10..=200).contains(&remedy.len()) && remedy.ends_with(['.', '?']), "{remedy}");
            assert!(remedy.matches('`').count() % 2 == 0, "{remedy}");
        }
        assert_eq!(of_status("OutOfRange", "something else"), None);
    }

    #[test]
    fn a_state_with_a_remedy_of_its_own_is_told_in_words_once_it_is_over() {
        let general = ["22P02", "XX000"].map(|code| SqlState::new(code).expect("a code"));
        for fault in faults().filter(|fault| fault.sqlstate().is_some()) {
            let is_general = fault.sqlstate().is_some_and(|state| general.contains(&state));
            assert_eq!(past_state(&fault.to_string()).is_none(), is_general, "{fault}");
        }
        assert_eq!(past_state("the database cannot be reached"), None);
    }

    #[test]
    fn the_runbook_has_every_text_with_its_remedy() {
        let runbook = include_str!("../docs/runbook.md");
        for fault in faults() {
            let text = fault.to_string();
            let sentence = text.split(" (SQLSTATE").next().unwrap_or_default();
            let row = runbook.lines().find(|line| line.contains(sentence) && line.contains(of_fault(fault)));
            assert!(row.is_some(), "the runbook lacks: | {text} | {} |", of_fault(fault));
        }
    }
}
