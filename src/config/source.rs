//! Gathers the YAML file and the environment into one tree that remembers where each key stands.
//!
//! The crate `config` merges the sources; each source is ours, because `config` itself knows
//! neither the lines of a YAML file nor the names of the variables that it read.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use ::config::{ConfigError, Map, Source, Value, ValueKind};

use crate::diagnostics::{Diagnostics, Location};

/// The prefix of the name of every variable that overrides a key.
///
/// Two underscores, because Kubernetes sets `CLAPOMETER_PORT=tcp://...` and the like in every
/// pod beside a Service of that name.
pub const PREFIX: &str = "CLAPOMETER__";

/// The largest file that is read. No configuration is larger, but a wrong path may lead to such a file.
pub(crate) const LARGEST_FILE: u64 = crate::file::LARGEST;

/// Environment variables, taken once so that a configuration is read from one moment.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    is_elsewhere: bool,
}

impl Environment {
    /// Returns the variables of this process. Bytes of a value that are not UTF-8 become replacement characters, and a
    /// value with such a character is refused where it is used.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
            .collect()
    }

    /// A variable's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Returns the same variables, for a configuration that is checked on another machine than the one that serves it:
    /// a missing file or variable that it refers to is then a note, and no fault.
    #[must_use]
    pub fn elsewhere(self) -> Self {
        Self { is_elsewhere: true, ..self }
    }

    /// Returns whether the configuration may be checked on another machine than the one that serves it.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.is_elsewhere
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self { variables: pairs.into_iter().collect(), is_elsewhere: false }
    }
}

/// Shows only the names, because values may be secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// A key's path, such as `["admin", "listen"]`.
pub(crate) type Path = Vec<String>;

/// One source: its values, and where each of its keys stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tree {
    pub(crate) values: Map<String, Value>,
    pub(crate) places: HashMap<Path, Location>,
}

/// The key under which a tree hands its values to `config`: `config` parses the names on the
/// first level as path expressions, and a misspelt `server.listen` must not become a section.
const ROOT: &str = "root";

impl Source for Tree {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(Map::from_iter([(ROOT.to_owned(), Value::new(None, ValueKind::Table(self.values.clone())))]))
    }
}

/// Merges the trees; a later one wins.
pub(crate) fn merged(trees: Vec<Tree>) -> Tree {
    let mut places = HashMap::new();
    let mut builder = ::config::Config::builder();
    for tree in trees {
        places.extend(tree.places.clone());
        builder = builder.add_source(tree);
    }
    let merged = builder.build().and_then(|merged| merged.collect());
    let mut root = merged.expect("trees of ours never fail to collect");
    let values = match root.swap_remove(ROOT).map(|value| value.kind) {
        Some(ValueKind::Table(values)) => values,
        _ => Map::new(),
    };
    Tree { values, places }
}

/// Reads the variables that start with [`PREFIX`]; `below` has the keys that they override.
pub(crate) fn variables(environment: &Environment, below: &Tree, diagnostics: &Diagnostics) -> Tree {
    let mut tree = Tree::default();
    'variables: for (name, text) in &environment.variables {
        let Some(rest) = name.get(..PREFIX.len()).filter(|head| head.eq_ignore_ascii_case(PREFIX)) else {
            continue;
        };
        let place = Location::Variable(name.clone());
        let mut path = Path::new();
        for segment in name[rest.len()..].split("__") {
            match resolved(segment, &path, below) {
                Ok(key) => path.push(key),
                Err(message) => {
                    diagnostics.add(place, path.join("."), message);
                    continue 'variables;
                }
            }
        }
        if let Some(Location::Variable(other)) = tree.places.get(&path) {
            diagnostics.add(place, path.join("."), format!("is also set by {other}; unset one of them"));
            continue;
        }
        if text.contains(char::REPLACEMENT_CHARACTER) {
            diagnostics.add(place, path.join("."), "is not UTF-8");
            continue;
        }
        tree.insert(&path, text, &place, below);
    }
    tree
}

/// Returns the key that a part of a variable's name means: an existing key that differs from it only in case, dashes
/// and dots, or else the part itself in lower case.
fn resolved(segment: &str, parent: &[String], below: &Tree) -> Result<String, String> {
    let wanted = segment.to_lowercase();
    if wanted.trim_matches('_').is_empty() {
        return Err("the variable's name has an empty part; parts are separated by two underscores".into());
    }
    let siblings = below.places.keys().filter(|path| path.split_last().is_some_and(|(_, head)| head == parent));
    let mut fitting: Vec<&String> =
        siblings.filter_map(|path| path.last()).filter(|key| spelt(key) == wanted).collect();
    fitting.sort_unstable();
    match fitting[..] {
        [] => Ok(wanted),
        [only] => Ok(only.clone()),
        [first, second, ..] => Err(format!("the variable's name fits both {first} and {second}")),
    }
}

/// Returns a key as a variable's name spells it, in lower case.
fn spelt(key: &str) -> String {
    key.to_lowercase().replace(['-', '.'], "_")
}

/// Removes the databases that variables alone name without saying where they are, with a fault for each variable.
/// Mostly it was meant for a database of the file that has another name.
pub(crate) fn remove_databases_without_server(tree: &mut Tree, diagnostics: &Diagnostics) {
    const DATABASES: &str = "databases";
    let Some(ValueKind::Table(databases)) = tree.values.get_mut(DATABASES).map(|value| &mut value.kind) else { return };
    let is_below =
        |path: &Path, name: &str| matches!(&path[..], [first, second, ..] if first == DATABASES && second == name);
    let variable = |place: &Location| match place {
        Location::Variable(name) => Some(name.clone()),
        Location::Line(_) | Location::Whole => None,
    };
    let mut removed = Vec::new();
    for (name, value) in databases.iter() {
        let ValueKind::Table(keys) = &value.kind else { continue };
        let places = tree.places.iter().filter(|(path, _)| is_below(path, name));
        let variables: Option<BTreeSet<String>> = places.map(|(_, place)| variable(place)).collect();
        let has_server = ["url", "host"].iter().any(|key| keys.contains_key(*key));
        removed.extend(variables.filter(|_| !has_server).map(|variables| (name.clone(), variables)));
    }
    let is_removed = |name: &str| removed.iter().any(|(other, _)| other == name);
    databases.retain(|name, _| !is_removed(name));
    tree.places.retain(|path, _| !removed.iter().any(|(name, _)| is_below(path, name)));
    let known: Vec<&str> = databases.keys().map(String::as_str).collect();
    let known =
        if known.is_empty() { "there is no other".to_owned() } else { format!("there is {}", known.join(", ")) };
    for (name, variables) in &removed {
        for variable in variables {
            let message = format!("no database has this name, and the variable gives it no host or url; {known}");
            diagnostics.add(Location::Variable(variable.clone()), format!("{DATABASES}.{name}"), message);
        }
    }
}

/// Returns the name of the variable that sets a key.
pub(crate) fn variable_name(path: &[&str]) -> String {
    let parts: Vec<String> = path.iter().map(|key| spelt(key).to_uppercase()).collect();
    format!("{PREFIX}{}", parts.join("__"))
}

impl Tree {
    fn insert(&mut self, path: &[String], text: &str, place: &Location, below: &Self) {
        let Some((last, parents)) = path.split_last() else { return };
        let mut table = &mut self.values;
        for (depth, key) in parents.iter().enumerate() {
            if !below.has_table(&path[..=depth]) {
                self.places.insert(path[..=depth].to_vec(), place.clone());
            }
            let child = table.entry(key.clone()).or_insert_with(|| Value::new(None, ValueKind::Nil));
            if !matches!(child.kind, ValueKind::Table(_)) {
                child.kind = ValueKind::Table(Map::new());
            }
            let ValueKind::Table(inner) = &mut child.kind else { return };
            table = inner;
        }
        self.places.insert(path.to_vec(), place.clone());
        table.insert(last.clone(), Value::new(None, ValueKind::String(text.to_owned())));
    }

    fn has_table(&self, path: &[String]) -> bool {
        let mut table = &self.values;
        path.iter().all(|key| match table.get(key).map(|value| &value.kind) {
            Some(ValueKind::Table(inner)) => {
                table = inner;
                true
            }
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// The paths that variables set over a file, and what is wrong with the variables.
    fn set(yaml: &str, pairs: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let diagnostics = Diagnostics::default();
        let below = yaml::tree(yaml, "", &diagnostics);
        let tree = variables(&environment(pairs), &below, &diagnostics);
        let mut paths: Vec<String> = tree.places.keys().map(|path| path.join("/")).collect();
        paths.sort();
        (paths, diagnostics.into_error(None).iter().map(|fault| fault.message.clone()).collect())
    }

    #[test]
    fn a_variable_finds_names_with_dashes_and_dots_whatever_its_case() {
        let yaml = "queries: {my-claps.v2: {target: 1}}";
        for name in ["CLAPOMETER__QUERIES__MY_CLAPS_V2__TARGET", "clapometer__queries__my_claps_v2__target"] {
            assert_eq!(set(yaml, &[(name, "2")]), (vec!["queries/my-claps.v2/target".into()], vec![]), "{name}");
        }
    }

    #[test]
    fn service_links_are_passed_over() {
        let links = [("CLAPOMETER_PORT", "tcp://10.0.0.1:9090"), ("CLAPOMETER_SERVICE_HOST", "10.0.0.1")];
        assert_eq!(set("admin: {}", &links), (vec![], vec![]));
    }

    #[test]
    fn a_variable_that_could_mean_two_keys_is_refused() {
        let yaml = "queries: {a-b: {target: 1}, a_b: {target: 1}}";
        let (paths, faults) = set(yaml, &[("CLAPOMETER__QUERIES__A_B__TARGET", "2")]);
        assert_eq!(faults, ["the variable's name fits both a-b and a_b"]);
        assert!(paths.is_empty(), "it sets {paths:?}");
    }

    #[test]
    fn two_variables_for_one_key_are_refused() {
        let both = [("CLAPOMETER__ADMIN__LISTEN", "a"), ("clapometer__admin__listen", "b")];
        let (_, faults) = set("admin: {}", &both);
        assert_eq!(faults, ["is also set by CLAPOMETER__ADMIN__LISTEN; unset one of them"]);
    }

    #[test]
    fn names_with_dots_on_the_first_level_are_no_paths() {
        let diagnostics = Diagnostics::default();
        let merged = merged(vec![yaml::tree("server.listen: x", "", &diagnostics)]);
        assert_eq!(merged.values.keys().collect::<Vec<_>>(), ["server.listen"]);
    }

    #[test]
    fn a_tree_keeps_the_order_of_its_keys() {
        let diagnostics = Diagnostics::default();
        let merged = merged(vec![Tree::default(), yaml::tree("q: {z: 1, a: 2, m: 3}", "", &diagnostics)]);
        let ValueKind::Table(table) = &merged.values["q"].kind else { panic!("a mapping") };
        assert_eq!(table.keys().collect::<Vec<_>>(), ["z", "a", "m"]);
    }
}
