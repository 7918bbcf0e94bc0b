//! Credentials are canaries here: each way to give one is tried, right and wrong, and everything that comes out of both
//! programs is searched.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use clapometer::config::{Config, Environment};
use serde_json::Value;

use crate::support::{
    admin,
    cluster::{Cluster, SCALER_PASSWORD},
    database::{Access, Database},
    executable::{Executable, Finished},
    fixture::jobs,
    grpc::{Scaler, trigger},
    wait,
};

/// More than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Part of every credential of these tests, the cluster's passwords among them.
const CANARY: &str = "canary";

/// The forms of a credential that somebody may write into the wrong place.
const FORMS: [&str; 5] = [
    "postgres://user:canary@db:5432/claps",
    "jdbc:postgresql://db/claps?user=u&password=canary",
    "host=db user=u password=canary",
    "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n",
    "-----BEGIN PRIVATE KEY----- canary -----END PRIVATE KEY-----",
];

/// Returns every key below a schema that holds no further ones. Names that a person chooses are `name`.
fn keys(schema: &Value, path: &[String], found: &mut Vec<Vec<String>>) {
    let below = |name: &str| [path, &[name.to_owned()]].concat();
    let properties = schema["properties"].as_object();
    let named = schema.get("additionalProperties").filter(|named| named.is_object());
    for (name, schema) in properties.into_iter().flatten() {
        keys(schema, &below(name), found);
    }
    if let Some(named) = named {
        keys(named, &below("name"), found);
    }
    if (properties, named) == (None, None) {
        found.push(path.to_vec());
    }
}

/// Returns a document with a value at some places, and with what a database and a query need besides.
fn document(paths: &[Vec<String>], value: &Value) -> Value {
    let mut document = serde_json::json!({
        "databases": {"name": {"host": "localhost", "user": "u"}},
        "queries": {"name": {"sql": "SELECT 1"}},
    });
    for path in paths {
        let mut place = &mut document;
        for name in path {
            if !place.is_object() {
                *place = serde_json::json!({});
            }
            place = &mut place[name];
        }
        *place = value.clone();
    }
    document
}

#[test]
fn no_key_of_the_configuration_tells_the_credential_that_stands_there() {
    let mut all = Vec::new();
    keys(&Config::schema(), &[], &mut all);
    assert!(all.len() > 60 && all.iter().any(|path| path.join(".") == "databases.name.password"), "{all:?}");
    let directory = tempfile::tempdir().unwrap();
    for (number, form) in FORMS.into_iter().enumerate() {
        let file = directory.path().join(number.to_string());
        fs::write(&file, form).unwrap();
        let by_file = serde_json::json!({"file": file});
        // Alone, because a fault may hide another.
        for path in &all {
            says_no_credential(std::slice::from_ref(path), &Value::from(form), &[]);
        }
        for value in [
            Value::from(vec![form]),
            serde_json::json!({ form: form }),
            by_file,
            serde_json::json!({"env": "SECRET"}),
            serde_json::json!({"file": form}),
            serde_json::json!({"env": form}),
        ] {
            says_no_credential(&all, &value, &[("SECRET".to_owned(), form.to_owned())]);
        }
        let variable = |path: &Vec<String>| format!("CLAPOMETER__{}", path.join("__").to_uppercase());
        let variables: Vec<_> = all.iter().map(|path| (variable(path), form.to_owned())).collect();
        says_no_credential(&[], &Value::Null, &variables);
    }
}

/// Loads a configuration that has a value at each of these places.
fn says_no_credential(paths: &[Vec<String>], value: &Value, variables: &[(String, String)]) {
    let yaml = document(paths, value).to_string();
    let said = match Config::parse(&yaml, &variables.iter().cloned().collect::<Environment>()) {
        // Other text is the operator's own, and shown to him as it is: SQL, names of columns, a search_path.
        Ok(_) if paths.iter().all(|path| path[0] != "databases" || path.ends_with(&["search_path".to_owned()])) => {
            return;
        }
        Ok(config) => config.effective_yaml() + &config.effective_json() + &format!("{config:?}"),
        Err(faults) => format!("{faults} {faults:?} {}", faults.json()),
    };
    assert!(!said.contains(CANARY), "{said}\nof {yaml}");
}

/// Ways to give the scaler's password, and wrong ones, a database for each.
fn databases(access: &Access) -> String {
    let Access { host, port, dbname, user, password, .. } = access;
    let part = format!("host: {host}, port: {port}, dbname: {dbname}, user: {user}, sslmode: disable");
    let url = format!("postgres://{user}:{password}@{host}:{port}/{dbname}?sslmode=disable");
    let pairs = format!("host={host} port={port} user={user} password={password} dbname={dbname} sslmode=disable");
    format!(
        "databases:
  plain: {{{part}, password: {password}}}
  by-file: {{{part}, password: {{file: password}}}}
  by-env: {{{part}, password: {{env: SECRET}}}}
  by-variable: {{{part}, password: overridden}}
  by-url: {{url: \"{url}\"}}
  by-url-in-a-file: {{url: {{file: url}}}}
  by-url-in-a-variable: {{url: {{env: SECRET_URL}}}}
  by-pairs: {{url: \"{pairs}\"}}
  wrong: {{{part}, password: canary-wrong}}
  wrong-in-a-url: {{url: \"{}\"}}
  nobody: {{host: 127.0.0.1, port: 1, user: canary-free, password: {password}}}
",
        url.replace(password, "canary-wrong")
    )
    .replace("canary-free", "u")
}

/// Gives a program what the configuration refers to.
fn with_secrets(program: Executable, access: &Access) -> Executable {
    let Access { host, port, dbname, user, password, .. } = access;
    let url = format!("postgres://{user}:{password}@{host}:{port}/{dbname}?sslmode=disable");
    program
        .variable("RUST_LOG", "trace")
        .variable("SECRET", password)
        .variable("SECRET_URL", &url)
        .variable("CLAPOMETER__DATABASES__BY_VARIABLE__PASSWORD", password)
        .file("password", password)
        .file("url", &url)
}

const RIGHT: [&str; 8] =
    ["plain", "by-file", "by-env", "by-variable", "by-url", "by-url-in-a-file", "by-url-in-a-variable", "by-pairs"];
const WRONG: [&str; 3] = ["wrong", "wrong-in-a-url", "nobody"];

/// The texts that were said, by their place.
#[derive(Default)]
struct Said(BTreeMap<String, String>);

impl Said {
    fn by(&mut self, place: &str, text: impl Into<String>) {
        let text = text.into();
        assert!(!text.is_empty(), "{place} says nothing");
        self.0.entry(place.to_owned()).or_default().push_str(&text);
    }

    fn by_program(&mut self, place: &str, finished: Finished) {
        self.by(place, finished.output + &finished.errors);
    }

    fn has_no_canary(&self) {
        for (place, text) in &self.0 {
            let told = text.lines().find(|line| line.contains(CANARY));
            assert!(told.is_none(), "{place} tells a credential: {told:?}");
        }
    }
}

#[tokio::test]
async fn no_log_page_metric_status_or_command_tells_a_credential() {
    let database = jobs(Cluster::shared().await).await;
    let access = database.scaler();
    assert!(access.password.contains(CANARY));
    let mut configuration = databases(&access) + "queries:\n";
    for name in RIGHT.iter().chain(&WRONG) {
        configuration +=
            &format!("  {name}: {{sql: SELECT 7, database: {name}, max_age: 0s, notify: {{channel: jobs}}}}\n");
    }
    let serving = with_secrets(Executable::serve(&configuration), &access).serving().await;
    let scaler = Scaler::at(serving.grpc);
    let mut said = Said::default();
    for name in RIGHT {
        scaler.reaches(&trigger(name, &[]), 7.0, SOON).await;
    }
    for name in WRONG {
        said.by("a status", scaler.refusal(&trigger(name, &[])).await.message());
    }
    for metadata in [("passwordFromEnv", SCALER_PASSWORD), ("connection", SCALER_PASSWORD)] {
        said.by("a status", scaler.refusal(&trigger("plain", &[metadata])).await.message());
    }
    // A reload that fails, with a password where it does not belong.
    let broken = configuration.replace("  plain: {", &format!("  plain: {{passwort: {SCALER_PASSWORD}, "));
    fs::write(serving.process.directory().join("clapometer.yaml"), broken).unwrap();
    wait::first("the reload is refused", SOON, async || {
        let page = admin::get(serving.admin, "/api/status").await;
        page.contains("passwort").then_some(())
    })
    .await;
    for path in ["/metrics", "/", "/api/status", "/api/triggers/default/claps", "/livez", "/readyz", "/nowhere"] {
        said.by(path, admin::request(serving.admin, "GET", path).await.head);
        said.by(path, admin::get(serving.admin, path).await);
    }
    let (grpc, page) = (serving.grpc.to_string(), serving.admin.to_string());
    for arguments in [
        &["get", "plain", "--address", &grpc][..],
        &["get", "wrong", "--address", &grpc, "--json"],
        &["get", "plain", "--address", &grpc, "--metadata", "passwordFromEnv=canary"],
        &["why", "default/claps", "--admin-address", &page],
    ] {
        said.by_program(&arguments[..2].join(" "), Executable::clapometer(arguments).finish(SOON).await);
    }
    said.by("the log", serving.process.terminate(SOON).await.errors);

    for arguments in [
        &["check"][..],
        &["check", "--json"],
        &["check", "--offline"],
        &["check", "--offline", "--json"],
        &["config"],
        &["config", "--json"],
        &["init"],
    ] {
        for (kind, text) in [("right", &configuration), ("wrong", &configuration.replace("sslmode", "sslmoode"))] {
            let program = with_secrets(Executable::clapometer(arguments), &access).file("clapometer.yaml", text);
            let finished = program.argument("--config").argument("clapometer.yaml").finish(SOON).await;
            said.by_program(&format!("{} of a {kind} configuration", arguments.join(" ")), finished);
        }
    }
    said.has_no_canary();
}

/// The ways to give `postgres-batch` its password.
fn variables(access: &Access, passfile: &Path) -> Vec<Vec<(&'static str, String)>> {
    let Access { host, port, dbname, user, password, .. } = access;
    let without: Vec<_> = access.environment().into_iter().filter(|(name, _)| *name != "PGPASSWORD").collect();
    fs::write(passfile, format!("*:*:*:{user}:{password}\n")).unwrap();
    fs::set_permissions(passfile, fs::Permissions::from_mode(0o600)).unwrap();
    let by_file = ("PGPASSFILE", passfile.display().to_string());
    let url = format!("postgres://{user}:{password}@{host}:{port}/{dbname}?sslmode=disable");
    let pairs = format!("host={host} port={port} user={user} password={password} dbname={dbname} sslmode=disable");
    vec![
        access.environment(),
        [without, vec![by_file]].concat(),
        vec![("DATABASE_URL", url)],
        vec![("DATABASE_URL", pairs)],
    ]
}

#[tokio::test]
async fn no_command_of_a_job_tells_a_credential() {
    let database = Database::empty(Cluster::shared().await).await;
    let access = database.owner();
    assert!(access.password.contains(CANARY));
    let directory = tempfile::tempdir().unwrap();
    let passfile = directory.path().join("pgpass");
    let mut said = Said::default();
    let run = |variables: &[(&'static str, String)], arguments: &[&str]| {
        let program = Executable::postgres_batch(arguments.iter().copied()).variable("RUST_LOG", "trace");
        program.variables(variables.to_vec()).finish(SOON)
    };
    for variables in variables(&access, &passfile) {
        for arguments in [
            &["migrate", "up"][..],
            &["migrate", "status"],
            &["add", "--json"],
            &["--", "sh", "-c", "echo worked; exit 3"],
            &["list"],
            &["show", "1"],
            &["show", "7777"],
            &["explain", "--json"],
            &["retry", "1"],
            &["cancel", "1", "--json"],
            &["prune", "--older-than", "1d"],
            &["--schema", "nowhere", "list"],
        ] {
            said.by_program(&arguments.join(" "), run(&variables, arguments).await);
        }
    }
    for variables in variables(&access.clone().with_password("canary-wrong"), &passfile) {
        said.by_program("a wrong password", run(&variables, &["list"]).await);
    }
    for name in [
        "PGHOST",
        "PGPORT",
        "PGDATABASE",
        "PGUSER",
        "PGSSLMODE",
        "PGSSLROOTCERT",
        "PGSSLCERT",
        "PGSSLKEY",
        "PGTARGETSESSIONATTRS",
        "PGCONNECT_TIMEOUT",
        "PGOPTIONS",
        "PGSERVICE",
        "PGPASSFILE",
        "DATABASE_URL",
    ] {
        for form in FORMS {
            let mut variables = access.environment();
            variables.retain(|(known, _)| *known != name);
            variables.push((name, form.to_owned()));
            said.by_program(&format!("{name} with a credential"), run(&variables, &["list"]).await);
        }
    }
    said.has_no_canary();
}
