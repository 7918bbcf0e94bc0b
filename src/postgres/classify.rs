//! From a driver's error to a [`Fault`]; the only file that names SQLSTATEs.
//!
//! *Source:* PostgreSQL's manual, appendix A; the table of faults is the README's.

use tokio_postgres::Error;

use crate::fault::{Fault, SqlState};

/// What an error of a statement in an open session means.
pub(super) fn statement_fault(error: &Error) -> Fault {
    match error.code().and_then(|code| SqlState::new(code.code())) {
        Some(state) => by_state(state),
        // The driver gives no SQLSTATE for a broken or garbled connection.
        None => Fault::ConnectionLost,
    }
}

/// Whether the same statement may succeed at once: serialisation failure and deadlock.
pub(super) fn is_conflict(fault: Fault) -> bool {
    matches!(fault, Fault::Conflict(_))
}

fn by_state(state: SqlState) -> Fault {
    match state.as_str() {
        "57014" => Fault::StatementTimeout,
        "55P03" => Fault::LockTimeout,
        "40001" | "40P01" => Fault::Conflict(state),
        // 08P01 is a protocol violation: PgBouncer's word for a query that it cannot take.
        "08P01" => Fault::Rejected(state),
        "25P03" => Fault::ServerUnavailable(state),
        code => match (code.get(..2), code.get(..3)) {
            (Some("08" | "53" | "58" | "XX"), _) | (_, Some("57P")) => Fault::ServerUnavailable(state),
            _ => Fault::Rejected(state),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Kind;

    #[test]
    fn every_row_of_the_table_has_its_kind() {
        let table = [
            ("08006", Kind::Unavailable),
            ("08P01", Kind::Precondition),
            ("25P03", Kind::Unavailable),
            ("40001", Kind::Unavailable),
            ("40P01", Kind::Unavailable),
            ("53300", Kind::Unavailable),
            ("55P03", Kind::TooSlow),
            ("57014", Kind::TooSlow),
            ("57P01", Kind::Unavailable),
            ("57P03", Kind::Unavailable),
            ("58030", Kind::Unavailable),
            ("XX000", Kind::Unavailable),
            ("25006", Kind::Precondition),
            ("42501", Kind::Precondition),
            ("42601", Kind::Precondition),
            ("42P01", Kind::Precondition),
            ("22P02", Kind::Precondition),
            ("55000", Kind::Precondition),
        ];
        for (code, kind) in table {
            assert_eq!(by_state(SqlState::new(code).expect("a code")).kind(), kind, "{code}");
        }
    }
}
