//! The configuration in force, as `clapometer config` prints it.
//!
//! Readers note every value that they take, defaults too, in the order of the table. What is
//! printed loads again as the same configuration, but for secrets, which are redacted when noted.

use std::{fmt::Write, path::PathBuf};

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value as Json;

use crate::{diagnostics::Location, yaml};

/// The values in force, where each was set, and the files that they were read from.
#[derive(Debug, Clone, Default)]
pub(super) struct Effective {
    root: Mapping,
    /// The name of the query file that is being read.
    query_file: Option<String>,
    /// The files that scalars are read from.
    pub(super) files: Vec<PathBuf>,
}

/// Keys in the order in which they were noted.
#[derive(Debug, Clone, Default)]
struct Mapping(Vec<Member>);

#[derive(Debug, Clone)]
struct Member {
    name: String,
    location: Option<Location>,
    query_file: Option<String>,
    node: Node,
}

#[derive(Debug, Clone)]
enum Node {
    Value(Json),
    Mapping(Mapping),
    /// A comment in place of a key that is not set.
    Remark(String),
}

impl Effective {
    /// Begins the notes about a query file.
    pub(super) fn of_query_file(name: &str) -> Self {
        Self { query_file: Some(name.to_owned()), ..Self::default() }
    }

    /// Notes a value; `location` says where a path was set.
    pub(super) fn insert(&mut self, path: &[String], value: Json, location: impl Fn(&[String]) -> Option<Location>) {
        self.put(path, Node::Value(value), location);
    }

    /// Notes a remark in place of a value.
    pub(super) fn remark(&mut self, path: &[String], remark: String) {
        self.put(path, Node::Remark(remark), |_| None);
    }

    fn put(&mut self, path: &[String], node: Node, location: impl Fn(&[String]) -> Option<Location>) {
        let Some((last, parents)) = path.split_last() else { return };
        let mut mapping = &mut self.root;
        for (depth, name) in parents.iter().enumerate() {
            mapping = mapping.below(name, || (location(&path[..=depth]), self.query_file.clone()));
        }
        let query_file = self.query_file.clone();
        mapping.0.push(Member { name: last.clone(), location: location(path), query_file, node });
    }

    /// Returns the location of a key that is set.
    pub(super) fn location(&self, path: &[&str]) -> Option<&Location> {
        let (last, parents) = path.split_last()?;
        let mapping = parents.iter().try_fold(&self.root, |mapping, name| mapping.mapping(name))?;
        mapping.0.iter().find(|member| member.name == *last)?.location.as_ref()
    }

    /// Adds what was noted for one query of a query file.
    pub(super) fn take_query(&mut self, name: &str, from: &Self) {
        let member = from.root.mapping("queries").and_then(|queries| queries.0.iter().find(|found| found.name == name));
        if let Some(member) = member {
            self.root.below("queries", || (None, None)).0.push(member.clone());
        }
    }

    /// Returns the same without `queries_from`, so that it loads wherever the query files are not: their queries are in
    /// it.
    pub(super) fn flattened(&self) -> Self {
        let mut flat = self.clone();
        if let Some(member) = flat.root.0.iter_mut().find(|member| member.name == "queries_from") {
            member.node = Node::Remark("the queries of its files stand below".to_owned());
        }
        flat
    }

    /// Returns YAML in which a comment says where each key was set.
    pub(super) fn yaml(&self) -> String {
        let mut text = String::new();
        self.root.write(&mut text, 0);
        text
    }

    /// Returns JSON, which readers of YAML accept, too.
    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(&self.root).expect("names and values that are JSON") + "\n"
    }
}

impl Mapping {
    /// Returns the mapping under a name, and makes one if there is none.
    fn below(&mut self, name: &str, origin: impl FnOnce() -> (Option<Location>, Option<String>)) -> &mut Self {
        // From the end: what is noted now belongs to what was noted last.
        let index = self.0.iter().rposition(|member| member.name == name).unwrap_or_else(|| {
            let node = Node::Mapping(Self::default());
            let (location, query_file) = origin();
            self.0.push(Member { name: name.to_owned(), location, query_file, node });
            self.0.len() - 1
        });
        let node = &mut self.0[index].node;
        if !matches!(node, Node::Mapping(_)) {
            *node = Node::Mapping(Self::default());
        }
        match node {
            Node::Mapping(mapping) => mapping,
            Node::Value(_) | Node::Remark(_) => unreachable!("it was just made a mapping"),
        }
    }

    /// Returns the mapping under a name, if there is one.
    fn mapping(&self, name: &str) -> Option<&Self> {
        match &self.0.iter().find(|member| member.name == name)?.node {
            Node::Mapping(mapping) => Some(mapping),
            Node::Value(_) | Node::Remark(_) => None,
        }
    }

    fn write(&self, text: &mut String, depth: usize) {
        let indent = "  ".repeat(depth);
        for Member { name, location, query_file, node } in &self.0 {
            let name = scalar(name);
            let comment = match (location, query_file) {
                (Some(Location::Line(number)), None) => format!("  # line {number}"),
                (Some(Location::Line(number)), Some(file)) => format!("  # {file} line {number}"),
                (Some(Location::Variable(variable)), _) => format!("  # {variable}"),
                (Some(Location::Whole) | None, _) => String::new(),
            };
            let written = match node {
                Node::Mapping(mapping) => {
                    let written = writeln!(text, "{indent}{name}:{comment}");
                    mapping.write(text, depth + 1);
                    written
                }
                Node::Value(value) => {
                    let lines = value.as_str().filter(|text| text.contains('\n'));
                    match lines.and_then(|text| yaml::block(text, indent.len())) {
                        Some(lines) => write!(text, "{indent}{name}: |-{comment}\n{lines}"),
                        None => writeln!(text, "{indent}{name}: {}{comment}", flow(value)),
                    }
                }
                Node::Remark(remark) => writeln!(text, "{indent}# {name}: {remark}"),
            };
            written.expect("writing to a String cannot fail");
        }
    }
}

impl Serialize for Mapping {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for Member { name, location: _, query_file: _, node } in &self.0 {
            match node {
                Node::Value(value) => map.serialize_entry(name, value)?,
                Node::Mapping(mapping) => map.serialize_entry(name, mapping)?,
                Node::Remark(_) => {}
            }
        }
        map.end()
    }
}

/// Returns a value on one line.
fn flow(value: &Json) -> String {
    match value {
        Json::String(text) => scalar(text),
        Json::Array(values) => format!("[{}]", values.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Json::Object(members) => {
            let members: Vec<String> =
                members.iter().map(|(name, value)| format!("{}: {}", scalar(name), flow(value))).collect();
            format!("{{{}}}", members.join(", "))
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => value.to_string(),
    }
}

/// Returns a text as [`yaml::scalar`] does, but without quotes where it is an address or a duration.
fn scalar(text: &str) -> String {
    if is_address(text) { text.to_owned() } else { yaml::scalar(text) }
}

/// Returns whether the text is an IPv4 address with a port, or a duration: both start with a digit, but are not
/// numbers.
fn is_address(text: &str) -> bool {
    text.parse::<std::net::SocketAddrV4>().is_ok() || super::duration::parse(text).is_some()
}
