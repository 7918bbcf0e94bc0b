//! The configuration: the database, and a query for each library or queue.

use super::{
    answers::{Answer, MARK},
    draft::{Fleet, Place},
    page::comment,
};
use crate::{
    presets::{Queue, Workers},
    yaml::scalar,
};

/// Writes the configuration around its queries.
pub(super) fn text(place: &Place, queries: &str) -> String {
    let connection = &place.connection;
    let (hosts, ports) = place.hosts();
    let mut text = comment("#", &format!("Counts what waits in the database {}.", connection.dbname));
    let mut lines = vec![
        format!("host: {}", scalar(&hosts)),
        format!("port: {}", if ports.contains(',') { scalar(&ports) } else { ports }),
        format!("dbname: {}", scalar(&connection.dbname)),
        format!("user: {}{}", scalar(&place.role.value), place.role.mark("")),
    ];
    if connection.password.is_some() {
        lines.push(format!("password: {{env: PGPASSWORD}}  {MARK}; in a cluster {{file: /secrets/...}}"));
    }
    lines.push(format!("sslmode: {}", connection.sslmode.name()));
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
            Queue::Optional(_) => ": a row for each queue, and a trigger picks its own",
            Queue::Required => ": a query for each queue",
            Queue::Absent => "",
        };
        text += &indented(&comment("#", &format!("{}, in the schema {}{shape}.", preset.library, library.schema)));
        for query in queries {
            text += &format!("  {}:\n    preset: {}\n", query.name, preset.name);
            if let Some(queue) = &query.queue {
                text += &format!("    queue: {}\n", scalar(queue));
            }
            if preset.schema != Some(library.schema.as_str()) {
                text += &format!("    schema: {}\n", scalar(&library.schema));
            }
            text += &workers_line(workers);
        }
    }
    text
}

fn workers_line(workers: &Answer<Workers>) -> String {
    format!("    workers: {}{}\n", workers.value.word(), workers.mark("as the library's own worker runs"))
}

fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("  {line}\n")).collect()
}
