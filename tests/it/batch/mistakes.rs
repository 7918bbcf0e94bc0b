//! Mistakes with `postgres-batch`, each provoked, and what it says: what is wrong, where, and what to do.

use std::fmt::Write as _;

use super::ground::{SOON, batch, queue};
use crate::support::{
    cluster::{Cluster, Settings},
    database::{Access, Database},
    executable::Executable,
};

/// The texts that are said, by the name of the mistake.
#[derive(Default)]
struct Told {
    text: String,
    known: Vec<(String, &'static str)>,
}

impl Told {
    /// Replaces what differs from run to run.
    fn knows(&mut self, piece: impl ToString, name: &'static str) {
        self.known.push((piece.to_string(), name));
    }

    /// Runs the program, and keeps what is said.
    async fn by(&mut self, name: &str, program: Executable) {
        let finished = program.finish(SOON).await;
        let mut said = format!("{}{}", finished.output, finished.errors);
        for (piece, name) in &self.known {
            said = said.replace(piece, name);
        }
        assert!(!said.contains("canary"), "{name}: a secret is told: {said}");
        writeln!(self.text, "== {name} (exit {})", finished.code().unwrap_or(-1)).unwrap();
        for line in said.lines().filter(|line| !line.is_empty() && !line.starts_with("For more information")) {
            // The one number that differs from run to run.
            let line = match line.split_once("\"seconds\":") {
                Some((before, after)) => format!(
                    "{before}\"seconds\":S{}",
                    after.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit())
                ),
                None => line.to_owned(),
            };
            writeln!(self.text, "{line}").unwrap();
        }
    }
}

#[tokio::test]
async fn a_mistake_on_the_command_line_is_told_with_what_may_be_written() {
    let mut told = Told::default();
    let table: [(&str, &[&str]); 37] = [
        ("a command with a slip", &["lst"]),
        ("an option with a slip", &["--leese", "5s"]),
        ("options before another command than work", &["--lease", "5s", "list"]),
        ("options before work", &["--lease", "5s", "work"]),
        ("an age below zero", &["prune", "--older-than", "-1d"]),
        ("a clap that is a word", &["show", "abc"]),
        ("a clap beyond all numbers", &["cancel", "99999999999999999999"]),
        ("no clap", &["retry"]),
        ("one clap and all", &["retry", "7", "--all-dead"]),
        ("no request", &["add", "--count", "0"]),
        ("a count that is a word", &["add", "--count", "many"]),
        ("seconds with a unit", &["add", "--duration", "3h"]),
        ("no attempt", &["add", "--max-attempts", "0"]),
        ("a payload cut short", &["add", "--payload", "{\"id\": 7"]),
        ("a key that is empty", &["add", "--key", ""]),
        ("many requests with one key", &["add", "--key", "k", "--count", "2"]),
        ("a state that is none", &["list", "--status", "DONE"]),
        ("a day that is no duration", &["list", "--since", "yesterday"]),
        ("a lease without a unit", &["--lease", "60"]),
        ("a lease that is too short", &["--lease", "1s"]),
        ("heartbeats that do not fit", &["--lease", "30s", "--beat", "15s"]),
        ("an exit code that is a success", &["--permanent-exit-codes", "0,65"]),
        ("a final state that is none", &["--final-state", "DONE"]),
        ("a schema that is empty", &["--schema", "", "list"]),
        ("a program that is empty", &["--"]),
        ("pruning what runs", &["prune", "--older-than", "1d", "--status", "RUNNING"]),
        ("pruning without an age", &["prune"]),
        ("fewer than none", &["add", "--count", "-5"]),
        ("a duration beyond all calendars", &["list", "--since", "10000d"]),
        ("a payload that is no JSON", &["add", "--payload", "invoice 7"]),
        ("a payload in single quotes", &["add", "--payload", "{'id': 7}"]),
        ("a payload's file", &["add", "--payload", "@payload.json"]),
        ("no payload", &["add", "--payload", ""]),
        ("a schema with its table", &["--schema", &"s".repeat(64), "list"]),
        ("a channel beyond all names", &["migrate", "up", "--with-notify", &"c".repeat(64)]),
        ("a migration backwards", &["migrate", "down"]),
        ("a shell that is none", &["completions", "powershell"]),
    ];
    for (name, arguments) in table {
        told.by(name, Executable::postgres_batch(arguments.iter().copied())).await;
    }
    insta::assert_snapshot!(told.text);
}

#[tokio::test]
async fn a_mistake_in_the_environment_is_told_by_its_variable() {
    let mut told = Told::default();
    let url = "postgres://user:canary@db/claps";
    let table: [(&str, &[(&str, &str)]); 18] = [
        ("a URL as the host", &[("PGHOST", url)]),
        ("a URL as the database", &[("PGDATABASE", url)]),
        ("a Service's link as the port", &[("PGPORT", "tcp://10.0.0.1:5432")]),
        ("a port that is a word", &[("PGPORT", "postgres")]),
        ("a port out of range", &[("PGPORT", "70000")]),
        ("a URL of something else", &[("DATABASE_URL", "mysql://user:canary@db/claps")]),
        ("a URL with a port that is none", &[("DATABASE_URL", "postgres://user:canary@db:54x/claps")]),
        ("a placeholder", &[("PGHOST", "db"), ("PGPASSWORD", "${DB_PASSWORD}")]),
        ("a mode of TLS that is none", &[("PGSSLMODE", "on")]),
        ("a root certificate that is not there", &[("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", "/nowhere/ca.pem")]),
        ("a password file that is not there", &[("PGPASSFILE", "/nowhere/pgpass")]),
        ("a service file's name", &[("PGSERVICE", "claps")]),
        ("a home that nobody replaces", &[("PGHOST", "db"), ("PGSSLMODE", "verify-ca"), ("PGSSLROOTCERT", "~/ca.pem")]),
        ("a key as the certificate", &[("PGHOST", "db"), ("PGSSLCERT", "-----BEGIN PRIVATE KEY-----\ncanary\n")]),
        ("settings of the session", &[("PGHOST", "db"), ("PGOPTIONS", "-c search_path=canary")]),
        ("another driver's parameter", &[("DATABASE_URL", "postgres://user:canary@db/claps?sslmode=require&schema=q")]),
        ("an @ in the password", &[("DATABASE_URL", "postgres://user:can@ary@db/claps?sslmode=require")]),
        ("the text of another encoding", &[("PGHOST", "db"), ("PGPASSWORD", "canary\u{fffd}")]),
    ];
    for (name, variables) in table {
        let mut program = Executable::postgres_batch(["work"]);
        for (variable, value) in variables {
            program = program.variable(variable, value);
        }
        told.by(name, program).await;
    }
    insta::assert_snapshot!(told.text);
}

#[tokio::test]
async fn a_mistake_about_the_tables_is_told_with_the_command_that_mends_it() {
    let mut told = Told::default();
    let empty = Database::empty(Cluster::shared().await).await;
    let ready = queue(Cluster::shared().await).await;
    told.by("tables that nobody has made", batch(&empty, ["list"])).await;
    told.by("a schema that is not there", batch(&ready, ["--schema", "nowhere", "list"])).await;
    told.by("a schema that is not there, for a Job", batch(&ready, ["--schema", "nowhere", "work"])).await;
    told.by("a clap that is not there", batch(&ready, ["show", "7"])).await;
    told.by("a retry of nothing", batch(&ready, ["retry", "7"])).await;
    told.by("a cancel of nothing", batch(&ready, ["cancel", "7", "8"])).await;
    told.by("a payload with a NUL", batch(&ready, ["add", "--payload", "{\"id\": \"\\u0000\"}"])).await;
    for (name, payload) in
        [("half a character", "{\"name\": \"\\ud83d\"}"), ("a number beyond numeric", "{\"n\": 1e200000}")]
    {
        told.by(name, batch(&ready, ["add", "--payload", payload])).await;
    }
    // Text that does not get shorter by compression.
    let digit = |n: u32| char::from_digit((n.wrapping_mul(n).wrapping_mul(2_654_435_761) >> 20) % 36, 36).unwrap();
    let key: String = (0..9_000).map(digit).collect();
    told.by("a key beyond an index", batch(&ready, ["add", "--key", &key])).await;
    insta::assert_snapshot!(told.text);
}

#[tokio::test]
async fn a_program_that_cannot_be_run_is_told_with_what_may_be_written() {
    let mut told = Told::default();
    let ready = queue(Cluster::shared().await).await;
    for (name, program) in [
        ("a program that is not there", "/nowhere/program"),
        ("a program that is not on PATH", "no-such-program"),
        ("a directory as the program", "/tmp"),
        ("a device as the program", "/dev/null"),
        ("a file that nobody may execute", "/etc/passwd"),
        ("a line for a shell", "echo done && true"),
        ("a line for nobody", "echo done"),
    ] {
        told.by(name, batch(&ready, ["--", program])).await;
    }
    insta::assert_snapshot!(told.text);
}

#[tokio::test]
async fn a_database_that_refuses_is_told_by_the_variables_that_lead_to_it() {
    let cluster = Cluster::with_settings(Settings::default().authenticate("host all nobody 127.0.0.1/32 reject")).await;
    let ready = queue(&cluster).await;
    ready
        .execute(
            "CREATE ROLE nobody LOGIN; CREATE ROLE few LOGIN PASSWORD 'p' CONNECTION LIMIT 0;
             CREATE ROLE ungranted LOGIN PASSWORD 'p'; CREATE ROLE reader LOGIN PASSWORD 'p';
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
        )
        .await;
    let (closed, private) = tokio::join!(Database::empty(&cluster), Database::empty(&cluster));
    ready
        .execute(&format!(
            "ALTER DATABASE {} ALLOW_CONNECTIONS false; REVOKE CONNECT ON DATABASE {} FROM public",
            closed.name(),
            private.name()
        ))
        .await;
    let standby = cluster.standby().await;
    let mut told = Told::default();
    told.knows(standby.port(), "<standby's port>");
    told.knows(cluster.port(), "<port>");
    for (piece, name) in
        [(ready.name(), "<database>"), (closed.name(), "<closed database>"), (private.name(), "<private database>")]
    {
        told.knows(piece, name);
    }
    let as_role = |access: Access, name: &str, password: &str| {
        let mut access = access.with_password(password);
        access.user = name.to_owned();
        access
    };
    for (name, access, variables) in [
        ("no password", ready.owner(), &[("PGPASSWORD", "")][..]),
        ("a wrong password", ready.owner().with_password("canary-wrong"), &[]),
        ("an unknown role", as_role(ready.owner(), "unknown", "canary"), &[]),
        ("refused by pg_hba.conf", as_role(ready.owner(), "nobody", "canary"), &[]),
        ("a role without a place", as_role(ready.owner(), "few", "p"), &[]),
        ("an unknown database", ready.owner(), &[("PGDATABASE", "nowhere")]),
        ("a database that takes nobody", as_role(closed.owner(), "ungranted", "p"), &[]),
        ("a database without CONNECT", as_role(private.owner(), "ungranted", "p"), &[]),
        ("no grant", as_role(ready.owner(), "ungranted", "p"), &[]),
        ("no TLS", ready.owner(), &[("PGSSLMODE", "require")]),
        ("a directory as the root certificate", ready.owner(), &[("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", "/")]),
        ("no server", ready.owner(), &[("PGPORT", "1")]),
        ("no socket", ready.owner(), &[("PGHOST", "/nowhere/postgresql")]),
        ("an unknown name", ready.owner(), &[("PGHOST", "db.invalid")]),
        ("a primary is not wanted", ready.owner(), &[("PGTARGETSESSIONATTRS", "standby")]),
    ] {
        let mut program = batch(&ready, ["list"]).variables(access.environment());
        for (variable, value) in variables {
            program = program.variable(variable, value);
        }
        told.by(name, program).await;
    }
    let Access { port, dbname, user, .. } = ready.owner();
    let url = format!("postgres://{user}:canary-wrong@127.0.0.1:{port}/{dbname}?sslmode=disable");
    told.by("a wrong password in a URL", Executable::postgres_batch(["list"]).variable("DATABASE_URL", url)).await;
    let add = |access: &Access| Executable::postgres_batch(["add"]).variables(access.environment());
    told.by("a role that only reads", add(&as_role(ready.owner(), "reader", "p"))).await;
    told.by("a standby", add(&ready.owner().by_way_of(([127, 0, 0, 1], standby.port()).into()))).await;
    let migrate = Executable::postgres_batch(["--schema", "pg_catalog", "migrate", "up"]);
    told.by("no place for tables", migrate.variables(as_role(ready.owner(), "ungranted", "p").environment())).await;
    insta::assert_snapshot!(told.text);
}
