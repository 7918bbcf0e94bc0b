//! libpq's connection parameters: what they may be, where they come from, and the connection that they make.
//!
//! Both programs use them: clapometer for each entry of `databases`, postgres-batch for its only
//! database. [`ConnectionSource`] keeps what was written; [`ConnectionSource::resolve`] reads the
//! files behind it as of now and gives a [`Connection`]. Nothing here connects to anything.

mod address;
#[cfg(test)]
mod clouds;
mod connection;
mod environment;
mod foreign;
mod keywords;
mod params;
mod passfile;
mod secret;
mod source;
mod url;
mod value;
mod variables;

pub use self::{
    address::Address,
    connection::{ChannelBinding, Connection, SessionAttrs, SslMode, SslNegotiation, TcpSettings},
    secret::Secret,
    source::ConnectionSource,
};
pub(crate) use self::{
    address::{HOSTS, is_host},
    connection::{SESSION_ATTRS, SSLMODES},
    keywords::KEYS,
    params::{Params, Problem},
    url::redacted as redacted_url,
    value::ValueSource,
};
