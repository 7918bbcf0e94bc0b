//! Changes a manifest where a trigger changes, and nowhere else: comments, order, quotes and all other bytes stay.
//!
//! The places come from the YAML parser. What was changed is read again and compared with what it should be; where the
//! two differ (an anchor whose text is used elsewhere, too), the object stays as it is.

use std::{collections::BTreeMap, ops::Range};

use super::builtin;
use crate::{
    manifest::{Manifest, Node, Object, Value},
    yaml::{quoted, scalar},
};

/// Holds all of an object as it was applied last, passwords in its metadata included. `kubectl apply` writes it anew.
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The metadata that a trigger has afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// The index of the object in its file.
    pub(super) object: usize,
    /// The index of the trigger in the object.
    pub(super) trigger: usize,
    /// The address at which clapometer listens.
    pub(super) address: String,
    /// The name of the query.
    pub(super) query: String,
    /// The query's parameters.
    pub(super) parameters: Vec<(String, String)>,
}

/// A file with its changes.
#[derive(Debug)]
pub(super) struct Edited {
    /// The text.
    pub(super) text: String,
    /// The changes that could not be made.
    pub(super) undone: Vec<Change>,
}

/// Makes the changes of one file.
pub(super) fn apply(text: &str, manifest: &Manifest, changes: &[Change]) -> Edited {
    let mut by_object: BTreeMap<usize, Vec<&Change>> = BTreeMap::new();
    for change in changes {
        by_object.entry(change.object).or_default().push(change);
    }
    // Usually all changes are made at once. If one of them cannot be made, the others still are.
    let all: Vec<(usize, Vec<&Change>)> = by_object.into_iter().collect();
    if let Some(text) = attempt(text, manifest, &all) {
        return Edited { text, undone: Vec::new() };
    }
    let (mut made, mut undone) = (Vec::new(), Vec::new());
    for one in all {
        made.push(one);
        if attempt(text, manifest, &made).is_none()
            && let Some((_, changes)) = made.pop()
        {
            undone.extend(changes.into_iter().cloned());
        }
    }
    let text = attempt(text, manifest, &made).unwrap_or_else(|| text.to_owned());
    Edited { text, undone }
}

/// Returns the text with these objects changed, if it then says what it should.
fn attempt(text: &str, manifest: &Manifest, objects: &[(usize, Vec<&Change>)]) -> Option<String> {
    let mut edits = Edits { text, edits: Vec::new() };
    let mut expected: Vec<Node> = manifest.objects.iter().map(|object| object.root.clone()).collect();
    for (index, changes) in objects {
        let object = manifest.objects.get(*index)?;
        edits.object(object, changes)?;
        expect(expected.get_mut(*index)?, changes)?;
    }
    let changed = edits.applied()?;
    let read = Manifest::read(&changed);
    let is_as_expected = read.unreadable.len() == manifest.unreadable.len()
        && read.documents == manifest.documents
        && read.objects.len() == expected.len()
        && read.objects.iter().zip(&expected).all(|(object, expected)| same(&object.root, expected));
    is_as_expected.then_some(changed)
}

/// Returns whether two nodes say the same, wherever they stand.
fn same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::Sequence(a), Value::Sequence(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Mapping(a), Value::Mapping(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((key, a), (other, b))| key == other && same(a, b))
        }
        // NaN is no NaN's equal.
        (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    }
}

/// Changes a tree as the text should change.
fn expect(root: &mut Node, changes: &[&Change]) -> Option<()> {
    let text = |text: &str| Node { line: 0, key: 0..0, span: 0..0, value: Value::Text(text.to_owned()) };
    let Value::Sequence(triggers) = &mut entry(entry(root, "spec")?, "triggers")?.value else { return None };
    for change in changes {
        let trigger = triggers.get_mut(change.trigger)?;
        *entry(trigger, "type")? = text("external");
        let Value::Mapping(entries) = &mut trigger.value else { return None };
        entries.retain(|(key, _)| key != "authenticationRef");
        let Value::Mapping(metadata) = &mut entry(trigger, "metadata")?.value else { return None };
        metadata.retain(|(key, node)| builtin::stays(key, node.text().unwrap_or_default()));
        for (_, node) in metadata.iter_mut().filter(|(key, _)| key == "query") {
            *node = text(&change.query);
        }
        metadata.splice(0..0, change.added().map(|(key, value)| (key, text(&value))));
    }
    let annotations = entry(entry(root, "metadata")?, "annotations");
    if let Some(Value::Mapping(entries)) = annotations.map(|node| &mut node.value)
        && entries.iter().any(|(key, _)| key == LAST_APPLIED)
    {
        entries.retain(|(key, _)| key != LAST_APPLIED);
        let is_empty = entries.is_empty();
        if let (true, Value::Mapping(metadata)) = (is_empty, &mut entry(root, "metadata")?.value) {
            metadata.retain(|(key, _)| key != "annotations");
        }
    }
    Some(())
}

fn entry<'a>(node: &'a mut Node, name: &str) -> Option<&'a mut Node> {
    let Value::Mapping(entries) = &mut node.value else { return None };
    entries.iter_mut().rev().find(|(key, _)| key == name).map(|(_, node)| node)
}

impl Change {
    /// Returns the pairs that are new in the metadata.
    pub(super) fn added(&self) -> impl Iterator<Item = (String, String)> {
        let parameters = self.parameters.iter().map(|(name, value)| (format!("param.{name}"), value.clone()));
        std::iter::once(("scalerAddress".to_owned(), self.address.clone())).chain(parameters)
    }
}

/// The edits of one text.
struct Edits<'a> {
    text: &'a str,
    edits: Vec<(Range<usize>, String)>,
}

impl Edits<'_> {
    fn object(&mut self, object: &Object, changes: &[&Change]) -> Option<()> {
        let triggers = object.spec(&["triggers"])?.items();
        for change in changes {
            self.trigger(triggers.get(change.trigger)?, change)?;
        }
        let metadata = object.root.get("metadata")?;
        let Some(annotations) = metadata.get("annotations") else { return Some(()) };
        match annotations.entries() {
            [(key, _)] if key == LAST_APPLIED => self.remove(metadata, |key, _| key == "annotations"),
            entries if entries.iter().any(|(key, _)| key == LAST_APPLIED) => {
                self.remove(annotations, |key, _| key == LAST_APPLIED)
            }
            _ => Some(()),
        }
    }

    fn trigger(&mut self, trigger: &Node, change: &Change) -> Option<()> {
        self.replace(trigger.get("type")?, "external")?;
        let metadata = trigger.get("metadata")?;
        self.replace(metadata.get("query")?, &change.query)?;
        self.insert(metadata, change)?;
        self.remove(metadata, |key, node| !builtin::stays(key, node.text().unwrap_or_default()))?;
        if trigger.get("authenticationRef").is_some() {
            self.remove(trigger, |key, _| key == "authenticationRef")?;
        }
        Some(())
    }

    /// Replaces the text of a scalar, in quotes like those that it has.
    fn replace(&mut self, node: &Node, with: &str) -> Option<()> {
        let written = self.text.get(node.span.clone())?;
        let with = match written.chars().next()? {
            '"' => quoted(with),
            '\'' if !with.contains('\'') => format!("'{with}'"),
            _ => scalar(with),
        };
        // Between the key and a block stands the block's header.
        let header = self.text.get(node.key.end..node.span.start)?;
        let mark = header.trim_start_matches(['"', '\'']).trim_start().strip_prefix(':')?.trim_start();
        if mark.starts_with(['|', '>']) {
            let comment = mark
                .split_once('#')
                .map_or(String::new(), |(_, rest)| format!(" #{}", rest.lines().next().unwrap_or_default().trim_end()));
            self.edits.push((node.key.end..self.end(node)?, format!(": {with}{comment}")));
        } else {
            self.edits.push((node.span.clone(), with));
        }
        Some(())
    }

    /// Inserts the new keys before the first one.
    fn insert(&mut self, mapping: &Node, change: &Change) -> Option<()> {
        let (_, first) = mapping.entries().first()?;
        let key = |key: &str| {
            let is_quoted = self.text.get(first.key.clone()).is_some_and(|key| key.starts_with('"'));
            if is_quoted { quoted(key) } else { scalar(key) }
        };
        let pairs: Vec<String> = change
            .added()
            .map(|(name, value)| {
                // `host:port` may stand without quotes in a block, and looks better so.
                let is_address = name == "scalerAddress"
                    && !self.is_flow(mapping)
                    && value.starts_with(|c: char| c.is_ascii_alphabetic())
                    && value.chars().all(|c| c.is_ascii_alphanumeric() || "-.:".contains(c))
                    && !value.ends_with(':');
                format!("{}: {}", key(&name), if is_address { value } else { quoted(&value) })
            })
            .collect();
        let at = first.key.start;
        if self.is_flow(mapping) {
            let space =
                self.text.get(mapping.span.end..at).filter(|space| space.trim().is_empty() && !space.is_empty());
            let inserted: String = pairs.iter().map(|pair| format!("{pair},{}", space.unwrap_or(" "))).collect();
            self.edits.push((at..at, inserted));
        } else {
            let begin = self.line_start(at);
            let indent = self.text.get(begin..at).filter(|indent| indent.trim().is_empty())?;
            let newline = self.newline(at);
            let inserted: String = pairs.iter().map(|pair| format!("{indent}{pair}{newline}")).collect();
            self.edits.push((begin..begin, inserted));
        }
        Some(())
    }

    /// Removes entries of a mapping, not all of them.
    fn remove(&mut self, mapping: &Node, goes: impl Fn(&str, &Node) -> bool) -> Option<()> {
        let entries = mapping.entries();
        if !entries.iter().all(|(key, node)| self.is_key(key, node)) {
            return None;
        }
        let goes: Vec<bool> = entries.iter().map(|(key, node)| goes(key, node)).collect();
        if self.is_flow(mapping) {
            self.remove_from_flow(entries, &goes)
        } else {
            self.remove_from_block(entries, &goes)
        }
    }

    fn remove_from_flow(&mut self, entries: &[(String, Node)], goes: &[bool]) -> Option<()> {
        let last = goes.iter().rposition(|goes| !goes)?;
        for at in (0..last).filter(|at| goes[*at]) {
            self.edits.push((entries[at].1.key.start..entries[at + 1].1.key.start, String::new()));
        }
        if last + 1 < entries.len() {
            let (_, end) = entries.last()?;
            self.edits.push((self.end(&entries[last].1)?..self.end(end)?, String::new()));
        }
        Some(())
    }

    fn remove_from_block(&mut self, entries: &[(String, Node)], goes: &[bool]) -> Option<()> {
        let stays = goes.iter().position(|goes| !goes)?;
        for at in (0..entries.len()).filter(|at| goes[*at]) {
            let node = &entries[at].1;
            let begin = self.line_start(node.key.start);
            let before = self.text.get(begin..node.key.start)?;
            let end = self.line_end(self.end(node)?);
            if before.trim().is_empty() {
                self.edits.push((begin..end, String::new()));
                continue;
            }
            // The dash of its list stands before it: that goes to the first entry that stays.
            let is_dash = at == 0 && before.chars().all(|c| matches!(c, ' ' | '-'));
            let next = entries[stays].1.key.start;
            let indent = self.line_start(next)..next;
            if !is_dash || self.text.get(indent.clone())?.len() != before.len() {
                return None;
            }
            self.edits.push((begin..end, String::new()));
            self.edits.push((indent, before.to_owned()));
        }
        Some(())
    }

    /// Returns whether a mapping is written in braces.
    fn is_flow(&self, mapping: &Node) -> bool {
        self.text.get(mapping.span.clone()) == Some("{")
    }

    /// Returns whether the key stands where it should: an alias and a merged mapping have their keys elsewhere.
    fn is_key(&self, key: &str, node: &Node) -> bool {
        let written = self.text.get(node.key.clone()).unwrap_or_default();
        written == key || written.trim_matches(['"', '\'']) == key
    }

    /// Returns the end of a value: of its last line with content, or of its closing bracket.
    fn end(&self, node: &Node) -> Option<usize> {
        let opened = self.text.get(node.span.clone())?;
        let children: Vec<&Node> = match &node.value {
            Value::Mapping(entries) => entries.iter().map(|(_, node)| node).collect(),
            Value::Sequence(items) => items.iter().collect(),
            // Of a block the span has the empty lines behind it, too.
            _ => return Some(node.span.start + opened.trim_end().len()),
        };
        if opened.starts_with('*') {
            return Some(node.span.end);
        }
        let mut end = node.span.end;
        for child in children {
            end = end.max(self.end(child)?);
        }
        let closes = match opened {
            "{" => '}',
            "[" => ']',
            _ => return Some(end),
        };
        // Behind the last value stand only white space, a comma and comments.
        loop {
            let rest = self.text.get(end..)?;
            let next = rest.chars().next()?;
            end += match next {
                '#' => rest.find('\n')?,
                _ if next == closes => return Some(end + 1),
                _ if next.is_whitespace() || next == ',' => next.len_utf8(),
                _ => return None,
            };
        }
    }

    fn line_start(&self, at: usize) -> usize {
        self.text.get(..at).and_then(|text| text.rfind('\n')).map_or(0, |newline| newline + 1)
    }

    /// Returns where the next line begins.
    fn line_end(&self, at: usize) -> usize {
        let rest = self.text.get(at..).and_then(|rest| rest.find('\n'));
        rest.map_or(self.text.len(), |newline| at + newline + 1)
    }

    fn newline(&self, at: usize) -> &'static str {
        let end = self.line_end(at);
        if self.text.get(..end).is_some_and(|text| text.ends_with("\r\n")) { "\r\n" } else { "\n" }
    }

    /// Returns the text with all edits, unless two of them overlap.
    fn applied(mut self) -> Option<String> {
        self.edits.sort_by_key(|(range, _)| (range.start, range.end));
        let mut text = String::with_capacity(self.text.len());
        let mut copied = 0;
        for (range, with) in &self.edits {
            text.push_str(self.text.get(copied..range.start)?);
            text.push_str(with);
            copied = range.end;
        }
        text.push_str(self.text.get(copied..)?);
        Some(text)
    }
}
