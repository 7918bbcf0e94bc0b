//! Metadata as an attacker would write it: injections, odd and oversized maps, and a million different ones.

use std::{collections::HashMap, env};

use clapometer::proto::{GetMetricsRequest, ScaledObjectRef};
use futures_util::future::join_all;
use tonic::{Code, Status};

use super::{GROWTH, Victim};
use crate::support::{
    cluster::{Cluster, Settings},
    database::Database,
    grpc::{Scaler, trigger},
    skip::skip,
};

/// The texts that are put into each place; with [`WRAPPERS`] they make five hundred payloads.
const PAYLOADS: &[&str] = &[
    "'; DROP TABLE jobs; --",
    "' OR '1'='1",
    "1); DELETE FROM jobs; SELECT (1",
    "x' UNION SELECT count(*) FROM pg_authid --",
    "1; SELECT pg_sleep(10)",
    "$$; SELECT pg_advisory_lock(42); $$",
    "'||pg_advisory_lock(42)||'",
    "1; SET statement_timeout = 0",
    "'; SET ROLE postgres; --",
    "'; ALTER SYSTEM SET ssl = off; --",
    "set_config('statement_timeout', '0', false)",
    "'; COPY jobs TO PROGRAM 'touch /tmp/x'; --",
    "SELECT lo_import('/etc/passwd')",
    "SELECT pg_read_file('/etc/passwd')",
    "WITH x AS (DELETE FROM jobs RETURNING 1) SELECT count(*) FROM x",
    "TABLE pg_authid",
    "VALUES (1)",
    "(SELECT 1)",
    "SELECT count(*) FROM jobs WHERE queue = 'mail'",
    "SELECT 1; DROP TABLE jobs",
    "/* */ SELECT 1",
    "-- \nSELECT 1",
    "SELECT\u{0}1",
    "\u{0}",
    "\\'; DROP TABLE jobs; --",
    "\u{2019}; DROP TABLE jobs; --",
    "\u{ff07} OR 1=1",
    "%27%20OR%201=1",
    "&#39; OR 1=1",
    "${PGPASSWORD}",
    "$(touch /tmp/x)",
    "`id`",
    "{{ .Values.password }}",
    "../../../../etc/passwd",
    "/proc/self/environ",
    "file:///etc/passwd",
    "postgres://x:y@evil.example/z",
    "host=evil.example password=x",
    "\r\nX-Injected: yes",
    "{\"$ne\": null}",
    "$1",
    "$99",
    ":queue",
    "NaN",
    "1e999",
    "-0",
    "0x10",
    "9223372036854775808",
    "\u{202e}gnirts",
    "💣",
];

/// The texts that are put around a payload.
const WRAPPERS: &[(&str, &str)] = &[
    ("", ""),
    ("'", "'"),
    ("\"", "\""),
    ("mail'", ""),
    ("1", ""),
    ("(", ")"),
    (" ", " "),
    ("E'", "'"),
    ("\n", "\n"),
    ("jobs", ""),
];

/// A query of what must be the same after the attack: the rows, settings that outlive a transaction, locks.
async fn state(database: &Database<'_>) -> String {
    let digest = "SELECT concat_ws('/',
            (SELECT md5(string_agg(jobs::text, ',' ORDER BY jobs::text)) FROM jobs),
            (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace),
            (SELECT string_agg(setconfig::text, ',') FROM pg_db_role_setting),
            (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),
            (SELECT string_agg(rolname, ',' ORDER BY rolname) FROM pg_roles))";
    database.value(digest).await
}

/// One call for each place that a payload can be put into, and how it must be answered.
fn attacks(payload: &str) -> Vec<(ScaledObjectRef, String, Answer)> {
    let jobs = || trigger("jobs", &[("param.queue", "mail")]);
    let with = |key: &str, value: &str| {
        let mut reference = jobs();
        reference.scaler_metadata.insert(key.to_owned(), value.to_owned());
        (reference, "jobs".to_owned())
    };
    let mut attacks = Vec::new();
    for key in [
        "targetQueryValue",
        "activationTargetQueryValue",
        "divideBy",
        "rounding",
        "activityColumn",
        "host",
        "port",
        "userName",
        "dbName",
        "sslmode",
    ] {
        let (reference, metric) = with(key, payload);
        attacks.push((reference, metric, Answer::RefusedOrTrue));
    }
    // The text of a parameter is data, whatever it looks like: nothing is in that queue.
    let (reference, metric) = with("param.queue", payload);
    attacks.push((reference, metric, Answer::ZeroOrRefused));
    let (mut reference, metric) = (trigger("numbered", &[]), "numbered".to_owned());
    reference.scaler_metadata.insert("param.n".to_owned(), payload.to_owned());
    attacks.push((reference, metric, Answer::ZeroOrRefused));
    for key in [payload.to_owned(), format!("param.{payload}"), format!("{payload}FromEnv")] {
        let (reference, metric) = with(&key, "1");
        attacks.push((reference, metric, Answer::RefusedByName));
    }
    let (reference, _) = with("query", payload);
    attacks.push((reference, payload.to_owned(), Answer::Refused));
    attacks.push((jobs(), payload.to_owned(), Answer::Refused));
    attacks.push((ScaledObjectRef { namespace: payload.to_owned(), ..jobs() }, "jobs".to_owned(), Answer::True));
    attacks.push((ScaledObjectRef { name: payload.to_owned(), ..jobs() }, "jobs".to_owned(), Answer::True));
    attacks
}

/// Every payload in every place that must be refused, or at most be taken for data.
pub(super) fn injections() -> Vec<(String, ScaledObjectRef, String, Answer)> {
    let of = |payload: String| {
        attacks(&payload)
            .into_iter()
            .map(move |(reference, metric, answer)| (payload.clone(), reference, metric, answer))
    };
    payloads().into_iter().flat_map(of).collect()
}

fn payloads() -> Vec<String> {
    let wrapped = |payload: &'static str| WRAPPERS.iter().map(move |(front, back)| format!("{front}{payload}{back}"));
    PAYLOADS.iter().copied().flat_map(wrapped).collect()
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    /// An error that names no value.
    Refused,
    /// An error that names the key.
    RefusedByName,
    /// Three, since the payload means nothing here.
    True,
    /// Either, since some payloads are numbers.
    RefusedOrTrue,
    /// No row is equal to it, or it is not a value of the type.
    ZeroOrRefused,
}

impl Answer {
    /// Returns whether a call with it must fail.
    pub(super) fn is_a_refusal(self) -> bool {
        !matches!(self, Self::True)
    }

    fn allows(self, answer: &Result<f64, Status>, payload: &str) -> bool {
        let is_quiet = |status: &Status| {
            matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied)
                && (payload.trim().len() < 4 || !status.message().contains(payload.trim()))
        };
        match (self, answer) {
            (Self::RefusedByName, Err(status)) => {
                status.code() == Code::InvalidArgument && status.message().len() < 300
            }
            (Self::Refused | Self::RefusedOrTrue | Self::ZeroOrRefused, Err(status)) => is_quiet(status),
            // Divided, floored: something else than three, but not nothing.
            (Self::RefusedOrTrue, Ok(value)) => *value >= 0.0,
            (Self::True, Ok(value)) => *value == 3.0,
            (Self::ZeroOrRefused, Ok(value)) => *value == 0.0,
            (Self::Refused | Self::RefusedByName, Ok(_)) | (Self::True, Err(_)) => false,
        }
    }
}

async fn ask(scaler: &Scaler, reference: ScaledObjectRef, metric_name: String) -> Result<f64, Status> {
    let request = GetMetricsRequest { scaled_object_ref: Some(reference), metric_name };
    let answer = scaler.client().get_metrics(request).await?.into_inner();
    Ok(answer.metric_values[0].metric_value_float)
}

#[tokio::test]
async fn five_hundred_injections_in_every_place_change_nothing_and_run_nothing() {
    let available = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'";
    if Database::empty(Cluster::shared().await).await.value::<i64>(available).await == 0 {
        return skip("PostgreSQL came without pg_stat_statements");
    }
    let settings = Settings::default().set("shared_preload_libraries", "pg_stat_statements");
    let cluster = Cluster::with_settings(settings).await;
    let database = Database::empty(&cluster).await;
    database.execute("CREATE EXTENSION pg_stat_statements").await;
    let mut victim = Victim::new(&database).await;
    assert!(ask(victim.scaler(), trigger("numbered", &[("param.n", "9")]), "numbered".to_owned()).await.is_ok());
    let texts = async || -> Vec<String> {
        let client = database.connect().await;
        let seen = "SELECT DISTINCT query FROM pg_stat_statements WHERE userid = 'scaler'::regrole ORDER BY 1";
        client.query(seen, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let (before, registered) = (state(&database).await, texts().await);
    assert!(registered.iter().any(|text| text.contains("FROM jobs")), "{registered:?}");

    assert_eq!(payloads().len(), 500);
    for some in injections().chunks(20) {
        let answers = some.iter().map(async |(payload, reference, metric, answer)| {
            let heard = ask(victim.scaler(), reference.clone(), metric.clone()).await;
            assert!(
                answer.allows(&heard, payload),
                "{payload:?}: {heard:?} is not {answer:?}: {reference:?} {metric:?}"
            );
        });
        join_all(answers).await;
    }
    assert_eq!(state(&database).await, before);
    assert_eq!(texts().await, registered, "a text was run that nobody registered");
    victim.is_unharmed().await;
}

/// Returns maps that no trigger has: too many keys, too many bytes, keys that are nearly right.
pub(super) fn odd_maps() -> Vec<HashMap<String, String>> {
    let right = Victim::trigger().scaler_metadata;
    let mut maps = vec![HashMap::new()];
    for keys in [65, 1_000, 5_000] {
        maps.push((0..keys).map(|key| (format!("param.k{key}"), String::new())).chain(right.clone()).collect());
    }
    for length in [64 * 1024, 200 * 1024] {
        for key in ["param.queue", "query", "rounding", "x"] {
            let mut longest = right.clone();
            longest.insert(key.to_owned(), "x".repeat(length));
            maps.push(longest);
        }
        maps.push([("k".repeat(length), String::new())].into_iter().chain(right.clone()).collect());
    }
    for key in
        ["", " ", "query ", "Query", "QUERY", "query\0", "param.", "param.queue ", "param.Queue", "scaleraddress"]
    {
        maps.push([(key.to_owned(), "jobs".to_owned())].into_iter().chain(right.clone()).collect());
    }
    maps
}

#[tokio::test]
async fn odd_and_oversized_maps_are_refused_before_anything_is_asked() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let of = |pairs: HashMap<String, String>| ScaledObjectRef { scaler_metadata: pairs, ..Victim::trigger() };
    for map in odd_maps() {
        let status = ask(victim.scaler(), of(map.clone()), "jobs".to_owned()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().len() < 300, "{status:?}");
        let spec = victim.scaler().spec(&of(map)).await;
        assert!(spec.is_ok(), "{spec:?}");
    }
    let large: HashMap<_, _> = [("x".to_owned(), "x".repeat(257 * 1024))].into();
    let answer = ask(victim.scaler(), of(large), "jobs".to_owned()).await.unwrap_err();
    assert_eq!(answer.code(), Code::OutOfRange);
    victim.is_unharmed().await;
}

/// `HOSTILE_MAPS` is their number; a million takes five minutes with `--release`, and the README has the result.
#[tokio::test]
async fn different_maps_by_the_thousand_leave_memory_flat() {
    let maps: u64 = env::var("HOSTILE_MAPS").map_or(30_000, |number| number.parse().unwrap());
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let ask_some = async |from: u64, to: u64| {
        for first in (from..to).step_by(200) {
            let some = (first..(first + 200).min(to)).map(async |n| {
                // Half of them are as right as can be, and make triggers, gauges and labels; the others are refused.
                let queue = n.to_string();
                let key = if n % 2 == 0 { "param.queue" } else { "param.queu" };
                let mut reference = trigger("jobs", &[(key, &queue)]);
                reference.name = format!("object-{n}");
                reference.namespace = format!("tenant-{}", n % 5_000);
                let _ = ask(victim.scaler(), reference, "jobs".to_owned()).await;
            });
            join_all(some).await;
        }
    };
    // Once the gauges and series are as many as there may be, nothing grows any more.
    ask_some(0, maps / 2).await;
    let middle = victim.memory("VmRSS");
    ask_some(maps / 2, maps).await;
    let end = victim.memory("VmRSS");
    println!(
        "{maps} maps: {} KiB at first, {} KiB half way, {} KiB at the end",
        victim.memory / 1024,
        middle / 1024,
        end / 1024
    );
    assert!(end < victim.memory + GROWTH, "memory grew from {} to {end} bytes", victim.memory);
    if maps >= 100_000 {
        assert!(end < middle + 4 * 1024 * 1024, "memory still grows: from {middle} to {end} bytes");
    }
    victim.is_unharmed().await;
}
