//! The section `admin`: probes and metrics over plain HTTP.

use std::net::SocketAddr;

use super::{
    key::{DefaultValue, Key, Kind},
    section::Section,
};

/// The keys of `admin`.
pub(super) const KEYS: &[Key] = &[Key::new(
    "listen",
    Kind::Address,
    DefaultValue::Is("0.0.0.0:9091"),
    "Where the probes (`/livez`, `/readyz`), `/metrics`, the status page and `/api` are served, plain HTTP. Must not be `server.listen`.",
)
.instead_of(&["address", "port", "bind"])];

/// `admin`: probes and metrics over plain HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// The address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
}

/// Reads `admin`; nothing if a value is wrong.
pub(super) fn read(section: &Section<'_>) -> Option<Admin> {
    let listen = section.parsed("listen");
    section.finish();
    Some(Admin { listen: listen? })
}
