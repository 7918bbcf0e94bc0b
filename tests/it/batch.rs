//! The batch: its tables, its statements, its Job and its operator's commands.

mod chaos;
mod checks;
mod claims;
mod cuts;
mod ground;
mod migrate;
mod mistakes;
mod mutants;
mod odd_rows;
mod operator;
mod outage;
mod pooled;
mod program;
mod store;
mod story;
mod surroundings;
mod usage;
mod view;
