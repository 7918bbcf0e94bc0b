//! Parses the metadata of a trigger; its keys are those of KEDA's built-in `postgresql` trigger where that has them.
//!
//! There are two stages, and each reports all its problems at once: [`Metadata::parse`] checks every key on its own,
//! [`Metadata::resolve`] checks them against the configured query.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, LazyLock},
};

use super::{
    catalog::Catalog,
    refusal::{KeyProblems, Refusal},
};
use crate::{
    cache::CacheKey,
    conninfo::{Address, Connection, SslMode},
    diagnostics::nearest,
    metrics::Thresholds,
    proto::ScaledObjectRef,
    query::{KEEPER, Parameter, ParameterKind, Query, Value, is_metric_name},
    recorder::Asker,
    scaling::{Activation, Divisor, Rounding, Target},
};

/// The most bytes of an object's name and of its namespace: what Kubernetes allows for the longer of the two.
///
/// They label metrics and cached queries, whose number is bounded; so must be their length.
pub(super) const MAXIMUM_NAME: usize = 253;

/// The most keys, and the most bytes of all keys and values together.
const MAXIMUM_KEYS: usize = 64;
const MAXIMUM_BYTES: usize = 64 * 1024;

/// The keys that KEDA itself reads. It sends them along.
const KEDA_KEYS: [&str; 3] = ["scalerAddress", "enableTLS", "unsafeSsl"];

/// The keys that say where the built-in trigger connects: never used, but compared.
const LEFTOVER_KEYS: [&str; 5] = ["dbName", "host", "port", "sslmode", "userName"];

/// Keys of the built-in trigger and of KEDA that have no effect here, with what to do about them.
const REMOVABLE_KEYS: [(&str, &str); 8] = [
    ("caCert", "remove it; KEDA reads it from a TriggerAuthentication only"),
    ("connection", "remove it; credentials belong in the scaler's configuration"),
    ("metricName", "remove it; the metric has the query's name"),
    ("metricType", "remove it; KEDA reads it beside metadata, not in it"),
    ("password", "remove it; credentials belong in the scaler's configuration"),
    ("tlsClientCert", "remove it; KEDA reads it from a TriggerAuthentication only"),
    ("tlsClientKey", "remove it; KEDA reads it from a TriggerAuthentication only"),
    ("useCachedMetrics", "remove it; KEDA reads it beside metadata, not in it"),
];

/// The scaler's own keys.
const SCALER_KEYS: [&str; 6] =
    ["query", "targetQueryValue", "activationTargetQueryValue", "divideBy", "rounding", "activityColumn"];

/// The prefix of parameters.
pub(super) const PARAMETER_PREFIX: &str = "param.";

/// The suffix of keys whose value KEDA takes from the environment: it sends the secret in clear, under that very key.
const FROM_ENV_SUFFIX: &str = "FromEnv";

const SECRET_IN_CLEAR: &str =
    "refused, since KEDA sends its secret in clear; credentials belong in the scaler's configuration";
const MISSING_QUERY: &str = "missing; it names a query of the scaler's configuration";
const DIFFERENT_DATABASE: &str =
    "differs from the query's database; the scaler connects as its operator configured, so remove it";
const KEY_OF_KEEPER: &str = "remove it; the query keeper takes no key but scalerAddress, enableTLS and unsafeSsl";
const OTHER_THAN_BUDGET: &str = "remove it; the query has a budget, whose shares are numbers of Jobs";
const ZERO_BYTE: &str = "must be text without a zero byte";

/// The metadata of a trigger, with every value well formed.
#[derive(Debug)]
pub struct Metadata<'a> {
    pairs: &'a HashMap<String, String>,
    query: &'a str,
    target: Option<Target>,
    activation: Option<Activation>,
    divide_by: Option<Divisor>,
    rounding: Option<Rounding>,
    activity_column: Option<&'a str>,
    has_leftovers: bool,
}

/// A trigger that has been resolved against its query.
pub struct Trigger {
    /// A hash of its object and its metadata, which tells it from other triggers.
    pub id: u64,
    /// Its query and the values of the parameters.
    pub key: CacheKey,
    /// The key of a grouped query.
    pub group: Option<Arc<str>>,
    /// The number that KEDA divides the value by.
    pub target: Target,
    /// The number that the activity must exceed.
    pub activation: Activation,
    /// The number that decides about activity.
    pub activity_source: ActivitySource,
    /// The divisor of the value.
    pub divide_by: Divisor,
    /// The rounding of the quotient.
    pub rounding: Rounding,
}

impl Trigger {
    /// Returns its query.
    pub fn query(&self) -> &Query {
        self.key.source.query()
    }

    /// Returns the numbers that its answers are judged by.
    pub fn thresholds(&self) -> Thresholds {
        Thresholds { target: self.target.get(), activation: self.activation.get() }
    }

    /// Returns it as the flight recorder knows it, with the names of its object.
    pub fn asker<'a>(&'a self, namespace: &'a str, name: &'a str) -> Asker<'a> {
        Asker {
            id: Some(self.id),
            namespace,
            name,
            query: &self.query().name,
            target: Some(self.target.get()),
            activation: Some(self.activation.get()),
            divide_by: Some(self.divide_by.get()),
        }
    }

    /// Returns whether a text that it binds begins or ends with white space: this is right for a value that has it, but
    /// more often a mistake, and then nothing is counted.
    pub fn has_untrimmed_text(&self) -> bool {
        let is_untrimmed = |text: &str| text.trim() != text;
        self.group.as_deref().is_some_and(is_untrimmed)
            || self.key.parameters.iter().any(|value| matches!(value, Value::Text(text) if is_untrimmed(text)))
    }

    /// Returns whether it names a key of a grouped query that no reading since the start has had.
    pub fn has_unseen_key(&self) -> bool {
        self.group.as_ref().is_some_and(|key| self.key.source.is_unseen(key))
    }
}

/// The number that decides about activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivitySource {
    /// The reported value, divided and rounded.
    Reported,
    /// The value column, undivided.
    ValueColumn,
    /// The activity column, undivided.
    ActivityColumn,
}

/// Returns the refusal of a trigger that any configuration refuses: a key is wrong whatever the query is.
pub fn refusal_of(reference: &ScaledObjectRef) -> Option<String> {
    let metadata = Metadata::parse(reference);
    let checked = metadata.and_then(|metadata| if metadata.is_keeper() { metadata.check_keeper() } else { Ok(()) });
    checked.err().map(|refusal| refusal.to_string())
}

impl<'a> Metadata<'a> {
    /// Checks every key and value on its own.
    ///
    /// # Errors
    /// The names or the metadata are too long, or at least one key is faulty.
    pub fn parse(reference: &'a ScaledObjectRef) -> Result<Self, Refusal> {
        for (what, text) in [("name", &reference.name), ("namespace", &reference.namespace)] {
            if text.len() > MAXIMUM_NAME {
                return Err(Refusal::Invalid(format!("the object's {what} is longer than {MAXIMUM_NAME} bytes")));
            }
        }
        let pairs = &reference.scaler_metadata;
        if pairs.len() > MAXIMUM_KEYS {
            return Err(Refusal::Invalid(format!("the metadata has more than {MAXIMUM_KEYS} keys")));
        }
        if pairs.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > MAXIMUM_BYTES {
            return Err(Refusal::Invalid(format!("the metadata is longer than {MAXIMUM_BYTES} bytes")));
        }
        let mut metadata = Self {
            pairs,
            query: "",
            target: None,
            activation: None,
            divide_by: None,
            rounding: None,
            activity_column: None,
            has_leftovers: false,
        };
        let mut problems = KeyProblems::default();
        for (key, value) in pairs {
            metadata.take(key, value.trim(), &mut problems);
        }
        if metadata.query.is_empty() {
            problems.note("query", MISSING_QUERY);
        }
        problems.into_result().map(|()| metadata)
    }

    fn take(&mut self, key: &'a str, value: &'a str, problems: &mut KeyProblems<'a>) {
        let number = || value.parse::<f64>().ok();
        match key {
            "query" => self.query = value,
            "targetQueryValue" => {
                self.target = problems.expect(key, number().and_then(Target::new), Target::EXPECTED);
            }
            "activationTargetQueryValue" => {
                let activation = number().and_then(Activation::new);
                self.activation = problems.expect(key, activation, Activation::EXPECTED);
            }
            "divideBy" => {
                let divide_by = number().and_then(Divisor::new);
                self.divide_by = problems.expect(key, divide_by, Divisor::EXPECTED);
            }
            "rounding" => {
                let rounding = Rounding::parse(value);
                self.rounding = problems.expect(key, rounding, "must be one of ceil, floor, nearest, none");
            }
            "activityColumn" => self.activity_column = Some(value),
            _ if KEDA_KEYS.contains(&key) => {}
            _ if key.ends_with(FROM_ENV_SUFFIX) => problems.note(key, SECRET_IN_CLEAR),
            _ if key.starts_with(PARAMETER_PREFIX) => {}
            _ if LEFTOVER_KEYS.contains(&key) => self.has_leftovers = true,
            _ => problems.note(key, unknown_key(key)),
        }
    }

    /// Returns whether the trigger is for the query that never fails and never scales.
    pub fn is_keeper(&self) -> bool {
        self.query == KEEPER
    }

    /// Checks the keys of a trigger for the keeper, which takes none of ours.
    ///
    /// # Errors
    /// There are keys besides `query` and KEDA's own.
    pub fn check_keeper(&self) -> Result<(), Refusal> {
        let mut problems = KeyProblems::default();
        for key in self.pairs.keys().filter(|key| *key != "query" && !KEDA_KEYS.contains(&key.as_str())) {
            problems.note(key, KEY_OF_KEEPER);
        }
        problems.into_result()
    }

    /// Checks the metadata against the configured query.
    ///
    /// # Errors
    /// [`Refusal::Denied`] for a query that this namespace may not use, known or not; otherwise all keys that do not
    /// fit the query.
    pub fn resolve(&self, reference: &ScaledObjectRef, catalog: &Catalog) -> Result<Trigger, Refusal> {
        let source = catalog.allowed(self.query, &reference.namespace).ok_or(Refusal::Denied)?;
        let query = source.query();
        let mut problems = KeyProblems::default();
        self.compare_leftovers(query, catalog, &mut problems);
        self.check_budget(query, &mut problems);
        let activity_source = self.activity_source(query, &mut problems);
        let group = self.group(query, &mut problems);
        let parameters = self.bind(query, &mut problems);
        problems.into_result()?;
        let divide_by = self.divide_by.unwrap_or(query.divide_by);
        Ok(Trigger {
            id: identity(reference),
            key: CacheKey { source: Arc::clone(source), parameters },
            group,
            target: self.target.unwrap_or(query.target),
            activation: self.activation.unwrap_or(query.activation),
            activity_source,
            divide_by,
            rounding: self.rounding.or(query.rounding).unwrap_or_else(|| Rounding::default_for(divide_by)),
        })
    }

    /// Records a problem for each key that would change a budget's number, which is a number of Jobs already.
    fn check_budget(&self, query: &Query, problems: &mut KeyProblems<'a>) {
        if query.budget.is_none() {
            return;
        }
        let target = self.pairs.get("targetQueryValue").and_then(|text| Target::new(text.trim().parse().ok()?));
        let is_other = [
            ("targetQueryValue", target.is_some_and(|target| target != Target::default())),
            ("divideBy", self.divide_by.is_some_and(|divisor| divisor != Divisor::default())),
            ("rounding", self.rounding.is_some_and(|rounding| rounding != Rounding::None)),
            (
                "activationTargetQueryValue",
                self.activation.is_some_and(|activation| activation != Activation::default()),
            ),
            (
                "activityColumn",
                self.activity_column.is_some_and(|column| query.activity_column.as_deref() != Some(column)),
            ),
        ];
        for (key, _) in is_other.into_iter().filter(|(_, is_other)| *is_other) {
            problems.note(key, OTHER_THAN_BUDGET);
        }
    }

    fn activity_source(&self, query: &Query, problems: &mut KeyProblems<'a>) -> ActivitySource {
        let default = match query.activity_column {
            Some(_) => ActivitySource::ActivityColumn,
            None => ActivitySource::Reported,
        };
        let Some(column) = self.activity_column else { return default };
        if query.activity_column.as_deref() == Some(column) {
            return ActivitySource::ActivityColumn;
        }
        if query.value_column.as_deref() == Some(column) {
            return ActivitySource::ValueColumn;
        }
        let columns: Vec<&str> = query.value_column.iter().chain(&query.activity_column).map(String::as_str).collect();
        let problem = if columns.is_empty() {
            Cow::Borrowed("this query has a single, unnamed column")
        } else {
            Cow::Owned(format!("must be one of this query's columns: {}", columns.join(", ")))
        };
        problems.note("activityColumn", problem);
        default
    }

    fn group(&self, query: &Query, problems: &mut KeyProblems<'a>) -> Option<Arc<str>> {
        let column = query.group_by.as_ref()?;
        let problem = match self.parameter(column) {
            Some(key) if !key.contains('\0') => return Some(key.into()),
            Some(_) => ZERO_BYTE,
            None => "missing; it picks the key of a grouped query",
        };
        problems.note(parameter_key(column), problem);
        None
    }

    fn bind(&self, query: &Query, problems: &mut KeyProblems<'a>) -> Vec<Value> {
        let declared =
            || query.parameters.iter().map(|parameter| parameter.name.as_str()).chain(query.group_by.as_deref());
        for (key, name) in self.parameters().filter(|(_, name)| declared().all(|known| known != *name)) {
            let problem = match nearest(name, declared()) {
                Some(right) => {
                    Cow::Owned(format!("not a parameter of this query; did you mean {PARAMETER_PREFIX}{right}?"))
                }
                None => Cow::Borrowed("not a parameter of this query"),
            };
            problems.note(key, problem);
        }
        let value = |parameter: &Parameter| {
            let Parameter { name, kind } = parameter;
            let Some(text) = self.parameter(name) else {
                problems.note(parameter_key(name), "missing; this query needs it");
                return None;
            };
            // White space is a part of a text, and of no other value.
            let text = if *kind == ParameterKind::Text { text } else { text.trim() };
            Value::parse(*kind, text)
                .inspect_err(|expected| problems.note(parameter_key(name), format!("must be {expected}")))
                .ok()
        };
        query.parameters.iter().filter_map(value).collect()
    }

    /// Returns the text of a parameter, as it was written.
    fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters().find(|(_, known)| *known == name).and_then(|(key, _)| self.pairs.get(key).map(String::as_str))
    }

    /// Returns the key and the name of each parameter.
    fn parameters(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.pairs.keys().filter_map(|key| Some((key.as_str(), key.strip_prefix(PARAMETER_PREFIX)?)))
    }

    /// Compares what is left over from the built-in trigger with the query's databases, of which any one will do. Where
    /// they differ, the trigger would silently count somewhere else than its owner believes.
    fn compare_leftovers(&self, query: &Query, catalog: &Catalog, problems: &mut KeyProblems<'a>) {
        if !self.has_leftovers {
            return;
        }
        let connections = query.databases.iter().filter_map(|database| catalog.connection(database));
        let differing = connections.map(|connection| self.leftovers_that_differ(connection));
        for key in differing.min_by_key(Vec::len).unwrap_or_default() {
            problems.note(key, DIFFERENT_DATABASE);
        }
    }

    /// Returns the leftover keys whose values are not those of this connection.
    fn leftovers_that_differ(&self, connection: &Connection) -> Vec<&'static str> {
        let differs = |key: &&'static str| {
            let Some(value) = self.pairs.get(*key).map(|text| text.trim()) else { return false };
            // A host or port may be a list, of which each must be there.
            let each_is = |is: fn(&Address, &str) -> bool| {
                let is_there = |one: &str| connection.addresses.iter().any(|address| is(address, one));
                value.split(',').all(|one| is_there(one.trim()))
            };
            let is_same = match *key {
                "host" => each_is(|address, host| match address {
                    Address::Tcp { host: known, .. } => known.eq_ignore_ascii_case(host),
                    Address::Unix { directory, .. } => directory.as_os_str() == host,
                }),
                "port" => each_is(|address, port| address.port().to_string() == port),
                "userName" => connection.user == value,
                "dbName" => connection.dbname == value,
                _ => SslMode::parse(value) == Some(connection.sslmode),
            };
            !is_same
        };
        LEFTOVER_KEYS.into_iter().filter(differs).collect()
    }
}

/// Says what to do about a key that has no effect.
fn unknown_key(key: &str) -> Cow<'static, str> {
    if let Some((_, advice)) = REMOVABLE_KEYS.iter().find(|(known, _)| *known == key) {
        return Cow::Borrowed(advice);
    }
    let known = SCALER_KEYS.into_iter().chain(LEFTOVER_KEYS).chain(KEDA_KEYS).chain([PARAMETER_PREFIX]);
    Cow::Owned(match nearest(key, known) {
        Some(right) => format!("unknown key; did you mean {right}?"),
        None => format!("unknown key; there are {} and param.<name>", SCALER_KEYS.join(", ")),
    })
}

fn parameter_key(name: &str) -> String {
    format!("{PARAMETER_PREFIX}{name}")
}

/// Returns the name and the target for GetMetricSpec, from whatever of the metadata is valid.
///
/// KEDA ignores errors of GetMetricSpec, so there are none. An HPA never changes the name of its
/// metric, so the name is the text of `query` wherever that can be a metric's name.
pub fn best_spec<'a>(reference: &'a ScaledObjectRef, catalog: &'a Catalog) -> (&'a str, Target) {
    let text = reference.scaler_metadata.get("query").map_or("", |text| text.trim());
    if text == KEEPER {
        return (KEEPER, Target::default());
    }
    let allowed = catalog.allowed(text, &reference.namespace);
    let name = match (is_metric_name(text), allowed) {
        (true, _) => text,
        (false, Some(source)) => &source.query().name,
        (false, None) => "invalid-trigger",
    };
    let own = reference.scaler_metadata.get("targetQueryValue").and_then(|text| text.trim().parse().ok());
    let target = own
        .and_then(Target::new)
        .or_else(|| allowed.map(|source| source.query().target))
        .unwrap_or(Target::PLACEHOLDER);
    (name, target)
}

/// Hashes the object's names and its metadata. The keys are random, so that nobody can make two triggers collide.
pub fn identity(reference: &ScaledObjectRef) -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let pairs: &HashMap<String, String> = &reference.scaler_metadata;
    // A map has no order: the sum of its pairs' hashes has none either.
    let metadata = pairs.iter().fold(0u64, |sum, pair| sum.wrapping_add(KEYS.hash_one(pair)));
    KEYS.hash_one((&reference.namespace, &reference.name, metadata))
}

#[cfg(test)]
mod tests;
