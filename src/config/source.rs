//! Gathers the YAML file and the environment into one tree that remembers where each key stands.
//!
//! The crate `config` merges the sources; each source is ours, because `config` itself knows
//! neither the lines of a YAML file nor the names of the variables that it read.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use ::config::{ConfigError, Map, Source, Value, ValueKind};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{DuplicateKeyPolicy, NonFiniteFloatPolicy, Spanned};

use super::faults::{Findings, Place};

/// What the name of each variable that overrides a key starts with.
///
/// Two underscores, because Kubernetes sets `CLAPOMETER_PORT=tcp://...` and the like in every
/// pod beside a Service of that name.
pub const PREFIX: &str = "CLAPOMETER__";

/// Larger files are refused unread: no configuration is, but a wrong path may be.
pub(crate) const LARGEST_FILE: u64 = 1 << 20;

/// Environment variables, taken once so that a configuration is read from one moment.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables of this process; those that are not Unicode are passed over.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// A variable's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

/// Only the names: values may be secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A key's path, such as `["admin", "listen"]`.
pub(crate) type Path = Vec<String>;

/// One source: its values, and where each of its keys stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    pub(crate) values: Map<String, Value>,
    pub(crate) places: HashMap<Path, Place>,
}

/// The key under which a layer hands its values to `config`: `config` parses the names on the
/// first level as path expressions, and a misspelt `server.listen` must not become a section.
const ROOT: &str = "root";

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(Map::from_iter([(ROOT.to_owned(), Value::new(None, ValueKind::Table(self.values.clone())))]))
    }
}

/// Merges the layers; a later one wins.
pub(crate) fn merged(layers: Vec<Layer>) -> Layer {
    let mut places = HashMap::new();
    let mut builder = ::config::Config::builder();
    for layer in layers {
        places.extend(layer.places.clone());
        builder = builder.add_source(layer);
    }
    let merged = builder.build().and_then(|merged| merged.collect());
    let mut root = merged.expect("layers of ours never fail to collect");
    let values = match root.swap_remove(ROOT).map(|value| value.kind) {
        Some(ValueKind::Table(values)) => values,
        _ => Map::new(),
    };
    Layer { values, places }
}

/// Reads YAML text; notes what is no YAML, and keys that stand twice.
pub(crate) fn file(text: &str, findings: &Findings) -> Layer {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        strict_booleans: true,
        with_snippet: false,
    };
    let mut layer = Layer::default();
    match serde_saphyr::from_str_with_options::<Spanned<Yaml>>(text, options) {
        Ok(Spanned { value: Yaml::Mapping(entries), .. }) => {
            layer.values = layer.table(entries, &Path::new(), findings);
        }
        Ok(Spanned { value: Yaml::Null, .. }) => {
            findings.add(
                Place::Whole,
                "",
                "the file is empty; it needs at least one of server, admin, databases, queries",
            );
        }
        Ok(other) => {
            let place = Place::Line(other.referenced.line());
            findings.add(place, "", format!("found {}, must be a mapping of keys", other.value.kind()));
        }
        Err(error) => {
            let place = error.location().map_or(Place::Whole, |location| Place::Line(location.line()));
            findings.add(place, "", format!("not valid YAML: {}", described(&error)));
        }
    }
    layer
}

/// The parser's words, less what it quotes of the file: that may be a secret.
fn described(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    match error.without_snippet() {
        Error::UnknownAnchor { .. } => {
            "an alias (*name) without its anchor; put text that starts with * in quotes".into()
        }
        Error::UnsupportedTag { .. } => "an unknown tag (!name); put text that starts with ! in quotes".into(),
        Error::MultipleDocuments { .. } => "several documents; there must be one".into(),
        Error::Eof { .. } => "the file ends too early".into(),
        Error::Message { msg, .. } => msg.lines().next().unwrap_or_default().to_owned(),
        _ => "it cannot be read as keys and values".into(),
    }
}

impl Layer {
    fn table(
        &mut self,
        entries: Vec<(Spanned<String>, Spanned<Yaml>)>,
        path: &Path,
        findings: &Findings,
    ) -> Map<String, Value> {
        let mut table = Map::new();
        for (key, node) in entries {
            let mut path = path.clone();
            path.push(key.value.clone());
            let line = key.referenced.line().max(1);
            if let Some(Place::Line(first)) = self.places.get(&path) {
                let message = format!("stands twice; the first is on line {first}");
                findings.add(Place::Line(line), path.join("."), message);
                continue;
            }
            self.places.insert(path.clone(), Place::Line(line));
            let value = self.value(node.value, &path, findings);
            table.insert(key.value, value);
        }
        table
    }

    fn value(&mut self, node: Yaml, path: &Path, findings: &Findings) -> Value {
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
                    self.places.insert(path.clone(), Place::Line(node.referenced.line()));
                    list.push(self.value(node.value, &path, findings));
                }
                ValueKind::Array(list)
            }
            Yaml::Mapping(entries) => ValueKind::Table(self.table(entries, path, findings)),
        };
        Value::new(None, kind)
    }
}

/// Any YAML, with the place of every key.
enum Yaml {
    Null,
    Boolean(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    Sequence(Vec<Spanned<Yaml>>),
    Mapping(Vec<(Spanned<String>, Spanned<Yaml>)>),
}

impl Yaml {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Boolean(_) => "true or false",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::Sequence(_) => "a list",
            Self::Mapping(_) => "a mapping",
        }
    }
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyYaml)
    }
}

struct AnyYaml;

impl<'de> Visitor<'de> for AnyYaml {
    type Value = Yaml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_none<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Yaml, E> {
        Ok(Yaml::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Yaml, E> {
        Ok(Yaml::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Yaml, E> {
        Ok(Yaml::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Yaml, E> {
        Ok(Yaml::Integer(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Yaml, E> {
        Ok(Yaml::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Yaml, E> {
        Ok(Yaml::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut nodes: A) -> Result<Yaml, A::Error> {
        let mut sequence = Vec::new();
        while let Some(node) = nodes.next_element()? {
            sequence.push(node);
        }
        Ok(Yaml::Sequence(sequence))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Yaml, A::Error> {
        let mut mapping = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            mapping.push(entry);
        }
        Ok(Yaml::Mapping(mapping))
    }
}

/// Reads the variables that start with [`PREFIX`]; `below` is what they override.
pub(crate) fn variables(environment: &Environment, below: &Layer, findings: &Findings) -> Layer {
    let mut layer = Layer::default();
    for (name, text) in &environment.0 {
        let Some(rest) = name.get(..PREFIX.len()).filter(|head| head.eq_ignore_ascii_case(PREFIX)) else {
            continue;
        };
        let place = Place::Variable(name.clone());
        let mut path = Path::new();
        for segment in name[rest.len()..].split("__") {
            match resolved(segment, &path, below) {
                Ok(key) => path.push(key),
                Err(message) => findings.add(place.clone(), path.join("."), message),
            }
        }
        if let Some(Place::Variable(other)) = layer.places.get(&path) {
            findings.add(place, path.join("."), format!("is also set by {other}; unset one of them"));
            continue;
        }
        layer.insert(&path, text, &place, below);
    }
    layer
}

/// The key that a part of a variable's name means: an existing one that is spelt so but for
/// case, dashes and dots, else the part itself in lower case.
fn resolved(segment: &str, parent: &[String], below: &Layer) -> Result<String, String> {
    let wanted = segment.to_lowercase();
    if wanted.trim_matches('_').is_empty() {
        return Err("the variable's name has an empty part; parts are separated by two underscores".into());
    }
    let siblings = below.places.keys().filter(|path| path.split_last().is_some_and(|(_, head)| head == parent));
    let mut fitting: Vec<&String> =
        siblings.filter_map(|path| path.last()).filter(|key| spelt(key) == wanted).collect();
    fitting.sort();
    match fitting[..] {
        [] => Ok(wanted),
        [only] => Ok(only.clone()),
        [first, second, ..] => Err(format!("the variable's name fits both {first} and {second}")),
    }
}

/// A key as a variable's name spells it, in lower case.
fn spelt(key: &str) -> String {
    key.to_lowercase().replace(['-', '.'], "_")
}

impl Layer {
    fn insert(&mut self, path: &[String], text: &str, place: &Place, below: &Self) {
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
