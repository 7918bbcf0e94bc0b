//! Query files of thirty teams: what is wrong with one of them touches no other, at the start and at each reload.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use clapometer::proto::ScaledObjectRef;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use tonic::Code;

use crate::support::{
    admin,
    cluster::Cluster,
    database::{Access, Database},
    executable::Executable,
    fixture::{Fixture, SOON},
    grpc::trigger,
    wait,
};

const TEAMS: usize = 30;

/// The bound within which a change of the directory must be noticed.
const NOTICED: Duration = Duration::from_secs(6);

const REFUSED: &str = "query file refused; none of its queries is served";
const KEPT: &str = "query file refused; its last good version stays in force";

/// A main file with two databases, in which each team may use the first one, and its own namespace.
fn main_file(access: &Access) -> String {
    let team = |team| format!("    {0}: {{databases: [claps], namespaces: [{0}]}}\n", name(team));
    let files: String = (0..=TEAMS).map(team).collect();
    let databases = access.yaml("claps") + &access.yaml("ledger");
    format!(
        "databases:\n{databases}queries_from:\n  path: queries.d\n  files:\n{files}\
         queries:\n  shared: {{database: claps, sql: SELECT 1, max_age: 1h}}\n"
    )
}

fn name(team: usize) -> String {
    format!("team-{team:02}")
}

/// The queries of a team: one of its name that counts `value`.
fn queries(team: usize, value: usize) -> String {
    format!("queries:\n  {}: {{sql: SELECT {value}, max_age: 1h}}\n", name(team))
}

/// The trigger of a team, in its namespace.
fn of_team(team: usize) -> ScaledObjectRef {
    ScaledObjectRef { namespace: name(team), ..trigger(&name(team), &[]) }
}

/// The directory of query files of a server that runs.
struct Files(PathBuf);

impl Files {
    fn beside(executable: &Executable) -> Self {
        let directory = executable.directory().join("queries.d");
        fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    fn path(&self, team: usize) -> PathBuf {
        self.0.join(name(team) + ".yaml")
    }

    /// Replaces a team's file at once.
    fn write(&self, team: usize, text: &str) {
        let new = self.path(team).with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path(team)).unwrap();
    }
}

fn label(team: usize) -> String {
    format!("file=\"{}.yaml\"", name(team))
}

/// The lines of the log with a message, each by its file's name with what is wrong.
fn told(fixture: &Fixture, message: &str) -> Vec<(String, String)> {
    let lines = fixture.serving.process.log().into_iter().filter(|line| line["message"] == message);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let file =
        |line: &Value| Path::new(line["file"].as_str().unwrap()).file_name().unwrap().to_str().unwrap().to_owned();
    lines.map(|line| (file(&line), text(&line["problem"]))).collect()
}

#[tokio::test]
async fn of_thirty_teams_nobody_notices_the_faults_of_another() {
    let database = Database::empty(Cluster::shared().await).await;
    let executable = Executable::serve(&main_file(&database.scaler()));
    let files = Files::beside(&executable);
    (0..TEAMS).for_each(|team| files.write(team, &queries(team, 100 + team)));
    // Each with its own mistake.
    files.write(3, "queries: {{ .Values.queries }}\n");
    files.write(5, &(queries(4, 0) + "  team-05: {sql: SELECT 105, max_age: 1h}\n"));
    files.write(7, "queries: {team-07: {database: ledger, sql: SELECT 0}}\n");
    files.write(9, &format!("queries: {{team-09: {{sql: SELECT 0}}}}\n# {}\n", "x".repeat(1 << 20)));
    fs::remove_file(files.path(11)).unwrap();
    mknodat(CWD, files.path(11), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    fs::remove_file(files.path(13)).unwrap();
    symlink("nowhere", files.path(13)).unwrap();
    fs::remove_file(files.path(15)).unwrap();
    fs::create_dir(files.path(15)).unwrap();
    files.write(17, "namespaces: [team-18]\nqueries: {team-17: {sql: SELECT 0}}\n");
    fs::write(files.0.join("stranger.yaml"), "queries: {stranger: {sql: SELECT 0}}\n").unwrap();
    fs::write(files.0.join(".hidden.yaml"), "nonsense").unwrap();
    fs::write(files.0.join("notes.txt"), "nonsense").unwrap();
    let fixture = Fixture::start(executable).await;

    let wrong = [3, 7, 9, 11, 13, 15, 17];
    for team in 0..TEAMS {
        let is_good = f64::from(!wrong.contains(&team) && team != 5);
        assert_eq!(fixture.metric("clapometer_config_valid", &label(team)).await, Some(is_good), "{team}");
        if wrong.contains(&team) {
            assert_eq!(fixture.scaler.refusal(&of_team(team)).await.code(), Code::PermissionDenied, "{team}");
        } else {
            assert_eq!(
                fixture.scaler.value(&of_team(team)).await.unwrap(),
                f64::from(u8::try_from(100 + team).unwrap())
            );
        }
    }
    assert_eq!(fixture.metric("clapometer_config_valid", "").await, Some(1.0), "the main file is good");
    assert_eq!(fixture.metric("clapometer_config_valid", "file=\"stranger.yaml\"").await, Some(0.0));
    assert_eq!(fixture.metric("clapometer_config_valid", "hidden").await, None);
    let refused = told(&fixture, REFUSED);
    for (team, problem) in [
        ("team-03.yaml", "team-03.yaml:1: not valid YAML"),
        ("team-07.yaml", "queries.team-07.database: found \"ledger\""),
        ("team-09.yaml", "is larger than 1 MiB"),
        ("team-11.yaml", "is not a regular file"),
        ("team-13.yaml", "cannot be read: No such file"),
        ("team-15.yaml", "is not a regular file"),
        ("team-17.yaml", "found \"team-18\""),
        ("stranger.yaml", "is not listed"),
    ] {
        let told = refused.iter().find(|(file, _)| file == team);
        assert!(told.is_some_and(|(_, told)| told.contains(problem)), "{team}: {told:?}");
    }
    assert_eq!(refused.len(), wrong.len() + 1);
    let taken = told(&fixture, "query file has names that are taken; its other queries are served");
    assert!(
        taken[0].1.contains("team-05.yaml:2: queries.team-04: the name is taken by queries.d/team-04.yaml:2"),
        "{taken:?}"
    );

    // A reload with new mistakes, and with old ones mended.
    let stream = fixture.follow(&of_team(0)).await;
    stream.says(&[true], SOON).await;
    let before = fixture.statements(&name(1)).await;
    files.write(20, "queries: {team-20: {sqll: SELECT 0}}\n");
    files.write(22, "");
    files.write(24, &queries(23, 0));
    fs::remove_file(files.path(21)).unwrap();
    files.write(30, &queries(30, 130));
    files.write(3, &queries(3, 103));
    fs::remove_file(files.path(11)).unwrap();
    files.write(11, &queries(11, 111));
    fixture.scaler.reaches(&of_team(30), 130.0, NOTICED).await;
    fixture.scaler.reaches(&of_team(11), 111.0, NOTICED).await;
    fixture.scaler.refuses(&of_team(21), Code::PermissionDenied, NOTICED).await;
    fixture.scaler.refuses(&of_team(24), Code::PermissionDenied, NOTICED).await;
    assert_eq!(fixture.scaler.value(&of_team(3)).await.unwrap(), 103.0);
    for (team, value) in [(20, 120.0), (22, 122.0), (23, 123.0), (4, 104.0)] {
        assert_eq!(fixture.scaler.value(&of_team(team)).await.unwrap(), value, "{team} keeps what it had");
    }
    for (team, valid) in [(20, 0.0), (22, 0.0), (24, 0.0), (3, 1.0), (11, 1.0), (30, 1.0)] {
        fixture.reaches_metric("clapometer_config_valid", &label(team), valid, SOON).await;
    }
    assert_eq!(fixture.metric("clapometer_config_valid", &label(21)).await, None, "a file that is gone");
    fixture.logs(KEPT, 2).await;
    assert_eq!(
        told(&fixture, KEPT).iter().map(|(file, _)| file.as_str()).collect::<Vec<_>>(),
        ["team-20.yaml", "team-22.yaml"]
    );
    // What was told is not told again.
    fixture.logs(REFUSED, wrong.len() + 1).await;
    assert!(stream.is_open());
    assert_eq!(stream.states(), [true]);
    assert_eq!(fixture.statements(&name(1)).await, before, "a team that changed nothing keeps its reading");
    let log = fixture.serving.process.errors();
    assert!(!log.contains("configuration not reloaded"), "the main file has no fault: {log}");
}

#[tokio::test]
async fn a_file_that_is_rejected_is_one_entry_among_the_reloads() {
    let database = Database::empty(Cluster::shared().await).await;
    let executable = Executable::serve(&main_file(&database.scaler()));
    let files = Files::beside(&executable);
    files.write(1, &queries(1, 1));
    let fixture = Fixture::start(executable).await;
    files.write(1, "queries: {team-01: {sqll: SELECT 0}}\n");
    fixture.reaches_metric("clapometer_config_valid", &label(1), 0.0, NOTICED).await;
    files.write(2, &queries(2, 2));
    fixture.scaler.reaches(&of_team(2), 2.0, NOTICED).await;

    let reloads = async |count: usize| {
        wait::first("the reloads are listed", SOON, async || {
            let status: Value = serde_json::from_str(&admin::get(fixture.serving.admin, "/api/status").await).unwrap();
            Some(status["reloads"].as_array().unwrap().clone()).filter(|reloads| reloads.len() >= count)
        })
        .await
    };
    let results = |reloads: &[Value]| -> Vec<String> {
        reloads.iter().map(|reload| reload["result"].as_str().unwrap().to_owned()).collect()
    };
    let latest = reloads(2).await;
    assert_eq!(results(&latest), ["applied", "rejected"], "{latest:?}");
    assert_eq!(latest[0]["changed"], "queries.team-02 added");
    let history = admin::get(fixture.serving.admin, "/api/triggers/team-01/nobody").await;
    assert_eq!(history.matches("\"reload\"").count(), 1, "{history}");

    // Its recovery is an entry, too, while another file is still rejected.
    files.write(2, "queries: {team-02: {sqll: SELECT 0}}\n");
    fixture.reaches_metric("clapometer_config_valid", &label(2), 0.0, NOTICED).await;
    files.write(1, &queries(1, 1));
    fixture.reaches_metric("clapometer_config_valid", &label(1), 1.0, NOTICED).await;
    assert_eq!(results(&reloads(4).await), ["applied", "rejected", "applied", "rejected"]);
}

#[tokio::test]
async fn a_projected_volume_that_kubernetes_swaps_is_noticed() {
    let database = Database::empty(Cluster::shared().await).await;
    let executable = Executable::serve(&main_file(&database.scaler()));
    let Files(mounted) = Files::beside(&executable);
    let swap = |version: &str, teams: &[(usize, usize)]| {
        fs::create_dir(mounted.join(version)).unwrap();
        for (team, value) in teams {
            fs::write(mounted.join(version).join(name(*team) + ".yaml"), queries(*team, *value)).unwrap();
            let _ = symlink(format!("..data/{}.yaml", name(*team)), mounted.join(name(*team) + ".yaml"));
        }
        symlink(version, mounted.join("..data_tmp")).unwrap();
        fs::rename(mounted.join("..data_tmp"), mounted.join("..data")).unwrap();
    };
    swap("..first", &[(1, 1), (2, 2)]);
    let fixture = Fixture::start(executable).await;
    assert_eq!(fixture.scaler.value(&of_team(1)).await.unwrap(), 1.0);
    swap("..second", &[(1, 11), (3, 3)]);
    fs::remove_file(mounted.join("team-02.yaml")).unwrap();
    fixture.scaler.reaches(&of_team(1), 11.0, NOTICED).await;
    fixture.scaler.reaches(&of_team(3), 3.0, NOTICED).await;
    fixture.scaler.refuses(&of_team(2), Code::PermissionDenied, NOTICED).await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_listed_takes_nothing_away() {
    let database = Database::empty(Cluster::shared().await).await;
    let executable = Executable::serve(&main_file(&database.scaler()));
    let directory = executable.directory().join("queries.d");
    let fixture = Fixture::start(executable).await;
    let of_directory = "file=\"queries.d\"";
    let shared = trigger("shared", &[]);
    assert_eq!(fixture.scaler.value(&shared).await.unwrap(), 1.0, "the main file is served without it");
    assert_eq!(fixture.metric("clapometer_config_valid", of_directory).await, Some(0.0));
    fixture.logs("query files not read", 1).await;

    let files = Files(directory.clone());
    fs::create_dir(&directory).unwrap();
    files.write(1, &queries(1, 7));
    fixture.scaler.reaches(&of_team(1), 7.0, NOTICED).await;
    fixture.reaches_metric("clapometer_config_valid", of_directory, 1.0, SOON).await;

    fs::rename(&directory, directory.with_extension("away")).unwrap();
    fixture.reaches_metric("clapometer_config_valid", of_directory, 0.0, NOTICED).await;
    assert_eq!(fixture.scaler.value(&of_team(1)).await.unwrap(), 7.0);
    assert_eq!(fixture.metric("clapometer_config_valid", &label(1)).await, Some(1.0));

    fs::create_dir(&directory).unwrap();
    fixture.scaler.refuses(&of_team(1), Code::PermissionDenied, NOTICED).await;
}

#[tokio::test]
async fn the_main_file_takes_an_allowance_back_and_its_own_faults_hold_up_no_team() {
    let database = Database::empty(Cluster::shared().await).await;
    let main = main_file(&database.scaler());
    let executable = Executable::serve(&main);
    let files = Files::beside(&executable);
    files.write(1, &queries(1, 1));
    files.write(2, &queries(2, 2));
    let fixture = Fixture::start(executable).await;

    fixture.write("queries: {shared: {sqll: SELECT 1}}\n");
    files.write(2, &queries(2, 22));
    fixture.scaler.reaches(&of_team(2), 22.0, NOTICED).await;
    fixture.reaches_metric("clapometer_config_valid", "", 0.0, NOTICED).await;
    fixture.logs("configuration not reloaded", 1).await;

    let without_team_1 = main.replace("    team-01: {databases: [claps], namespaces: [team-01]}\n", "");
    fixture.write(&without_team_1);
    fixture.scaler.refuses(&of_team(1), Code::PermissionDenied, NOTICED).await;
    assert_eq!(fixture.scaler.value(&of_team(2)).await.unwrap(), 22.0);
    fixture.reaches_metric("clapometer_config_valid", "", 1.0, NOTICED).await;
}

#[tokio::test]
async fn a_team_checks_its_file_against_the_main_one_without_a_database() {
    let main = "databases:\n  claps: {host: localhost, user: scaler}\n  ledger: {host: localhost, user: scaler}\n\
                queries_from: {path: /etc/clapometer/queries.d, files: {mail: {databases: [claps]}}}\n";
    let check = |directory: &'static str, file: &str, arguments: &[&str]| {
        let executable = Executable::clapometer(["check", "--config", directory]);
        fs::create_dir(executable.directory().join("deploy")).unwrap();
        fs::create_dir(executable.directory().join("deploy/queries.d")).unwrap();
        let executable = executable.file("deploy/clapometer.yaml", main).file("deploy/queries.d/mail.yaml", file);
        arguments.iter().fold(executable, Executable::argument).finish(SOON)
    };
    let good = check("deploy", "queries: {letters: {sql: SELECT 1}}\n", &["--offline"]).await;
    assert_eq!(good.code(), Some(0), "{}", good.errors);
    assert!(good.output.contains("on claps, from mail.yaml"), "{}", good.output);

    let wrong = "queries:\n  letters: {sql: SELECT 1, database: ledger}\n";
    let bad = check("deploy", wrong, &["--offline"]).await;
    assert_eq!(bad.code(), Some(78));
    assert!(
        bad.errors.starts_with("deploy/queries.d/mail.yaml:2: queries.letters.database: found \"ledger\""),
        "{}",
        bad.errors
    );
    let bad = check("deploy", wrong, &["--offline", "--json"]).await;
    assert_eq!(bad.code(), Some(78));
    let json: Value = serde_json::from_str(&bad.output).unwrap();
    assert_eq!(json["faults"][0]["line"], 2, "{json}");
    assert_eq!(json["faults"][0]["file"], "deploy/queries.d/mail.yaml");

    // Beside the main file, where there is no such subdirectory.
    let flat = Executable::clapometer(["check", "--offline", "--config", "."]).file("clapometer.yaml", main);
    let flat = flat.file("mail.yaml", wrong).finish(SOON).await;
    assert_eq!(flat.code(), Some(78));
    assert!(flat.errors.contains("mail.yaml:2: queries.letters.database"), "{}", flat.errors);
}

#[tokio::test]
async fn standard_input_is_a_configuration_for_check_and_config_and_none_for_serve() {
    let yaml = "databases: {claps: {host: localhost, user: scaler}}\nqueries: {jobs: {sql: SELECT 1}}\n";
    let run = |arguments: &[&'static str], yaml: &str| {
        Executable::clapometer(arguments).input("input.yaml", yaml).finish(SOON)
    };
    let checked = run(&["check", "--offline", "--config", "-"], yaml).await;
    assert_eq!((checked.code(), checked.errors.as_str()), (Some(0), ""));
    assert!(checked.output.starts_with("<stdin> is valid\n"), "{}", checked.output);
    assert!(checked.output.contains("jobs"), "{}", checked.output);
    let printed = run(&["config", "--json", "--config", "-"], yaml).await;
    let json: Value = serde_json::from_str(&printed.output).unwrap();
    assert_eq!(json["queries"]["jobs"]["sql"], "SELECT 1");
    let wrong = run(&["check", "--config", "-"], "queries: {jobs: {sqll: SELECT 1}}\n").await;
    assert_eq!(wrong.code(), Some(78));
    assert!(wrong.errors.contains("<stdin>:1: queries.jobs.sqll"), "{}", wrong.errors);
    let served = run(&["serve", "--config", "-"], yaml).await;
    assert_eq!(served.code(), Some(2));
    assert!(served.errors.contains("--config must be a file"), "{}", served.errors);
}

#[tokio::test]
async fn offline_what_is_not_there_is_a_note_and_what_is_wrong_is_a_fault() {
    let main = |database: &str| {
        format!(
            "server: {{tls: {{cert: /no/tls.crt, key: /no/tls.key}}}}\n\
             databases:\n  claps: {database}\n  ledger: {{host: db, user: me, sslmode: require, pool_size: {{env: POOL}}}}\n\
             queries_from: {{path: /no/queries.d}}\nqueries: {{jobs: {{database: claps, sql: SELECT 1}}}}\n"
        )
    };
    let check = |database: &str, arguments: &[&'static str]| {
        let executable = Executable::clapometer(["check", "--config", "clapometer.yaml"]);
        let executable = executable.file("clapometer.yaml", &main(database));
        arguments.iter().fold(executable, Executable::argument).finish(SOON)
    };
    let good = "{host: db, user: {env: DB_USER}, password: {file: /no/password}, sslmode: verify-full, sslrootcert: /no/ca.crt}";
    let checked = check(good, &["--offline"]).await;
    assert_eq!((checked.code(), checked.errors.as_str()), (Some(0), ""));
    for note in [
        "server.tls.cert: cannot read the file /no/tls.crt",
        "databases.claps.password: cannot read the file /no/password",
        "databases.claps.user: the variable DB_USER is not set",
        "databases.ledger.pool_size: the variable POOL is not set",
        "/no/queries.d: is not there",
        "database   claps  not known here",
        "jobs",
    ] {
        assert!(checked.output.contains(note), "{note}: {}", checked.output);
    }
    let json = check(good, &["--offline", "--json"]).await;
    assert_eq!(json.code(), Some(0), "{}", json.errors);
    let json: Value = serde_json::from_str(&json.output).unwrap();
    assert!(json["notes"].as_array().is_some_and(|notes| notes.iter().any(|note| note["line"] == 3)), "{json}");
    assert_eq!(json["databases"].as_array().unwrap().len(), 2);

    // Where the password is unknown, the rest is not.
    let wrong = check("{host: db, user: me, password: {file: /no/password}}", &["--offline"]).await;
    assert_eq!(wrong.code(), Some(78));
    assert!(wrong.errors.contains("databases.claps.sslmode: is missing"), "{}", wrong.errors);
    let wrong = check("{host: db, usr: me, password: {file: /no/password}, sslmode: on}", &["--offline"]).await;
    assert!(
        wrong.errors.contains("claps.usr: unknown key") && wrong.errors.contains("claps.sslmode: "),
        "{}",
        wrong.errors
    );
    assert!(!wrong.errors.contains("/no/"), "a note among the faults: {}", wrong.errors);

    // `serve` and a check of the databases need it all.
    let needed = check(good, &[]).await;
    assert_eq!(needed.code(), Some(78));
    assert!(needed.errors.contains("databases.claps.password: cannot read the file"), "{}", needed.errors);
}
