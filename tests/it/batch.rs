//! The batch: its tables, its statements, its Job and its operator's commands.

mod chaos;
mod checks;
mod claims;
mod ground;
mod ledger;
mod migrate;
mod mutants;
mod operator;
mod outage;
mod pooled;
mod program;
mod story;
mod usage;
mod view;
