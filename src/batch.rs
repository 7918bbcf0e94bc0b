//! `postgres-batch`: the Job that KEDA starts, and its operator's commands.
//!
//! One process is one Job's pod and works on one clap: [`claim`] finds it, [`lease`] keeps it,
//! [`work`] does it, [`life`] ties them together and books the end in the [`ledger`].
//! [`outcome`] has the exit codes. Ownership is a lease on the database's clock and a fencing
//! token; nothing is kept in a session, so that any worker may die at any moment.

pub mod claim;
pub mod clap;
pub mod cli;
pub mod identity;
pub mod interrupt;
pub mod lease;
pub mod ledger;
pub mod life;
pub mod migrate;
pub mod outcome;
pub mod transaction;
pub mod work;

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use ::clap::{CommandFactory, Parser, error::ErrorKind};
use tokio::time::Instant;
use tracing_subscriber::EnvFilter;

use self::{
    cli::{Arguments, Command, MigrateAction, Unusable, WorkArguments},
    interrupt::Interrupt,
    ledger::Ledger,
    life::Rules,
    outcome::Report,
    transaction::Transactions,
    work::Work,
};
use crate::config::Connection;

/// What an operator's statement may take on the server.
const OPERATOR_STATEMENT: Duration = Duration::from_secs(30);

/// Something an operator asked for could not be done.
const FAILED: u8 = 1;

/// The database cannot be reached (EX_UNAVAILABLE of sysexits.h).
const UNAVAILABLE: u8 = 69;

/// The configuration is wrong (EX_CONFIG).
const CONFIGURATION: u8 = 78;

/// The whole of `postgres-batch`: reads the arguments and the environment, and returns the exit code.
pub fn main() -> ExitCode {
    let Arguments { schema, command } = Arguments::parse();
    match command {
        Some(Command::Execute { parent, program, arguments }) => {
            eprintln!("postgres-batch: {}", work::execute(parent, program, arguments));
            ExitCode::from(126)
        }
        Some(Command::Work(arguments)) => start(schema, Task::Work(*arguments)),
        Some(Command::Migrate { action: MigrateAction::Print }) => {
            print(&migrate::script(schema.as_deref()));
            ExitCode::SUCCESS
        }
        Some(Command::Migrate { action }) => start(schema, Task::Migrate(action)),
        None => match WorkArguments::from_environment() {
            Ok(arguments) => start(schema, Task::Work(arguments)),
            Err(error) => error.exit(),
        },
    }
}

/// What needs the database.
enum Task {
    Work(WorkArguments),
    Migrate(MigrateAction),
}

fn start(schema: Option<String>, task: Task) -> ExitCode {
    let connection = match identity::connection(identity::variable) {
        Ok(connection) => connection,
        Err(message) => return misconfigured(&message),
    };
    log_to_stderr();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return misconfigured(&format!("the runtime does not start: {error}")),
    };
    match task {
        Task::Work(arguments) => match arguments.rules() {
            Ok(rules) => runtime.block_on(work(connection, schema, &rules)),
            Err(Unusable::Usage(message)) => Arguments::command().error(ErrorKind::ValueValidation, message).exit(),
            Err(Unusable::Configuration(message)) => misconfigured(&message),
        },
        Task::Migrate(action) => {
            let transactions = Transactions::new(connection, schema, "postgres-batch/migrate", OPERATOR_STATEMENT);
            runtime.block_on(migrate(transactions, action))
        }
    }
}

async fn work(connection: Connection, schema: Option<String>, rules: &Rules) -> ExitCode {
    let started = Instant::now();
    let mut interrupt = match Interrupt::listen() {
        Ok(interrupt) => interrupt,
        Err(error) => return misconfigured(&format!("signals cannot be caught: {error}")),
    };
    let mut ledger = Ledger::new(connection, schema);
    let job = identity::job(identity::variable);
    let (outcome, claim) = life::run(&mut ledger, &job, rules, &mut interrupt).await;
    let code = outcome.exit_code();
    report(&Report { outcome, claim, took: started.elapsed() }, &rules.work);
    ExitCode::from(code)
}

/// The last line of a Job: on stdout, unless stdout is the program's.
fn report(report: &Report, work: &Work) {
    let (is_terminal, mut stream): (bool, Box<dyn Write>) = match work {
        Work::Wait(_) => (std::io::stdout().is_terminal(), Box::new(std::io::stdout())),
        Work::Run(_) => (std::io::stderr().is_terminal(), Box::new(std::io::stderr())),
    };
    let line = if is_terminal { report.sentence() } else { report.json() };
    // A reader that is gone changes nothing: the outcome is booked, and the exit code tells it, too.
    let _ = writeln!(stream, "{line}");
}

async fn migrate(mut transactions: Transactions, action: MigrateAction) -> ExitCode {
    let place = transactions.schema().map_or(String::new(), |schema| format!(" in schema {schema}"));
    let result = match action {
        MigrateAction::Up => migrate::up(&mut transactions).await.map(|done| {
            for migration in &done {
                print(&format!("applied {:04} {}{place}\n", migration.version, migration.name));
            }
            if done.is_empty() {
                print(&format!("nothing to apply{place}: all {} migrations are there\n", migrate::MIGRATIONS.len()));
            }
            ExitCode::SUCCESS
        }),
        MigrateAction::Status | MigrateAction::Print => migrate::status(&mut transactions).await.map(|states| {
            for state in &states {
                print(&format!("{state}\n"));
            }
            ExitCode::from(if states.iter().all(migrate::State::is_good) { 0 } else { FAILED })
        }),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("postgres-batch: {error}");
            ExitCode::from(match error {
                migrate::MigrateError::Database(transaction::Error::Unavailable(_)) => UNAVAILABLE,
                _ => FAILED,
            })
        }
    }
}

fn print(text: &str) {
    // A closed pipe (`| head`) is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn misconfigured(message: &str) -> ExitCode {
    eprintln!("postgres-batch: {message}");
    ExitCode::from(CONFIGURATION)
}

/// JSON when nobody watches, else human. `RUST_LOG` changes the level; the driver logs SQL and is held at warn.
fn log_to_stderr() {
    let wanted = identity::variable("RUST_LOG").unwrap_or_else(|| "info".to_owned());
    let filter = EnvFilter::builder().parse_lossy(format!("{wanted},tokio_postgres=warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if std::io::stderr().is_terminal() {
        log.compact().init();
    } else {
        log.json().flatten_event(true).init();
    }
}
