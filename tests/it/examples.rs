//! The shipped files, applied as a user would: the tables, the roles of `deploy/postgres`, the configurations, every
//! trigger of `deploy/examples`, asked as KEDA asks.

use std::{fs, path::Path, time::Duration};

use clapometer::proto::{GetMetricsRequest, ScaledObjectRef, external_scaler_client::ExternalScalerClient};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::support::{
    binaries,
    cluster::Cluster,
    database::{Access, Database},
    executable::{Executable, Serving},
    wait,
};

const SOON: Duration = Duration::from_secs(20);
const PASSWORD: &str = "canary-shipped-password";
const ROLES: &str = "deploy/postgres/roles.sql";
const OWN_TABLE: &str = "deploy/postgres/own-table.sql";

/// A database with everything that an operator's steps make: migrations, roles, the table of the own-table example.
async fn prepared(cluster: &Cluster) -> Database<'_> {
    let database = migrated(cluster).await;
    let passwords =
        ["--set", &format!("clapometer_password={PASSWORD}"), "--set", &format!("postgres_batch_password={PASSWORD}")]
            .map(str::to_owned);
    succeeded(psql(&database, ROLES, &passwords), ROLES).await;
    succeeded(psql(&database, OWN_TABLE, &[]), OWN_TABLE).await;
    database
}

/// A database with the tables, whose owner may create roles, as the administrator of a managed service may.
async fn migrated(cluster: &Cluster) -> Database<'_> {
    let database = Database::empty(cluster).await;
    database.execute("ALTER ROLE owner CREATEROLE").await;
    let migrated = Executable::postgres_batch(["migrate", "up"]).variables(database.owner().environment());
    succeeded(migrated, "postgres-batch migrate up").await;
    database
}

/// Runs a script as its heading says: as the owner of the tables, who is not a superuser.
fn psql(database: &Database<'_>, script: &str, arguments: &[String]) -> Executable {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let psql = binaries::client("psql").expect("scripts/postgres installs psql as root");
    let program = Executable::new(&psql, ["--no-psqlrc", "--quiet"])
        .argument(format!("--file={}", script.display()))
        .variables(database.owner().environment());
    arguments.iter().fold(program, Executable::argument)
}

async fn succeeded(program: Executable, what: &str) {
    let finished = program.finish(SOON).await;
    assert_eq!(finished.code(), Some(0), "{what}: {}\n{}", finished.output, finished.errors);
}

/// Returns the way in which a role of `roles.sql` connects.
fn access(database: &Database<'_>, role: &str) -> Access {
    let mut access = database.scaler().with_password(PASSWORD);
    role.clone_into(&mut access.user);
    access
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn documents(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A shipped configuration with its one database replaced by ours; everything else stays as it is.
fn at_our_database(mut configuration: Value, database: &Database<'_>) -> String {
    let access = access(database, "clapometer");
    let databases = configuration["databases"].as_object_mut().expect("a configuration has databases");
    assert_eq!(databases.len(), 1, "the shipped configurations have one database");
    for database in databases.values_mut() {
        assert_eq!(database["user"], "clapometer", "the role of roles.sql");
        assert_eq!(database["require_unprivileged_role"], true, "shipped configurations demand an ordinary role");
        *database = json!({
            "host": access.host, "port": access.port, "dbname": access.dbname, "user": access.user,
            "password": access.password, "sslmode": "disable", "require_unprivileged_role": true,
        });
    }
    let sections = configuration.as_object_mut().expect("a configuration is a map");
    sections.retain(|section, _| section == "databases" || section == "queries");
    configuration.to_string()
}

/// The configuration in the ConfigMap of a rendered manifest.
fn rendered_configuration(path: &str) -> Value {
    let documents = documents(path);
    let text = documents.iter().find_map(|document| document["data"]["clapometer.yaml"].as_str());
    serde_saphyr::from_str(text.expect("a ConfigMap with clapometer.yaml")).expect("a configuration")
}

/// One trigger of an example, with the object that it belongs to.
struct Trigger {
    kind: String,
    trigger_type: String,
    reference: ScaledObjectRef,
}

/// The triggers of an example that are for an external scaler.
fn triggers(path: &str) -> Vec<Trigger> {
    triggers_in(&documents(path))
}

fn triggers_in(documents: &[Value]) -> Vec<Trigger> {
    let mut triggers = Vec::new();
    for document in documents {
        for trigger in document["spec"]["triggers"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().expect("KEDA takes strings only").to_owned();
            let metadata = trigger["metadata"].as_object().expect("a trigger has metadata");
            triggers.push(Trigger {
                kind: text(&document["kind"]),
                trigger_type: text(&trigger["type"]),
                reference: ScaledObjectRef {
                    name: text(&document["metadata"]["name"]),
                    namespace: text(&document["metadata"]["namespace"]),
                    scaler_metadata: metadata.iter().map(|(key, value)| (key.clone(), text(value))).collect(),
                },
            });
        }
    }
    triggers
}

/// The answers that KEDA gets in one poll.
#[derive(Debug, PartialEq)]
struct Poll {
    metric: String,
    target: f64,
    value: f64,
    active: bool,
}

/// One poll in KEDA's order; an error is its code and text.
async fn poll(serving: &Serving, trigger: &Trigger) -> Result<Poll, tonic::Status> {
    let mut client: ExternalScalerClient<Channel> =
        ExternalScalerClient::connect(format!("http://{}", serving.grpc)).await.expect("the server is up");
    let specs = client.get_metric_spec(trigger.reference.clone()).await?.into_inner().metric_specs;
    let [spec] = specs.as_slice() else { panic!("KEDA counts one spec for each trigger: {specs:?}") };
    let request =
        GetMetricsRequest { scaled_object_ref: Some(trigger.reference.clone()), metric_name: spec.metric_name.clone() };
    let values = client.get_metrics(request).await?.into_inner().metric_values;
    let [value] = values.as_slice() else { panic!("KEDA sums whatever it gets: {values:?}") };
    let active = client.is_active(trigger.reference.clone()).await?.into_inner().result;
    if trigger.trigger_type == "external-push" {
        let mut pushed = client.stream_is_active(trigger.reference.clone()).await?.into_inner();
        let first = wait::bounded("the first message of the stream", SOON, pushed.message()).await?;
        assert_eq!(first.map(|message| message.result), Some(active), "the stream and the poll agree");
    }
    let target = spec.target_size_float;
    Ok(Poll { metric: spec.metric_name.clone(), target, value: value.metric_value_float, active })
}

async fn answer(serving: &Serving, trigger: &Trigger) -> Poll {
    poll(serving, trigger).await.unwrap_or_else(|status| panic!("{:?}: {status}", trigger.reference))
}

fn expected(metric: &str, target: f64, value: f64, active: bool) -> Poll {
    Poll { metric: metric.to_owned(), target, value, active }
}

#[tokio::test]
async fn the_shipped_examples_get_the_shipped_answers() {
    let cluster = Cluster::private().await;
    let database = prepared(&cluster).await;
    database.execute("INSERT INTO make_it_clap (duration_seconds) SELECT 0 FROM generate_series(1, 60)").await;
    let configuration = rendered_configuration("deploy/kustomize/demo/clapometer.yaml");
    let serving = Executable::serve(&at_our_database(configuration, &database)).serving().await;

    let scaled_job = triggers("deploy/examples/scaled-job.yaml");
    let [claps] = scaled_job.as_slice() else { panic!("one trigger") };
    assert_eq!((claps.kind.as_str(), claps.trigger_type.as_str()), ("ScaledJob", "external"));
    assert_eq!(answer(&serving, claps).await, expected("outstanding-claps", 1.0, 60.0, true));

    let scaled_object = triggers("deploy/examples/scaled-object-external-push.yaml");
    let [workers] = scaled_object.as_slice() else { panic!("one trigger") };
    assert_eq!((workers.kind.as_str(), workers.trigger_type.as_str()), ("ScaledObject", "external-push"));
    assert_eq!(answer(&serving, workers).await, expected("clap-workers", 10.0, 60.0, true));

    // The seed's own trigger, moved as the migration guide says: its SQL in the manifest, its password gone.
    let mut moved = triggers("deploy/examples/scaled-job-builtin-trigger.yaml").remove(0);
    for key in ["passwordFromEnv", "userName", "host", "port", "dbName", "sslmode"] {
        moved.reference.scaler_metadata.remove(key).expect("a key of the built-in trigger");
    }
    assert!(moved.reference.scaler_metadata["query"].starts_with("SELECT COUNT(1)"));
    let answered = answer(&serving, &moved).await;
    assert_eq!((answered.target, answered.value, answered.active), (1.0, 60.0, true));

    // The runbook's trigger, which only watches.
    let metadata = [("query", "dead-claps"), ("activationTargetQueryValue", "1000000000")];
    let dead = Trigger {
        kind: "ScaledJob".to_owned(),
        trigger_type: "external".to_owned(),
        reference: ScaledObjectRef {
            scaler_metadata: metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..claps.reference.clone()
        },
    };
    assert_eq!(answer(&serving, &dead).await, expected("dead-claps", 1.0, 0.0, false));
}

#[tokio::test]
async fn a_job_of_the_shipped_role_works_and_the_value_falls() {
    let cluster = Cluster::private().await;
    let database = prepared(&cluster).await;
    database.execute("INSERT INTO make_it_clap (duration_seconds, max_attempts) VALUES (0, 1), (0, 1)").await;
    let configuration = rendered_configuration("deploy/kustomize/demo/clapometer.yaml");
    let serving = Executable::serve(&at_our_database(configuration, &database)).serving().await;
    let claps = triggers("deploy/examples/scaled-job.yaml").remove(0);
    assert_eq!(answer(&serving, &claps).await, expected("outstanding-claps", 1.0, 2.0, true));

    let work = |job: &str| {
        Executable::postgres_batch(["work"])
            .variables(access(&database, "postgres_batch").environment())
            .variable("JOB_UID", job)
    };
    succeeded(work("first"), "work").await;
    let failed = work("second").variable("FINAL_STATE", "FAILED").finish(SOON).await;
    assert_eq!(failed.code(), Some(11), "the last attempt of a clap that fails: {}", failed.errors);

    wait::first("nothing is outstanding", SOON, async || {
        (answer(&serving, &claps).await == expected("outstanding-claps", 1.0, 0.0, false)).then_some(())
    })
    .await;
}

/// The Job's container of an example, as the kubelet would start it, at our database.
fn container(path: &str, database: &Database<'_>) -> Executable {
    let documents = documents(path);
    let spec = &documents[0]["spec"];
    let template = if spec["template"].is_object() { &spec["template"] } else { &spec["jobTargetRef"]["template"] };
    let container = &template["spec"]["containers"][0];
    let arguments = container["args"].as_array().expect("arguments").iter();
    let access = access(database, "postgres_batch");
    let program = Executable::postgres_batch(arguments.map(|argument| argument.as_str().expect("a text")));
    container["env"].as_array().expect("an environment").iter().fold(program, |program, variable| {
        let name = variable["name"].as_str().expect("a name");
        let value = match name {
            "PG_HOST" => access.host.clone(),
            "PG_PORT" => access.port.to_string(),
            "PGDATABASE" => access.dbname.clone(),
            "PGPASSWORD" => PASSWORD.to_owned(),
            _ => variable["value"].as_str().map_or_else(|| format!("{path} {name}"), str::to_owned),
        };
        program.variable(name, value)
    })
}

#[tokio::test]
async fn the_shipped_jobs_start_as_their_manifests_say() {
    let cluster = Cluster::private().await;
    let database = prepared(&cluster).await;
    database.execute("INSERT INTO make_it_clap (duration_seconds) VALUES (0), (0)").await;
    for path in ["deploy/examples/job.yaml", "deploy/examples/scaled-job.yaml"] {
        succeeded(container(path, &database), path).await;
    }
    let done = "SELECT count(*) FROM clap WHERE status = 'SUCCESS' AND job_uid LIKE 'deploy/examples/%JOB_UID'";
    assert_eq!(database.value::<i64>(done).await, 2);
}

#[tokio::test]
async fn the_own_table_example_counts_its_own_table() {
    let cluster = Cluster::private().await;
    let database = prepared(&cluster).await;
    database
        .execute(
            "INSERT INTO invoice_job (tenant) SELECT 'acme' FROM generate_series(1, 21);
             INSERT INTO invoice_job (tenant, state, locked_until) VALUES ('zeta', 'running', now() + interval '1 hour');
             INSERT INTO invoice_job (tenant, state) SELECT 'zeta', 'done' FROM generate_series(1, 5)",
        )
        .await;
    let configuration =
        serde_saphyr::from_str(&read("deploy/examples/own-table/clapometer.yaml")).expect("a configuration");
    let serving = Executable::serve(&at_our_database(configuration, &database)).serving().await;

    let example = triggers("deploy/examples/own-table/scaled-job.yaml");
    let [jobs, tenant] = example.as_slice() else { panic!("two triggers") };
    assert_eq!(answer(&serving, jobs).await, expected("invoice-jobs", 1.0, 22.0, true));
    // 21 rows, divided by 10, rounded up.
    assert_eq!(answer(&serving, tenant).await, expected("invoice-jobs-of-a-tenant", 1.0, 3.0, true));

    // Its only row is leased: the worker with the lease stays.
    let mut held = triggers("deploy/examples/own-table/scaled-job.yaml").remove(1);
    held.reference.scaler_metadata.insert("param.tenant".to_owned(), "zeta".to_owned());
    assert_eq!(answer(&serving, &held).await, expected("invoice-jobs-of-a-tenant", 1.0, 1.0, true));

    // The example's queries are for the namespace billing only.
    let mut elsewhere = triggers("deploy/examples/own-table/scaled-job.yaml").remove(0);
    elsewhere.reference.namespace = "sales".to_owned();
    let refused = poll(&serving, &elsewhere).await.expect_err("another namespace");
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
}

/// The README's blocks in a language, in their order.
fn blocks(language: &str) -> Vec<String> {
    let (readme, fence) = (read("README.md"), format!("```{language}\n"));
    let blocks = readme.split(&fence).skip(1).filter_map(|rest| rest.split_once("```"));
    blocks.map(|(block, _)| block.to_owned()).collect()
}

#[tokio::test]
async fn the_scaled_job_of_the_readme_is_answered_by_its_configuration() {
    let cluster = Cluster::private().await;
    let database = prepared(&cluster).await;
    database.execute("INSERT INTO invoice_job (tenant) SELECT 'acme' FROM generate_series(1, 21)").await;
    let yaml = blocks("yaml");
    let [configuration, scaled_job] = yaml.as_slice() else { panic!("two blocks") };
    let configuration = serde_saphyr::from_str(configuration).expect("a configuration");
    let serving = Executable::serve(&at_our_database(configuration, &database)).serving().await;
    let documents = serde_saphyr::from_multiple(scaled_job).expect("a ScaledJob");
    let triggers = triggers_in(&documents);
    let [trigger] = triggers.as_slice() else { panic!("one trigger") };
    assert_eq!(answer(&serving, trigger).await, expected("invoice-jobs", 1.0, 21.0, true));

    let console = blocks("console").concat();
    let line = console.lines().find(|line| line.starts_with("clapometer simulate ")).expect("its simulation");
    let words = line.split('#').next().expect("a command").split_whitespace().skip(1);
    succeeded(Executable::clapometer(words).file("scaled-job.yaml", scaled_job), line).await;
}

#[tokio::test]
async fn the_scripts_can_be_run_again_and_refuse_a_role_that_is_more_than_ordinary() {
    let cluster = Cluster::private().await;
    let bare = Database::empty(&cluster).await;
    let early = psql(&bare, ROLES, &[]).finish(SOON).await;
    assert_eq!(early.code(), Some(3), "{}", early.errors);
    assert!(early.errors.contains("HINT:  Run postgres-batch migrate up first"), "{}", early.errors);
    let database = prepared(&cluster).await;
    for script in [ROLES, OWN_TABLE] {
        succeeded(psql(&database, script, &[]), script).await;
    }
    database.execute("ALTER ROLE clapometer CREATEDB BYPASSRLS").await;
    for script in [ROLES, OWN_TABLE] {
        let refused = psql(&database, script, &[]).finish(SOON).await;
        assert_eq!(refused.code(), Some(3), "{script}: {}", refused.errors);
        assert!(refused.errors.contains("the role clapometer is there already, with CREATEDB BYPASSRLS"), "{script}");
        assert!(refused.errors.contains("ALTER ROLE clapometer NOCREATEDB NOBYPASSRLS;"), "{script}");
    }
}

#[tokio::test]
async fn the_shipped_role_reads_what_it_counts_and_nothing_else() {
    let cluster = Cluster::private().await;
    let database = prepared(&cluster).await;
    // Before PostgreSQL 15 every role may create in the schema public: the script says how to end that.
    let version: i32 = database.value("SELECT current_setting('server_version_num')::int4").await;
    let again = psql(&database, ROLES, &[]).finish(SOON).await;
    let revoke = "REVOKE CREATE ON SCHEMA public FROM PUBLIC";
    assert_eq!(again.errors.contains(revoke), version < 150_000, "{}", again.errors);
    database.execute(revoke).await;
    let client = crate::support::database::connect(&access(&database, "clapometer").driver()).await;
    client
        .batch_execute("SELECT claimable + held FROM clap_backlog; SELECT id, status, finished_at FROM clap")
        .await
        .unwrap();
    // A role's default is the role's to change: the grants must hold without it.
    client.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    for refused in [
        "SELECT payload FROM make_it_clap",
        "SELECT last_error FROM clap",
        "SELECT * FROM clap_attempt",
        "UPDATE clap SET status = 'DEAD'",
        "CREATE TABLE mine ()",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ] {
        let error = client.batch_execute(refused).await.expect_err(refused);
        assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE), "{refused}");
    }
}
