//! Every key, every refusal with its text, and what a refusal must never say.

mod keys;

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{
    config::{Config, Environment},
    metrics::{Build, Metrics},
    shutdown::Supervisor,
};

/// Keys and values of a trigger's metadata.
type Pairs<'a> = &'a [(&'a str, &'a str)];

const CONFIGURATION: &str = r#"
databases:
  app: {host: "db.example,10.0.0.7", port: "5432,6432", dbname: jobs, user: clapometer, sslmode: verify-full}
  local: {host: /run/postgresql, dbname: jobs, user: clapometer}
queries:
  plain: {database: app, sql: "SELECT count(*)  FROM job;", target: 5, activation: 2, divide_by: 3, rounding: floor}
  columns: {database: app, sql: SELECT n, value_column: outstanding, activity_column: claimable}
  bound: {database: app, sql: "SELECT $1 + $2", parameters: {queue: text, size: bigint}}
  divided: {database: app, sql: SELECT 9, divide_by: 10}
  grouped: {database: local, sql: SELECT, group_by: queue, value_column: n}
  private: {database: app, sql: SELECT 2, namespaces: [billing]}
  shared-1: {database: app, sql: SELECT 4, namespaces: [billing], target: 6}
  shared-2: {database: local, sql: SELECT 4, namespaces: [default], target: 7}
  shared-3: {database: app, sql: SELECT 4, namespaces: [default], target: 8}
"#;

/// The configured queries. Must be called in a runtime.
fn catalog() -> Catalog {
    let config = Config::parse(&CONFIGURATION.replace("sql: SELECT,", "sql: SELECT 3,"), &Environment::default());
    let metrics = Arc::new(Metrics::new(Build { version: "0", commit: "0", rustc: "0" }));
    Catalog::new(&config.expect("a configuration"), &Catalog::default(), &metrics, &Supervisor::new().0)
}

fn reference(pairs: &[(&str, &str)]) -> ScaledObjectRef {
    let scaler_metadata = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    ScaledObjectRef { name: "worker".to_owned(), namespace: "default".to_owned(), scaler_metadata }
}

/// Returns the text of the refusal with which the keys are refused on their own.
fn refusal_of_form(pairs: &[(&str, &str)]) -> String {
    Metadata::parse(&reference(pairs)).expect_err("it is refused").to_string()
}

/// Returns what a whole trigger says, or the refusal if it is refused.
fn trigger(pairs: &[(&str, &str)]) -> Result<Trigger, Refusal> {
    let reference = reference(pairs);
    Metadata::parse(&reference)?.resolve(&reference, &catalog())
}

fn refusal(pairs: &[(&str, &str)]) -> String {
    match trigger(pairs) {
        Ok(_) => panic!("{pairs:?} is not refused"),
        Err(refusal) => refusal.to_string(),
    }
}

#[test]
fn names_that_no_object_can_have_are_refused() {
    let named = |name: usize, namespace: usize| ScaledObjectRef {
        name: "n".repeat(name),
        namespace: "n".repeat(namespace),
        ..reference(&[("query", "plain")])
    };
    assert!(Metadata::parse(&named(253, 253)).is_ok());
    for (reference, what) in [(named(254, 1), "name"), (named(1, 254), "namespace"), (named(250_000, 1), "name")] {
        let refusal = Metadata::parse(&reference).expect_err("it is refused").to_string();
        assert_eq!(refusal, format!("the object's {what} is longer than 253 bytes"));
    }
}

#[tokio::test]
async fn a_trigger_that_says_nothing_has_what_the_query_says() {
    let trigger = trigger(&[("query", "plain")]).expect("a trigger");
    assert_eq!(trigger.activation, Activation::new(2.0).expect("a threshold"));
    assert_eq!(trigger.divide_by, Divisor::new(3.0).expect("a divisor"));
    assert_eq!((trigger.rounding, trigger.activity_source), (Rounding::Floor, ActivitySource::Reported));
    assert!(trigger.key.parameters.is_empty() && trigger.group.is_none());
}

#[tokio::test]
async fn without_a_rounding_only_a_divided_value_is_rounded() {
    let rounding = |pairs: &[(&str, &str)]| trigger(pairs).expect("a trigger").rounding;
    assert_eq!(rounding(&[("query", "columns")]), Rounding::None);
    assert_eq!(rounding(&[("query", "columns"), ("divideBy", "10")]), Rounding::Ceil);
    assert_eq!(rounding(&[("query", "columns"), ("divideBy", "10"), ("rounding", "floor")]), Rounding::Floor);
    assert_eq!(rounding(&[("query", "divided")]), Rounding::Ceil);
    assert_eq!(rounding(&[("query", "divided"), ("divideBy", "1")]), Rounding::None);
    assert_eq!(rounding(&[("query", "plain"), ("divideBy", "1")]), Rounding::Floor);
}

#[tokio::test]
async fn every_key_of_ours_overrides_and_spaces_around_values_do_not_count() {
    let trigger = trigger(&[
        ("query", " columns\n"),
        ("targetQueryValue", " 0.001 "),
        ("activationTargetQueryValue", "0"),
        ("divideBy", "1e-3"),
        ("rounding", " none "),
        ("activityColumn", "outstanding"),
        ("scalerAddress", "anything"),
        ("enableTLS", "anything"),
        ("unsafeSsl", "anything"),
    ])
    .expect("a trigger");
    assert_eq!(trigger.activation, Activation::new(0.0).expect("a threshold"));
    assert_eq!(trigger.divide_by, Divisor::new(0.001).expect("a divisor"));
    assert_eq!((trigger.rounding, trigger.activity_source), (Rounding::None, ActivitySource::ValueColumn));
}

#[tokio::test]
async fn the_activity_column_is_one_of_the_querys_own() {
    let activity_source = |pairs: &[(&str, &str)]| trigger(pairs).expect("a trigger").activity_source;
    assert_eq!(activity_source(&[("query", "columns")]), ActivitySource::ActivityColumn);
    assert_eq!(
        activity_source(&[("query", "columns"), ("activityColumn", "claimable")]),
        ActivitySource::ActivityColumn
    );
    assert_eq!(
        refusal(&[("query", "columns"), ("activityColumn", "canary")]),
        "activityColumn: must be one of this query's columns: outstanding, claimable"
    );
    assert_eq!(
        refusal(&[("query", "plain"), ("activityColumn", "canary")]),
        "activityColumn: this query has a single, unnamed column"
    );
}

#[test]
fn each_malformed_value_is_refused_with_what_would_be_right() {
    let cases = [
        (
            "targetQueryValue",
            "a number from 0.001 up",
            &["", "0", "0.0009", "-1", "NaN", "inf", "1e999", "1,5", "ten", "0x10"][..],
        ),
        ("activationTargetQueryValue", "a number from 0 up", &["", "-0.1", "NaN", "infinity", "five"]),
        ("divideBy", "a number above 0", &["", "0", "-0", "-1", "NaN", "inf"]),
        ("rounding", "one of ceil, floor, nearest, none", &["", "up", "CEIL", "ceil,floor"]),
    ];
    for (key, expected, values) in cases {
        for value in values {
            assert_eq!(
                refusal_of_form(&[("query", "plain"), (key, value)]),
                format!("{key}: must be {expected}"),
                "{value}"
            );
        }
    }
}

#[test]
fn all_faulty_keys_are_named_in_one_answer_in_their_order() {
    let pairs = [
        ("targetQueryValue", "0"),
        ("passwordFromEnv", "canary"),
        ("metricName", "canary"),
        ("divideBy", "0"),
        ("Query", "canary"),
    ];
    assert_eq!(
        refusal_of_form(&pairs),
        "Query: unknown key; did you mean query?; divideBy: must be a number above 0; \
         metricName: remove it; the metric has the query's name; \
         passwordFromEnv: refused, since KEDA sends its secret in clear; credentials belong in the scaler's configuration; \
         query: missing; it names a query of the scaler's configuration; \
         targetQueryValue: must be a number from 0.001 up"
    );
    let many: Vec<(String, &str)> = (10..21).map(|number| (format!("key{number}FromEnv"), "canary")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let text = refusal_of_form(&many);
    assert!(text.starts_with("key10FromEnv: ") && text.contains("key17FromEnv: "), "{text}");
    // Three keys, and the query that is missing.
    assert!(!text.contains("key18FromEnv") && text.ends_with("; 4 more"), "{text}");
}

#[tokio::test]
async fn all_keys_that_do_not_fit_the_query_are_named_in_one_answer() {
    let pairs = [
        ("query", "bound"),
        ("param.size", "canary"),
        ("param.other", "canary"),
        ("host", "canary"),
        ("userName", "canary"),
        ("activityColumn", "canary"),
    ];
    let text = refusal(&pairs);
    let keys: Vec<&str> = text.split("; ").filter_map(|problem| problem.split_once(": ").map(|(key, _)| key)).collect();
    assert_eq!(keys, ["activityColumn", "host", "param.other", "param.queue", "param.size", "userName"], "{text}");
}

#[test]
fn keys_that_have_no_effect_are_to_be_removed() {
    for (key, advice) in REMOVABLE_KEYS {
        assert_eq!(refusal_of_form(&[("query", "plain"), (key, "canary")]), format!("{key}: {advice}"));
    }
}

#[test]
fn the_keeper_takes_no_key_but_kedas_own() {
    let keeper = reference(&[("query", " keeper "), ("scalerAddress", "here:9090"), ("enableTLS", "true")]);
    let metadata = Metadata::parse(&keeper).expect("its form is right");
    assert!(metadata.is_keeper() && metadata.check_keeper().is_ok());
    let with_more = reference(&[("query", "keeper"), ("targetQueryValue", "5"), ("param.queue", "mail")]);
    let refusal = Metadata::parse(&with_more).expect("its form is right").check_keeper().expect_err("it is refused");
    assert_eq!(
        refusal.to_string(),
        "param.queue: remove it; the query keeper takes no key but scalerAddress, enableTLS and unsafeSsl; \
         targetQueryValue: remove it; the query keeper takes no key but scalerAddress, enableTLS and unsafeSsl"
    );
}

#[tokio::test]
async fn a_text_is_bound_as_it_was_written_and_every_other_value_is_trimmed() {
    let bound = trigger(&[("query", "bound"), ("param.queue", " mail\n"), ("param.size", " 7 ")]).expect("a trigger");
    assert_eq!(bound.key.parameters, [Value::Text(" mail\n".into()), Value::Bigint(7)]);
    let grouped = trigger(&[("query", "grouped"), ("param.queue", "mail ")]).expect("a trigger");
    assert_eq!(grouped.group.as_deref(), Some("mail "));
}

#[tokio::test]
async fn what_may_not_be_used_is_refused_with_one_text_for_all() {
    let denied = [
        &[("query", "nowhere")][..],
        &[("query", "private")],
        &[("query", "SELECT 42")],
        // Known or not is not told by what comes after it, either.
        &[("query", "private"), ("host", "elsewhere")],
        &[("query", "private"), ("param.canary", "1")],
        &[("query", "private"), ("activityColumn", "canary")],
    ];
    for pairs in denied {
        assert_eq!(trigger(pairs).err(), Some(Refusal::Denied), "{pairs:?}");
    }
    let mut allowed = reference(&[("query", "private")]);
    allowed.namespace = "billing".to_owned();
    assert!(Metadata::parse(&allowed).expect("its form is right").resolve(&allowed, &catalog()).is_ok());
}

#[tokio::test]
async fn approved_text_is_the_query_that_has_it() {
    let named = |text: &str| trigger(&[("query", text)]).map(|trigger| trigger.query().name.clone());
    assert_eq!(named("  SELECT count(*)\n\tFROM job  ").as_deref(), Ok("plain"));
    assert_eq!(named("SELECT count(*) FROM Job"), Err(Refusal::Denied));
    assert_eq!(named("SELECT count(*) FROM job; DROP TABLE job"), Err(Refusal::Denied));
}

#[tokio::test]
async fn of_queries_with_the_same_text_the_first_that_the_namespace_may_use_is_meant() {
    let catalog = catalog();
    let named = |text, namespace| catalog.allowed(text, namespace).map(|source| source.query().name.as_str());
    assert_eq!(named("SELECT 4", "default"), Some("shared-2"));
    assert_eq!(named("SELECT 4", "billing"), Some("shared-1"));
    assert_eq!(named("SELECT 4", "elsewhere"), None);
    assert_eq!(named("shared-1", "default"), None);
    assert_eq!(best_spec(&reference(&[("query", "SELECT 4")]), &catalog), ("shared-2", Target::new(7.0).unwrap()));
}

#[tokio::test]
async fn what_is_left_over_must_say_what_the_configuration_says() {
    let same = [
        ("host", "db.example"),
        ("host", "DB.example"),
        ("host", "10.0.0.7"),
        ("port", "5432"),
        ("port", "6432"),
        ("host", "db.example,10.0.0.7"),
        ("host", "10.0.0.7, db.example"),
        ("port", "5432,6432"),
        ("userName", "clapometer"),
        ("dbName", "jobs"),
        ("sslmode", "verify-full"),
    ];
    for pair in same {
        assert!(trigger(&[("query", "plain"), pair]).is_ok(), "{pair:?}");
    }
    let different = [
        ("host", "db.example.org"),
        ("host", ""),
        ("port", "5433"),
        ("port", "05432"),
        ("userName", "Clapometer"),
        ("dbName", "postgres"),
        ("sslmode", "disable"),
        ("sslmode", "allow"),
    ];
    for (key, value) in different {
        assert_eq!(
            refusal(&[("query", "plain"), (key, value)]),
            format!(
                "{key}: differs from the query's database; the scaler connects as its operator configured, so remove it"
            ),
            "{value}"
        );
    }
    assert!(trigger(&[("query", "grouped"), ("param.queue", "a"), ("host", "/run/postgresql")]).is_ok());
}

#[tokio::test]
async fn parameters_are_bound_in_the_order_of_the_query() {
    let trigger = trigger(&[("query", "bound"), ("param.size", "7"), ("param.queue", "'; DROP TABLE job; --")]);
    let expected = [Value::Text("'; DROP TABLE job; --".into()), Value::Bigint(7)];
    assert_eq!(trigger.expect("a trigger").key.parameters, expected);
}

#[tokio::test]
async fn parameters_that_do_not_fit_the_query_are_refused() {
    let cases: [(Pairs<'_>, &str); 7] = [
        (&[("query", "bound"), ("param.queue", "a")], "param.size: missing; this query needs it"),
        (&[("query", "bound"), ("param.queue", "a"), ("param.size", "canary")], "param.size: must be a 64-bit integer"),
        (
            &[("query", "bound"), ("param.queue", "a\0"), ("param.size", "1")],
            "param.queue: must be text without a zero byte",
        ),
        (
            &[("query", "bound"), ("param.queu", "a"), ("param.size", "1")],
            "param.queu: not a parameter of this query; did you mean param.queue?; \
             param.queue: missing; this query needs it",
        ),
        (&[("query", "plain"), ("param.queue", "a")], "param.queue: not a parameter of this query"),
        (&[("query", "plain"), ("param.", "a")], "param.: not a parameter of this query"),
        (&[("query", "grouped")], "param.queue: missing; it picks the key of a grouped query"),
    ];
    for (pairs, expected) in cases {
        assert_eq!(refusal(pairs), expected);
    }
    let grouped = trigger(&[("query", "grouped"), ("param.queue", "mail")]).expect("a trigger");
    assert_eq!((grouped.group.as_deref(), grouped.key.parameters.len()), (Some("mail"), 0));
}

#[tokio::test]
async fn a_metric_spec_has_whatever_is_valid() {
    let catalog = catalog();
    let spec = |pairs: &[(&str, &str)]| {
        let reference = reference(pairs);
        let (name, target) = best_spec(&reference, &catalog);
        (name.to_owned(), target.get())
    };
    let placeholder = Target::PLACEHOLDER.get();
    let cases: [(Pairs<'_>, &str, f64); 9] = [
        (&[("query", " plain "), ("zzz", "")], "plain", 5.0),
        (&[("query", "plain"), ("targetQueryValue", " 7 ")], "plain", 7.0),
        (&[("query", "plain"), ("targetQueryValue", "-7")], "plain", 5.0),
        (&[("query", "SELECT count(*) FROM job")], "plain", 5.0),
        (&[("query", "private")], "private", placeholder),
        (&[("query", "nowhere"), ("targetQueryValue", "7")], "nowhere", 7.0),
        (&[("query", "SELECT 42")], "invalid-trigger", placeholder),
        (&[], "invalid-trigger", placeholder),
        (&[("query", "keeper"), ("targetQueryValue", "7")], "keeper", 1.0),
    ];
    for (pairs, name, target) in cases {
        assert_eq!(spec(pairs), (name.to_owned(), target), "{pairs:?}");
    }
}

#[test]
fn a_trigger_is_known_by_all_that_it_says_of_itself_in_any_order() {
    let one = reference(&[("query", "plain"), ("divideBy", "2"), ("rounding", "ceil")]);
    let again = reference(&[("rounding", "ceil"), ("query", "plain"), ("divideBy", "2")]);
    assert_eq!(identity(&one), identity(&again));
    let others = [
        ScaledObjectRef { name: "other".to_owned(), ..one.clone() },
        ScaledObjectRef { namespace: "other".to_owned(), ..one.clone() },
        ScaledObjectRef { scaler_metadata: HashMap::new(), ..one.clone() },
        reference(&[("query", "plain"), ("divideBy", "ceil"), ("rounding", "2")]),
    ];
    for other in others {
        assert_ne!(identity(&one), identity(&other), "{other:?}");
    }
}

proptest! {
    /// Whatever stands in a key, and whatever is wrong: no value is ever part of the text.
    #[test]
    fn no_refusal_tells_a_value(
        keys in proptest::collection::vec(
            prop_oneof![
                Just("query".to_owned()), Just("divideBy".to_owned()), Just("rounding".to_owned()),
                Just("param.queue".to_owned()), Just("host".to_owned()), Just("activityColumn".to_owned()),
                Just("passwordFromEnv".to_owned()), "\\PC{0,80}", "param\\.[a-z]{0,8}",
            ],
            1..10,
        ),
        value in "canary-[0-9]{8}",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let _inside = runtime.enter();
        for query in [value.as_str(), "bound", "columns", "grouped"] {
            let mut pairs: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), value.as_str())).collect();
            pairs.push(("query", query));
            if let Err(refusal) = trigger(&pairs) {
                prop_assert!(!refusal.to_string().contains(&value), "{refusal}");
            }
        }
    }
}
