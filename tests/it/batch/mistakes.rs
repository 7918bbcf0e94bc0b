//! Mistakes with `postgres-batch`, each provoked, and what it says: what is wrong, where, and what to do.

use std::fmt::Write as _;

use super::ground::{SOON, batch, queue};
use crate::support::{cluster::Cluster, database::Database, executable::Executable};

/// What is said, by the name of its mistake.
#[derive(Default)]
struct Told(String);

impl Told {
    /// Runs the program, and keeps what is said.
    async fn by(&mut self, name: &str, program: Executable) {
        let finished = program.finish(SOON).await;
        let said = format!("{}{}", finished.output, finished.errors);
        assert!(!said.contains("canary"), "{name}: a secret is told: {said}");
        writeln!(self.0, "== {name} (exit {})", finished.code().unwrap_or(-1)).unwrap();
        for line in said.lines().filter(|line| !line.is_empty() && !line.starts_with("For more information")) {
            // The one number that differs from run to run.
            let line = match line.split_once("\"seconds\":") {
                Some((before, after)) => format!(
                    "{before}\"seconds\":S{}",
                    after.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit())
                ),
                None => line.to_owned(),
            };
            writeln!(self.0, "{line}").unwrap();
        }
    }
}

#[tokio::test]
async fn a_mistake_on_the_command_line_is_told_with_what_may_be_written() {
    let mut told = Told::default();
    let table: [(&str, &[&str]); 24] = [
        ("a command with a slip", &["lst"]),
        ("an option with a slip", &["--leese", "5s"]),
        ("options before another command than work", &["--lease", "5s", "list"]),
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
        ("beats that do not fit", &["--lease", "30s", "--beat", "15s"]),
        ("an exit code that is a success", &["--permanent-exit-codes", "0,65"]),
        ("a final state that is none", &["--final-state", "DONE"]),
        ("a schema that is empty", &["--schema", "", "list"]),
        ("a program that is empty", &["--"]),
        ("pruning what runs", &["prune", "--older-than", "1d", "--status", "RUNNING"]),
    ];
    for (name, arguments) in table {
        told.by(name, Executable::postgres_batch(arguments.iter().copied())).await;
    }
    insta::assert_snapshot!(told.0);
}

#[tokio::test]
async fn a_mistake_in_the_environment_is_told_by_its_variable() {
    let mut told = Told::default();
    let url = "postgres://user:canary@db/claps";
    let table: [(&str, &[(&str, &str)]); 12] = [
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
    ];
    for (name, variables) in table {
        let mut program = Executable::postgres_batch(["work"]);
        for (variable, value) in variables {
            program = program.variable(variable, value);
        }
        told.by(name, program).await;
    }
    insta::assert_snapshot!(told.0);
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
    told.by("a program that is not there", batch(&ready, ["--", "/nowhere/program"])).await;
    told.by("a directory as the program", batch(&ready, ["--", "/tmp"])).await;
    insta::assert_snapshot!(told.0);
}
