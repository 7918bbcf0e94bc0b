use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// The labels of each metric by its name.
type Names = BTreeMap<String, BTreeSet<String>>;

/// Returns metrics in which everything that the program can show has a sample.
fn full() -> Metrics {
    let metrics = Metrics::new(Build { version: "1", commit: "c", rustc: "r" });
    let query = QueryLabels { query: "q".to_owned(), database: "d".to_owned() };
    let database = DatabaseLabels { database: "d".to_owned() };
    // Whoever adds a metric is led here.
    let Metrics {
        registry: _,
        handled,
        handling,
        query_value,
        query_activity,
        query_age: _,
        read_at: _,
        query_duration,
        query_statements: _,
        query_errors: _,
        query_joined_calls: _,
        query_unseen_keys,
        query_short_keys,
        query_stalled,
        unannounced_changes,
        query_failures,
        query_changed,
        gauges: _,
        pool_size,
        pool_connections,
        pool_waiting,
        database_up,
        breaker_open,
        database_failures: _,
        database_failures_now,
        role_privileged,
        is_standby,
        search_path_changed,
        listen_up,
        notifications,
        grpc_connections: _,
        asking_connections: _,
        tls_failures,
        streams,
        reloads: _,
        reloaded_at,
        config_valid,
        certificate_expiry,
        limits: _,
        triggers: _,
        standstill: _,
        listen_failures,
        standby_lag,
        recorder: _,
    } = &metrics;
    let (grpc_type, grpc_service, grpc_method) = ("unary", "s", "m");
    drop(handled.get_or_create(&HandledLabels { grpc_type, grpc_service, grpc_method, grpc_code: "OK" }));
    drop(handling.get_or_create(&RpcLabels { grpc_type, grpc_service, grpc_method }));
    for family in [query_value, query_activity, query_stalled, query_changed] {
        drop(family.get_or_create(&query));
    }
    drop(query_duration.get_or_create(&query));
    drop(unannounced_changes.get_or_create(&query));
    for family in [query_unseen_keys, query_short_keys] {
        drop(family.get_or_create(&query));
    }
    for family in [pool_size, pool_waiting, database_up, breaker_open, role_privileged, is_standby, listen_up] {
        drop(family.get_or_create(&database));
    }
    drop(pool_connections.get_or_create(&ConnectionLabels { database: "d".to_owned(), state: ConnectionUse::Idle }));
    drop(search_path_changed.get_or_create(&database));
    drop(standby_lag.get_or_create(&database));
    listen_failures.set(vec![ListenFailureLabels { database: "d".to_owned(), reason: "closed" }]);
    drop(notifications.get_or_create(&database));
    drop(tls_failures.get_or_create(&HandshakeLabels { reason: "no_tls" }));
    drop(streams.get_or_create(&StreamLabels { rpc: "r" }));
    drop(certificate_expiry.get_or_create(&CertificateLabels { certificate: "c" }));
    drop(reloaded_at.get_or_create(&ReloadLabels { result: "applied" }));
    let (reason, sqlstate) = ("rejected", "42501".to_owned());
    let (query_name, name) = (query.query.clone(), query.database.clone());
    query_failures.set(vec![QueryFailureLabels { query: query_name, database: name.clone(), reason, sqlstate }]);
    database_failures_now.set(vec![DatabaseFailureLabels { database: name, reason, cause: "silent" }]);
    config_valid.set_query_files(BTreeMap::from([("f".to_owned(), true)]));
    metrics.show_query_at_zero(&query, std::iter::once(&query), std::iter::once("rejected"));
    metrics.show_database_at_zero(&database);
    let now = Instant::now();
    metrics.record_reading(&query, now);
    let trigger = TriggerId {
        hash: 1,
        namespace: "n",
        name: "o",
        query: "q",
        thresholds: Some(Thresholds { target: 5.0, activation: 0.0 }),
        divide_by: Some(1.0),
        metadata: None,
    };
    metrics.trigger_asked(TriggerId { hash: 2, ..trigger }, now);
    let now = now + Duration::from_secs(60);
    let (key, _) = metrics.trigger_asked(trigger, now);
    metrics.trigger_told(key, Told::Value(1.0), now);
    metrics.trigger_told(key, Told::Active { is_active: true, activity: 1.0 }, now);
    metrics
}

/// Returns what a page in the text format 0.0.4 shows.
fn shown(page: &str) -> Names {
    let names = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let mut shown: Names = names.map(|name| (name.to_owned(), BTreeSet::new())).collect();
    for sample in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = sample.split_once('{').unwrap_or((sample.split(' ').next().unwrap_or_default(), ""));
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let name = of_histogram.filter(|name| shown.contains_key(*name)).unwrap_or(name);
        let labels =
            labels.split_once('}').map_or("", |(labels, _)| labels).split(',').filter(|label| !label.is_empty());
        let labels = labels.filter_map(|label| label.split_once('=')).map(|(label, _)| label);
        let known = shown.get_mut(name).unwrap_or_else(|| panic!("{name} has no type"));
        known.extend(labels.filter(|label| *label != "le").map(str::to_owned));
    }
    shown
}

/// Returns the metrics of a document's tables.
fn documented(document: &str) -> Names {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let metrics = rows.filter(|(name, _)| ["clapometer_", "grpc_", "process_"].iter().any(|one| name.starts_with(one)));
    let labels = |row: &str| {
        let column = row.split('|').next().unwrap_or_default();
        column.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    metrics.map(|(name, row)| (name.to_owned(), labels(row))).collect()
}

#[tokio::test]
async fn the_documents_tables_have_every_metric_with_its_labels_and_no_other() {
    let shown = shown(&full().encode_text());
    let documented = documented(include_str!("../../docs/metrics.md"));
    let only = |some: &Names, others: &Names| -> Names {
        let is_other = |(name, labels): &(&String, &BTreeSet<String>)| others.get(*name) != Some(*labels);
        some.iter().filter(is_other).map(|(name, labels)| (name.clone(), labels.clone())).collect()
    };
    assert_eq!(only(&shown, &documented), Names::new(), "docs/metrics.md lacks them, or their labels");
    assert_eq!(only(&documented, &shown), Names::new(), "docs/metrics.md has them, and the program does not");
}

#[test]
fn names_and_labels_are_read_from_pages_and_from_documents() {
    let page = "# HELP a_seconds h\n# TYPE a_seconds histogram\na_seconds_bucket{x=\"1\",le=\"+Inf\"} 1\na_seconds_sum{x=\"1\"} 2\n\
                # TYPE b gauge\nb 1\n# TYPE c_total counter\nc_total{y=\"1\",z=\"2\"} 1\n";
    let set = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect();
    let expected: Names = [("a_seconds", set(&["x"])), ("b", set(&[])), ("c_total", set(&["y", "z"]))]
        .map(|(name, labels)| (name.to_owned(), labels))
        .into();
    assert_eq!(shown(page), expected);
    let document = "| metric | labels | meaning |\n| --- | --- | --- |\n| `clapometer_a` | `x`, `y` | `z` of it |\n\
                    | `clapometer_b` | | nothing |\n| `query fails` | once |\n";
    let expected: Names = [("clapometer_a", set(&["x", "y"])), ("clapometer_b", set(&[]))]
        .map(|(name, labels)| (name.to_owned(), labels))
        .into();
    assert_eq!(documented(document), expected);
}
