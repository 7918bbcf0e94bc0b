//! The command line: what is written, checked into what is meant.

use std::{ffi::OsString, time::Duration};

use clap::{Args, Parser, Subcommand};

use super::{
    lease::{MARGIN, Terms},
    life::Rules,
    outcome::RetryBy,
    work::{Ending, FinalState, Program, Work},
};

const CONNECTION_HELP: &str = "\
Connection: PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE, PGSSLMODE... as for psql, or DATABASE_URL;
below them PG_HOST, PG_PORT and PG_USERNAME.
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

/// One clap per Job: claims a row, does its work, books the end.
#[derive(Debug, Parser)]
#[command(name = "postgres-batch", version, after_help = CONNECTION_HELP)]
pub struct Arguments {
    /// The schema of the tables, for a queue per schema [default: the role's search_path]
    #[arg(long, global = true, env = "POSTGRES_BATCH_SCHEMA", value_name = "NAME", hide_env_values = true)]
    pub schema: Option<String>,

    /// Without a command: work.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Claim one clap and do its work (the default)
    Work(Box<WorkArguments>),
    /// Create or inspect the tables
    Migrate {
        /// What to do with them.
        #[command(subcommand)]
        action: MigrateAction,
    },
    /// Become a program; used by `work` between fork and exec
    #[command(name = super::work::EXECUTE, hide = true)]
    Execute {
        /// The worker's process id.
        parent: i32,
        /// The program.
        program: OsString,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// `migrate`.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum MigrateAction {
    /// Apply what is missing
    Up,
    /// Show what is applied and what is missing; exit 1 if anything is
    Status,
    /// Print the SQL, to be applied by other means
    Print,
}

/// `work`.
#[derive(Debug, Args)]
pub struct WorkArguments {
    /// How long a clap stays ours after each heartbeat
    #[arg(long, env = "POSTGRES_BATCH_LEASE", hide_env_values = true, default_value = "60s", value_parser = duration, value_name = "DURATION")]
    pub lease: Duration,

    /// From heartbeat to heartbeat; three must fit into a lease [default: a quarter of the lease]
    #[arg(long, env = "POSTGRES_BATCH_BEAT", hide_env_values = true, value_parser = duration, value_name = "DURATION")]
    pub beat: Option<Duration>,

    /// The longest an attempt may take; counts as a failure [default: no limit]
    #[arg(long, env = "POSTGRES_BATCH_TIMEOUT", hide_env_values = true, value_parser = duration, value_name = "DURATION")]
    pub timeout: Option<Duration>,

    /// From SIGTERM to SIGKILL, for the program; keep it 10 s below the pod's terminationGracePeriodSeconds
    #[arg(long, env = "POSTGRES_BATCH_GRACE", hide_env_values = true, default_value = "20s", value_parser = duration, value_name = "DURATION")]
    pub grace: Duration,

    /// Who tries again after a failure
    #[arg(long, env = "POSTGRES_BATCH_RETRY_BY", hide_env_values = true, default_value = "queue")]
    pub retry_by: RetryBy,

    /// The Job's backoffLimit, for --retry-by job
    #[arg(long, env = "POSTGRES_BATCH_JOB_RETRIES", hide_env_values = true, default_value_t = 4, value_name = "N")]
    pub job_retries: u32,

    /// From a failure to the next attempt by a new Job; doubled by each further failure
    #[arg(long, env = "POSTGRES_BATCH_BACKOFF", hide_env_values = true, default_value = "15s", value_parser = duration,
          value_name = "DURATION")]
    pub backoff: Duration,

    /// The longest that gets
    #[arg(long, env = "POSTGRES_BATCH_BACKOFF_CAP", hide_env_values = true, default_value = "1h",
          value_parser = duration, value_name = "DURATION")]
    pub backoff_cap: Duration,

    /// Exit codes of the program after which trying again is pointless
    #[arg(long, env = "POSTGRES_BATCH_PERMANENT_EXIT_CODES", hide_env_values = true, default_value = "65", value_delimiter = ',',
          value_parser = clap::value_parser!(i32).range(1..=255), value_name = "CODES")]
    pub permanent_exit_codes: Vec<i32>,

    /// How many interruptions by SIGTERM cost a clap no attempt
    #[arg(long, env = "POSTGRES_BATCH_MAX_INTERRUPTIONS", hide_env_values = true, default_value_t = 10,
          value_parser = clap::value_parser!(i32).range(0..=1000), value_name = "N")]
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
    #[arg(long, env = "FAIL_FIRST", hide_env_values = true, default_value_t = 0, value_name = "N")]
    pub fail_first: u32,

    /// The program to run per row, with its arguments; without it, wait the row's duration_seconds
    #[arg(last = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

impl WorkArguments {
    /// What `work` means without any argument: defaults, and the environment.
    ///
    /// # Errors
    /// A variable that cannot be what it says.
    pub fn from_environment() -> Result<Self, clap::Error> {
        let arguments = Arguments::try_parse_from(["postgres-batch", "work"])?;
        match arguments.command {
            Some(Command::Work(work)) => Ok(*work),
            _ => unreachable!("`work` is what was parsed"),
        }
    }

    /// Checks what clap cannot.
    ///
    /// # Errors
    /// [`Unusable`], by whether the arguments or the machine are to blame.
    pub fn rules(self) -> Result<Rules, Unusable> {
        let Self {
            lease,
            beat,
            timeout,
            grace,
            retry_by,
            job_retries,
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
            return Err(Unusable::Usage(format!("--lease {} must be at least {}", show(lease), show(2 * MARGIN))));
        }
        if beat.is_zero() || beat * 3 >= lease {
            let longest = show(lease / 3);
            return Err(Unusable::Usage(format!(
                "--beat {} must be above zero and below {longest}: three beats must fit into --lease {}",
                show(beat),
                show(lease)
            )));
        }
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Unusable::Usage("--timeout must be above zero; leave it out for no limit".to_owned()));
        }
        let mut program = program.into_iter();
        let work = match program.next() {
            None => Work::Wait(Ending { final_state, fail_first }),
            Some(name) => {
                let found = Program::find(name, program.collect(), std::env::var_os("PATH"));
                Work::Run(found.map_err(Unusable::Configuration)?)
            }
        };
        Ok(Rules {
            terms: Terms { lease, beat },
            timeout,
            grace,
            retry_by,
            job_retries,
            backoff,
            backoff_cap,
            permanent_exit_codes,
            max_interruptions,
            work,
        })
    }
}

/// Arguments that clap accepts and that cannot work.
#[derive(Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Exit code 2.
    Usage(String),
    /// Exit code 78.
    Configuration(String),
}

/// `1500ms`, `5s`, `10m`, `2h`, `7d`.
fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    match (number.parse::<u64>(), factor) {
        (Ok(number), Some(factor)) if number <= 86_400_000 => Ok(Duration::from_millis(number * factor)),
        _ => Err("a duration is a whole number with a unit: 1500ms, 5s, 10m, 2h, 7d".to_owned()),
    }
}

fn show(duration: Duration) -> String {
    format!("{duration:?}")
}
