//! The operator's commands: `migrate`, `add`, `list`, `show`, `retry`, `cancel`, `prune` and `explain`.
//!
//! A command runs one or two statements and returns an [`Answer`]: text for people, or one JSON document.

mod commands;
mod document;
mod explain;
pub mod migrate;
mod show;

use std::{
    cell::Cell,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use tokio::time::Instant;

use self::migrate::MigrateError;
use super::{
    CONFIGURATION, FAILED, UNAVAILABLE,
    cli::{AddArguments, Command, ListArguments, MigrateAction, PruneArguments, RetryArguments},
    transaction::{self, Transactions},
};
use crate::{
    conninfo::ConnectionSource,
    notify_sql::Identifier,
    terminal::{self, complain, print, style::ColorChoice},
};

/// The time limit of an operator's statement on the server.
const STATEMENT: Duration = Duration::from_secs(30);

/// The time limit of a statement, with connecting and waiting for the answer.
const WITHIN: Duration = Duration::from_secs(40);

/// The interval at which a slow command shows its progress on a terminal.
const PROGRESS: Duration = Duration::from_secs(1);

/// The escape sequence that moves the cursor to the start of the line and clears the line.
const CLEAR_LINE: &str = "\r\x1b[K";

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// The text for standard output; it ends with a newline unless it is empty.
    text: String,
    /// True if everything that the operator asked for was done. If not, the text says why.
    complete: bool,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    /// One JSON document.
    Json,
    /// Text.
    Human {
        /// The terminal's width, if standard output is one.
        width: Option<usize>,
        /// The rule that decides whether text is coloured.
        colors: ColorChoice,
    },
}

/// The reason why a command failed.
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
                transaction::Error::Unavailable { .. } | transaction::Error::Unanswered(_) => UNAVAILABLE,
                transaction::Error::NotMigrated(_) => CONFIGURATION,
                transaction::Error::Collision(_) | transaction::Error::Rejected { .. } => FAILED,
            },
            Self::Migration(_) => FAILED,
        }
    }
}

/// Runs a command to its end, prints its answer, and returns the exit code.
pub(super) async fn run(connection: ConnectionSource, schema: Option<String>, command: Command) -> ExitCode {
    let mut transactions = Transactions::new(connection, schema, "postgres-batch/operator", STATEMENT);
    let deleted = Cell::new(0);
    match with_progress(answer(&mut transactions, command, &deleted), &deleted).await {
        Ok(Answer { text, complete }) => {
            print(&text);
            ExitCode::from(if complete { 0 } else { FAILED })
        }
        Err(error) => {
            let (told, advice) = match &error {
                OperatorError::Tables(error) | OperatorError::Migration(MigrateError::Database(error)) => {
                    (transactions.explain(error), error.advice())
                }
                OperatorError::Migration(error) => (error.to_string(), None),
            };
            complain(&format!("postgres-batch: {told}"));
            if let Some(advice) = advice {
                complain(&format!("  -> {advice}"));
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// Waits for an answer. On a terminal it shows each second that the database works, and how many claps are deleted.
async fn with_progress<T>(answer: impl Future<Output = T>, deleted: &Cell<usize>) -> T {
    let mut answer = std::pin::pin!(answer);
    if !io::stderr().is_terminal() {
        return answer.await;
    }
    let started = Instant::now();
    let mut is_shown = false;
    loop {
        match tokio::time::timeout(PROGRESS, &mut answer).await {
            Ok(answer) => {
                if is_shown {
                    let _ = write!(io::stderr(), "{CLEAR_LINE}");
                }
                return answer;
            }
            Err(_) => {
                let deleted = match deleted.get() {
                    0 => String::new(),
                    deleted => format!(", {deleted} claps deleted"),
                };
                let seconds = started.elapsed().as_secs();
                // A terminal that is gone must not end the command.
                let _ = write!(io::stderr(), "{CLEAR_LINE}the database works on it: {seconds} s{deleted}");
                is_shown = true;
            }
        }
    }
}

/// Runs a command. `deleted` counts what it has deleted so far.
async fn answer(
    transactions: &mut Transactions,
    command: Command,
    deleted: &Cell<usize>,
) -> Result<Answer, OperatorError> {
    let answer = match command {
        Command::Add(AddArguments { count, duration_seconds, payload, max_attempts, key, json }) => {
            let request = commands::Request { count, duration_seconds, payload, max_attempts, key };
            commands::add(transactions, &request, view(json)).await?
        }
        Command::List(ListArguments { status, job, since, limit, json }) => {
            let filter = show::Filter { statuses: status, job, since, limit };
            show::list(transactions, &filter, view(json)).await?
        }
        Command::Show { id, json } => show::show(transactions, id, view(json)).await?,
        Command::Retry(RetryArguments { ids, all_dead, json }) => {
            let which = if all_dead { commands::Which::AllDead } else { commands::Which::Ids(ids) };
            commands::retry(transactions, &which, view(json)).await?
        }
        Command::Cancel { ids, json } => commands::cancel(transactions, &ids, view(json)).await?,
        Command::Prune(PruneArguments { older_than, status, batch, dry_run, json }) => {
            let pruning = commands::Pruning { older_than, statuses: status, batch };
            if dry_run {
                commands::prunable(transactions, &pruning, view(json)).await?
            } else {
                commands::prune(transactions, &pruning, deleted, view(json)).await?
            }
        }
        Command::Explain { json } => explain::explain(transactions, view(json)).await?,
        Command::Migrate { action: MigrateAction::Up { with_notify } } => migrate_up(transactions, with_notify).await?,
        Command::Migrate { action: MigrateAction::Status } => migrate_status(transactions).await?,
        Command::Work(_) | Command::Completions { .. } | Command::Migrate { action: MigrateAction::Print } => {
            unreachable!("main has these, since they are not an operator's, or need no database")
        }
    };
    Ok(answer)
}

async fn migrate_up(transactions: &mut Transactions, with_notify: Option<Identifier>) -> Result<Answer, OperatorError> {
    let place = transactions.schema().map_or(String::new(), |schema| format!(" in schema {schema}"));
    let done = migrate::up(transactions).await?;
    for migration in &done {
        print(&format!("applied {:04} {}{place}\n", migration.version, migration.name));
    }
    if done.is_empty() {
        print(&format!("nothing to apply{place}: all {} migrations are there\n", migrate::MIGRATIONS.len()));
    }
    let mut text = String::new();
    if let Some(channel) = with_notify {
        migrate::install_notify(transactions, channel).await?;
        text = format!("installed the triggers that notify clapometer{place}\n");
    }
    Ok(Answer { text, complete: true })
}

async fn migrate_status(transactions: &mut Transactions) -> Result<Answer, OperatorError> {
    let states = migrate::status(transactions).await?;
    let text = migrate::table(&states, ColorChoice::for_stdout());
    Ok(Answer { text, complete: states.iter().all(migrate::State::is_good) })
}

fn view(json: bool) -> View {
    if json {
        return View::Json;
    }
    View::Human { width: terminal::width(), colors: ColorChoice::for_stdout() }
}

/// Returns the deadline of a statement that is sent now.
fn by() -> Instant {
    Instant::now() + WITHIN
}
