//! Turns the merged tree into the types of [`super`]; every fault is noted, none ends the check.

use std::{collections::BTreeSet, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use super::{
    Admin, Config, Server, ServerTls, databases,
    effective::Provenance,
    queries,
    section::{Context, Section},
};
use crate::conninfo::ConnectionSource;

/// How long a connection of ours or of KEDA's may live or lie idle.
pub(crate) const LIFETIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

/// Checks the whole tree. `libpq` is the connection of the environment, where that is read.
pub(crate) fn config(context: &Context<'_>, libpq: Option<&ConnectionSource>) -> Config {
    let root = Section::root(context);
    let server = server(&root.section("server"));
    let admin = admin(&root.section("admin"));
    if server.listen == admin.listen && server.listen.port() != 0 {
        let message = format!("found {}, which is server.listen too; must be another address", admin.listen);
        root.section("admin").fault("listen", message);
    }
    let section = root.section("databases");
    let databases = databases::checked(&section, libpq);
    // By name, not by what could be made of them: a query must not be blamed for its database.
    let mut names: BTreeSet<String> = databases.keys().cloned().collect();
    names.extend(section.entries().map(|entry| entry.key.to_owned()));
    let queries = queries::checked(&root.section("queries"), &names);
    root.refuse_unknown_keys();
    Config { server, admin, databases, queries, provenance: Provenance::new(context.tree) }
}

fn server(section: &Section<'_>) -> Server {
    let server = Server {
        listen: address(section, SocketAddr::from(([0, 0, 0, 0], 9090))),
        tls: section.has("tls").then(|| tls(&section.section("tls"))).flatten(),
        reflection: section.boolean("reflection", true),
        connection_age: section.duration("connection_age", Duration::from_secs(600), LIFETIMES, Some("any age")),
    };
    section.refuse_unknown_keys();
    server
}

fn tls(section: &Section<'_>) -> Option<ServerTls> {
    if !section.is_present() {
        return None;
    }
    let file = |key| {
        let path = section.text(key).map(PathBuf::from)?;
        if let Err(error) = std::fs::File::open(&path) {
            section.fault(key, format!("cannot read the file {}: {error}", path.display()));
        }
        Some(path)
    };
    let [cert, key, client_ca] = ["cert", "key", "client_ca"].map(file);
    for (name, path) in [("cert", &cert), ("key", &key)] {
        if path.is_none() && !section.has(name) {
            section.fault(name, "is missing; give a PEM file");
        }
    }
    let right = "a list of DNS names, such as [keda-operator]";
    let client_names: Vec<String> =
        section.entry("client_names").and_then(|entry| entry.texts(right)).unwrap_or_default();
    if client_ca.is_none() && section.has("client_names") && !section.has("client_ca") {
        section.fault("client_names", "needs client_ca: without it no client shows a certificate");
    }
    section.refuse_unknown_keys();
    Some(ServerTls { cert: cert?, key: key?, client_ca, client_names })
}

fn admin(section: &Section<'_>) -> Admin {
    let admin = Admin { listen: address(section, SocketAddr::from(([0, 0, 0, 0], 9091))) };
    section.refuse_unknown_keys();
    admin
}

fn address(section: &Section<'_>, default: SocketAddr) -> SocketAddr {
    let right = format!("an IP address and a port, such as {default}");
    section.entry("listen").and_then(|entry| entry.parsed(&right)).unwrap_or(default)
}
