//! `clapometer init`: what it prints for a database works, with a role that has the printed grants and no others.

mod template;
mod terminal;

use std::{fs, path::Path, time::Duration};

use clapometer::manifest::{Kind, Manifest};

use super::{
    Library, apalis::APALIS, good_job::GOOD_JOB, graphile_worker::GRAPHILE_WORKER, oban::OBAN, pg_boss::PG_BOSS,
    pgmq::PGMQ, procrastinate::PROCRASTINATE, que::QUE, river::RIVER, solid_queue::SOLID_QUEUE,
};
use crate::support::{
    cluster::Cluster,
    database::{Access, Database},
    executable::{Executable, Finished},
    fixture::Fixture,
    grpc::trigger,
};

/// The bound of a command; on an idle machine none takes more than a second.
const COMMAND: Duration = Duration::from_secs(30);

const PASSWORD: &str = "canary-init-password";

/// Names that break what is not quoted: in SQL, in YAML, in a comment, in a fenced block, on a terminal.
const HOSTILE: &str = "we\"ird': {x}\n```\n\u{2028}# \u{1b}[2J \\ sché";

/// A role of this test's own: roles are the cluster's.
fn role(database: &Database<'_>) -> String {
    format!("init_{}", database.name())
}

fn init(access: &Access, arguments: &[&str]) -> Executable {
    let executable = Executable::clapometer(["init"]).variables(access.environment());
    arguments.iter().fold(executable, |executable, argument| executable.argument(argument))
}

async fn printed(access: &Access, arguments: &[&str]) -> Finished {
    let finished = init(access, arguments).finish(COMMAND).await;
    assert_eq!((finished.code(), &*finished.errors), (Some(0), ""), "{arguments:?}");
    finished
}

async fn part(access: &Access, role: &str, part: &str) -> String {
    printed(access, &["--role", role, "--print", part]).await.output
}

/// The result of a run of all parts: each trigger's query with its value.
struct Worked {
    config: String,
    manifest: String,
    values: Vec<(String, f64)>,
}

/// Takes the parts as a newcomer does: grants, check, lint, and KEDA's question for each trigger.
async fn works(database: &Database<'_>) -> Worked {
    let (access, role) = (database.superuser(), role(database));
    let [config, sql, manifest] = [
        part(&access, &role, "config").await,
        part(&access, &role, "sql").await,
        part(&access, &role, "manifest").await,
    ];
    // Twice: somebody else may have made the role, or the first attempt ended in the middle.
    database.execute(&sql).await;
    database.execute(&sql).await;
    database.execute(&format!("ALTER ROLE {role} PASSWORD '{PASSWORD}'")).await;

    // The owner's environment is still there, with the owner's password.
    let check = Executable::clapometer(["check", "--config", "c.yaml"]).variables(access.environment());
    let checked = check.file("c.yaml", &config).file("clapometer.password", PASSWORD).finish(COMMAND).await;
    assert_eq!(checked.code(), Some(0), "{config}\n{sql}\n{}{}", checked.output, checked.errors);

    let lint = Executable::clapometer(["lint", "m.yaml"]).file("m.yaml", &manifest).finish(COMMAND).await;
    assert_eq!(lint.code(), Some(0), "{manifest}\n{}", lint.output);
    assert!(!lint.output.contains("warning"), "{manifest}\n{}", lint.output);

    let fixture = Fixture::start(Executable::serve(&config).file("clapometer.password", PASSWORD)).await;
    let mut values = Vec::new();
    for object in Manifest::read(&manifest).objects {
        for asked in object.triggers() {
            let query = asked.text("query").unwrap();
            let value = fixture.scaler.value(&trigger(query, &[])).await.unwrap();
            values.push((query.to_owned(), value));
        }
    }
    assert!(!values.is_empty(), "{manifest}");
    Worked { config, manifest, values }
}

/// Makes a library's tables in a schema, quoted as it stands here, and rows with a queue of this name.
async fn install(database: &Database<'_>, library: &Library, schema: &str, rows: &str) {
    let tables = library.tables.trim_end().trim_end_matches(';');
    database
        .execute(&format!("CREATE SCHEMA IF NOT EXISTS {schema}; SET search_path = {schema}; {tables}; {rows}"))
        .await;
}

#[tokio::test]
async fn each_library_is_found_and_what_is_printed_works() {
    let cases: [(&Library, &str); 10] = [
        (&RIVER, "INSERT INTO river_job (queue) VALUES ('mail')"),
        (&OBAN, "INSERT INTO oban_jobs (queue) VALUES ('mail')"),
        (&PG_BOSS, "INSERT INTO pgboss.queue VALUES ('mail'); INSERT INTO pgboss.job (name) VALUES ('mail')"),
        (&GRAPHILE_WORKER, "SELECT job('mail'); ALTER TABLE graphile_worker._private_jobs ENABLE ROW LEVEL SECURITY"),
        (&GOOD_JOB, "INSERT INTO good_jobs (queue_name) VALUES ('mail')"),
        (&SOLID_QUEUE, "INSERT INTO solid_queue_ready_executions (queue_name) VALUES ('mail')"),
        (&QUE, "INSERT INTO que_jobs (queue) VALUES ('mail')"),
        (&PROCRASTINATE, "INSERT INTO procrastinate_jobs (queue_name) VALUES ('mail')"),
        (&PGMQ, "SELECT queue('Mail', '(now(), 0)')"),
        (&APALIS, "INSERT INTO apalis.jobs (job_type) VALUES ('mail')"),
    ];
    for (library, rows) in cases {
        let database = Database::empty(Cluster::shared().await).await;
        install(&database, library, "public", rows).await;
        let worked = works(&database).await;
        let queue = if library.preset == "graphile-worker" { "" } else { "-mail" };
        let name = library.preset.replace('_', "-") + queue;
        assert_eq!(worked.values, [(name, 1.0)], "{}", worked.config);
        assert!(worked.config.contains(&format!("preset: {}\n", library.preset)), "{}", worked.config);
        assert!(worked.manifest.contains("kind: ScaledObject"), "{}", worked.manifest);
    }
}

#[tokio::test]
async fn a_queue_without_an_open_job_is_found() {
    let cases: [(&Library, &str); 6] = [
        (&OBAN, "INSERT INTO oban_jobs (queue, state) VALUES ('mail', 'completed')"),
        (&GOOD_JOB, "INSERT INTO good_jobs (queue_name, finished_at) VALUES ('mail', now())"),
        (&SOLID_QUEUE, "INSERT INTO solid_queue_jobs (queue_name, finished_at) VALUES ('mail', now())"),
        (&QUE, "INSERT INTO que_jobs (queue, finished_at) VALUES ('mail', now())"),
        (&PROCRASTINATE, "INSERT INTO procrastinate_jobs (queue_name, status) VALUES ('mail', 'succeeded')"),
        (&APALIS, "INSERT INTO apalis.jobs (job_type, status) VALUES ('mail', 'Done')"),
    ];
    for (library, rows) in cases {
        let database = Database::empty(Cluster::shared().await).await;
        install(&database, library, "public", rows).await;
        let config = printed(&database.superuser(), &["--print", "config"]).await.output;
        assert!(config.contains("queue: mail\n"), "{}: {config}", library.preset);
    }
}

#[tokio::test]
async fn postgres_batch_gets_a_scaled_job() {
    let database = Database::empty(Cluster::shared().await).await;
    let migrated = Executable::postgres_batch(["migrate", "up"]).variables(database.owner().environment());
    assert_eq!(migrated.finish(COMMAND).await.code(), Some(0));
    database.execute("INSERT INTO make_it_clap (duration_seconds) VALUES (1), (2), (3)").await;
    let worked = works(&database).await;
    assert_eq!(worked.values, [("postgres-batch".to_owned(), 3.0)]);
    assert_eq!(Manifest::read(&worked.manifest).objects[0].kind, Kind::ScaledJob);
}

#[tokio::test]
async fn several_libraries_schemas_and_hostile_names_are_told_apart() {
    let database = Database::empty(Cluster::shared().await).await;
    let schema = format!("\"{}\"", HOSTILE.replace('"', "\"\""));
    let queue = HOSTILE.replace('\'', "''");
    let rows = |count: u32, queue: &str| {
        format!("INSERT INTO river_job (queue) SELECT '{queue}' FROM generate_series(1, {count})")
    };
    install(&database, &RIVER, "public", &rows(1, "mail")).await;
    install(&database, &RIVER, &schema, &rows(2, &queue)).await;
    install(&database, &OBAN, &schema, "INSERT INTO oban_jobs (queue) VALUES ('mail'), ('yes'), ('1e3')").await;
    install(&database, &PGMQ, "public", "SELECT queue('a b', '(now(), 0)'), queue('a-b', '(now(), 0), (now(), 0)')")
        .await;
    // Anybody may have a table of this name.
    database.execute("CREATE TABLE public.jobs (id bigint, status text); CREATE TABLE public.workers (id text)").await;
    let worked = works(&database).await;
    let value = |query: &str| {
        let found = worked.values.iter().find(|(name, _)| name == query);
        found.unwrap_or_else(|| panic!("{query} is not in {:?}", worked.values)).1
    };
    assert_eq!(worked.values.len(), 7, "{:?}", worked.values);
    assert_eq!(value("river-public-mail"), 1.0);
    assert_eq!(value("river-we-ird-x-2j-sch-we-ird-x-2j-sch"), 2.0);
    for query in ["oban-mail", "oban-yes", "oban-1e3"] {
        assert_eq!(value(query), 1.0);
    }
    assert_eq!((value("pgmq-a-b"), value("pgmq-a-b-2")), (1.0, 2.0));

    let document = printed(&database.superuser(), &[]).await.output;
    assert!(!document.contains(['\u{1b}', '\u{2028}']), "{document}");
    assert_eq!(document.lines().filter(|line| line.starts_with("```")).count(), 8, "{document}");
    let longest = document.lines().filter(|line| line.starts_with('#') || line.starts_with("--"));
    assert!(longest.map(|line| line.chars().count()).max() <= Some(80), "{document}");
}

#[tokio::test]
async fn a_role_without_rights_finds_the_tables_and_assumes_the_queue() {
    let database = Database::empty(Cluster::shared().await).await;
    install(&database, &RIVER, "public", "INSERT INTO river_job (queue) VALUES ('mail')").await;
    install(&database, &PGMQ, "public", "SELECT queue('Mail', '(now(), 0)')").await;
    let document = printed(&database.scaler(), &[]).await.output;
    assert!(document.contains("this role may not read its queues"), "{document}");
    assert!(document.contains("    queue: default  # assumed\n"), "{document}");
    assert!(document.contains("    queue: mail\n") && document.contains("pgmq.q_mail"), "{document}");
    assert!(document.contains("GRANT SELECT ON\n    public.river_job,\n    public.river_queue\n    TO "), "{document}");
}

#[tokio::test]
async fn a_database_without_a_library_is_named_and_nothing_is_written() {
    let database = Database::empty(Cluster::shared().await).await;
    database.execute("CREATE TABLE que_jobs (id bigint, queue text, run_at timestamptz)").await;
    let access = database.superuser();
    let out = crate::support::tempdir::new("init").join("scaling");
    for arguments in [&[][..], &["--print", "config"], &["--out", out.to_str().unwrap()]] {
        let found = init(&access, arguments).finish(COMMAND).await;
        assert_eq!((found.code(), &*found.output), (Some(1), ""), "{arguments:?}");
        let named = format!(
            "there is no queue library that is known in the database {} at 127.0.0.1:{};",
            database.name(),
            database.cluster().port()
        );
        assert!(found.errors.contains(&named), "{}", found.errors);
        assert!(found.errors.contains("looks like Que (Ruby) but has no column finished_at"), "{}", found.errors);
        assert!(found.errors.contains("-> is it the right database? PGDATABASE names it."), "{}", found.errors);
        assert!(found.errors.contains("clapometer init --table SCHEMA.TABLE"), "{}", found.errors);
    }
    assert!(!out.exists());
}

#[tokio::test]
async fn the_document_for_a_newcomer_with_river() {
    // Roles are the cluster's, and other tests make the role clapometer.
    let cluster = Cluster::private().await;
    let database = Database::empty(&cluster).await;
    install(&database, &RIVER, "public", "INSERT INTO river_job (queue) VALUES ('mail'), ('images')").await;
    let document = printed(&database.superuser(), &[]).await.output;
    let document = document
        .replace(&database.name().replace('_', "-"), "app")
        .replace(database.name(), "app")
        .replace(&database.cluster().port().to_string(), "5432");
    insta::assert_snapshot!("river", document);
}

#[tokio::test]
async fn the_next_command_asks_the_same_again() {
    let database = Database::empty(Cluster::shared().await).await;
    database.execute("CREATE TABLE public.\"the jobs\" (id bigint)").await;
    let configuration = format!("databases:\n{}{}", database.superuser().yaml("one"), database.superuser().yaml("two"));
    let options = ["--config", "c.yaml", "--database", "two", "--table", "the jobs", "--role", "o'brien"];
    let init = Executable::clapometer(["init"].into_iter().chain(options)).file("c.yaml", &configuration);
    let finished = init.finish(COMMAND).await;
    assert_eq!(finished.code(), Some(0), "{}", finished.errors);
    let next =
        "```console\nclapometer init --config c.yaml --database two --table 'the jobs' --role 'o'\\''brien' --out .\n";
    assert!(finished.output.contains(next), "{}", finished.output);
}

#[tokio::test]
async fn a_role_that_is_made_has_limits_and_one_that_is_there_keeps_its_own() {
    let database = Database::empty(Cluster::shared().await).await;
    install(&database, &RIVER, "public", "INSERT INTO river_job (queue) VALUES ('mail')").await;
    let (access, role) = (database.superuser(), role(&database));
    let limits = async || {
        let sql = "SELECT concat_ws(' ', rolconnlimit, array_to_string(rolconfig, ' ')) FROM pg_roles WHERE rolname = ";
        database.value::<String>(&format!("{sql}'{role}'")).await
    };
    let sql = part(&access, &role, "sql").await;
    assert!(sql.contains("As the owner of these tables, if it has CREATEROLE, or as a superuser:"), "{sql}");
    database.execute(&sql).await;
    let defaults = "default_transaction_read_only=on statement_timeout=10s lock_timeout=1s \
                    idle_in_transaction_session_timeout=10s";
    assert_eq!(limits().await, format!("20 {defaults}"));
    database.execute(&format!("ALTER ROLE {role} CONNECTION LIMIT 5; ALTER ROLE {role} RESET ALL")).await;
    let sql = part(&access, &role, "sql").await;
    assert!(sql.contains("As the owner of these tables, or as a superuser:"), "{sql}");
    database.execute(&sql).await;
    assert_eq!(limits().await, "5");
}

#[tokio::test]
async fn the_grants_of_columns_that_the_dba_is_told_of_are_enough() {
    let page = include_str!("../../../docs/for-your-dba.md");
    let grants: Vec<&str> =
        page.split('`').filter(|code| code.starts_with("GRANT SELECT (") && code.contains("river_")).collect();
    assert_eq!(grants.len(), 2, "{grants:?}");
    let database = Database::empty(Cluster::shared().await).await;
    install(&database, &RIVER, "public", "INSERT INTO river_job (queue) VALUES ('mail')").await;
    let (access, role) = (database.superuser(), role(&database));
    let sql = part(&access, &role, "sql").await;
    let config = part(&access, &role, "config").await;
    database.execute(&sql).await;
    database.execute(&format!("REVOKE SELECT ON river_job, river_queue FROM {role}")).await;
    database.execute(&format!("ALTER ROLE {role} PASSWORD '{PASSWORD}'")).await;
    let check = async || {
        let check = Executable::clapometer(["check", "--config", "c.yaml"]).file("c.yaml", &config);
        check.file("clapometer.password", PASSWORD).finish(COMMAND).await
    };
    let refused = check().await;
    assert_eq!(refused.code(), Some(1), "{}", refused.output);
    for grant in grants {
        database.execute(&grant.replace("TO clapometer", &format!("TO {role}"))).await;
    }
    let checked = check().await;
    assert_eq!(checked.code(), Some(0), "{}{}", checked.output, checked.errors);
}

#[tokio::test]
async fn a_host_that_means_another_server_in_a_pod_has_a_remark() {
    let database = Database::empty(Cluster::shared().await).await;
    install(&database, &RIVER, "public", "INSERT INTO river_job (queue) VALUES ('mail')").await;
    let access = database.superuser();
    let config = printed(&access, &["--print", "config"]).await.output;
    assert!(config.contains("    host: \"127.0.0.1\"  # in a pod the name of its Service or server\n"), "{config}");
    assert!(config.contains("    sslmode: disable  # in a pod better verify-full, with sslrootcert\n"), "{config}");
    // An address that only this machine is given for the name.
    let elsewhere = init(&access, &["--print", "config"]).variable("PGHOST", "db.example.test");
    let config = elsewhere.variable("PGHOSTADDR", "127.0.0.1").finish(COMMAND).await.output;
    let remark = "    host: db.example.test  # without PGHOSTADDR, so that this name must resolve\n";
    assert!(config.contains(remark), "{config}");
}

#[tokio::test]
async fn files_are_written_once_and_never_over_others() {
    let database = Database::empty(Cluster::shared().await).await;
    install(&database, &RIVER, "public", "INSERT INTO river_job (queue) VALUES ('mail')").await;
    let access = database.superuser();
    let directory = crate::support::tempdir::new("init");
    let out = directory.join("a/b");
    let finished = printed(&access, &["--out", out.to_str().unwrap()]).await;
    assert!(finished.output.contains("Written: "), "{}", finished.output);
    for (name, part) in [("clapometer.yaml", "config"), ("grants.sql", "sql"), ("manifest.yaml", "manifest")] {
        let text = fs::read_to_string(out.join(name)).unwrap();
        assert_eq!(text, printed(&access, &["--print", part]).await.output);
    }
    for (name, target) in [("clapometer.yaml", "theirs"), ("grants.sql", "")] {
        let directory = crate::support::tempdir::new("init");
        match target {
            "" => std::os::unix::fs::symlink("/nowhere/at/all", directory.join(name)).unwrap(),
            text => fs::write(directory.join(name), text).unwrap(),
        }
        let refused = init(&access, &["--out", directory.to_str().unwrap()]).finish(COMMAND).await;
        assert_eq!((refused.code(), &*refused.output), (Some(2), ""));
        assert!(refused.errors.contains(&format!("{name} is there already")), "{}", refused.errors);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing else was written");
    }
    let file = out.join("grants.sql");
    let refused = init(&access, &["--out", file.to_str().unwrap()]).finish(COMMAND).await;
    assert_eq!(refused.code(), Some(2));
    assert!(refused.errors.contains("grants.sql is no directory"), "{}", refused.errors);
    let into_a_file = Path::new("/dev/null/x").to_str().unwrap();
    let failed = init(&access, &["--out", into_a_file]).finish(COMMAND).await;
    assert_eq!(failed.code(), Some(1));
    assert!(failed.errors.contains("cannot make /dev/null/x"), "{}", failed.errors);
}

#[tokio::test]
async fn what_cannot_be_looked_into_has_its_exit_code() {
    let database = Database::empty(Cluster::shared().await).await;
    let cases: [(Executable, i32, &str); 6] = [
        (init(&database.scaler().with_password("wrong"), &[]), 69, "cannot look into the database"),
        (init(&database.scaler().by_way_of("127.0.0.1:1".parse().unwrap()), &[]), 69, "nothing answers there"),
        (Executable::clapometer(["init", "--role", ""]).variables(database.scaler().environment()), 2, "--role"),
        (
            Executable::clapometer(["init", "--table", "a.b.c"]).variables(database.scaler().environment()),
            2,
            "--table: more than one dot, so that it is not clear which one ends the schema\n",
        ),
        (
            Executable::clapometer(["init", "--database", "x"]).variables(database.scaler().environment()),
            2,
            "there is no x",
        ),
        (Executable::clapometer(["init", "--config", "/nowhere.yaml"]), 78, "cannot be read"),
    ];
    for (executable, code, text) in cases {
        let finished = executable.finish(COMMAND).await;
        assert_eq!((finished.code(), &*finished.output), (Some(code), ""), "{text}: {}", finished.errors);
        assert!(finished.errors.contains(text), "{text}: {}", finished.errors);
    }
}

#[tokio::test]
async fn a_configuration_names_the_database_too() {
    let database = Database::empty(Cluster::shared().await).await;
    install(&database, &RIVER, "public", "INSERT INTO river_job (queue) VALUES ('mail')").await;
    let configuration = format!("databases:\n{}{}", database.superuser().yaml("one"), database.superuser().yaml("two"));
    let init = || Executable::clapometer(["init", "--config", "c.yaml"]).file("c.yaml", &configuration);
    let refused = init().finish(COMMAND).await;
    assert_eq!(refused.code(), Some(2));
    assert!(refused.errors.contains("name one with --database: one, two"), "{}", refused.errors);
    let finished = init().argument("--database").argument("two").finish(COMMAND).await;
    assert_eq!(finished.code(), Some(0), "{}", finished.errors);
    assert!(finished.output.contains("preset: river\n"), "{}", finished.output);
}
