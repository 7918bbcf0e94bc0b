//! Reads any YAML document into a tree with the line of every key and item. The configuration and the manifests are
//! read with it, and decide what the values mean.

mod text;

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{DuplicateKeyPolicy, NonFiniteFloatPolicy, Spanned};

pub(crate) use self::text::{block, quoted, scalar};

/// Reads one document of the configuration.
///
/// # Errors
/// The text is not YAML, or there are several documents.
pub(crate) fn document(text: &str) -> Result<Spanned<Yaml>, serde_saphyr::Error> {
    // A reload reads in a thread with a stack of 2 MiB, of which an unoptimised build takes 35 KiB for each level.
    serde_saphyr::from_str_with_options(text, options(serde_saphyr::budget! { max_depth: 32 }))
}

/// Reads one document of a manifest, which may be the list of all objects of a cluster: `kubectl get` makes one
/// document of them. It takes about 400 bytes for each value.
///
/// # Errors
/// Those of [`document`].
pub(crate) fn manifest(text: &str) -> Result<Spanned<Yaml>, serde_saphyr::Error> {
    let budget = serde_saphyr::budget! { max_depth: 64, max_nodes: 1_000_000, max_events: 4_000_000 };
    serde_saphyr::from_str_with_options(text, options(budget))
}

/// YAML 1.2's own types: `yes` is text and so is `1_000`. Keys that stand twice come through, so
/// that all of them are reported at once.
fn options(budget: Option<serde_saphyr::Budget>) -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: budget,
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        // Far more than sharing a few settings takes, and read in milliseconds.
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

const TOO_DEEP: &str = "nested too deeply";
const TOO_MANY_ALIASES: &str = "aliases (*name) that stand for too much; write out what they stand for";

/// Returns the parser's message without its quotes of the file, which may be secrets.
pub(crate) fn described(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::{Error, budget::BudgetBreach};
    match error.without_snippet() {
        Error::UnknownAnchor { .. } => {
            "an alias (*name) without its anchor; put text that starts with * in quotes".into()
        }
        Error::UnsupportedTag { .. } => "an unknown tag (!name); put text that starts with ! in quotes".into(),
        Error::MultipleDocuments { .. } => "several documents; there must be one".into(),
        Error::Unexpected { .. } | Error::NullIntoString { .. } => {
            "a key that is no text (null, true or a number: put it in quotes; or a template such as {{ ... }} that nobody has \
             rendered)"
                .into()
        }
        Error::QuotingRequired { .. } | Error::InvalidScalar { .. } | Error::NonFiniteFloat { .. } => {
            "a value that cannot be read; put it in quotes".into()
        }
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => TOO_DEEP.into(),
        Error::Budget { breach: BudgetBreach::Aliases { .. } | BudgetBreach::AliasAnchorRatio { .. }, .. } => {
            TOO_MANY_ALIASES.into()
        }
        Error::RecursiveReferencesRequireWeakTypes { .. } => "an anchor (&name) with an alias to itself inside".into(),
        Error::Budget { .. } => "more in one document than can be read; give it in parts".into(),
        other => {
            let words = other.to_string();
            let words = words.lines().next().and_then(|line| line.split(" at line ").next()).unwrap_or_default();
            let advice = match words {
                _ if words.contains(r"unexpected character: `\u{0}'") => {
                    return "a NUL character, which no text has; is it another kind of file, or a damaged one?".into();
                }
                _ if words.contains("unexpected character") => {
                    return "a character that cannot stand there; put the text in quotes".into();
                }
                _ if words.contains("recursion limit") => return TOO_DEEP.into(),
                _ if words.contains("alias replay") => return TOO_MANY_ALIASES.into(),
                _ if words.contains("tab") => "; YAML is indented by spaces",
                _ if words.contains("mapping values are not allowed") => {
                    "; a text with a colon needs quotes, and the keys of one mapping the same indentation"
                }
                _ if words.contains("did not find expected key") => {
                    "; the keys of one mapping need the same indentation"
                }
                _ => "",
            };
            format!("{words}{advice}")
        }
    }
}

/// Any YAML, with the place of every key.
pub(crate) enum Yaml {
    Null,
    Boolean(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    Sequence(Vec<Spanned<Yaml>>),
    Mapping(Vec<(Spanned<String>, Spanned<Yaml>)>),
}

impl Yaml {
    /// Names the kind of value, for messages.
    pub(crate) fn kind(&self) -> &'static str {
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
