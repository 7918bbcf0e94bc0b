//! The step at which no session can be opened, for people who see neither the log nor the server.
//!
//! The sentences are fixed, and name no host, user or database: whoever reaches the admin port reads them.

use super::Cause;

impl Cause {
    /// Returns a word for what fails while a session is opened, for metrics; empty for a cause of another kind.
    pub fn name(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::HostName => "host_name",
            Self::Refused | Self::NoSocket => "refused",
            Self::Silent => "silent",
            Self::NotPostgres => "not_postgres",
            Self::HungUp => "hung_up",
            Self::NoTls
            | Self::NotDirect
            | Self::CertificateTime
            | Self::UnknownIssuer
            | Self::OwnRoot
            | Self::WrongName
            | Self::ClientCertificate
            | Self::Tls => "tls",
            Self::MissingPassword | Self::ChannelBinding | Self::AuthenticationMethod | Self::Authentication => {
                "authentication"
            }
            Self::Role => "role",
            Self::Backend => "backend",
            Self::MissingDatabase => "missing_database",
            Self::ClosedDatabase => "closed_database",
            Self::Full => "no_connection_left",
            Self::NotReady => "starting_or_stopping",
            _ => "",
        }
    }

    /// Returns what fails while a session is opened, and what to do about it; none for a cause of another kind.
    pub fn step(self) -> Option<&'static str> {
        Some(match self {
            Self::Credentials => {
                "A password or certificate cannot be read: look at the Secret and its mount. The log names the file."
            }
            Self::HostName => "The host name is not known: look at the name, at the Service, and at DNS.",
            Self::Refused | Self::NoSocket => {
                "Nothing listens there: is PostgreSQL up, are host and port right, does a NetworkPolicy stand between?"
            }
            Self::Silent => "No answer in time: a NetworkPolicy or firewall drops the packets, or the server hangs.",
            Self::NotPostgres => "Something else than PostgreSQL answers there: look at host and port.",
            Self::HungUp => {
                "The server hangs up at once: it is starting or stopping, or a proxy or pooler has lost it."
            }
            Self::NoTls | Self::NotDirect => "The server offers no such TLS: compare sslmode with the server's ssl.",
            Self::CertificateTime => {
                "The server's certificate has expired, or is not valid yet: renew it, and look at the clocks."
            }
            Self::UnknownIssuer | Self::OwnRoot => {
                "The server's certificate is of another authority: was it renewed? sslrootcert must have the new one."
            }
            Self::WrongName => "The server's certificate is for another name: connect by a name that it has.",
            Self::ClientCertificate => {
                "The server refuses the scaler's certificate, or wants one: look at sslcert and sslkey."
            }
            Self::Tls => "TLS fails: compare sslmode and sslrootcert with the server's certificate.",
            Self::MissingPassword => "The server asks for a password, and there is none: look at the Secret.",
            Self::ChannelBinding | Self::AuthenticationMethod => {
                "The server asks for another way of authentication: look at pg_hba.conf."
            }
            Self::Authentication => {
                "The server refuses the password or the role: was the password rotated, does pg_hba.conf admit the role?"
            }
            Self::Role => "The role may not log in: was it set NOLOGIN, dropped or renamed?",
            Self::Backend => "The pooler answers, but the PostgreSQL behind it does not: the pooler's log says why.",
            Self::MissingDatabase => "The server has no such database: was it dropped or renamed? Look at dbname.",
            Self::ClosedDatabase => {
                "The database takes no connections (ALLOW_CONNECTIONS false): a DBA has closed it, perhaps for maintenance."
            }
            Self::Full => {
                "The server has no connection left: see who holds them, or raise max_connections or the role's CONNECTION LIMIT."
            }
            Self::NotReady => "The server is starting or stopping: wait, and read its log if it lasts.",
            _ => return None,
        })
    }
}
