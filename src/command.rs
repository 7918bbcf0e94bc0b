//! The commands of `clapometer`, and what their exit codes mean.

mod serve;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Environment, Faults};

/// What the process tells whoever started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// All is well.
    Success = 0,
    /// It ran, and something was wrong.
    Failure = 1,
    /// The scaler or the database is unavailable (sysexits' EX_UNAVAILABLE).
    Unavailable = 69,
    /// The configuration is wrong (sysexits' EX_CONFIG).
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Success => Self::SUCCESS,
            Exit::Failure => Self::from(1),
            Exit::Unavailable => Self::from(69),
            Exit::Configuration => Self::from(78),
        }
    }
}

/// The version, as `--version` and the metrics tell it.
const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("CLAPOMETER_COMMIT"), ", ", env!("CLAPOMETER_RUSTC"), ")");

/// PostgreSQL scaler for KEDA: scales Jobs and Deployments by what SQL counts.
#[derive(Debug, Parser)]
#[command(name = "clapometer", version = VERSION, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration (YAML); without it libpq's environment (PGHOST, DATABASE_URL...) is the
    /// database `claps`, with the built-in queries
    #[arg(long, value_name = "FILE", env = "CLAPOMETER_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn load(&self) -> Result<Config, Faults> {
        Config::load(self.path(), &Environment::of_process())
    }

    fn path(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    // clap itself exits with 2 for wrong usage.
    let exit = match Cli::parse().command {
        Command::Serve(serve) => serve.run(),
    };
    exit.into()
}

/// Reports a configuration's faults.
fn misconfigured(faults: &Faults) -> Exit {
    eprintln!("{faults}");
    Exit::Configuration
}
