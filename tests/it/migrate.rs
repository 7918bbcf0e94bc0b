//! A trigger of KEDA's own type and what `clapometer migrate` makes of it give KEDA the same numbers, on one database.
//!
//! KEDA's side is a model, which `make keda-migrate` holds to KEDA's own scaler (`tests/keda/builtin`): the driver
//! reads the first column of the first row as text, Go's `strconv.ParseFloat` makes a double of it,
//! `quantityFromFloat64` a quantity, and `>` the activity. *Source:* pkg/scalers/postgresql_scaler.go and
//! pkg/scalers/scaler.go of kedacore/keda v2.21.0; database/sql's `convertAssign`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use clapometer::{
    keda::{
        poll::{Polled, TriggerPoller},
        scaled_job::ScalerAnswer,
        values::{metric_value, target_size},
    },
    lint::Source,
    manifest::Manifest,
    migrate::{Migration, Options, migrate},
    proto::{MetricSpec, MetricValue},
};
use tokio_postgres::{Client, SimpleQueryMessage};
use tonic::transport::Endpoint;

use crate::support::{
    cluster::Cluster,
    database::{Access, Database},
    executable::Executable,
};

const TABLES: &str = r#"
    CREATE TYPE kind AS ENUM ('letter', 'parcel');
    CREATE TABLE job (
        id serial PRIMARY KEY, tenant integer NOT NULL, kind kind NOT NULL, name varchar(20) NOT NULL, payload jsonb NOT NULL,
        weight numeric(6, 3), "doneAt" timestamptz
    );
    INSERT INTO job (tenant, kind, name, payload, weight, "doneAt")
    SELECT n % 3, (CASE WHEN n % 4 = 0 THEN 'letter' ELSE 'parcel' END)::kind, 'job ' || n % 5,
           jsonb_build_object('queue', CASE WHEN n % 2 = 0 THEN 'mail' ELSE 'it''s sms' END), n / 7.0,
           CASE WHEN n % 5 = 0 THEN now() END
      FROM generate_series(1, 60) AS n;
    GRANT SELECT ON job TO scaler;
"#;

/// A trigger: its SQL, its target and its activation.
struct Case {
    sql: &'static str,
    target: &'static str,
    activation: Option<&'static str>,
}

const fn case(sql: &'static str, target: &'static str) -> Case {
    Case { sql, target, activation: None }
}

impl Case {
    const fn from(self, activation: &'static str) -> Self {
        Self { activation: Some(activation), ..self }
    }
}

const SAME: [Case; 40] = [
    case("SELECT count(*) FROM job", "1"),
    case("SELECT count(*) FROM job;", "10"),
    case(r#"SELECT count(*) FROM job WHERE "doneAt" IS NULL"#, "2.5"),
    case("SELECT count(*) FROM job WHERE false", "1"),
    case("SELECT count(*) FROM job", "1").from("60"),
    case("SELECT count(*) FROM job", "1").from("59.999"),
    case("SELECT count(*) FROM job", "1e1").from("0"),
    case("SELECT ceil(count(*)::decimal / 16) FROM job", "1.1").from("3"),
    case("SELECT count(*)::decimal / 7 FROM job", "0.5"),
    case("SELECT count(*) / 7 FROM job", "0.001"),
    case("SELECT avg(weight) FROM job", "1.2345").from("4.357"),
    case("SELECT sum(weight) FROM job", "3"),
    case("SELECT COALESCE(sum(weight), 0) FROM job WHERE tenant = 99", "3"),
    case("SELECT 0.0015::real", "0.0015"),
    case("SELECT 0.1::real", "1"),
    case("SELECT 1234567.891", "1000"),
    case("SELECT 9007199254740993", "1"),
    case("SELECT 1e15", "1e12"),
    case("SELECT '12.5'::text", "1"),
    case("SELECT 12::smallint", "1"),
    case("WITH waiting AS (SELECT id FROM job WHERE tenant = 1) SELECT count(*) FROM waiting", "1"),
    case("VALUES (7)", "2"),
    case("SELECT count(*) FROM job GROUP BY tenant ORDER BY tenant LIMIT 1", "1"),
    case("-- waiting\nSELECT count(*) -- all\nFROM job", "1"),
    case("SELECT count(*) FROM job WHERE tenant = 0", "1"),
    case("SELECT count(*) FROM job WHERE tenant = 1", "1"),
    case("SELECT count(*) FROM job WHERE tenant = 2", "2"),
    case("SELECT count(*) FROM job WHERE tenant = 3", "1"),
    case("SELECT count(*) FROM job WHERE kind = 'letter'::kind AND name <> 'x'", "1"),
    case("SELECT count(*) FROM job WHERE kind = 'parcel'::kind AND name <> 'x'", "1"),
    case("SELECT count(*) FROM job WHERE payload ->> 'queue' = 'mail'", "1"),
    case("SELECT count(*) FROM job WHERE payload ->> 'queue' = 'it''s sms'", "1"),
    case("SELECT count(*) FROM job WHERE name = 'job 1'", "1"),
    case("SELECT count(*) FROM job WHERE name = 'job 2'", "1"),
    case("SELECT count(DISTINCT tenant) FROM job", "1"),
    case("SELECT count(*) FILTER (WHERE weight IS NOT NULL) FROM job", "7"),
    case("SELECT max(waiting) FROM (SELECT count(*) AS waiting FROM job GROUP BY tenant) AS tenants", "3"),
    case("SELECT LEAST(count(*), 25) FROM job", "1"),
    case("SELECT count(*) FROM job AS a JOIN job AS b USING (tenant)", "100").from("1199"),
    case("SELECT CASE WHEN count(*) > 10 THEN 10.5 ELSE 0 END FROM job", "2"),
];

/// The cases that both sides refuse.
const REFUSED: [Case; 7] = [
    case("SELECT NULL::bigint", "1"),
    case("SELECT max(weight) FROM job WHERE tenant = 99", "1"),
    case("SELECT count(*) FROM job HAVING count(*) > 100", "1"),
    case("SELECT 1, 2", "1"),
    case("SELECT count(*) FROM nothing_of_that_name", "1"),
    case("SELECT 'many'::text", "1"),
    case("SELECT 1 / (count(*) - 60) FROM job", "1"),
];

/// The cases in which the two differ, as the report says: the answer of KEDA's own, and none of clapometer.
const DIFFERENT: [Case; 4] = [
    case("SELECT tenant FROM job ORDER BY tenant", "1"),
    case("SELECT count(*) - 100 FROM job", "1"),
    case("SELECT 'NaN'::numeric", "1"),
    case("SELECT 'Infinity'::float8", "1"),
];

/// Where both answer, and the numbers differ as docs/migration-from-builtin-trigger.md says: that of KEDA's own, and
/// that of clapometer.
const ROUNDED: [(Case, &str, &str); 2] =
    [(case("SELECT 0.0004", "1"), "0.000", "0.001"), (case("SELECT 2000000.0009", "1"), "2000000.001", "2000000.000")];

fn manifest(access: &Access, cases: &[&Case]) -> String {
    let mut text =
        "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: shape, namespace: same}\nspec:\n  \
                    scaleTargetRef: {name: shape}\n  triggers:\n"
            .to_owned();
    for Case { sql, target, activation } in cases {
        let Access { host, port, dbname, user, .. } = access;
        write!(
            text,
            "    - type: postgresql\n      metadata:\n        host: {host}\n        port: \"{port}\"\n        dbName: {dbname}\n        \
             userName: {user}\n        passwordFromEnv: PASSWORD\n        sslmode: disable\n        query: {sql:?}\n        \
             targetQueryValue: \"{target}\"\n"
        )
        .unwrap();
        if let Some(activation) = activation {
            writeln!(text, "        activationTargetQueryValue: \"{activation}\"").unwrap();
        }
    }
    text
}

fn file(migration: &Migration, path: &str) -> String {
    let found = migration.files.iter().find(|file| file.path == path);
    found.unwrap_or_else(|| panic!("no {path}: {migration:?}")).text.clone()
}

/// KEDA's own scaler. None is an error.
async fn builtin(client: &Client, case: &Case) -> Option<ScalerAnswer> {
    let messages = client.simple_query(case.sql).await.ok()?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })?;
    if row.len() != 1 {
        return None;
    }
    // Both languages read the same decimal texts, NaN and Infinity as PostgreSQL writes them included.
    let mut number: f64 = row.get(0)?.parse().ok()?;
    if case.sql.contains("::real") {
        // The driver reads a float4 as such, and Go widens it.
        number = row.get(0)?.parse::<f32>().ok()?.into();
    }
    let target = case.target.parse().unwrap();
    let activation: f64 = case.activation.map_or(0.0, |text| text.parse().unwrap());
    Some(ScalerAnswer {
        value: metric_value(&MetricValue { metric_value_float: number, ..MetricValue::default() }),
        target: target_size(&MetricSpec { target_size_float: target, ..MetricSpec::default() }),
        active: number > activation,
    })
}

/// Names KEDA's own scaler, a program that reads triggers and writes answers.
const KEDA: &str = "CLAPOMETER_KEDA_BUILTIN";

/// KEDA's own scaler itself.
fn real(program: &Path, access: &Access, cases: &[&Case]) -> Vec<Option<ScalerAnswer>> {
    let mut started = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = started.stdin.take().unwrap();
    for Case { sql, target, activation } in cases {
        let Access { host, port, dbname, user, password, .. } = access;
        let metadata = serde_json::json!({
            "host": host, "port": port.to_string(), "dbName": dbname, "userName": user, "sslmode": "disable", "query": sql,
            "targetQueryValue": target, "activationTargetQueryValue": activation.unwrap_or_default(),
        });
        writeln!(input, "{}", serde_json::json!({"metadata": metadata, "password": password})).unwrap();
    }
    drop(input);
    let output = started.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let answer = |line: &str| {
        let answer: serde_json::Value = serde_json::from_str(line).unwrap();
        let number = |key: &str| answer[key].as_str()?.parse::<f64>().ok();
        Some(ScalerAnswer { value: number("value")?, target: number("target")?, active: answer["active"] == true })
    };
    String::from_utf8(output.stdout).unwrap().lines().map(answer).collect()
}

#[tokio::test]
async fn what_becomes_of_a_trigger_gives_keda_the_same_numbers() {
    let database = Database::empty(Cluster::shared().await).await;
    database.execute(TABLES).await;
    let access = database.scaler();
    let rounded = ROUNDED.iter().map(|(case, ..)| case);
    let cases: Vec<&Case> = SAME.iter().chain(&REFUSED).chain(&DIFFERENT).chain(rounded).collect();
    let text = manifest(&access, &cases);
    let source = Source { name: "shape.yaml".to_owned(), text };
    let migration = migrate(&[source], &Options { address: "clapometer.c.svc:9090".to_owned() }).unwrap();
    assert_eq!((migration.migrated, migration.by_hand, migration.left), (cases.len(), 0, 0), "{migration:?}");

    let password = Executable::clapometer(["serve"]).file("password", &access.password).directory().join("password");
    let configuration = file(&migration, "clapometer.yaml");
    let secret = format!("/secrets/clapometer-{}/password", access.dbname.replace('_', "-"));
    assert!(configuration.contains(&secret), "{configuration}");
    assert!(
        configuration.contains("tenant = $1::int4") && configuration.contains("kind = $1::kind"),
        "{configuration}"
    );
    assert!(fs::exists(&password).unwrap());
    let serving = Executable::serve(&configuration.replace(&secret, &password.display().to_string())).serving().await;
    let endpoint = Endpoint::from_shared(format!("http://{}", serving.grpc)).unwrap();

    let written = Manifest::read(&file(&migration, "manifests/shape.yaml"));
    let client = crate::support::database::connect(&access.driver()).await;
    if let Some(program) = env::var_os(KEDA) {
        let real = real(Path::new(&program), &access, &cases);
        assert_eq!(real.len(), cases.len());
        for (case, real) in cases.iter().zip(real) {
            assert_eq!(builtin(&client, case).await, real, "the model of {}", case.sql);
        }
    }
    let mut answers = BTreeMap::new();
    for (index, (trigger, case)) in written.objects[0].triggers().zip(&cases).enumerate() {
        let metadata: Vec<(&str, &str)> = trigger.pairs().map(|(key, text, _)| (key, text)).collect();
        let mut poller = TriggerPoller::new(endpoint.clone(), "shape", "same", &metadata);
        let after = match poller.poll().await {
            Polled::Answered(answer) => Some(answer),
            Polled::Failed(_) => None,
            Polled::Unspecified(status) => panic!("{}: {status}", case.sql),
        };
        let before = builtin(&client, case).await;
        answers.insert(index, (before, after));
        if index < SAME.len() {
            assert!(before.is_some(), "{} is no error", case.sql);
            assert_eq!(after, before, "{}", case.sql);
        } else if index < SAME.len() + REFUSED.len() {
            assert_eq!((before, after), (None, None), "{}", case.sql);
        } else if let Some(index) = index.checked_sub(SAME.len() + REFUSED.len() + DIFFERENT.len()) {
            let (_, own, ours) = ROUNDED[index];
            let text =
                |answer: Option<ScalerAnswer>| answer.map(|answer| (format!("{:.3}", answer.value), answer.active));
            assert_eq!(text(before), Some((own.to_owned(), true)), "{}", case.sql);
            assert_eq!(text(after), Some((ours.to_owned(), true)), "{}", case.sql);
        } else {
            assert!(before.is_some() && after.is_none(), "{}: {before:?} {after:?}", case.sql);
        }
    }
    assert_eq!(answers.len(), cases.len());
    // The test can tell numbers apart.
    let values: BTreeSet<String> =
        answers.values().filter_map(|(before, _)| before.map(|answer| answer.value.to_string())).collect();
    assert!(values.len() > 15, "{values:?}");
}
