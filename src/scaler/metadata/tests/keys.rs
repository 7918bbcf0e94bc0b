//! Keys on their own: which are refused, in which order, how they are shown, and how many there may be.

use super::*;

#[test]
fn a_trigger_without_a_query_is_refused() {
    let text = "query: missing; it names a query of the scaler's configuration";
    assert_eq!(refusal_of_form(&[]), text);
    assert_eq!(refusal_of_form(&[("query", " \n ")]), text);
    assert_eq!(refusal_of_form(&[("scalerAddress", "clapometer:9090")]), text);
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_right_spelling() {
    let cases = [
        ("querry", "unknown key; did you mean query?"),
        ("Query", "unknown key; did you mean query?"),
        ("targetqueryvalue", "unknown key; did you mean targetQueryValue?"),
        ("targetValue", "unknown key; did you mean targetQueryValue?"),
        ("activationTargetValue", "unknown key; did you mean activationTargetQueryValue?"),
        ("divideby", "unknown key; did you mean divideBy?"),
        ("username", "unknown key; did you mean userName?"),
        ("enableTls", "unknown key; did you mean enableTLS?"),
        (
            "zzz",
            "unknown key; there are query, targetQueryValue, activationTargetQueryValue, divideBy, rounding, \
             activityColumn and param.<name>",
        ),
    ];
    for (key, expected) in cases {
        assert_eq!(refusal_of_form(&[("query", "plain"), (key, "canary")]), format!("{key}: {expected}"));
    }
}

#[test]
fn a_key_that_is_longer_than_any_name_is_compared_with_nothing() {
    // So near that it would be taken for a misspelling.
    let key = format!("activationTargetQueryValue{}", "s".repeat(50));
    let text = refusal_of_form(&[("query", "plain"), (&key, "")]);
    assert!(text.contains("...: unknown key; there are query,"), "{text}");
    let text = refusal_of_form(&[("query", "plain"), ("activationTargetQueryValues", "")]);
    assert!(text.contains("did you mean activationTargetQueryValue"), "{text}");
}

#[test]
fn a_key_from_the_environment_is_refused_by_name_whatever_else_it_could_be() {
    for key in ["passwordFromEnv", "connectionFromEnv", "queryFromEnv", "param.queueFromEnv", "hostFromEnv", "FromEnv"]
    {
        let text = refusal_of_form(&[("query", "plain"), (key, "canary")]);
        assert_eq!(
            text,
            format!(
                "{key}: refused, since KEDA sends its secret in clear; credentials belong in the scaler's configuration"
            )
        );
    }
}

#[test]
fn keys_that_nobody_can_print_are_shown_short_and_printable() {
    let long = "k".repeat(64);
    let shown = |key: &str| refusal_of_form(&[("query", "plain"), (key, "canary")]);
    assert!(shown("schlüssel-für-größe").starts_with("schlüssel-für-größe: unknown key"));
    assert!(shown("a\u{1b}[2J\nb").starts_with("a?[2J?b: unknown key"));
    assert!(shown(&long).starts_with(&format!("{}...: unknown key", "k".repeat(63))));
    assert!(shown("").starts_with(": unknown key"));
}

#[test]
fn faults_come_in_the_order_of_their_keys_whatever_the_order_of_the_map() {
    let faults = [("query", "plain"), ("rounding", "up"), ("divideBy", "0"), ("zzz", "1"), ("targetQueryValue", "x")];
    for rotation in 0..faults.len() {
        let mut faults = faults;
        faults.rotate_left(rotation);
        let text = refusal_of_form(&faults);
        let starts: Vec<&str> = text.split("; ").filter_map(|part| part.split_once(": ")).map(|(key, _)| key).collect();
        assert_eq!(starts, ["divideBy", "rounding", "targetQueryValue", "zzz"], "{text}");
    }
}

#[test]
fn as_many_keys_and_bytes_as_are_allowed_are_taken_and_not_one_more() {
    let numbered = |count: usize| -> ScaledObjectRef {
        let mut reference = reference(&[("query", "plain")]);
        reference.scaler_metadata.extend((1..count).map(|number| (format!("param.{number}"), String::new())));
        reference
    };
    assert!(Metadata::parse(&numbered(64)).is_ok());
    let refused = Metadata::parse(&numbered(65)).expect_err("one more");
    assert_eq!(refused.to_string(), "the metadata has more than 64 keys");

    let long = |bytes: usize| {
        let rest = "x".repeat(bytes - "queryplainparam.p".len());
        reference(&[("query", "plain"), ("param.p", &rest)])
    };
    assert!(Metadata::parse(&long(64 * 1024)).is_ok());
    let refused = Metadata::parse(&long(64 * 1024 + 1)).expect_err("one more");
    assert_eq!(refused.to_string(), "the metadata is longer than 65536 bytes");
}

#[test]
fn size_is_judged_before_any_key() {
    let mut reference = reference(&[("rounding", "up")]);
    reference.scaler_metadata.extend((0..64).map(|number| (format!("zzz{number}"), String::new())));
    let refused = Metadata::parse(&reference).expect_err("too many");
    assert_eq!(refused.to_string(), "the metadata has more than 64 keys");
}
