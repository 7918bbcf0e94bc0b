//! The commands of `clapometer` and their exit codes.

mod check;
mod chosen;
mod completions;
mod config;
mod count_cap;
mod get;
mod init;
mod input;
mod lint;
mod migrate;
mod notify_sql;
mod presets;
mod serve;
mod simulate;
mod why;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use tokio::runtime::Runtime;

use crate::{
    blocking::runtime,
    config::{Config, Environment, bounded_text},
    diagnostics::Misconfiguration,
    keda::version::Version,
    metrics::Build,
    terminal::{complain, usage},
    version::VERSION,
};

/// The outcome of a command, as its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// All is well.
    Success,
    /// The command ran and found or met a failure.
    Failure,
    /// The arguments are wrong. The parser exits with the same code.
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
Begin with `clapometer init`: it writes the configuration for the queue that is in a database. `clapometer check` \
shows whether the configuration is right, the databases answer and each query works. `clapometer get QUERY` asks a running scaler. `clapometer lint FILE` says what KEDA will do \
with a ScaledJob or a ScaledObject, `clapometer simulate FILE` how long rows will wait for it; \
`clapometer why NAMESPACE/NAME` says afterwards what KEDA was told.

Exit codes:
   0  all is well
   1  a query (check), an answer (get), a manifest (lint) or serving (serve) failed, or nothing is known (why)
   2  wrong usage
  69  a database (check) or the scaler (get, why) is unavailable
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
    Lint(lint::Lint),
    Migrate(migrate::Migrate),
    NotifySql(notify_sql::NotifySql),
    Init(init::Init),
    Presets(presets::ShowPresets),
    Simulate(Box<simulate::Simulate>),
    Why(why::Why),
    Completions(completions::Completions),
}

/// The path that means standard input.
const STANDARD_INPUT: &str = "-";

/// The name of standard input in messages.
const STANDARD_INPUT_NAME: &str = "<stdin>";

/// The option that names the configuration.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration (YAML). Without it there is one database, `claps`, from libpq's
    /// environment (PGHOST, DATABASE_URL...), with the built-in queries. `check` and `config` also
    /// take `-`, standard input, and a directory with `clapometer.yaml` and query files
    #[arg(long, value_name = "FILE", env = "CLAPOMETER_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
}

impl ConfigFile {
    /// Loads the configuration with its query files: from a file, from standard input (`-`) or from a directory.
    fn load(&self) -> Result<Config, Misconfiguration> {
        self.load_in(&Environment::of_process())
    }

    /// Loads the configuration as on a machine that may lack the files and variables which it refers to.
    fn load_elsewhere(&self) -> Result<Config, Misconfiguration> {
        self.load_in(&Environment::of_process().elsewhere())
    }

    fn load_in(&self, environment: &Environment) -> Result<Config, Misconfiguration> {
        match self.path() {
            Some(path) if path == STANDARD_INPUT => match bounded_text(std::io::stdin()) {
                Ok(text) => Config::load_text(Path::new(STANDARD_INPUT_NAME), &text, environment),
                Err(message) => Err(Misconfiguration::whole(STANDARD_INPUT_NAME.into(), message)),
            },
            Some(path) if path.is_dir() => Config::load_directory(path, environment),
            path => Config::load(path, environment),
        }
    }

    /// Loads the main file's part, without the query files.
    fn load_main(&self) -> Result<Config, Misconfiguration> {
        Config::load_main(self.path(), &Environment::of_process())
    }

    fn path(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Returns why `serve` cannot use this source of the configuration, if it cannot: `serve` has to read it again.
    fn is_not_followed(&self) -> Option<&'static str> {
        let path = self.path()?;
        (path == STANDARD_INPUT || path.is_dir())
            .then_some("--config must be a file, because it is read again when it changes; `-` and directories are for check and config")
    }

    /// The configuration's name in messages.
    fn title(&self) -> String {
        match self.path() {
            None => "libpq's environment".to_owned(),
            Some(path) if path == STANDARD_INPUT => STANDARD_INPUT_NAME.to_owned(),
            Some(path) => path.display().to_string(),
        }
    }
}

/// Reads a whole number. The parser's own message about a wrong one does not say what would be right.
fn whole<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let number: u64 = text.parse().map_err(|_| "must be a whole number, 0 or more".to_owned())?;
    T::try_from(number).map_err(|_| "is too large a number".to_owned())
}

/// Says on standard error that a version of KEDA is not known.
fn warn_of_version(keda: Version) {
    if let Some(warning) = keda.warning() {
        complain(&warning);
    }
}

/// Checks the address at which KEDA shall dial a scaler.
fn is_scaler_address(address: &str) -> Result<(), String> {
    let port = address
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty() && !host.contains("://") && !host.contains(char::is_whitespace))
        .and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_some_and(|port| port > 0) { Ok(()) } else { Err("must be HOST:PORT".to_owned()) }
}

/// Reads an address to listen on.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be an IP address and a port, such as 0.0.0.0:9090".to_owned())
}

/// Returns the command line, from which the man pages are made.
pub fn command_line() -> clap::Command {
    Cli::command()
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    // The parser exits with 2 for wrong usage. `-5` is a number to it, so that its option says what it may be.
    let mut command = Cli::command().mut_subcommands(|command| command.allow_negative_numbers(true));
    let matches = command.try_get_matches_from_mut(std::env::args_os());
    let cli = matches.and_then(|matches| Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command)));
    let cli = cli.unwrap_or_else(|error| usage::end(&usage::advised(error, std::env::args_os())));
    let exit = match cli.command {
        Command::Serve(serve) => serve.run(),
        Command::Check(check) => check.run(),
        Command::Get(get) => get.run(),
        Command::Config(config) => config.run(),
        Command::Lint(lint) => lint.run(),
        Command::Migrate(migrate) => migrate.run(),
        Command::NotifySql(notify_sql) => notify_sql.run(),
        Command::Init(init) => init.run(),
        Command::Presets(presets) => presets.run(),
        Command::Simulate(simulate) => simulate.run(),
        Command::Why(why) => why.run(),
        Command::Completions(completions) => completions.run(),
    };
    exit.into()
}

/// The identity of this executable, for the metrics.
const fn build() -> Build {
    Build { version: env!("CARGO_PKG_VERSION"), commit: env!("CLAPOMETER_COMMIT"), rustc: env!("CLAPOMETER_RUSTC") }
}

/// Reports the faults of a configuration.
fn misconfigured(faults: &Misconfiguration) -> Exit {
    complain(&faults.to_string());
    Exit::Configuration
}

/// Starts the runtime; reports why it does not start.
fn start_runtime() -> Result<Runtime, Exit> {
    runtime().map_err(|error| {
        complain(&format!(
            "cannot start the runtime: {error}; are there enough threads and file descriptors (`ulimit -u`, `ulimit -n`)?"
        ));
        Exit::Failure
    })
}

/// Reports wrong usage that the parser cannot see, as the parser does.
fn misused(subcommand: &str, problem: &str) -> Exit {
    let mut cli = Cli::command();
    cli.build();
    let error = match cli.find_subcommand_mut(subcommand) {
        Some(command) => command.error(ErrorKind::ValueValidation, problem),
        None => cli.error(ErrorKind::ValueValidation, problem),
    };
    // If standard error is closed, there is no other place to report it.
    let _ = error.print();
    Exit::Usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalers_address_has_a_host_and_a_port() {
        for address in [
            "clapometer",
            "clapometer:",
            ":9090",
            "clapometer:0",
            "clapometer:http",
            "a b:9090",
            "http://clapometer:9090",
        ] {
            assert!(is_scaler_address(address).is_err(), "{address}");
        }
        assert_eq!(is_scaler_address("clapometer.clapometer:9090"), Ok(()));
    }
}
