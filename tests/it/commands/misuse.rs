//! Mistakes on the command line of `clapometer`, each provoked, and what it says: what is wrong, where, and what to do.

use std::{fmt::Write as _, fs, os::unix::net::UnixListener};

use super::SOON;
use crate::support::{executable::Executable, tempdir};

const OBJECT: &str = "\
apiVersion: keda.sh/v1alpha1
kind: ScaledJob
metadata: {name: invoices, namespace: billing}
spec:
  jobTargetRef: {template: {spec: {restartPolicy: Never, containers: [{name: work, image: work}]}}}
  triggers:
  - {type: external, metadata: {scalerAddress: \"127.0.0.1:1\", query: jobs}}
";

/// Runs one command for each mistake in a directory with some files, and returns what is said.
async fn told(table: &[(&str, &[&str])]) -> String {
    let mut text = String::new();
    for (name, arguments) in table {
        let program = Executable::clapometer(arguments.iter().copied())
            .file("object.yaml", OBJECT)
            .file("pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: work}\n")
            .file("comments.yaml", "# Which name?\n---\n# kind: ScaledJob\n")
            .file("broken.yaml", "apiVersion: keda.sh/v1alpha1\n\tkind: ScaledJob\n")
            .file("times.csv", "0\nsoon\n")
            .file("empty.csv", "")
            .file("word.yaml", &OBJECT.replace("triggers:", "scalingStrategy: {strategy: Accurate}\n  triggers:"))
            .file("key.pem", "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n");
        fs::create_dir(program.directory().join("directory")).unwrap();
        fs::write(program.directory().join("powershell.csv"), b"\xff\xfe0\0").unwrap();
        let large = fs::File::create(program.directory().join("large.yaml")).unwrap();
        large.set_len(100 << 20).unwrap();
        let finished = program.finish(SOON).await;
        let said = format!("{}{}", finished.output, finished.errors);
        assert!(!said.contains("canary"), "{name}: a secret is told: {said}");
        writeln!(text, "== {name} (exit {})", finished.code().unwrap_or(-1)).unwrap();
        for line in said.lines().filter(|line| !line.is_empty() && !line.starts_with("For more information")) {
            // The moment differs from run to run.
            let line = line.split_once(" at now, ").map_or(line, |(before, _)| before);
            writeln!(text, "{line}").unwrap();
        }
    }
    text
}

#[tokio::test]
async fn a_mistake_in_a_command_is_told_with_what_may_be_written() {
    let said = told(&[
        ("a command with a slip", &["serv"]),
        ("an option with a slip", &["check", "--confg", "clapometer.yaml"]),
        ("an option before its command", &["--config", "clapometer.yaml", "check"]),
        ("a file without its option", &["check", "clapometer.yaml"]),
        ("an option without its file", &["check", "--config"]),
        ("a parameter without a value", &["check", "--param", "jobs.queue"]),
        ("a configuration that is not there", &["config", "--config", "/nowhere.yaml"]),
        ("a directory without a configuration", &["config", "--config", "directory"]),
        ("a directory to serve from", &["serve", "--config", "directory"]),
        ("a port without an address", &["serve", "--listen", "9090"]),
        ("a name to listen on", &["serve", "--admin-listen", "localhost:9091"]),
        ("a preset with a slip", &["presets", "rivers"]),
        ("a preset that is none", &["presets", "sidekiq"]),
        ("a part that is none", &["init", "--print", "yaml"]),
        ("a shell that is none", &["completions", "powershell"]),
        ("a table with two dots", &["notify-sql", "--table", "app.public.jobs", "--channel", "jobs"]),
        ("no table", &["notify-sql", "--table", "", "--channel", "jobs"]),
        ("a table without a channel", &["notify-sql", "--table", "jobs"]),
    ])
    .await;
    insta::assert_snapshot!(said);
}

#[tokio::test]
async fn a_mistake_about_a_scaler_is_told_with_what_may_be_written() {
    let said = told(&[
        ("no query", &["get"]),
        ("a query without a name", &["get", ""]),
        ("a namespace without a name", &["get", "jobs", "--namespace", ""]),
        ("an address without a host", &["get", "jobs", "--address", ":9090"]),
        ("an address without a port", &["get", "jobs", "--address", "127.0.0.1"]),
        ("a port out of range", &["get", "jobs", "--address", "127.0.0.1:99999"]),
        ("IPv6 without brackets", &["get", "jobs", "--address", "::1:9090"]),
        ("another scheme", &["get", "jobs", "--address", "grpc://127.0.0.1:9090"]),
        ("plain text with certificates", &["get", "jobs", "--address", "http://127.0.0.1:1", "--tls-ca", "x"]),
        ("nobody there", &["get", "jobs", "--address", "127.0.0.1:1"]),
        ("an unknown name", &["get", "jobs", "--address", "scaler.invalid:9090"]),
        ("a root that is not there", &["get", "jobs", "--tls-ca", "/nowhere.pem"]),
        ("a directory as the root", &["get", "jobs", "--tls-ca", "directory"]),
        ("a key as the root", &["get", "jobs", "--tls-ca", "key.pem"]),
        ("a certificate without its key", &["get", "jobs", "--tls-cert", "key.pem"]),
        ("metadata without a value", &["get", "jobs", "--metadata", "rounding"]),
        ("metadata without a key", &["get", "jobs", "--metadata", "=ceil"]),
        ("the query as metadata", &["get", "jobs", "--metadata", "query=other"]),
        ("a number in words", &["get", "jobs", "--max-replicas", "many"]),
        ("Jobs without their manifest", &["get", "jobs", "--running", "3"]),
        ("a query and a manifest", &["get", "jobs", "--manifest", "object.yaml"]),
        ("a manifest without an object", &["get", "--manifest", "pod.yaml"]),
        ("a manifest that is not there", &["get", "--manifest", "nowhere.yaml"]),
        ("a manifest with a tab", &["get", "--manifest", "broken.yaml"]),
        ("a trigger that is none", &["get", "--manifest", "object.yaml", "--trigger", "7"]),
        ("a replica too few", &["get", "--manifest", "object.yaml", "--replicas", "-1"]),
        ("an object without its namespace", &["why", "invoices"]),
        ("a moment in words", &["why", "billing/invoices", "--at", "yesterday"]),
        ("a day without its time", &["why", "billing/invoices", "--at", "2026-01-01"]),
        ("a moment to come", &["why", "billing/invoices", "--at", "2999-01-01T00:00:00Z"]),
        ("longer than is remembered", &["why", "billing/invoices", "--since", "90d"]),
        ("an admin port without a host", &["why", "billing/invoices", "--admin-address", "9091"]),
        ("no process", &["why", "billing/invoices", "--admin-address", "http://127.0.0.1:1/"]),
    ])
    .await;
    insta::assert_snapshot!(said);
}

#[tokio::test]
async fn a_mistake_about_a_manifest_is_told_with_what_may_be_written() {
    let said = told(&[
        ("a file that is not there", &["lint", "nowhere.yaml"]),
        ("a tab", &["lint", "broken.yaml"]),
        ("no object of KEDA", &["lint", "pod.yaml"]),
        ("nothing from the command before the pipe", &["lint", "-"]),
        ("questions without an answer", &["lint", "comments.yaml"]),
        ("a directory without a manifest", &["lint", "directory"]),
        ("a version of KEDA that is too old", &["lint", "--keda", "2.1", "object.yaml"]),
        ("a version of KEDA in words", &["lint", "--keda", "latest", "object.yaml"]),
        ("a version of KEDA that is not known", &["lint", "--keda", "9.9", "object.yaml"]),
        ("a file that is far too large", &["lint", "large.yaml"]),
        ("a list of a migration that is far too large", &["migrate", "large.yaml", "--out", "directory"]),
        ("a manifest that is far too large", &["get", "--manifest", "large.yaml"]),
        ("a form that is none", &["lint", "--format", "sarif", "object.yaml"]),
        ("a migration to nowhere", &["migrate", "object.yaml"]),
        ("a URL of the scaler", &["migrate", "object.yaml", "--out", "directory", "--scaler-address", "http://a:9090"]),
        ("a scaler without a port", &["migrate", "object.yaml", "--out", "directory", "--scaler-address", "a b"]),
        ("nothing to migrate", &["migrate", "object.yaml", "--out", "directory"]),
        ("nothing to migrate from the command before the pipe", &["migrate", "--out", "directory"]),
        ("a file as the directory", &["migrate", "object.yaml", "--out", "pod.yaml"]),
        ("no rows", &["simulate", "object.yaml"]),
        ("no work", &["simulate", "object.yaml", "--arrivals", "9/m"]),
        ("a rate of nothing", &["simulate", "object.yaml", "--arrivals", "0/m"]),
        (
            "a rate without rows",
            &["simulate", "object.yaml", "--arrivals", "1/d", "--duration", "40s", "--counts", "pending"],
        ),
        ("times that are not there", &["simulate", "object.yaml", "--arrivals", "nowhere.csv"]),
        ("a rate by the week", &["simulate", "object.yaml", "--arrivals", "9/w"]),
        ("a rate beyond all numbers", &["simulate", "object.yaml", "--arrivals", "1e400/m"]),
        ("more rows at once than fit", &["simulate", "object.yaml", "--arrivals", "200001", "--duration", "40s"]),
        ("times without an end", &["simulate", "object.yaml", "--arrivals", "/dev/zero", "--duration", "40s"]),
        ("times of PowerShell", &["simulate", "object.yaml", "--arrivals", "powershell.csv", "--duration", "40s"]),
        ("a directory without a ScaledJob", &["simulate", "directory", "--arrivals", "9/m", "--duration", "40s"]),
        ("an object without a name", &["simulate", "object.yaml", "--object", "", "--arrivals", "9/m"]),
        ("a strategy that KEDA refuses", &["simulate", "word.yaml", "--arrivals", "9/m", "--duration", "40s"]),
        ("a target in words", &["simulate", "object.yaml", "--arrivals", "9/m", "--target", "one"]),
        ("a target below zero", &["simulate", "object.yaml", "--arrivals", "9/m", "--target", "-1"]),
        ("runs below zero", &["simulate", "object.yaml", "--arrivals", "9/m", "--runs", "-1"]),
        ("too many runs", &["simulate", "object.yaml", "--arrivals", "9/m", "--runs", "5000"]),
        ("work of less than no time", &["simulate", "object.yaml", "--arrivals", "9/m", "--duration", "-5s"]),
        (
            "times in words",
            &["simulate", "object.yaml", "--arrivals", "times.csv", "--duration", "40s", "--counts", "pending"],
        ),
        (
            "no times",
            &["simulate", "object.yaml", "--arrivals", "empty.csv", "--duration", "40s", "--counts", "pending"],
        ),
        ("a duration without a unit", &["simulate", "object.yaml", "--arrivals", "9/m", "--duration", "40"]),
        ("a span backwards", &["simulate", "object.yaml", "--arrivals", "9/m", "--start", "6s..2s"]),
        ("a seed in words", &["simulate", "object.yaml", "--arrivals", "9/m", "--seed", "lucky"]),
        (
            "more rows than fit",
            &["simulate", "object.yaml", "--arrivals", "1e9/s", "--duration", "40s", "--counts", "pending"],
        ),
    ])
    .await;
    insta::assert_snapshot!(said);
}

#[tokio::test]
async fn what_is_no_file_is_told_in_words() {
    let directory = tempdir::new("no-files");
    let socket = directory.join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let text = |path: &std::path::Path| {
        format!("databases: {{claps: {{host: localhost, user: u, password: {{file: {}}}}}}}\n", path.display())
    };
    for (path, expected) in [
        (&socket, "it is a socket or a device, and no file"),
        (&directory, "it is a directory; name a file in it"),
        (&directory.join("nothing"), "No such file or directory"),
    ] {
        let finished = super::run(&text(path), &["check"]).await;
        let place = "clapometer.yaml:1: databases.claps.password: cannot read the file ";
        assert!(finished.errors.contains(place) && finished.errors.contains(expected), "{}", finished.errors);
        assert_eq!(finished.code(), Some(78), "{}", finished.errors);
    }
}

#[tokio::test]
async fn a_database_of_the_environment_is_told_by_its_variables() {
    let check = |variables: &[(&str, &str)]| {
        let mut program = Executable::clapometer(["check"]);
        for (name, value) in variables {
            program = program.variable(name, value);
        }
        program.finish(SOON)
    };
    let by_variables = check(&[("PGHOST", "127.0.0.1"), ("PGPORT", "1"), ("PGUSER", "u")]).await;
    assert!(
        by_variables.output.contains("-> nothing answers there: check PGHOST and PGPORT"),
        "{}",
        by_variables.output
    );
    let by_url = check(&[("DATABASE_URL", "postgres://u:canary@127.0.0.1:1/d")]).await;
    let said = by_url.output.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("check host and port in DATABASE_URL"), "{said}");
    assert!(!said.contains("canary"), "{said}");
}

#[tokio::test]
async fn an_address_that_cannot_be_listened_on_is_told_with_a_way_out() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (address, expected) in [
        (&*taken, "(server.listen; something listens there already, another process or this one: choose another port)"),
        ("192.0.2.1:9090", "(server.listen; this machine has no such address, and 0.0.0.0 means all that it has)"),
    ] {
        let finished = Executable::clapometer(["serve", "--listen", address, "--admin-listen", "127.0.0.1:0"])
            .variable("PGHOST", "127.0.0.1")
            .variable("PGUSER", "u")
            .finish(SOON)
            .await;
        assert!(finished.code() == Some(1) && finished.errors.contains(expected), "{}", finished.errors);
    }
}

/// Reads the snapshots of this crate whose names have a word.
fn snapshots(word: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    let mut text = String::new();
    for module in ["batch", "commands"] {
        for entry in fs::read_dir(format!("{root}/{module}/snapshots")).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().contains(word) {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    text
}

#[test]
fn two_hundred_mistakes_are_held() {
    let runs = snapshots("__mistakes__") + &snapshots("__misuse__");
    let queries = snapshots("__check_faults__");
    let count = runs.lines().filter(|line| line.starts_with("== ")).count()
        + queries.lines().filter(|line| line.starts_with("  failed  ")).count();
    assert!(count >= 200, "{count}");
}
