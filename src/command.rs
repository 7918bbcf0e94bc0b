//! The commands of `clapometer`, and what their exit codes mean.

mod check;
mod config;
mod count_cap;
mod get;
mod notify_sql;
mod serve;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, CommandFactory, Parser, Subcommand, error::ErrorKind};

use crate::{
    config::{Config, Environment},
    diagnostics::Misconfiguration,
    metrics::Build,
    version::VERSION,
};

/// What the process tells whoever started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// All is well.
    Success,
    /// It ran, and something was wrong.
    Failure,
    /// The arguments are wrong; clap itself exits with the same code.
    Usage,
    /// The scaler or the database is unavailable (sysexits' EX_UNAVAILABLE).
    Unavailable,
    /// The configuration is wrong (sysexits' EX_CONFIG).
    Configuration,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Success => Self::SUCCESS,
            Exit::Failure => Self::from(1),
            Exit::Usage => Self::from(2),
            Exit::Unavailable => Self::from(69),
            Exit::Configuration => Self::from(78),
        }
    }
}

const HELP: &str = "\
Begin with `clapometer check`: it shows whether the configuration is right, the databases answer and \
each query counts. Ask a scaler that runs with `clapometer get QUERY`.

Exit codes:
   0  all is well
   1  a query failed (check), the scaler answered with an error (get), serving failed (serve)
   2  wrong usage
  69  a database (check) or the scaler (get) is unavailable
  78  the configuration is wrong";

/// PostgreSQL scaler for KEDA: scales Jobs and Deployments by what SQL counts.
#[derive(Debug, Parser)]
#[command(name = "clapometer", version = VERSION, propagate_version = true, max_term_width = 100, after_help = HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Check(check::Check),
    Get(Box<get::Get>),
    Config(config::PrintConfig),
    NotifySql(notify_sql::NotifySql),
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration (YAML); without it libpq's environment (PGHOST, DATABASE_URL...) is the
    /// database `claps`, with the built-in queries
    #[arg(long, value_name = "FILE", env = "CLAPOMETER_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn load(&self) -> Result<Config, Misconfiguration> {
        Config::load(self.path(), &Environment::of_process())
    }

    fn path(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// What the configuration is called in messages.
    fn title(&self) -> String {
        self.path().map_or_else(|| "libpq's environment".to_owned(), |path| path.display().to_string())
    }
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    // clap itself exits with 2 for wrong usage.
    let exit = match Cli::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Check(check) => check.run(),
        Command::Get(get) => get.run(),
        Command::Config(config) => config.run(),
        Command::NotifySql(notify_sql) => notify_sql.run(),
    };
    exit.into()
}

/// This executable, for metrics.
const fn build() -> Build {
    Build { version: env!("CARGO_PKG_VERSION"), commit: env!("CLAPOMETER_COMMIT"), rustc: env!("CLAPOMETER_RUSTC") }
}

/// Reports a configuration's faults.
fn misconfigured(faults: &Misconfiguration) -> Exit {
    eprintln!("{faults}");
    Exit::Configuration
}

/// Reports wrong usage that clap cannot see, as clap does.
fn misused(subcommand: &str, problem: &str) -> Exit {
    let mut cli = Cli::command();
    cli.build();
    let error = match cli.find_subcommand_mut(subcommand) {
        Some(command) => command.error(ErrorKind::ValueValidation, problem),
        None => cli.error(ErrorKind::ValueValidation, problem),
    };
    // Nobody is left to tell if standard error is closed.
    let _ = error.print();
    Exit::Usage
}

/// A runtime of one thread. Two workers cost the scaler 1.5 times the CPU per request, and more on fan-out.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
