//! The text of `check --offline` for a valid configuration.

use super::page::Page;
use crate::{
    config::Config,
    query::{Namespaces, Query},
    terminal::{
        style::{ColorChoice, Style},
        text::printable,
    },
};

/// Describes the configuration, what was checked, and what was not.
pub(super) fn text(title: &str, config: &Config, colors: ColorChoice) -> String {
    let mut page = Page::new(colors);
    let verdict = match config.query_files.has_faults() {
        true => colors.paint(Style::Bad, "is valid, but not all of its query files are"),
        false => colors.paint(Style::Good, "is valid"),
    };
    page.heading(&format!("{} {}", colors.paint(Style::Heading, &printable(title)), verdict));
    page.push("");
    let security = if config.server.tls.is_some() { "TLS" } else { "plain text" };
    let (grpc, http) = (config.server.listen, config.admin.listen);
    page.entry("serves", &format!("gRPC on {grpc} ({security}), probes, metrics and the status page on {http}"));
    for database in config.databases.values() {
        let at = database.connection.resolve().map_or_else(
            |_| String::new(),
            |connection| {
                let addresses: Vec<String> = connection.addresses.iter().map(ToString::to_string).collect();
                format!("{}, database {}, role {}", addresses.join(", "), connection.dbname, connection.user)
            },
        );
        let disabled = if database.enabled { "" } else { " (disabled)" };
        page.entry("database", &format!("{}  {}{disabled}", database.name, printable(&at)));
    }
    for name in &config.unknown_databases {
        page.entry("database", &format!("{name}  not known here, see the notes"));
    }
    for (name, file) in &config.query_files.files {
        let count = config.queries.keys().filter(|query| config.origin(query) == Some(name)).count();
        let queries = match (count, file.faults.is_some()) {
            (0, true) => "refused, none of its queries is served".to_owned(),
            (1, _) => "1 query".to_owned(),
            (count, _) => format!("{count} queries"),
        };
        page.entry("file", &format!("{}  {queries}", printable(name)));
    }
    let width = config.queries.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    for query in config.queries.values() {
        page.entry("query", &format!("{:width$}  {}", query.name, described(config, query)));
    }
    let notes: Vec<String> = config.notes.iter().map(ToString::to_string).collect();
    for note in notes.iter().flat_map(|notes| notes.lines()) {
        page.entry("note", &printable(note));
    }
    page.push("");
    page.heading(
        "Checked: keys, types, ranges, the files and variables that the configuration refers to, and that placeholders \
         match parameters.",
    );
    page.heading("Not checked, because --offline connects to nothing: the databases, the roles, whether the SQL runs.");
    page.text
}

fn described(config: &Config, query: &Query) -> String {
    let mut parts = vec![format!("on {}", query.databases.join(", "))];
    if config.is_builtin(&query.name) {
        parts.push("built in".to_owned());
    }
    if let Some(file) = config.origin(&query.name) {
        parts.push(format!("from {file}"));
    }
    if !query.parameters.is_empty() {
        let names: Vec<&str> = query.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        parts.push(format!("parameters {}", names.join(", ")));
    }
    if let Some(column) = &query.group_by {
        parts.push(format!("grouped by {}", printable(column)));
    }
    if let Namespaces::Only(names) = &query.namespaces {
        parts.push(format!("for namespaces {}", names.join(", ")));
    }
    parts.join(", ")
}
