//! Reads YAML into a [`Tree`]: every key with its line, every key that stands twice with both.

use ::config::{Map, Value, ValueKind};
use serde_saphyr::Spanned;

use super::source::{Path, Tree};
use crate::{
    diagnostics::{Diagnostics, Location, NOT_YAML},
    yaml::{self, Yaml, described},
};

/// Reads YAML text; notes what is no YAML, and keys that stand twice. `needed` is what a file must have.
pub(crate) fn tree(text: &str, needed: &str, diagnostics: &Diagnostics) -> Tree {
    let mut tree = Tree::default();
    match yaml::document(text) {
        Ok(Spanned { value: Yaml::Mapping(entries), .. }) if is_manifest(&entries) => {
            let message = "the file is a Kubernetes manifest; the configuration is the text below its data, or the file \
                           that the pod mounts";
            diagnostics.add(Location::Whole, "", message);
        }
        Ok(Spanned { value: Yaml::Mapping(entries), .. }) => {
            tree.values = tree.table(entries, &Path::new(), diagnostics);
        }
        Ok(Spanned { value: Yaml::Null, .. }) => {
            diagnostics.add(Location::Whole, "", format!("the file is empty; it needs {needed}"));
        }
        Ok(other) => {
            let place = Location::Line(other.referenced.line());
            diagnostics.add(place, "", format!("found {}, must be a mapping of keys", other.value.kind()));
        }
        Err(error) => {
            let place = error.location().map_or(Location::Whole, |location| Location::Line(location.line()));
            diagnostics.add(place, "", format!("{NOT_YAML}{}", described(&error)));
        }
    }
    tree
}

/// Returns whether a document has the keys that every object of Kubernetes has, and no configuration.
fn is_manifest(entries: &[(Spanned<String>, Spanned<Yaml>)]) -> bool {
    ["apiVersion", "kind"].into_iter().all(|name| entries.iter().any(|(key, _)| key.value == name))
}

impl Tree {
    fn table(
        &mut self,
        entries: Vec<(Spanned<String>, Spanned<Yaml>)>,
        path: &Path,
        diagnostics: &Diagnostics,
    ) -> Map<String, Value> {
        let mut table = Map::new();
        for (key, node) in entries {
            let mut path = path.clone();
            path.push(key.value.clone());
            let line = key.referenced.line().max(1);
            if let Some(Location::Line(first)) = self.places.get(&path) {
                let message = format!("stands twice; the first is on line {first}");
                diagnostics.add(Location::Line(line), path.join("."), message);
                continue;
            }
            self.places.insert(path.clone(), Location::Line(line));
            let value = self.value(node.value, &path, diagnostics);
            table.insert(key.value, value);
        }
        table
    }

    fn value(&mut self, node: Yaml, path: &Path, diagnostics: &Diagnostics) -> Value {
        let kind = match node {
            Yaml::Null => ValueKind::Nil,
            Yaml::Boolean(value) => ValueKind::Boolean(value),
            Yaml::Integer(value) => ValueKind::I128(value),
            Yaml::Float(value) => ValueKind::Float(value),
            Yaml::Text(value) => ValueKind::String(value),
            Yaml::Sequence(nodes) => {
                let mut list = Vec::with_capacity(nodes.len());
                for (index, node) in nodes.into_iter().enumerate() {
                    let mut path = path.clone();
                    path.push(index.to_string());
                    self.places.insert(path.clone(), Location::Line(node.referenced.line()));
                    list.push(self.value(node.value, &path, diagnostics));
                }
                ValueKind::Array(list)
            }
            Yaml::Mapping(entries) => ValueKind::Table(self.table(entries, path, diagnostics)),
        };
        Value::new(None, kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_keys_also_behind_aliases() {
        let diagnostics = Diagnostics::default();
        let read = tree("a: &shared\n  b: |\n    text\n  c: 1\nd:\n  <<: *shared\n  e: 2\n", "", &diagnostics);
        let line =
            |path: &[&str]| read.places.get(&path.iter().map(|key| (*key).to_owned()).collect::<Path>()).cloned();
        assert_eq!(line(&["a", "c"]), Some(Location::Line(4)));
        assert_eq!(line(&["d", "e"]), Some(Location::Line(7)));
        assert!(line(&["d", "c"]).is_some());
        assert!(diagnostics.is_empty());
    }

    /// A query file of a team must not end the process for all.
    #[test]
    fn what_is_nested_without_end_is_told_on_the_stack_of_a_reload() {
        for endless in ["- ".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(63), format!("a: {}", "[".repeat(63))]
        {
            let read = move || {
                let diagnostics = Diagnostics::default();
                tree(&endless, "", &diagnostics);
                diagnostics.is_empty()
            };
            let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(read).expect("a thread starts");
            assert!(!thread.join().expect("it neither panics nor overflows"));
        }
    }

    #[test]
    fn what_is_no_yaml_is_told_without_being_quoted() {
        for bad in [
            "a: \"hunter2\n",
            "a: @hunter2\n",
            "a: %hunter2\n",
            "a: `hunter2`\n",
            "a: *hunter2\n",
            "a: !hunter2 x\n",
            "a: hunter2: c\n",
            "a: 'x' hunter2\n",
            "a: |hunter2\n",
            "a: &x {b: *x, hunter2: 1}\n",
            "a: \"hunter2\\q\"\n",
            "a: {{ hunter2 }}\n",
            "a: [hunter2\n",
            "- hunter2\nb: 1\n",
            "? [hunter2]\n: 1\n",
            "null: hunter2\n",
            "a: !!int hunter2\n",
            "a: !!float hunter2\n",
            "a: !!bool hunter2\n",
            "a: !!binary hunter2%\n",
            "a: hunter2\n---\nb: 1\n",
            "a: hunter2 # \u{1}\n",
        ] {
            let diagnostics = Diagnostics::default();
            tree(bad, "", &diagnostics);
            let message = diagnostics.into_error(None).to_string();
            assert!(!message.is_empty() && !message.contains("hunter2"), "{bad}: {message}");
        }
    }

    #[test]
    fn a_flood_of_aliases_or_nesting_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x]\n");
        for level in 1..40 {
            let below = level - 1;
            bomb.push_str(&format!("a{level}: &a{level} [*a{below}, *a{below}, *a{below}, *a{below}]\n"));
        }
        for hostile in
            [bomb, format!("a: {}", "[".repeat(100_000)), format!("a: {}x{}", "[".repeat(5_000), "]".repeat(5_000))]
        {
            let diagnostics = Diagnostics::default();
            tree(&hostile, "", &diagnostics);
            assert!(!diagnostics.is_empty());
        }
    }
}
