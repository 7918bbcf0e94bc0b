//! Load on the real server, over real gRPC, with every answer checked; `--help` lists what it can do.
//!
//! Nothing here passes or fails by a time. `check` fails on a broken invariant; the measurements
//! are ratios of two things that take turns within one run.

mod baseline;
mod builtin_trigger;
mod check;
mod claim_cost;
mod claims;
mod client;
mod custom;
mod document;
mod drive;
mod fixture;
mod fleet;
mod footprint;
mod history;
mod idle;
mod inserts;
mod many_triggers;
mod pgbench;
mod push;
mod rate;
mod report;
mod request;
mod shards;
mod soak;
#[path = "../../tests/it/support/mod.rs"]
#[allow(unused_imports, reason = "its own tests run with the integration tests, and are empty here")]
mod support;
mod tally;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use clapometer::proto;
use serde_json::Value;

#[derive(Debug, Parser)]
#[command(about = "Puts load on clapometer and checks its answers")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Given by `cargo bench`
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// KEDA's fleet after a restart, for 20 s; fails on a broken invariant, never on a time
    Check,
    /// Any load on any server
    Drive(custom::Load),
    /// Claims a second, against pgbench's UPDATE by primary key
    Claims(claims::Length),
    /// Size of the executable, time to start, memory
    Footprint,
    /// The cost of a poll as history grows: the view against the seed's query
    History(history::Reach),
    /// Inserts a second with the notifying trigger, against none and against a plain NOTIFY
    Inserts(inserts::Length),
    /// The cost of a fleet for PostgreSQL, against KEDA's built-in trigger
    BuiltinTrigger,
    /// From a commit to the message on an open stream, against the commit's own acknowledgement
    Push,
    /// A query over sixteen databases, against one of them
    Shards,
    /// The statements that reach PostgreSQL while nothing happens and `notify` is on
    Idle,
    /// Ten thousand triggers that are polled every ten seconds
    ManyTriggers,
    /// GetMetrics a second, against a bare tonic server
    Rate(rate::Length),
    /// Writes docs/benchmarks.md and its plots of what has been measured
    Report,
    /// The fleet and faults, for half an hour; then nothing may have grown
    Soak(soak::Length),
    /// Serves constants with plain tonic, until it is killed
    #[command(hide = true)]
    Baseline,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check => {
            let verdict = block_on(check::run());
            print!("{verdict}");
            report::write("load.json", &verdict.json());
            if verdict.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Command::Drive(load) => measured("drive.json", load.run()),
        Command::Claims(length) => measured("claims.json", claims::run(length)),
        Command::Footprint => measured("footprint.json", footprint::run()),
        Command::History(reach) => measured("history.json", history::run(reach)),
        Command::Inserts(length) => measured("inserts.json", inserts::run(length)),
        Command::BuiltinTrigger => measured("builtin-trigger.json", builtin_trigger::run()),
        Command::Push => measured("push.json", push::run()),
        Command::Shards => measured("shards.json", shards::run()),
        Command::Idle => measured("idle.json", idle::run()),
        Command::ManyTriggers => measured("many-triggers.json", many_triggers::run()),
        Command::Rate(length) => measured("rate.json", rate::run(length)),
        Command::Report => {
            document::write();
            ExitCode::SUCCESS
        }
        Command::Soak(length) => soak::run(length),
        Command::Baseline => baseline::serve(),
    }
}

fn measured(name: &str, measurement: impl Future<Output = Value>) -> ExitCode {
    report::write(name, &block_on(measurement));
    ExitCode::SUCCESS
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    // One thread, as the servers have: on two cores each of them and the load has one.
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts").block_on(future)
}
