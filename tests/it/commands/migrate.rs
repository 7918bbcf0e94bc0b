//! `clapometer migrate`: what it writes for triggers of many shapes, and that the other commands take it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::SOON;
use crate::support::executable::{Executable, Finished};

const SHAPES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/migrate");

/// Texts of the shapes that are secrets.
const SECRETS: [&str; 3] = ["hunter2-in-clear", "t0p-secret", "n0t-read-by-keda"];

/// A run in a directory of its own.
struct Migrated {
    finished: Finished,
    directory: PathBuf,
}

impl Migrated {
    async fn of(name: &str, manifest: &str) -> Self {
        Self::run(Executable::clapometer(["migrate", name, "--out", "out"]).file(name, manifest)).await
    }

    async fn run(executable: Executable) -> Self {
        let directory = executable.directory().to_owned();
        Self { finished: executable.finish(SOON).await, directory }
    }

    /// Returns what was written, by its path below the output's directory.
    fn files(&self) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        gather(&self.directory.join("out"), "", &mut files);
        files
    }

    /// Runs another command here.
    async fn then(&self, script: &str) -> Finished {
        let binary = env!("CARGO_BIN_EXE_clapometer");
        let script =
            format!("cd {} && {}", self.directory.display(), script.replace("clapometer ", &format!("{binary} ")));
        Executable::new(Path::new("/bin/sh"), ["-c", &script]).finish(SOON).await
    }
}

fn gather(directory: &Path, prefix: &str, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            gather(&path, &format!("{name}/"), files);
        } else {
            files.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}

/// The names and texts of the shapes.
fn shapes() -> BTreeMap<String, String> {
    let mut shapes = BTreeMap::new();
    gather(Path::new(SHAPES), "", &mut shapes);
    shapes
}

#[tokio::test]
async fn each_shape_becomes_what_it_should() {
    let shapes = shapes();
    let is_builtin = |line: &&str| {
        ["postgresql", "'postgresql'", "\"postgresql\""].iter().any(|kind| line.contains(&format!("type: {kind}")))
    };
    let triggers: usize =
        shapes.values().map(|text| text.replace("\"type\":", "type:").lines().filter(is_builtin).count()).sum();
    assert!(triggers >= 36, "there are {triggers} triggers");
    for (name, manifest) in &shapes {
        let migrated = Migrated::of(name, manifest).await;
        let Finished { output, errors, .. } = &migrated.finished;
        let mut shown = format!("exit code {:?}\n{output}{errors}", migrated.finished.code());
        for (path, text) in migrated.files() {
            shown.push_str(&format!("\n=== {path} ===\n{text}"));
        }
        for secret in SECRETS {
            assert!(!shown.contains(secret), "{name}: {shown}");
        }
        insta::assert_snapshot!(format!("migrate_{}", name.replace('.', "_")), shown);
    }
}

/// The errors that `clapometer lint` finds, by rule and object.
fn errors_of(finished: &Finished) -> Vec<(String, String)> {
    let document: serde_json::Value = serde_json::from_str(&finished.output).expect("JSON");
    let findings = document["findings"].as_array().expect("findings").iter();
    findings
        .filter(|finding| finding["severity"] == "error")
        .map(|finding| (finding["rule"].to_string(), finding["object"].to_string()))
        .collect()
}

#[tokio::test]
async fn the_other_commands_take_what_is_written() {
    for (name, manifest) in shapes() {
        let migrated = Migrated::of(&name, &manifest).await;
        let files = migrated.files();
        // Where the chart would mount the Secrets.
        let secrets = migrated.directory.join("secrets");
        let configuration = files["clapometer.yaml"].replace("/secrets/", &format!("{}/", secrets.display()));
        fs::write(migrated.directory.join("clapometer.yaml"), &configuration).unwrap();
        for line in configuration.lines() {
            let Some((_, path)) = line.split_once("{file: ") else { continue };
            let path = Path::new(path.trim_end_matches('}'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let key = path.file_name().unwrap().to_str().unwrap();
            let value = match key {
                "url" => "postgres://keda:secret@db.example/app?sslmode=require",
                "port" => "5432",
                "sslmode" => "require",
                _ => "value",
            };
            fs::write(path, value).unwrap();
        }
        let checked = migrated.then("clapometer check --offline --config clapometer.yaml").await;
        assert_eq!(checked.code(), Some(0), "{name}: {}\n{configuration}", checked.errors);

        let before = errors_of(&migrated.then(&format!("clapometer lint --format json {name}")).await);
        let after = errors_of(&migrated.then("clapometer lint --format json out/manifests").await);
        let new: Vec<_> = after.iter().filter(|error| !before.contains(error)).collect();
        assert_eq!(new, Vec::<&(String, String)>::new(), "{name}");
    }
}

const JOB: &str = "\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: a, namespace: b}
spec:
  triggers:
    - type: postgresql
      metadata: {host: db.b.svc, port: \"5432\", userName: u, dbName: d, sslmode: require, query: SELECT 1, targetQueryValue: \"1\"}
";

#[tokio::test]
async fn nothing_is_overwritten_silently_and_a_second_run_changes_nothing() {
    let first = Migrated::of("a.yaml", JOB).await;
    let files = first.files();
    assert_eq!(first.finished.code(), Some(0), "{}", first.finished.errors);
    assert_eq!(files.keys().collect::<Vec<_>>(), ["clapometer.yaml", "manifests/a.yaml", "report.md"]);

    // Its own output is among what it reads now.
    let again = first.then("clapometer migrate . --out out").await;
    assert_eq!(again.code(), Some(2), "the path of the file is another one, and so is the report: {}", again.output);
    let again = first.then("clapometer migrate a.yaml --out out").await;
    assert_eq!((again.code(), &*again.errors), (Some(0), ""));
    assert!(again.output.contains("there already, with the same bytes"), "{}", again.output);
    assert_eq!(first.files(), files);

    fs::write(first.directory.join("out/clapometer.yaml"), "mine: true\n").unwrap();
    fs::remove_file(first.directory.join("out/report.md")).unwrap();
    let refused = first.then("clapometer migrate a.yaml --out out").await;
    assert_eq!((refused.code(), &*refused.output), (Some(2), ""));
    let expected = "out/clapometer.yaml is there already, and differs; give another directory, or --overwrite";
    assert!(refused.errors.contains(expected), "{}", refused.errors);
    assert!(!first.directory.join("out/report.md").exists(), "all or nothing");

    let replaced = first.then("clapometer migrate a.yaml --out out --overwrite").await;
    assert_eq!((replaced.code(), &*replaced.errors), (Some(0), ""));
    assert_eq!(first.files(), files);
}

#[tokio::test]
async fn templates_are_refused_with_the_way_out() {
    let in_quotes = JOB.replace("db.b.svc", "\"{{ .Values.host }}\"");
    let bare = JOB.replace("name: a,", "name: {{ .Release.Name }},");
    for template in [in_quotes, bare] {
        let migrated = Migrated::of("a.yaml", &template).await;
        assert_eq!((migrated.finished.code(), &*migrated.finished.output), (Some(2), ""));
        assert!(
            migrated.finished.errors.contains("helm template ./chart | clapometer migrate"),
            "{}",
            migrated.finished.errors
        );
        assert_eq!(migrated.files(), BTreeMap::new());
    }
    // Arrays of PostgreSQL have two braces, too.
    let array = JOB.replace("SELECT 1", "\"SELECT count(*) FROM a WHERE b = '{{1,2},{3,4}}'\"");
    assert_eq!(Migrated::of("a.yaml", &array).await.finished.code(), Some(0));
}

#[tokio::test]
async fn it_reads_standard_input_and_says_where_there_is_nothing_to_do() {
    let executable = Executable::clapometer(["migrate", "--out", "out"]).input("in.yaml", JOB);
    let migrated = Migrated::run(executable).await;
    assert_eq!(migrated.finished.code(), Some(0), "{}", migrated.finished.errors);
    assert!(migrated.files().contains_key("manifests/stdin.yaml"), "{:?}", migrated.files().keys());

    let other = Migrated::of("a.yaml", "kind: Deployment\n").await;
    assert_eq!((other.finished.code(), &*other.finished.errors), (Some(0), ""));
    assert_eq!(other.finished.output, "There is no trigger of type postgresql in a.yaml. Nothing is written.\n");
    assert_eq!(other.files(), BTreeMap::new());

    let unread = Migrated::of("a.yaml", &format!("{}  x: [\n---\n{JOB}: [\n", JOB.replace("spec:", "spec: ["))).await;
    assert_eq!((unread.finished.code(), &*unread.finished.errors), (Some(1), ""));
    let lines: Vec<&str> = unread.finished.output.lines().collect();
    assert_eq!(lines[0], "There is no trigger of type postgresql in a.yaml. Nothing is written.");
    assert_eq!(lines[1], "2 documents could not be read:");
    assert!(lines[2].starts_with("  a.yaml:") && lines[3].starts_with("  a.yaml:"), "{lines:?}");

    // Nothing names KEDA in it, so that it may be anything.
    let broken = Migrated::of("a.yaml", "kind: ScaledJob\nspec: [\n").await;
    assert_eq!((broken.finished.code(), &*broken.finished.errors), (Some(1), ""));
    assert!(broken.finished.output.contains("1 document could not be read:"), "{}", broken.finished.output);

    let nowhere = Executable::clapometer(["migrate", "/nowhere.yaml", "--out", "out"]).finish(SOON).await;
    assert_eq!(nowhere.code(), Some(2));
    assert!(nowhere.errors.contains("cannot read /nowhere.yaml"), "{}", nowhere.errors);
}
