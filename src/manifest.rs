//! Kubernetes manifests as they are written: several documents, Lists, each value with its line.
//!
//! It finds the objects of KEDA and leaves everything else alone. It says nothing about whether they are right; that is
//! `lint`'s. *Source:* YAML 1.2.2, section 9.1; `apis/keda/v1alpha1` of kedacore/keda v2.21.0.

mod boolean;
mod node;
mod object;
mod trigger;

use std::ops::Range;

use serde_saphyr::Location;

use self::node::{Start, breaks};
pub use self::{
    boolean::boolean,
    node::{Node, Value},
    object::{Kind, Object, WITH_LEAST_NUMBERS},
    trigger::Trigger,
};
use crate::yaml::{self, described};

/// The group of KEDA's objects, as a manifest names it.
pub const GROUP: &str = "keda.sh/";

/// The greatest depth of Lists in Lists. `kubectl` makes one level.
const DEEPEST_LIST: usize = 4;

/// A file, or standard input.
#[derive(Debug)]
pub struct Manifest {
    /// The objects of KEDA, in their order.
    pub objects: Vec<Object>,
    /// The other objects.
    pub others: Vec<Node>,
    /// The documents that are no YAML.
    pub unreadable: Vec<Unreadable>,
    /// The number of documents that say something.
    pub documents: usize,
}

/// A document that is no YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The line at which reading ended.
    pub line: usize,
    /// The lines of the document.
    pub lines: Range<usize>,
    /// Says what is wrong, and quotes nothing of the file.
    pub message: String,
    /// The document names the group of KEDA's objects.
    pub names_keda: bool,
    /// It has the marks of a template that nobody has rendered.
    pub is_template: bool,
}

impl Manifest {
    /// Reads all documents of a text. One that is no YAML does not hide the others.
    pub fn read(text: &str) -> Self {
        let mut manifest = Self { objects: Vec::new(), others: Vec::new(), unreadable: Vec::new(), documents: 0 };
        for Document { lines, bytes, text } in documents(text) {
            let breaks = breaks(&text);
            let start = Start { lines: lines.start - 1, bytes, breaks: &breaks };
            match yaml::manifest(&text) {
                Ok(root) => {
                    let root = Node::of(root, start);
                    manifest.documents += usize::from(!matches!(root.value, Value::Null));
                    manifest.gather(root, &lines, DEEPEST_LIST);
                }
                Err(error) => {
                    let line =
                        error.location().map_or(lines.start, |location| lines.start + lines_before(&location, &text));
                    manifest.documents += 1;
                    manifest.unreadable.push(Unreadable {
                        line: line.clamp(lines.start, lines.end.max(lines.start)),
                        is_template: text.contains("{{"),
                        message: if text.contains("{{") {
                            "a template that nobody has rendered: give the output of `helm template`".to_owned()
                        } else {
                            described(&error)
                        },
                        names_keda: text.contains(GROUP),
                        lines,
                    });
                }
            }
        }
        manifest
    }

    fn gather(&mut self, node: Node, lines: &Range<usize>, depth: usize) {
        let kind = node.text_at(&["kind"]).unwrap_or_default();
        if kind.ends_with("List") && depth > 0 {
            if let Value::Mapping(entries) = node.value {
                let items = entries.into_iter().filter(|(key, _)| key == "items");
                for (_, items) in items {
                    if let Value::Sequence(items) = items.value {
                        items.into_iter().for_each(|item| self.gather(item, lines, depth - 1));
                    }
                }
            }
        } else {
            match Object::of(node, lines.clone()) {
                Ok(object) => self.objects.push(object),
                Err(other) => self.others.push(other),
            }
        }
    }
}

/// Returns how many lines of a text, as an editor counts them, end before the place of an error. The parser gives such
/// a place as a line of YAML, which a carriage return alone ends, too.
fn lines_before(location: &Location, text: &str) -> usize {
    let before = usize::try_from(location.line()).unwrap_or(usize::MAX).saturating_sub(1);
    let text = text.replace("\r\n", "\n");
    text.split_inclusive(['\r', '\n']).take(before).filter(|line| line.ends_with('\n')).count()
}

/// One document of a stream.
struct Document {
    /// Its lines, counted from 1; the end is the last one.
    lines: Range<usize>,
    /// The number of bytes of the file before it.
    bytes: usize,
    /// Its text. A marker is blanked out, so that each byte keeps its place.
    text: String,
}

/// Splits a stream at its markers. `---` and `...` at the beginning of a line end a document wherever they stand, also
/// within a text, so that looking at lines is exact.
fn documents(text: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    let content = text.trim_start_matches('\u{feff}');
    let mut at = text.len() - content.len();
    let mut current = Document { lines: 1..1, bytes: at, text: String::new() };
    let mut last = 1;
    for (number, line) in (1..).zip(content.split_inclusive('\n')) {
        last = number;
        let begin = at;
        at += line.len();
        let marker = ["---", "..."].into_iter().find(|marker| {
            line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        });
        let Some(marker) = marker else {
            current.text.push_str(line);
            continue;
        };
        current.lines.end = number - 1;
        let next = Document { lines: number..number, bytes: begin, text: String::new() };
        documents.push(std::mem::replace(&mut current, next));
        // What follows `---` on its line belongs to the document.
        current.text.push_str("   ");
        current.text.push_str(&line[marker.len()..]);
    }
    current.lines.end = last;
    documents.push(current);
    documents.retain(|document| document.text.lines().any(is_content));
    documents
}

/// Returns whether a line is more than a comment or a directive of YAML.
fn is_content(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#') && !line.starts_with('%')
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "apiVersion: keda.sh/v1alpha1\nkind: ScaledJob\nmetadata: {name: a}\n";

    fn lines_of_names(text: &str) -> Vec<(String, usize)> {
        let manifest = Manifest::read(text);
        manifest.objects.iter().map(|object| (object.name().to_owned(), object.root.line)).collect()
    }

    #[test]
    fn documents_keep_the_lines_of_their_file() {
        let text = format!("# head\n---\n{JOB}--- # rendered\n\n{JOB}...\n---\nkind: Other\n---\n");
        assert_eq!(lines_of_names(&text), [("a".to_owned(), 3), ("a".to_owned(), 8)]);
        assert_eq!(Manifest::read(&text).documents, 3);
        assert_eq!(lines_of_names(&format!("\u{feff}{}", JOB.replace('\n', "\r\n"))), [("a".to_owned(), 1)]);
    }

    #[test]
    fn a_carriage_return_alone_ends_no_line_of_the_file() {
        let text =
            format!("# a\r# b\r\r\n{JOB}spec:\r\r  triggers: []\n  x: 1\n---\n\r\r{JOB}---\n\r\r\na: 1\n\nb: c: d\n");
        assert_eq!(lines_of_names(&text), [("a".to_owned(), 2), ("a".to_owned(), 8)]);
        let manifest = Manifest::read(&text);
        assert_eq!(manifest.objects[0].spec(&["x"]).map(|node| node.line), Some(6));
        let lines: Vec<_> = manifest.unreadable.iter().map(|document| document.line).collect();
        assert_eq!(lines, [15]);
    }

    #[test]
    fn a_document_that_would_take_too_much_or_is_no_text_says_so_in_words() {
        let tenfold = |(at, name): (usize, char)| {
            let before = char::from_u32(u32::from(name) - 1).expect("a letter");
            let item = if at == 0 { "1".to_owned() } else { format!("*{before}") };
            format!("{name}: &{name} [{}]\n", [item.as_str(); 10].join(", "))
        };
        let bomb: String = ('b'..'k').enumerate().map(tenfold).collect();
        for (text, expected) in [
            ("- ".repeat(100_000), "nested too deeply"),
            (format!("a: {}", "[".repeat(100_000)), "nested too deeply"),
            (bomb, "aliases (*name) that stand for too much; write out what they stand for"),
            ("a: &a [*a]\n".to_owned(), "an anchor (&name) with an alias to itself inside"),
            ("\0".repeat(4096), "a NUL character, which no text has; is it another kind of file, or a damaged one?"),
        ] {
            // The stack of a main thread, which reads manifests.
            let read = std::thread::Builder::new().stack_size(8 << 20).spawn(move || Manifest::read(&text));
            let unreadable = read.expect("a thread starts").join().expect("it does not panic").unreadable;
            assert_eq!(unreadable.into_iter().map(|one| one.message).collect::<Vec<_>>(), [expected]);
        }
    }

    /// `kubectl get` makes one document of all objects of a cluster.
    #[test]
    fn a_list_of_many_objects_is_read() {
        let list = format!("kind: List\nitems:\n- {{kind: A}}\nrest: [{}]\n", "1,".repeat(300_000));
        let manifest = Manifest::read(&list);
        assert_eq!((manifest.others.len(), manifest.unreadable.len()), (1, 0));
    }

    #[test]
    fn lists_are_opened_and_the_line_is_that_of_the_item() {
        let item = JOB.replace('\n', "\n    ");
        let text = format!("apiVersion: v1\nkind: List\nitems:\n  - {item}\n  - kind: Pod\n");
        assert_eq!(lines_of_names(&text), [("a".to_owned(), 4)]);
    }

    #[test]
    fn a_document_that_is_no_yaml_hides_no_other() {
        let manifest = Manifest::read(&format!("a: [\n---\n{JOB}---\nx: {{{{ .Values.x }}}}\nb: keda.sh/\n"));
        assert_eq!(manifest.objects.len(), 1);
        let [broken, template] = &manifest.unreadable[..] else { panic!("{:?}", manifest.unreadable) };
        assert!(!broken.names_keda && broken.line <= 2, "{broken:?}");
        assert!(template.names_keda && template.message.contains("helm template"), "{template:?}");
        assert_eq!(template.line, 7);
    }
}
