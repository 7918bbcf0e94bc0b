//! The configuration: the database, and a query for each library or queue.

use super::{
    answers::{Answer, MARK},
    draft::{Counting, Fleet, Place},
    files::PASSWORD,
    page::comment,
};
use crate::{
    conninfo::{Address, SslMode},
    presets::{Queue, Workers},
    yaml::scalar,
};

/// Writes the configuration around its queries.
pub(super) fn text(place: &Place, queries: &str) -> String {
    let connection = &place.connection;
    let (hosts, ports) = place.hosts();
    let mut text = comment("#", &format!("Counts what waits in the database {}.", connection.dbname));
    let mut lines = vec![
        format!("host: {}{}", scalar(&hosts), host_remark(place)),
        format!("port: {}", if ports.contains(',') { scalar(&ports) } else { ports }),
        format!("dbname: {}", scalar(&connection.dbname)),
        format!("user: {}{}", scalar(&place.role.value), place.role.mark("")),
    ];
    if connection.password.is_some() {
        lines.push(format!("password: {{file: {PASSWORD}}}  {MARK}; in a pod /secrets/clapometer-database/password"));
    }
    let remark = match connection.sslmode {
        SslMode::VerifyFull => "",
        _ => "  # in a pod better verify-full, with sslrootcert",
    };
    lines.push(format!("sslmode: {}{remark}", connection.sslmode.name()));
    if let Some(root) = &connection.sslrootcert {
        lines.push(format!("sslrootcert: {}", scalar(&root.display().to_string())));
    }
    if let Some(wanted) = place.session_attrs() {
        lines.push(format!("target_session_attrs: {wanted}"));
    }
    if !place.known.is_superuser {
        lines.push("require_unprivileged_role: true".to_owned());
    }
    text += &format!("databases:\n  {}:\n", place.name);
    text.extend(lines.into_iter().map(|line| format!("    {line}\n")));
    text + "built_in_queries: false  # those of postgres-batch; its preset counts the same\n" + queries
}

/// Writes the queries of libraries.
pub(super) fn queries(fleets: &[Fleet]) -> String {
    let mut text = "queries:\n".to_owned();
    for Fleet { library, workers, queries, .. } in fleets {
        let preset = library.preset;
        let shape = match preset.queue {
            Queue::Optional(_) | Queue::Required => ": a query for each queue",
            Queue::Absent => "",
        };
        text += &indented(&comment("#", &format!("{}, in the schema {}{shape}.", preset.library, library.schema)));
        for Counting { name, queue } in queries {
            text += &format!("  {name}:\n    preset: {}\n", preset.name);
            if let Some(queue) = queue {
                text += &format!("    queue: {}{}\n", scalar(&queue.value), queue.mark(""));
            }
            if preset.schema != Some(library.schema.as_str()) {
                text += &format!("    schema: {}\n", scalar(&library.schema));
            }
            text += &workers_line(workers);
        }
    }
    text
}

/// Returns what a pod needs in place of the hosts that this machine connects to.
fn host_remark(place: &Place) -> &'static str {
    let addresses = &place.connection.addresses;
    let is_elsewhere = |address: &Address| match address {
        Address::Tcp { host, hostaddr: Some(ip), .. } => *host != ip.to_string(),
        Address::Tcp { .. } | Address::Unix { .. } => false,
    };
    if addresses.iter().any(is_elsewhere) {
        "  # without PGHOSTADDR, so that this name must resolve"
    } else if addresses.iter().any(Address::is_local) {
        "  # in a pod the name of its Service or server"
    } else {
        ""
    }
}

fn workers_line(workers: &Answer<Workers>) -> String {
    format!("    workers: {}{}\n", workers.value.word(), workers.mark("as the library's own worker runs"))
}

fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("  {line}\n")).collect()
}
