//! `clapometer init` at a terminal: a person answers its questions, rightly, wrongly, or not at all.

use std::{fs, os::unix::process::ExitStatusExt, path::PathBuf, time::Duration};

use super::{COMMAND, PASSWORD, RIVER, init, install, role};
use crate::support::{
    cluster::Cluster,
    database::{Access, Database},
    executable::Executable,
    tempdir,
    terminal::Terminal,
};

/// The bound of each answer of the program; a person waits a moment.
const SOON: Duration = Duration::from_secs(60);

const RETURN: &str = "\r";
const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";

const ROLE: &str = "The role as which the scaler will connect [clapometer]: ";
const ADDRESS: &str = "as KEDA dials it [clapometer.clapometer.svc.cluster.local:9090]: ";
const WORKERS: &str = "or does each take one job and exit (one-row)? [long-lived]: ";
const DEPLOYMENT: &str = "the name of its workers' Deployment [river-worker]: ";

async fn river() -> Database<'static> {
    let database = Database::empty(Cluster::shared().await).await;
    install(&database, &RIVER, "public", "INSERT INTO river_job (queue) VALUES ('mail'), ('images')").await;
    database
}

/// Starts `init --out` at a terminal, and returns the directory that it will write.
fn at_terminal(access: &Access) -> (Terminal, PathBuf) {
    let out = tempdir::new("init").join("scaling");
    (init(access, &["--out", out.to_str().unwrap()]).at_terminal(), out)
}

async fn answer(terminal: &mut Terminal, question: &str, keys: &str) {
    terminal.shows(question, SOON).await;
    terminal.types(keys);
}

#[tokio::test]
async fn a_person_answers_and_what_is_written_works() {
    let database = river().await;
    let role = role(&database);
    let (mut terminal, out) = at_terminal(&database.superuser());
    answer(&mut terminal, ROLE, &format!("{}{RETURN}", "r".repeat(64))).await;
    terminal.shows("has 64 bytes, a role's name has at most 63", SOON).await;
    answer(&mut terminal, ROLE, &format!("{role}{RETURN}")).await;
    answer(&mut terminal, ADDRESS, &format!("clapometer{RETURN}")).await;
    terminal.shows("must be HOST:PORT", SOON).await;
    answer(&mut terminal, ADDRESS, &format!(" scaler.keda:9090 {RETURN}")).await;
    answer(&mut terminal, WORKERS, &format!("sometimes{RETURN}")).await;
    terminal.shows("must be long-lived or one-row", SOON).await;
    answer(&mut terminal, WORKERS, RETURN).await;
    answer(&mut terminal, DEPLOYMENT, &format!("Mail Worker{RETURN}")).await;
    terminal.shows("must be 1 to 63 small letters, digits and dashes", SOON).await;
    answer(&mut terminal, DEPLOYMENT, &format!("mail-worker{RETURN}")).await;
    let (status, screen) = terminal.finish(COMMAND).await;
    assert_eq!(status.code(), Some(0), "{screen}");
    assert!(screen.contains("River (Go) in the schema public; 2 queues."), "{screen}");
    assert!(screen.contains("Written: "), "{screen}");

    let [config, sql, manifest] =
        ["clapometer.yaml", "grants.sql", "manifest.yaml"].map(|name| fs::read_to_string(out.join(name)).unwrap());
    assert!(manifest.contains("kind: ScaledObject\nmetadata:\n  name: mail-worker\n"), "{manifest}");
    assert_eq!(manifest.matches("        scalerAddress: scaler.keda:9090\n").count(), 2, "{manifest}");
    assert!(manifest.contains("query: river-images\n") && manifest.contains("query: river-mail\n"), "{manifest}");
    assert!(config.contains(&format!("    user: {role}\n")), "{config}");
    assert!(config.contains("    workers: long-lived\n"), "a default that was taken is no guess: {config}");

    let arguments = ["check", "--offline", "--config", "c.yaml"];
    let offline = Executable::clapometer(arguments).file("c.yaml", &config).file("clapometer.password", PASSWORD);
    let offline = offline.finish(COMMAND).await;
    assert_eq!(offline.code(), Some(0), "{config}\n{}{}", offline.output, offline.errors);
    let lint = Executable::clapometer(["lint", "m.yaml"]).file("m.yaml", &manifest).finish(COMMAND).await;
    assert_eq!(lint.code(), Some(0), "{manifest}\n{}", lint.output);

    database.execute(&sql).await;
    database.execute(&format!("ALTER ROLE {role} PASSWORD '{PASSWORD}'")).await;
    let check = Executable::clapometer(["check", "--config", "c.yaml"]).file("c.yaml", &config);
    let check = check.file("clapometer.password", PASSWORD).finish(COMMAND).await;
    assert_eq!(check.code(), Some(0), "{}{}", check.output, check.errors);
}

#[tokio::test]
async fn whose_program_takes_one_job_gets_a_scaled_job() {
    let database = river().await;
    let (mut terminal, out) = at_terminal(&database.superuser());
    answer(&mut terminal, ROLE, RETURN).await;
    answer(&mut terminal, ADDRESS, RETURN).await;
    answer(&mut terminal, WORKERS, &format!("one-row{RETURN}")).await;
    answer(&mut terminal, "the name of its Jobs [river-worker]: ", RETURN).await;
    let (status, screen) = terminal.finish(COMMAND).await;
    assert_eq!(status.code(), Some(0), "{screen}");
    let manifest = fs::read_to_string(out.join("manifest.yaml")).unwrap();
    assert!(manifest.contains("kind: ScaledJob\nmetadata:\n  name: river-worker\n"), "{manifest}");
    assert!(fs::read_to_string(out.join("clapometer.yaml")).unwrap().contains("    workers: one-row\n"));
}

#[tokio::test]
async fn ctrl_c_leaves_nothing_behind() {
    let database = river().await;
    for answered in 0..4 {
        let (mut terminal, out) = at_terminal(&database.superuser());
        let questions = [ROLE, ADDRESS, WORKERS, DEPLOYMENT];
        for question in &questions[..answered] {
            answer(&mut terminal, question, RETURN).await;
        }
        answer(&mut terminal, questions[answered], CTRL_C).await;
        let (status, screen) = terminal.finish(COMMAND).await;
        assert_eq!(status.signal(), Some(2), "{screen}");
        assert!(!out.exists(), "{screen}");
    }
}

#[tokio::test]
async fn ctrl_d_leaves_the_answer_to_the_program_on_a_line_of_its_own() {
    let database = river().await;
    let (mut terminal, out) = at_terminal(&database.superuser());
    for question in [ROLE, ADDRESS, WORKERS, DEPLOYMENT] {
        answer(&mut terminal, question, CTRL_D).await;
    }
    let (status, screen) = terminal.finish(COMMAND).await;
    assert_eq!(status.code(), Some(0), "{screen}");
    let lines: Vec<&str> = screen.lines().collect();
    for question in [ROLE, ADDRESS, WORKERS, DEPLOYMENT] {
        assert!(lines.iter().any(|line| line.ends_with(question)), "{screen}");
    }
    let manifest = fs::read_to_string(out.join("manifest.yaml")).unwrap();
    assert!(manifest.contains("  name: river-worker  # assumed\n"), "{manifest}");
}

#[tokio::test]
async fn nobody_is_asked_about_a_database_that_is_not_there() {
    let database = river().await;
    let nowhere = database.superuser().by_way_of("127.0.0.1:1".parse().unwrap());
    let (terminal, _) = at_terminal(&nowhere);
    let (status, screen) = terminal.finish(COMMAND).await;
    assert_eq!(status.code(), Some(69), "{screen}");
    assert!(screen.contains("nothing answers there") && !screen.contains("The role"), "{screen}");
}
