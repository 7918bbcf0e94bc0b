//! `postgres-batch`: the Job that KEDA starts, and the operator's commands.
//!
//! One process is one pod of one Job, and works on one clap. [`worker`] claims it, runs its work and records the
//! outcome; [`operator`] has the commands; [`store`] has every statement on the tables. A worker owns its clap by a
//! lease on the database's clock and by a fencing token. It keeps nothing in its session, and may die at any moment.

pub mod cli;
pub mod operator;
pub mod status;
pub mod store;
pub mod transaction;
mod values;
pub mod worker;

use std::{
    ffi::OsString,
    io::{IsTerminal, Write, stderr, stdout},
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory, error::ErrorKind};
use tokio::time::Instant;

use self::{
    cli::{Arguments, Command, MigrateAction, OptionsError, WorkArguments},
    operator::migrate,
    store::Store,
    worker::{Rules, ended::CANNOT_EXECUTE, identity, interrupt, outcome::Report, work::Work},
};
use crate::{
    blocking,
    conninfo::ConnectionSource,
    telemetry,
    terminal::{complain, completions, print, usage},
};

/// The exit code of an operator's command that did only a part of what it was asked to do.
const FAILED: u8 = 1;

/// The exit code for a database that cannot be reached (EX_UNAVAILABLE of sysexits.h).
const UNAVAILABLE: u8 = 69;

/// The exit code for a wrong configuration (EX_CONFIG of sysexits.h).
const CONFIGURATION: u8 = 78;

/// The time limit for writing a Job's last line.
const REPORT: Duration = Duration::from_secs(2);

/// Runs `postgres-batch`: reads the arguments and the environment, and returns the exit code.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    if let [_, first, rest @ ..] = &words[..]
        && first == worker::EXECUTE
    {
        complain(&worker::execute(rest));
        return ExitCode::from(CANNOT_EXECUTE);
    }
    let Arguments { schema, command } = match Arguments::read(words.clone()) {
        Ok(arguments) => arguments,
        Err(error) => usage::end(&usage::advised(error, words)),
    };
    match command {
        Command::Migrate { action: MigrateAction::Print } => {
            print(&migrate::script(schema.as_deref()));
            ExitCode::SUCCESS
        }
        Command::Completions { shell } => {
            print(&completions::script(Arguments::command(), shell));
            ExitCode::SUCCESS
        }
        Command::Work(arguments) => run_job(schema, *arguments),
        command => with_database(async move |connection| operator::run(connection, schema, command).await),
    }
}

fn run_job(schema: Option<String>, arguments: WorkArguments) -> ExitCode {
    let rules = match arguments.rules() {
        Ok(rules) => rules,
        Err(OptionsError::Usage(message)) => Arguments::command().error(ErrorKind::ValueValidation, message).exit(),
        Err(OptionsError::Configuration(message)) => return misconfigured(&message),
    };
    let _log = telemetry::init();
    with_database(async move |connection| work(connection, schema, &rules).await)
}

fn with_database(task: impl AsyncFnOnce(ConnectionSource) -> ExitCode) -> ExitCode {
    let connection = match identity::connection(identity::variable) {
        Ok(connection) => connection,
        Err(faults) => return misconfigured(&faults.to_string()),
    };
    match blocking::runtime() {
        Ok(runtime) => runtime.block_on(task(connection)),
        Err(error) => misconfigured(&format!("the runtime does not start: {error}")),
    }
}

async fn work(connection: ConnectionSource, schema: Option<String>, rules: &Rules) -> ExitCode {
    let started = Instant::now();
    let interrupt = match interrupt::listen() {
        Ok(interrupt) => interrupt,
        Err(error) => return misconfigured(&format!("signals cannot be caught: {error}")),
    };
    let mut store = Store::new(connection, schema);
    let job = identity::job(identity::variable);
    let (outcome, attempt) = worker::run(&mut store, &job, rules, &interrupt).await;
    let code = outcome.exit_code();
    report(&Report { outcome, attempt, took: started.elapsed() }, &rules.work);
    ExitCode::from(code)
}

/// Writes a Job's last line to standard output, or to standard error if standard output belongs to the program.
fn report(report: &Report, work: &Work) {
    let belongs_to_program = match work {
        Work::Wait(_) => false,
        Work::Run(_) => true,
    };
    let is_terminal = if belongs_to_program { stderr().is_terminal() } else { stdout().is_terminal() };
    let line = if is_terminal { report.sentence() } else { report.json() };
    let write = move || {
        let mut stream: Box<dyn Write> = if belongs_to_program { Box::new(stderr()) } else { Box::new(stdout()) };
        let _ = writeln!(stream, "{line}").and_then(|()| stream.flush());
    };
    // A failure to write does not matter: the outcome is recorded, and the exit code says it, too. A reader that has
    // stopped reading must not keep the process alive.
    let (written, done) = std::sync::mpsc::channel();
    let of_thread = write.clone();
    let spawned = std::thread::Builder::new().spawn(move || {
        of_thread();
        let _ = written.send(());
    });
    match spawned {
        Ok(_) => drop(done.recv_timeout(REPORT)),
        // If no thread can be started, write here, although it may block.
        Err(_) => write(),
    }
}

fn misconfigured(message: &str) -> ExitCode {
    complain(&format!("postgres-batch: {message}"));
    ExitCode::from(CONFIGURATION)
}
