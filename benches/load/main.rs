//! Load on the real server, over real gRPC, with every answer checked; `--help` lists what it can do.
//!
//! Nothing here passes or fails by a time. `check` fails on a broken invariant; the measurements
//! are ratios of two things that take turns within one run.

mod ask;
mod check;
mod client;
mod drive;
mod fleet;
mod ground;
#[path = "../../tests/it/support/mod.rs"]
#[allow(unused_imports, reason = "its own tests run with the integration tests, and are empty here")]
mod support;
mod tally;
mod yardstick;

use std::{path::Path, process::ExitCode};

use clap::{Parser, Subcommand};
use clapometer::wire;

#[derive(Debug, Parser)]
#[command(about = "Puts load on clapometer and checks its answers")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Given by `cargo bench`.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// KEDA's fleet after a restart, for 20 s; fails on a broken invariant, never on a time
    Check,
    /// Serves constants with plain tonic, until it is killed
    #[command(hide = true)]
    Yardstick,
}

fn main() -> ExitCode {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    match Cli::parse().command {
        Command::Check => {
            let verdict = runtime().block_on(check::run());
            print!("{verdict}");
            write("load.json", &verdict.json());
            if verdict.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Command::Yardstick => yardstick::serve(),
    }
}

/// Writes a result where the build puts its own.
fn write(name: &str, result: &serde_json::Value) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let text = serde_json::to_string_pretty(result).expect("a value is JSON");
    std::fs::write(&path, text + "\n").expect("the target directory is writable");
    println!("{}", path.display());
}
