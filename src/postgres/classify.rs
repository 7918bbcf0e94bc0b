//! Classifies the driver's errors. The only file that names SQLSTATEs.
//!
//! *Source:* PostgreSQL's manual, appendix A; the table of faults is in docs/runbook.md.

use std::{error::Error as _, io};

use tokio_postgres::{
    Error,
    error::{DbError, Severity},
};

use super::{connect, transport::Misbehaviour};
use crate::fault::{Fault, Kind, SqlState};

/// The SQLSTATE with which `transaction_timeout` ends a session.
const TRANSACTION_TIMEOUT: &str = "25P04";

/// Returns the fault of a statement that failed in an open session.
pub(super) fn statement_fault(error: &Error) -> Fault {
    match error.code().and_then(|code| SqlState::new(code.code())) {
        Some(state) => by_state(state),
        // The driver gives no SQLSTATE for a broken or garbled connection.
        None => Fault::ConnectionLost,
    }
}

/// Returns whether the server has ended the session with this error. A function may raise any SQLSTATE, also 57P01,
/// in a session that goes on.
pub(super) fn ends_session(error: &Error) -> bool {
    error.as_db_error().is_some_and(|error| match error.parsed_severity() {
        Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
        // A pooler's own error comes without the field that is the same in every language.
        None => matches!(error.severity(), "FATAL" | "PANIC"),
    })
}

/// The meaning of an error for a writer, for whom some errors are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteError {
    /// It may succeed later, perhaps on another server.
    Passing,
    /// The connection broke, here or behind a pooler: the statement may have been executed all the same.
    Unanswered,
    /// A unique index refused the row.
    UniqueViolation,
    /// A table, column, function or schema is missing.
    MissingObject,
    /// It will not succeed.
    Rejected,
}

/// Returns the meaning of an error of a writer's statement.
pub(crate) fn write_error(error: &Error) -> WriteError {
    match error.code().map(tokio_postgres::error::SqlState::code) {
        Some("23505") => WriteError::UniqueViolation,
        Some("42P01" | "42703" | "42883" | "3F000") => WriteError::MissingObject,
        // A failover is under way, and this server is not, or not yet, the primary.
        Some("25006") => WriteError::Passing,
        // Also 08P01, with which PgBouncer reports a server that crashed, is away, or refuses connections. For a
        // reader it means a query that PgBouncer cannot take; a worker's statements are known to pass.
        Some(code) if code.starts_with("08") => WriteError::Unanswered,
        None => WriteError::Unanswered,
        Some(_) => match statement_fault(error).kind() {
            Kind::Unavailable | Kind::TooSlow => WriteError::Passing,
            Kind::Precondition | Kind::Exhausted | Kind::Bug => WriteError::Rejected,
        },
    }
}

/// Returns whether a statement names a table, column, type, function or schema that is not there.
pub(super) fn lacks_object(error: &Error) -> bool {
    error.code().is_some_and(|code| matches!(code.code(), "42P01" | "42703" | "42704" | "42883" | "3F000"))
}

/// Returns whether a statement gave up waiting for a lock.
pub(crate) fn is_lock_timeout(error: &Error) -> bool {
    error.code().is_some_and(|code| code.code() == "55P03")
}

/// Returns whether a value was the trouble: it cannot be converted, or is too long. One that needs too much memory
/// (53200) or is damaged (XX) is not told apart from a server that is short of memory or damaged: such an error may
/// pass.
pub(crate) fn is_about_a_value(error: &Error) -> bool {
    let state = error.code().map(tokio_postgres::error::SqlState::code).unwrap_or_default();
    ["22", "54"].iter().any(|class| state.starts_with(class))
}

/// Returns whether a value may have been the trouble, so that a statement that reads less may succeed: one that
/// [`is_about_a_value`] names, or one that needs too much memory or is damaged.
pub(crate) fn may_be_about_a_value(error: &Error) -> bool {
    let state = error.code().map(tokio_postgres::error::SqlState::code).unwrap_or_default();
    is_about_a_value(error) || state == "53200" || state.starts_with("XX")
}

/// Returns the meaning of an error of a writer's BEGIN.
pub(crate) fn begin_error(error: &Error) -> WriteError {
    match error.code().map(tokio_postgres::error::SqlState::code) {
        // A standby's answer to READ WRITE, and to nothing else in a BEGIN: a failover is under way here, too.
        Some("0A000") => WriteError::Passing,
        _ => write_error(error),
    }
}

/// Returns a statement's error for the log, without what it may quote of the SQL or of its data.
///
/// A data exception quotes the datum, and a syntax error the text. `clapometer check` shows them to a person
/// who may run the query.
pub(super) fn loggable(error: &Error) -> String {
    let Some(database) = error.as_db_error() else { return connect::explain(error) };
    let state = database.code().code();
    let names_only_identifiers = matches!(state, "42501" | "42P01" | "42703" | "42704" | "42883" | "3F000" | "3D000")
        || ["08", "25", "40", "53", "55", "57", "58", "XX"].iter().any(|class| state.starts_with(class));
    if names_only_identifiers {
        connect::shortened(format!("{} {}: {}", database.severity(), state, database.message()))
    } else {
        format!("{} {state}; `clapometer check` shows the server's message", database.severity())
    }
}

/// The cause of a failure, as far as the remedy depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A credential or certificate that cannot be read.
    Credentials,
    /// A host name that cannot be resolved.
    HostName,
    /// No server listens there, or there is no route.
    Refused,
    /// The server did not answer in time.
    Silent,
    /// A Unix socket that is not there.
    NoSocket,
    /// The answer is not that of a PostgreSQL server.
    NotPostgres,
    /// The connection was closed before anything was said.
    HungUp,
    /// The server has no TLS.
    NoTls,
    /// The server does not take TLS that begins with the first byte.
    NotDirect,
    /// The server's certificate was signed by somebody else.
    UnknownIssuer,
    /// The server's certificate is for another name.
    WrongName,
    /// The server's certificate has ended, or does not count yet.
    CertificateTime,
    /// The server's certificate is also the root.
    OwnRoot,
    /// The server refused our certificate, or wants one.
    ClientCertificate,
    /// TLS failed otherwise.
    Tls,
    /// The server asks for a password, and there is none.
    MissingPassword,
    /// The server, or what is before it, cannot bind SCRAM to the TLS session.
    ChannelBinding,
    /// The server asks for a way of authentication that the driver does not have.
    AuthenticationMethod,
    /// The server refused the credentials, or the access.
    Authentication,
    /// The role does not exist, or may not log in.
    Role,
    /// A pooler cannot reach its server.
    Backend,
    /// A pooler gives each statement another session.
    StatementPooling,
    /// The database does not exist.
    MissingDatabase,
    /// The database takes no connections.
    ClosedDatabase,
    /// The server has no room for another session.
    Full,
    /// The server is starting or stopping.
    NotReady,
    /// The server is not of the kind that the configuration asks for, or too far behind.
    WrongServer,
    /// The role can do more than the configuration allows.
    PrivilegedRole,
    /// The connection broke.
    Connection,
    /// A table or view is missing.
    MissingTable,
    /// A column is missing.
    MissingColumn,
    /// A column's table is not clear, or not in FROM under this name.
    Reference,
    /// A column stands beside an aggregate.
    Grouping,
    /// A type is missing.
    MissingType,
    /// A function is missing, or does not take these types.
    MissingFunction,
    /// An operator does not compare or compute with these types.
    MissingOperator,
    /// A type cannot be cast to another, a column's to a number for example.
    NoCast,
    /// The text is not one SELECT.
    Syntax,
    /// The role may not read something.
    Privilege,
    /// Policies apply to the role, and may hide rows from it.
    RowSecurity,
    /// The statement tries to write.
    ReadOnly,
    /// The statement's own limit.
    StatementTimeout,
    /// A lock that somebody else holds.
    LockTimeout,
    /// A value cannot be computed with.
    Datum,
    /// A value is too long for an index.
    TooLong,
    /// The answer is not one number.
    Answer,
    /// Another cause.
    Other,
}

/// Returns the cause of a statement's error.
pub(super) fn cause(error: &DbError) -> Cause {
    // Policies and privileges share a SQLSTATE; the routine's name is the same in every language.
    if error.routine() == Some("get_row_security_policies") || error.routine() == Some("check_enable_rls") {
        return Cause::RowSecurity;
    }
    match error.code().code() {
        "42P01" if error.routine() == Some("errorMissingRTE") => Cause::Reference,
        "42P01" | "3F000" => Cause::MissingTable,
        "42702" => Cause::Reference,
        "42703" => Cause::MissingColumn,
        "42704" => Cause::MissingType,
        "42803" => Cause::Grouping,
        "42883" if error.routine() == Some("op_error") => Cause::MissingOperator,
        "42883" => Cause::MissingFunction,
        "42804" | "42846" => Cause::NoCast,
        // PgBouncer has this code for everything, and one language.
        "08P01" => pooler_cause(error.message()),
        "42601" | "42P02" | "0A000" | "42P18" => Cause::Syntax,
        "42501" => Cause::Privilege,
        "25006" => Cause::ReadOnly,
        "57014" | TRANSACTION_TIMEOUT => Cause::StatementTimeout,
        "55P03" => Cause::LockTimeout,
        "3D000" => Cause::MissingDatabase,
        "53300" => Cause::Full,
        "55000" if error.routine() == Some("CheckMyDatabase") => Cause::ClosedDatabase,
        "54000" => Cause::TooLong,
        code => match (code.get(..2), code.get(..3)) {
            (Some("22"), _) => Cause::Datum,
            (Some("28"), _) if error.message().contains("certificate") => Cause::ClientCertificate,
            (Some("28"), _) if error.routine() == Some("InitializeSessionUserId") => Cause::Role,
            (Some("28"), _) => Cause::Authentication,
            (_, Some("57P")) => Cause::NotReady,
            _ => Cause::Other,
        },
    }
}

/// Returns the cause of the error of a writer's statement; none if the server has not said it.
pub(crate) fn cause_of_write(error: &Error) -> Option<Cause> {
    let error = error.as_db_error()?;
    Some(match error.code().code() {
        // A standby's answer to BEGIN READ WRITE; the routine's name is the same in every language.
        "0A000" if error.routine() == Some("call_bool_check_hook") => Cause::ReadOnly,
        _ => cause(error),
    })
}

/// Returns the reason why no session could be opened.
pub(crate) fn cause_of_connect(error: &connect::Error) -> Cause {
    let source = match error.chief() {
        connect::Error::Credentials(_) => return Cause::Credentials,
        connect::Error::Timeout { .. } => return Cause::Silent,
        connect::Error::Mismatch { .. } => return Cause::WrongServer,
        // Several have a chief, unless there are none.
        connect::Error::Closed { .. } | connect::Error::Several(_) => return Cause::HungUp,
        connect::Error::Refused { source, .. } => &**source,
    };
    if let Some(server) = source.as_db_error() {
        return cause(server);
    }
    if let Some(misbehaviour) = find::<Misbehaviour>(source) {
        return match misbehaviour {
            Misbehaviour::NoTls => Cause::NoTls,
            Misbehaviour::NotPostgres | Misbehaviour::TooMuch(_) => Cause::NotPostgres,
            Misbehaviour::HungUp => Cause::HungUp,
            Misbehaviour::NotDirect => Cause::NotDirect,
        };
    }
    if let Some(error) = find::<rustls::Error>(source) {
        return tls_cause(error);
    }
    // The driver's kinds are private; its texts tell them apart.
    let kind = source.to_string();
    let reason = source.source().map(ToString::to_string).unwrap_or_default();
    if kind.contains("authentication") {
        return match &reason {
            reason if reason.contains("channel binding") => Cause::ChannelBinding,
            reason if reason.contains("unsupported authentication") => Cause::AuthenticationMethod,
            _ => Cause::Authentication,
        };
    }
    if kind.contains("invalid configuration") && reason.contains("password") {
        return Cause::MissingPassword;
    }
    if kind.contains("TLS") {
        return Cause::Tls;
    }
    if kind.contains("closed") {
        return Cause::HungUp;
    }
    let Some(error) = source.source().and_then(find::<io::Error>) else { return Cause::NotPostgres };
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset, _) => Cause::HungUp,
        (io::ErrorKind::NotFound, Some(_)) => Cause::NoSocket,
        (_, Some(_)) => Cause::Refused,
        // Only a look-up fails without an error number while a connection is made.
        (_, None) if kind.contains("connecting") => Cause::HostName,
        (_, None) => Cause::NotPostgres,
    }
}

/// Returns what a failure of TLS asks for.
fn tls_cause(error: &rustls::Error) -> Cause {
    use rustls::{AlertDescription as Alert, CertificateError};
    match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            // The signature is bad if another authority has the same name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Cause::UnknownIssuer,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Cause::WrongName,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Cause::CertificateTime,
            other if format!("{other:?}").contains("CaUsedAsEndEntity") => Cause::OwnRoot,
            _ => Cause::Tls,
        },
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError,
        ) => Cause::ClientCertificate,
        rustls::Error::InvalidMessage(_) => Cause::NotPostgres,
        _ => Cause::Tls,
    }
}

/// Returns the cause that PgBouncer's own message tells.
fn pooler_cause(message: &str) -> Cause {
    const MESSAGES: [(&str, Cause); 8] = [
        ("statement pooling", Cause::StatementPooling),
        ("no such database", Cause::MissingDatabase),
        ("no such user", Cause::Authentication),
        ("query_wait_timeout", Cause::Full),
        ("no more connections allowed", Cause::Full),
        ("server login failed", Cause::Backend),
        ("server_login_retry", Cause::Backend),
        ("cannot connect to server", Cause::Backend),
    ];
    MESSAGES.into_iter().find_map(|(words, cause)| message.contains(words).then_some(cause)).unwrap_or(Cause::Other)
}

/// Finds an error of a type among an error and its causes, and inside of what `io::Error` wraps.
fn find<'a, T: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a T> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    wrapped.and_then(|wrapped| find(wrapped)).or_else(|| error.source().and_then(find))
}

/// Returns whether the same statement may succeed at once: after a serialisation failure or a deadlock.
pub(super) fn is_conflict(fault: Fault) -> bool {
    matches!(fault, Fault::Conflict(_))
}

fn by_state(state: SqlState) -> Fault {
    match state.as_str() {
        // The latter ends the session (transaction_timeout, PostgreSQL 17), and is as much a limit as the former.
        "57014" | TRANSACTION_TIMEOUT => Fault::StatementTimeout,
        "55P03" => Fault::LockTimeout,
        "40001" | "40P01" => Fault::Conflict(state),
        // A protocol violation, with which PgBouncer reports a query that it cannot take.
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

    #[test]
    fn every_row_of_the_table_has_its_kind() {
        let table = [
            ("08006", Kind::Unavailable),
            ("08P01", Kind::Precondition),
            ("25P03", Kind::Unavailable),
            ("25P04", Kind::TooSlow),
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
