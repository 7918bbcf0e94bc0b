//! A trigger's metadata, read strictly; its keys are those of KEDA's built-in `postgresql` trigger where that has them.
//!
//! Two steps, in the order of refusals: [`Metadata::parse`] judges keys and values on their own,
//! [`Metadata::resolve`] holds them against the configured query.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    sync::{Arc, LazyLock},
};

use smallvec::SmallVec;

use super::{
    catalog::Catalog,
    refusal::{Refusal, nearest},
};
use crate::{
    cache::QuerySource,
    conninfo::{Address, SslMode},
    proto::ScaledObjectRef,
    query::{Parameter, Query, Value, is_metric_name},
    scaling::{Activation, Divisor, Rounding, Target},
};

/// Bytes of the object's name, and of its namespace: what Kubernetes allows for the longer of the two.
///
/// They label metrics and cached queries, whose number is bounded; so must be their length.
const MAXIMUM_NAME: usize = 253;

/// Keys at most, and bytes of all keys and values together.
const MAXIMUM_KEYS: usize = 64;
const MAXIMUM_BYTES: usize = 64 * 1024;

/// Read by KEDA itself; it sends them along.
const KEDA_KEYS: [&str; 3] = ["scalerAddress", "enableTLS", "unsafeSsl"];

/// Left over from the built-in trigger: never used, but activity_source, in this order.
const LEFTOVER_KEYS: [&str; 5] = ["dbName", "host", "port", "sslmode", "userName"];

const SCALER_KEYS: [&str; 6] =
    ["query", "targetQueryValue", "activationTargetQueryValue", "divideBy", "rounding", "activityColumn"];

/// The prefix of parameters.
const PARAMETER_PREFIX: &str = "param.";

/// KEDA resolves `fooFromEnv` itself and sends the secret's value in clear under that key.
const FROM_ENV_SUFFIX: &str = "FromEnv";

/// A trigger's values for its query's parameters; few have more than two, which take no memory of their own.
type Values<'a> = SmallVec<[Value<'a>; 2]>;

/// What a trigger's metadata says, each value well formed.
#[derive(Debug)]
pub struct Metadata<'a> {
    pairs: &'a HashMap<String, String>,
    query: &'a str,
    activation: Option<Activation>,
    divide_by: Option<Divisor>,
    rounding: Option<Rounding>,
    activity_column: Option<&'a str>,
    has_leftovers: bool,
}

/// One trigger, ready to be read and converted.
pub struct Trigger<'a> {
    /// Tells this trigger from others: a hash of object and metadata.
    pub id: u64,
    /// The query with its source.
    pub source: Arc<QuerySource>,
    /// Its parameters.
    pub parameters: Values<'a>,
    /// The key of a grouped query.
    pub group: Option<Cow<'a, str>>,
    /// What the activity must exceed.
    pub activation: Activation,
    /// Which number is activity_source.
    pub activity_source: ActivitySource,
    /// What the value is divided by.
    pub divide_by: Divisor,
    /// What becomes of its fraction.
    pub rounding: Rounding,
}

impl Trigger<'_> {
    /// The same trigger, for longer than the request in which it came.
    pub fn into_owned(self) -> Trigger<'static> {
        let Self { id, source, parameters, group, activation, activity_source, divide_by, rounding } = self;
        let parameters = parameters.into_iter().map(Value::into_owned).collect();
        let group = group.map(|key| Cow::Owned(key.into_owned()));
        Trigger { id, source, parameters, group, activation, activity_source, divide_by, rounding }
    }

    /// Whether it names a key of a grouped query that no reading since start has had.
    pub fn has_unseen_key(&self) -> bool {
        self.group.as_ref().is_some_and(|key| self.source.is_unseen(key))
    }
}

/// Which number decides activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivitySource {
    /// What is reported: divided and rounded.
    Reported,
    /// The value column, undivided.
    ValueColumn,
    /// The activity column, undivided.
    ActivityColumn,
}

impl<'a> Metadata<'a> {
    /// Reads keys and values, each on its own.
    ///
    /// # Errors
    /// A name that is too long, or the first faulty key in alphabetical order, so that the same fault always has the
    /// same text.
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
        let mut metadata = Self::new(pairs);
        if metadata.take_all(pairs).is_err() {
            // A map has another order each time. That matters to refusals only, so only they are sorted.
            let sorted: BTreeMap<&String, &String> = pairs.iter().collect();
            metadata = Self::new(pairs);
            metadata.take_all(sorted)?;
        }
        if metadata.query.is_empty() {
            return Err(Refusal::key("query", "missing; it names a query of the scaler's configuration"));
        }
        Ok(metadata)
    }

    fn new(pairs: &'a HashMap<String, String>) -> Self {
        Self {
            pairs,
            query: "",
            activation: None,
            divide_by: None,
            rounding: None,
            activity_column: None,
            has_leftovers: false,
        }
    }

    fn take_all(&mut self, pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> Result<(), Refusal> {
        pairs.into_iter().try_for_each(|(key, value)| self.take(key, value.trim()))
    }

    fn take(&mut self, key: &'a str, value: &'a str) -> Result<(), Refusal> {
        match key {
            "query" => self.query = value,
            // Used by `best_spec`, which takes it only if it is valid.
            "targetQueryValue" => {
                number(key, value, Target::new, "a number from 0.001 up")?;
            }
            "activationTargetQueryValue" => {
                self.activation = Some(number(key, value, Activation::new, "a number from 0 up")?);
            }
            "divideBy" => self.divide_by = Some(number(key, value, Divisor::new, "a number above 0")?),
            "rounding" => {
                let rounding = Rounding::parse(value)
                    .ok_or_else(|| Refusal::key(key, format!("must be one of {}", Rounding::NAMES.join(", "))))?;
                self.rounding = Some(rounding);
            }
            "activityColumn" => self.activity_column = Some(value),
            _ if KEDA_KEYS.contains(&key) => {}
            _ if key.ends_with(FROM_ENV_SUFFIX) => {
                return Err(Refusal::key(
                    key,
                    "refused, since KEDA sends its secret in clear; credentials belong in the scaler's configuration",
                ));
            }
            _ => return self.take_rarer(key),
        }
        Ok(())
    }

    /// Those that are looked up when the query is known.
    fn take_rarer(&mut self, key: &str) -> Result<(), Refusal> {
        if LEFTOVER_KEYS.contains(&key) {
            self.has_leftovers = true;
        } else if !key.starts_with(PARAMETER_PREFIX) {
            let known = SCALER_KEYS.into_iter().chain(LEFTOVER_KEYS).chain(KEDA_KEYS).chain([PARAMETER_PREFIX]);
            return Err(match nearest(key, known) {
                Some(right) => Refusal::key(key, format!("unknown key; did you mean {right}?")),
                None => {
                    Refusal::key(key, format!("unknown key; there are {} and param.<name>", SCALER_KEYS.join(", ")))
                }
            });
        }
        Ok(())
    }

    /// Holds the metadata against the configured query.
    ///
    /// # Errors
    /// [`Refusal::Denied`] for a query that this namespace may not use, known or not; otherwise
    /// the key that does not fit the query.
    pub fn resolve(&self, reference: &ScaledObjectRef, catalog: &Catalog) -> Result<Trigger<'a>, Refusal> {
        let source = catalog.allowed(self.query, &reference.namespace).ok_or(Refusal::Denied)?;
        let query = source.query();
        self.compare_leftovers(query, catalog)?;
        let activity_source = self.activity_source(query)?;
        let group = self.group(query)?;
        let parameters = self.bind(query)?;
        let divide_by = self.divide_by.unwrap_or(query.divide_by);
        Ok(Trigger {
            id: identity(reference),
            source: Arc::clone(source),
            parameters,
            group,
            activation: self.activation.unwrap_or(query.activation),
            activity_source,
            divide_by,
            rounding: self.rounding.or(query.rounding).unwrap_or_else(|| Rounding::default_for(divide_by)),
        })
    }

    fn activity_source(&self, query: &Query) -> Result<ActivitySource, Refusal> {
        let Some(column) = self.activity_column else {
            return Ok(match query.activity_column {
                Some(_) => ActivitySource::ActivityColumn,
                None => ActivitySource::Reported,
            });
        };
        if query.activity_column.as_deref() == Some(column) {
            return Ok(ActivitySource::ActivityColumn);
        }
        if query.value_column.as_deref() == Some(column) {
            return Ok(ActivitySource::ValueColumn);
        }
        let columns: Vec<&str> = query.value_column.iter().chain(&query.activity_column).map(String::as_str).collect();
        Err(if columns.is_empty() {
            Refusal::key("activityColumn", "this query has a single, unnamed column")
        } else {
            Refusal::key("activityColumn", format!("must be one of this query's columns: {}", columns.join(", ")))
        })
    }

    fn group(&self, query: &Query) -> Result<Option<Cow<'a, str>>, Refusal> {
        let Some(column) = &query.group_by else { return Ok(None) };
        match self.parameter(column) {
            Some(key) if !key.contains('\0') => Ok(Some(key.into())),
            Some(_) => Err(Refusal::key(&format!("{PARAMETER_PREFIX}{column}"), "must be text without a zero byte")),
            None => Err(Refusal::key(
                &format!("{PARAMETER_PREFIX}{column}"),
                "missing; it picks the key of a grouped query",
            )),
        }
    }

    fn bind(&self, query: &Query) -> Result<Values<'a>, Refusal> {
        let declared =
            || query.parameters.iter().map(|parameter| parameter.name.as_str()).chain(query.group_by.as_deref());
        let is_unknown = |name: &&str| declared().all(|known| known != *name);
        if let Some(name) = self.parameters().map(|(name, _)| name).filter(is_unknown).min() {
            let key = format!("{PARAMETER_PREFIX}{name}");
            return Err(match nearest(name, declared()) {
                Some(right) => Refusal::key(
                    &key,
                    format!("not a parameter of this query; did you mean {PARAMETER_PREFIX}{right}?"),
                ),
                None => Refusal::key(&key, "not a parameter of this query"),
            });
        }
        let value = |parameter: &Parameter| {
            let key = || format!("{PARAMETER_PREFIX}{}", parameter.name);
            let text =
                self.parameter(&parameter.name).ok_or_else(|| Refusal::key(&key(), "missing; this query needs it"))?;
            Value::parse(parameter.kind, text).map_err(|expected| Refusal::key(&key(), format!("must be {expected}")))
        };
        query.parameters.iter().map(value).collect()
    }

    fn parameter(&self, wanted: &str) -> Option<&'a str> {
        self.parameters().find(|(name, _)| *name == wanted).map(|(_, text)| text)
    }

    /// Name and text of each.
    fn parameters(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.pairs.iter().filter_map(|(key, text)| Some((key.strip_prefix(PARAMETER_PREFIX)?, text.trim())))
    }

    /// What is left over from the built-in trigger must say what the configuration says, or the
    /// trigger would silently count somewhere else than its owner believes.
    fn compare_leftovers(&self, query: &Query, catalog: &Catalog) -> Result<(), Refusal> {
        if !self.has_leftovers {
            return Ok(());
        }
        let Some(connection) = catalog.connection(&query.database) else { return Ok(()) };
        for key in LEFTOVER_KEYS {
            let Some(value) = self.pairs.get(key).map(|text| text.trim()) else { continue };
            // A host or port may be a list, of which each must be there.
            let each_is = |is: fn(&Address, &str) -> bool| {
                let is_there = |one: &str| connection.addresses.iter().any(|address| is(address, one));
                value.split(',').all(|one| is_there(one.trim()))
            };
            let is_same = match key {
                "host" => each_is(|address, host| match address {
                    Address::Tcp { host: known, .. } => known.eq_ignore_ascii_case(host),
                    Address::Unix { directory, .. } => directory.as_os_str() == host,
                }),
                "port" => each_is(|address, port| address.port().to_string() == port),
                "userName" => connection.user == value,
                "dbName" => connection.dbname == value,
                _ => SslMode::parse(value) == Some(connection.sslmode),
            };
            if !is_same {
                return Err(Refusal::key(
                    key,
                    "differs from the query's database; the scaler connects as its operator configured, so remove it",
                ));
            }
        }
        Ok(())
    }
}

/// What GetMetricSpec can always answer: a name and a target, from whatever of the metadata is valid.
///
/// KEDA swallows errors of GetMetricSpec, so there are none. An HPA keeps the name that it was
/// born with, so the name is the `query` key's text wherever that can be a metric's name.
pub fn best_spec<'a>(reference: &'a ScaledObjectRef, catalog: &'a Catalog) -> (&'a str, Target) {
    let text = reference.scaler_metadata.get("query").map_or("", |text| text.trim());
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

/// A hash of everything that a request says about itself. Keyed at random, so that nobody can make two triggers collide.
pub fn identity(reference: &ScaledObjectRef) -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let pairs: &HashMap<String, String> = &reference.scaler_metadata;
    // A map has no order: the sum of its pairs' hashes has none either.
    let metadata = pairs.iter().fold(0u64, |sum, pair| sum.wrapping_add(KEYS.hash_one(pair)));
    KEYS.hash_one((&reference.namespace, &reference.name, metadata))
}

fn number<T>(key: &str, value: &str, check: fn(f64) -> Option<T>, expected: &str) -> Result<T, Refusal> {
    let parsed = value.parse().ok().and_then(check);
    parsed.ok_or_else(|| Refusal::key(key, format!("must be {expected}")))
}

#[cfg(test)]
mod tests;
