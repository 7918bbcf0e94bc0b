//! Advice on a session that cannot be opened. It names keys or variables as the connection was configured.

use super::{classify::Cause, grants::identifier};
use crate::conninfo::ConnectionSource;

/// The advice if a server is silent. Each program adds its own remedy for a slow server.
pub(crate) const SILENT: &str =
    "the server, or a firewall before it, does not answer: check host, port and NetworkPolicy";

/// The advice where a pooler reports that its server is away.
pub(crate) const BACKEND: &str = "the pooler answers, but the PostgreSQL behind it does not: the pooler's log says why";

/// Returns advice on a session that could not be opened.
pub(crate) fn on_session(cause: Cause, connection: &ConnectionSource) -> String {
    let name = |parameter: &str| connection.name_of(parameter);
    let names = |first: &str, second: &str| connection.names_of(first, second);
    match cause {
        Cause::Credentials => "correct the file or the variable that is named".to_owned(),
        Cause::HostName => "this name is not known here: check its spelling; in Kubernetes it is \
                            SERVICE.NAMESPACE.svc, seen from a pod"
            .to_owned(),
        Cause::Refused => format!(
            "nothing answers there: check {}, that PostgreSQL runs, that it listens on that address \
             (listen_addresses), and that no firewall or NetworkPolicy is in between",
            names("host", "port")
        ),
        Cause::NoSocket => format!(
            "there is no such socket: {} must be the directory of the server's socket (unix_socket_directories), and {} \
             the number in its name; in a container it must be mounted",
            name("host"),
            name("port")
        ),
        Cause::NotPostgres => format!(
            "something other than PostgreSQL answers there: check {} (PostgreSQL's is usually 5432, PgBouncer's \
             6432)",
            names("host", "port")
        ),
        Cause::HungUp => format!(
            "check {}: something else may listen there, or a proxy or pooler whose server is away; if it is \
             PostgreSQL, its log says why",
            names("host", "port")
        ),
        Cause::Silent => SILENT.to_owned(),
        Cause::NoTls => format!(
            "turn TLS on in the server (ssl = on, with a certificate); or, if the network path is trusted, set {} to \
             disable",
            name("sslmode")
        ),
        Cause::NotDirect => {
            "leave sslnegotiation=direct out: it needs PostgreSQL 17, and no pooler in between".to_owned()
        }
        Cause::UnknownIssuer => format!(
            "{} must hold the certificate of the authority that signed the server's (clouds publish theirs as a \
             file); without it, only the system's authorities are trusted",
            name("sslrootcert")
        ),
        Cause::WrongName => format!(
            "{} must be one of the names in the server's certificate (connect by that name, with hostaddr in a \
             connection string where it does not resolve); or get a certificate with this name; sslmode verify-ca \
             checks no name, and trusts every certificate of the same authority",
            name("host")
        ),
        Cause::CertificateTime => "the server's certificate has expired or is not valid yet: renew it on the server; \
                                   or this machine's clock is wrong"
            .to_owned(),
        Cause::OwnRoot => format!(
            "the server's certificate is its own root (CA:TRUE), which is refused for a server: sign the server's \
             certificate with a CA of its own and give that CA as {} (docs/credentials.md)",
            name("sslrootcert")
        ),
        Cause::ClientCertificate => format!(
            "the server wants a client's certificate, or another one: check {}, the server's ssl_ca_file, and \
             the map in pg_hba.conf",
            names("sslcert", "sslkey")
        ),
        Cause::Tls => format!(
            "compare {} with the server: which versions of TLS does it speak (1.2 and 1.3 are offered), and is \
             its certificate sound",
            names("sslmode", "sslrootcert")
        ),
        Cause::MissingPassword => format!(
            "the server asks for a password and there is none: set {}, or add an entry to the password file that fits \
             host, port, database and role",
            name("password")
        ),
        Cause::ChannelBinding => "leave channel_binding=require out: it needs TLS, a password with SCRAM, and no \
                                  pooler in between"
            .to_owned(),
        Cause::AuthenticationMethod => "let pg_hba.conf ask this role for scram-sha-256 or a client's certificate: \
                                        GSSAPI, SSPI, LDAP by token and OAuth are not supported"
            .to_owned(),
        Cause::Authentication | Cause::Role => format!(
            "check that the role {} exists (deploy/postgres/roles.sql creates those of both programs), {}, and the \
             server's pg_hba.conf for this role, database, address and encryption",
            name("user"),
            name("password")
        ),
        Cause::Privilege => {
            let connection = connection.as_loaded();
            let (dbname, user) = (identifier(&connection.dbname), identifier(&connection.user));
            format!("as the database's owner: GRANT CONNECT ON DATABASE {dbname} TO {user};")
        }
        Cause::MissingDatabase => {
            let unset = match connection.is_unset("dbname") {
                true => format!(" (not set: it is {})", name("user")),
                false => String::new(),
            };
            format!("check {}{unset}; `psql -l` lists what is there", name("dbname"))
        }
        Cause::ClosedDatabase => {
            let dbname = identifier(&connection.as_loaded().dbname);
            format!("name another database in {}, or: ALTER DATABASE {dbname} ALLOW_CONNECTIONS true;", name("dbname"))
        }
        Cause::Backend => BACKEND.to_owned(),
        Cause::NotReady => "the server is starting or stopping: try again in a moment".to_owned(),
        _ => "try again; if it stays, the server's log says why".to_owned(),
    }
}
