//! The command line: its options, and the checks that its parser cannot make.

use std::{ffi::OsString, time::Duration};

use clap::{
    Args, CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::{NonEmptyStringValueParser, Resettable},
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{
    status::Status,
    values::{ExitCodes, channel, duration, exit_codes, json_document, number, schema, terminal_status, whole},
    worker::{
        Rules,
        lease::{MARGIN, Terms},
        outcome::RetryBy,
        program::Program,
        work::{Ending, FinalState, Work},
    },
};
use crate::{config::duration::show, notify_sql, terminal::completions::Shell, version::VERSION};

/// The command that runs if none is named.
const DEFAULT: &str = "work";

const CONNECTION_HELP: &str = "\
Connection: PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE, PGSSLMODE... as for psql,
or DATABASE_URL; below them PG_HOST, PG_PORT and PG_USERNAME.
Identity of `work`: JOB_UID, and for people JOB_NAME, POD_NAME, NODE_NAME.

Exit codes of `work`:
   0  done, nothing to do, or this Job's clap is settled already
   1  the attempt failed and this Job retries it (--retry-by job)
   2  usage
  10  the attempt failed and a new Job retries it (--retry-by queue)
  11  the clap is dead      12  the clap was cancelled
  69  the database cannot be reached, nothing was claimed
  75  the lease or the database was lost      78  configuration
 143  SIGTERM; what was held was given back";

const ADD_EXAMPLES: &str = "\
Examples:
  postgres-batch add --count 60 --duration 10
  postgres-batch add --key invoice-7 --payload '{\"invoice\": 7}'";

const WORK_EXAMPLES: &str = "\
Without PROGRAM the work is a wait of as many seconds as `add --duration` said. With one there is no \
wait: the program finds that number in CLAP_DURATION_SECONDS, the payload in CLAP_PAYLOAD, and both as \
JSON on its standard input.

Examples:
  postgres-batch work
  postgres-batch work --lease 30s --timeout 10m -- sh -c 'echo invoice $CLAP_PAYLOAD'";

const LIST_EXAMPLES: &str = "\
Examples:
  postgres-batch list --status failed,dead --since 1h
  postgres-batch list --limit 10 --json";

const MIGRATE_EXAMPLES: &str = "\
Examples:
  postgres-batch migrate up
  postgres-batch --schema billing migrate status";

const USAGE: &str = "\
postgres-batch [work] [OPTIONS] [-- PROGRAM...]
       postgres-batch [--schema NAME] COMMAND";

/// One clap per Job: claims a row, does its work, records the outcome.
#[derive(Debug, Parser)]
#[command(name = "postgres-batch", version = VERSION, override_usage = USAGE, after_help = CONNECTION_HELP)]
pub struct Arguments {
    /// The schema of the tables, for a queue per schema [default: the role's search_path]
    #[arg(long, global = true, env = "POSTGRES_BATCH_SCHEMA", value_name = "NAME", hide_env_values = true,
          value_parser = schema)]
    pub schema: Option<String>,

    /// The command; [`DEFAULT`] if the command line names none.
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// Reads the words of a command line, the executable's name among them, and the environment.
    ///
    /// # Errors
    /// Those of the parser, which [`clap::Error::exit`] prints. Asking for help or for the version is one of them.
    pub fn read(words: Vec<OsString>) -> Result<Self, clap::Error> {
        let ends_in_dashes = words.last().is_some_and(|last| last == "--");
        let mut command = lenient(Self::command());
        let matches = command.try_get_matches_from_mut(with_default_command(words));
        let matches = matches.map_err(|error| with_command_first(error, &command))?;
        let arguments = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        match &arguments.command {
            // If a manifest's variable for the program is empty, its author meant a program, not the seed's work.
            Command::Work(work) if ends_in_dashes && work.program.is_empty() => {
                Err(command.error(ErrorKind::TooFewValues, "-- must be followed by a program"))
            }
            _ => Ok(arguments),
        }
    }
}

/// Says where a command belongs that stands behind options of `work`.
fn with_command_first(mut error: clap::Error, program: &clap::Command) -> clap::Error {
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg)
        && program.find_subcommand(word).is_some()
    {
        let tip = format!("only --schema may stand before the command: postgres-batch {word} [OPTIONS]");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// Treats an empty variable as absent, because a template writes one where no value is given. Accepts `-5` as a value,
/// so that the option's own check can say what is allowed.
fn lenient(command: clap::Command) -> clap::Command {
    let without = |argument: clap::Arg| {
        let value = argument.get_env().and_then(std::env::var_os);
        if value.is_some_and(|value| value.is_empty()) { argument.env(Resettable::Reset) } else { argument }
    };
    command.allow_negative_numbers(true).mut_args(without).mut_subcommands(lenient)
}

/// Inserts [`DEFAULT`] if the command is missing: before an option of `work`, or before the `--` of a program.
fn with_default_command(mut words: Vec<OsString>) -> Vec<OsString> {
    let mut position = 1;
    loop {
        match words.get(position).map(|word| word.as_encoded_bytes()) {
            Some(b"--schema") => position += 2,
            Some(word) if word.starts_with(b"--schema=") => position += 1,
            Some(b"-h" | b"--help" | b"-V" | b"--version") => return words,
            // A command, or a misspelt one, which the parser reports.
            Some(word) if !word.starts_with(b"-") => return words,
            _ => break,
        }
    }
    // If there is no next word, the name of the schema is missing. The parser reports this, too.
    if position <= words.len() {
        words.insert(position, DEFAULT.into());
    }
    words
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Claim one clap and do its work (the default)
    Work(Box<WorkArguments>),
    /// Create or inspect the tables
    #[command(after_help = MIGRATE_EXAMPLES)]
    Migrate {
        /// The action.
        #[command(subcommand)]
        action: MigrateAction,
    },
    /// Add requests
    Add(AddArguments),
    /// List claps and requests, the newest first, and what there is to do
    List(ListArguments),
    /// Show one clap with every attempt; exit 1 if there is none
    Show {
        /// The clap's number.
        #[arg(value_parser = number)]
        id: i64,
        /// One JSON document instead of text
        #[arg(long)]
        json: bool,
    },
    /// Grant one more attempt, due now, to claps that failed, died or were cancelled
    Retry(RetryArguments),
    /// Cancel requests and claps; one that is being worked on is stopped at its next heartbeat
    Cancel {
        /// The claps' numbers.
        #[arg(required = true, value_name = "ID", value_parser = number)]
        ids: Vec<i64>,
        /// One JSON document instead of text
        #[arg(long)]
        json: bool,
    },
    /// Delete claps that have been over for long, with their requests and attempts
    Prune(PruneArguments),
    /// Show the plans of the scaling and claim statements; exit 1 if one scans a whole table
    Explain {
        /// One JSON document instead of text
        #[arg(long)]
        json: bool,
    },
    /// Print the completions for a shell
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// `migrate`.
#[derive(Debug, Clone, Subcommand)]
pub enum MigrateAction {
    /// Apply what is missing
    Up {
        /// Also install the triggers by which the tables tell clapometer of changes, on this channel; see
        /// docs/notify.md
        #[arg(long, value_name = "CHANNEL", num_args = 0..=1, default_missing_value = "claps", value_parser = channel)]
        with_notify: Option<notify_sql::Identifier>,
    },
    /// Show what is applied and what is missing; exit 1 if anything is
    Status,
    /// Print the SQL, to be applied by other means
    Print,
}

/// `add`.
#[derive(Debug, Args)]
#[command(after_help = ADD_EXAMPLES)]
pub struct AddArguments {
    /// The number of requests to add, all alike
    #[arg(long, default_value_t = 1, value_parser = whole::<i32>(1..=100_000), value_name = "N",
          conflicts_with = "key")]
    pub count: i32,

    /// How long `work` without a program waits, in seconds; a program finds the number in CLAP_DURATION_SECONDS
    #[arg(long = "duration", default_value_t = 0, value_parser = whole::<i32>(0..=i32::MAX.into()), value_name = "SECONDS")]
    pub duration_seconds: i32,

    /// The payload: a JSON document for the program
    #[arg(long, default_value = "{}", value_parser = json_document, value_name = "JSON")]
    pub payload: String,

    /// The most attempts, not counting interrupted ones
    #[arg(long, default_value_t = 5, value_parser = whole::<i16>(1..=1000), value_name = "N")]
    pub max_attempts: i16,

    /// Add nothing if a request has this key already
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub key: Option<String>,

    /// One JSON document instead of text
    #[arg(long)]
    pub json: bool,
}

/// `list`.
#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub struct ListArguments {
    /// Only these states
    #[arg(long, value_delimiter = ',', ignore_case = true, value_name = "STATUS")]
    pub status: Vec<Status>,

    /// Only the claps of this Job, by its uid or name
    #[arg(long)]
    pub job: Option<String>,

    /// Only what happened within this time
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub since: Option<Duration>,

    /// The most claps to list
    #[arg(long, default_value_t = 50, value_parser = whole::<i64>(1..=100_000), value_name = "N")]
    pub limit: i64,

    /// One JSON document instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `retry`.
#[derive(Debug, Args)]
pub struct RetryArguments {
    /// The claps' numbers
    #[arg(required_unless_present = "all_dead", conflicts_with = "all_dead", value_name = "ID",
          value_parser = number)]
    pub ids: Vec<i64>,

    /// Every dead one
    #[arg(long)]
    pub all_dead: bool,

    /// One JSON document instead of text
    #[arg(long)]
    pub json: bool,
}

/// `prune`.
#[derive(Debug, Args)]
pub struct PruneArguments {
    /// Only claps that have been over for this long
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub older_than: Duration,

    /// The states to delete. DEAD claps are deleted only if DEAD is named, so that a person can look at them first
    #[arg(long, value_delimiter = ',', ignore_case = true, default_value = "SUCCESS,CANCELLED",
          value_parser = terminal_status, value_name = "STATUS")]
    pub status: Vec<Status>,

    /// The number of claps that each transaction deletes
    #[arg(long, default_value_t = 1000, value_parser = whole::<i64>(1..=100_000), value_name = "N")]
    pub batch: i64,

    /// Count instead of deleting
    #[arg(long)]
    pub dry_run: bool,

    /// One JSON document instead of text
    #[arg(long)]
    pub json: bool,
}

/// `work`.
#[derive(Debug, Args)]
#[command(after_help = WORK_EXAMPLES)]
pub struct WorkArguments {
    /// The time for which a clap belongs to this worker after each heartbeat
    #[arg(long, env = "POSTGRES_BATCH_LEASE", hide_env_values = true, default_value = "60s", value_parser = duration, value_name = "DURATION")]
    pub lease: Duration,

    /// The time between two heartbeats; three must fit into a lease [default: a quarter of the lease]
    #[arg(long, env = "POSTGRES_BATCH_BEAT", hide_env_values = true, value_parser = duration, value_name = "DURATION")]
    pub beat: Option<Duration>,

    /// The longest time that an attempt may take; a longer one has failed [default: no limit]
    #[arg(long, env = "POSTGRES_BATCH_TIMEOUT", hide_env_values = true, value_parser = duration, value_name = "DURATION")]
    pub timeout: Option<Duration>,

    /// The time that the program gets between SIGTERM and SIGKILL; keep it 10 s below the pod's
    /// terminationGracePeriodSeconds
    #[arg(long, env = "POSTGRES_BATCH_GRACE", hide_env_values = true, default_value = "20s", value_parser = duration, value_name = "DURATION")]
    pub grace: Duration,

    /// The Job that tries again after a failure: a new one, or the same
    #[arg(long, env = "POSTGRES_BATCH_RETRY_BY", hide_env_values = true, default_value = "queue")]
    pub retry_by: RetryBy,

    /// The Job's backoffLimit, for --retry-by job
    #[arg(long, env = "POSTGRES_BATCH_JOB_RETRIES", hide_env_values = true, default_value_t = 4,
          value_parser = whole::<u32>(0..=u32::MAX.into()), value_name = "N")]
    pub job_retries: u32,

    /// With --retry-by job: how long a failed clap is kept for its Job's next pod
    /// [default: Kubernetes' own back-off and a minute]
    #[arg(
        long,
        env = "POSTGRES_BATCH_RESERVE",
        hide_env_values = true,
        value_parser = duration,
        value_name = "DURATION"
    )]
    pub reserve: Option<Duration>,

    /// The time between a failure and the next attempt by a new Job; each further failure doubles it
    #[arg(long, env = "POSTGRES_BATCH_BACKOFF", hide_env_values = true, default_value = "15s", value_parser = duration,
          value_name = "DURATION")]
    pub backoff: Duration,

    /// The longest time between a failure and the next attempt
    #[arg(long, env = "POSTGRES_BATCH_BACKOFF_CAP", hide_env_values = true, default_value = "1h",
          value_parser = duration, value_name = "DURATION")]
    pub backoff_cap: Duration,

    /// Exit codes of the program after which trying again is pointless
    #[arg(long, env = "POSTGRES_BATCH_PERMANENT_EXIT_CODES", hide_env_values = true, default_value = "65",
          value_parser = exit_codes, value_name = "CODES")]
    pub permanent_exit_codes: ExitCodes,

    /// The number of interruptions by SIGTERM that cost a clap no attempt
    #[arg(long, env = "POSTGRES_BATCH_MAX_INTERRUPTIONS", hide_env_values = true, default_value_t = 10,
          value_parser = whole::<i32>(0..=1000), value_name = "N")]
    pub max_interruptions: i32,

    /// Without a program: how the wait ends
    #[arg(
        long,
        env = "FINAL_STATE",
        hide_env_values = true,
        default_value = "SUCCESS",
        ignore_case = true,
        value_name = "STATE"
    )]
    pub final_state: FinalState,

    /// Without a program: how many attempts of each clap fail first
    #[arg(long, env = "FAIL_FIRST", hide_env_values = true, default_value_t = 0,
          value_parser = whole::<u32>(0..=u32::MAX.into()), value_name = "N")]
    pub fail_first: u32,

    /// The program to run per row, with its arguments; without it, wait the row's duration_seconds
    #[arg(last = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

impl WorkArguments {
    /// Checks the options against each other, and finds the program.
    ///
    /// # Errors
    /// [`OptionsError`], which tells a wrong option from a missing program.
    pub fn rules(self) -> Result<Rules, OptionsError> {
        let Self {
            lease,
            beat,
            timeout,
            grace,
            retry_by,
            job_retries,
            reserve,
            backoff,
            backoff_cap,
            permanent_exit_codes,
            max_interruptions,
            final_state,
            fail_first,
            program,
        } = self;
        let beat = beat.unwrap_or(lease / 4);
        if lease < 2 * MARGIN {
            return Err(OptionsError::Usage(format!("--lease {} must be at least {}", show(lease), show(2 * MARGIN))));
        }
        if beat.is_zero() || beat * 3 >= lease {
            let longest = show(lease / 3);
            return Err(OptionsError::Usage(format!(
                "--beat {} must be above zero and below {longest}: three heartbeats must fit into --lease {}",
                show(beat),
                show(lease)
            )));
        }
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(OptionsError::Usage("--timeout must be above zero; leave it out for no limit".to_owned()));
        }
        let mut program = program.into_iter();
        let work = match program.next() {
            None => Work::Wait(Ending { final_state, fail_first }),
            Some(name) => {
                let found = Program::find(name, program.collect(), std::env::var_os("PATH"));
                Work::Run(found.map_err(OptionsError::Configuration)?)
            }
        };
        Ok(Rules {
            terms: Terms { lease, heartbeat: beat },
            timeout,
            grace,
            retry_by,
            job_retries,
            reserve,
            backoff,
            backoff_cap,
            permanent_exit_codes: permanent_exit_codes.0,
            max_interruptions,
            work,
        })
    }
}

/// The reason why options that the parser accepted cannot work.
#[derive(Debug, PartialEq, Eq)]
pub enum OptionsError {
    /// An option is wrong: exit code 2.
    Usage(String),
    /// The environment is wrong, for example the program is missing: exit code 78.
    Configuration(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_the_command_where_none_is_named() {
        let table = [
            ("", "work"),
            ("--schema q", "--schema q work"),
            ("--schema=q", "--schema=q work"),
            ("--schema work", "--schema work work"),
            ("-- true", "work -- true"),
            ("-- list --json", "work -- list --json"),
            ("--lease 10s", "work --lease 10s"),
            ("--lease=10s --help", "work --lease=10s --help"),
            ("--schema q --retry-by job -- cmd -h", "--schema q work --retry-by job -- cmd -h"),
            ("--schema", "--schema"),
            ("--help", "--help"),
            ("-V", "-V"),
            ("wrok", "wrok"),
            ("list --json", "list --json"),
            ("--schema q list", "--schema q list"),
        ];
        for (written, meant) in table {
            let words = |text: &str| {
                ["postgres-batch"].into_iter().chain(text.split_whitespace()).map(OsString::from).collect::<Vec<_>>()
            };
            assert_eq!(with_default_command(words(written)), words(meant), "{written}");
        }
    }
}
