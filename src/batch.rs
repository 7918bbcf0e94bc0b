//! `postgres-batch`: the Job that KEDA starts, and its operator's commands.
//!
//! One process is one Job's pod and works on one clap: [`claim`] finds it, [`lease`] keeps it,
//! [`mod@work`] does it, [`life`] ties them together and books the end in the [`ledger`].
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
pub mod operator;
pub mod outcome;
pub mod plan;
pub mod table;
pub mod transaction;
pub mod work;

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use ::clap::{CommandFactory, error::ErrorKind};
use tokio::time::Instant;

use self::{
    cli::{
        AddArguments, Arguments, Command, ListArguments, MigrateAction, PruneArguments, RetryArguments, Unusable,
        WorkArguments,
    },
    ledger::Ledger,
    life::Rules,
    migrate::MigrateError,
    operator::View,
    outcome::Report,
    transaction::Transactions,
    work::Work,
};
use crate::{conninfo::ConnectionSource, telemetry};

/// What an operator's statement may take on the server.
const OPERATOR_STATEMENT: Duration = Duration::from_secs(30);

/// Something an operator asked for could not be done.
const FAILED: u8 = 1;

/// The program cannot be executed, as a shell has it.
const CANNOT_EXECUTE: u8 = 126;

/// The database cannot be reached (EX_UNAVAILABLE of sysexits.h).
const UNAVAILABLE: u8 = 69;

/// The configuration is wrong (EX_CONFIG).
const CONFIGURATION: u8 = 78;

/// The whole of `postgres-batch`: reads the arguments and the environment, and returns the exit code.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    if let [_, first, rest @ ..] = &words[..]
        && first == work::EXECUTE
    {
        eprintln!("postgres-batch: {}", work::execute(rest));
        return ExitCode::from(CANNOT_EXECUTE);
    }
    let Arguments { schema, command } = match Arguments::read(words) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    match command {
        Command::Migrate { action: MigrateAction::Print } => {
            print(&migrate::script(schema.as_deref()));
            ExitCode::SUCCESS
        }
        Command::Work(arguments) => run_job(schema, *arguments),
        Command::Migrate { action } => with_tables(schema, async move |transactions| {
            let place = transactions.schema().map_or(String::new(), |schema| format!(" in schema {schema}"));
            migrate(transactions, action, &place).await
        }),
        command => with_tables(schema, async move |transactions| operate(transactions, command).await),
    }
}

fn run_job(schema: Option<String>, arguments: WorkArguments) -> ExitCode {
    let rules = match arguments.rules() {
        Ok(rules) => rules,
        Err(Unusable::Usage(message)) => Arguments::command().error(ErrorKind::ValueValidation, message).exit(),
        Err(Unusable::Configuration(message)) => return misconfigured(&message),
    };
    let _log = telemetry::init();
    with_database(async move |connection| work(connection, schema, &rules).await)
}

/// Runs an operator's command; its errors have one text and one exit code, whichever command it is.
fn with_tables(
    schema: Option<String>,
    command: impl AsyncFnOnce(&mut Transactions) -> Result<ExitCode, OperatorError>,
) -> ExitCode {
    with_database(async move |connection| {
        let mut transactions = Transactions::new(connection, schema, "postgres-batch/operator", OPERATOR_STATEMENT);
        match command(&mut transactions).await {
            Ok(code) => code,
            Err(error) => {
                eprintln!("postgres-batch: {error}");
                ExitCode::from(error.exit_code())
            }
        }
    })
}

fn with_database(task: impl AsyncFnOnce(ConnectionSource) -> ExitCode) -> ExitCode {
    let connection = match identity::connection(identity::variable) {
        Ok(connection) => connection,
        Err(faults) => return misconfigured(&faults.to_string()),
    };
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(task(connection)),
        Err(error) => misconfigured(&format!("the runtime does not start: {error}")),
    }
}

/// Why an operator's command failed.
#[derive(Debug, thiserror::Error)]
enum OperatorError {
    #[error(transparent)]
    Tables(#[from] transaction::Error),
    #[error(transparent)]
    Migration(#[from] MigrateError),
}

impl OperatorError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Tables(error) | Self::Migration(MigrateError::Database(error)) => match error {
                transaction::Error::Unavailable(_) | transaction::Error::Unanswered(_) => UNAVAILABLE,
                transaction::Error::NotMigrated(_) => CONFIGURATION,
                transaction::Error::Collision(_) | transaction::Error::Rejected { .. } => FAILED,
            },
            Self::Migration(_) => FAILED,
        }
    }
}

async fn operate(transactions: &mut Transactions, command: Command) -> Result<ExitCode, OperatorError> {
    let answer = match command {
        Command::Add(AddArguments { count, duration_seconds, payload, max_attempts, key, json }) => {
            let request = operator::Request { count, duration_seconds, payload, max_attempts, key };
            operator::add(transactions, &request, view(json)).await?
        }
        Command::List(ListArguments { status, job, since, limit, json }) => {
            let filter = operator::Filter { statuses: status, job, since, limit };
            operator::list(transactions, &filter, view(json)).await?
        }
        Command::Show { id, json } => operator::show(transactions, id, view(json)).await?,
        Command::Retry(RetryArguments { ids, all_dead, json }) => {
            let which = if all_dead { operator::Which::AllDead } else { operator::Which::Ids(ids) };
            operator::retry(transactions, &which, view(json)).await?
        }
        Command::Cancel { ids, json } => operator::cancel(transactions, &ids, view(json)).await?,
        Command::Prune(PruneArguments { older_than, status, batch, dry_run, json }) => {
            let pruning = operator::Pruning { older_than, statuses: status, batch };
            if dry_run {
                operator::prunable(transactions, &pruning, view(json)).await?
            } else {
                operator::prune(transactions, &pruning, view(json)).await?
            }
        }
        Command::Explain { json } => plan::explain(transactions, view(json)).await?,
        Command::Work(_) | Command::Migrate { .. } => {
            unreachable!("these are not an operator's, and main has them")
        }
    };
    print(&answer.text);
    Ok(ExitCode::from(if answer.complete { 0 } else { FAILED }))
}

async fn migrate(
    transactions: &mut Transactions,
    action: MigrateAction,
    place: &str,
) -> Result<ExitCode, OperatorError> {
    if let MigrateAction::Up { with_notify } = action {
        let done = migrate::up(transactions).await?;
        for migration in &done {
            print(&format!("applied {:04} {}{place}\n", migration.version, migration.name));
        }
        if done.is_empty() {
            print(&format!("nothing to apply{place}: all {} migrations are there\n", migrate::MIGRATIONS.len()));
        }
        if let Some(channel) = with_notify {
            migrate::install_notify(transactions, channel).await?;
            print(&format!("installed the triggers that notify clapometer{place}\n"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let states = migrate::status(transactions).await?;
    for state in &states {
        print(&format!("{state}\n"));
    }
    Ok(ExitCode::from(if states.iter().all(migrate::State::is_good) { 0 } else { FAILED }))
}

fn view(json: bool) -> View {
    if json {
        return View::Json;
    }
    let width = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
    View::Human { width, colours: operator::colours(width.is_some(), identity::variable("NO_COLOR").is_some()) }
}

async fn work(connection: ConnectionSource, schema: Option<String>, rules: &Rules) -> ExitCode {
    let started = Instant::now();
    let mut interrupt = match interrupt::listen() {
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

fn print(text: &str) {
    match std::io::stdout().write_all(text.as_bytes()) {
        // Half of a script must not look like success. A closed pipe (`| head`) is no failure.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("postgres-batch: cannot write to standard output: {error}");
            std::process::exit(i32::from(FAILED));
        }
        Ok(()) | Err(_) => {}
    }
}

fn misconfigured(message: &str) -> ExitCode {
    eprintln!("postgres-batch: {message}");
    ExitCode::from(CONFIGURATION)
}
