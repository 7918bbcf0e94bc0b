//! clapometer: a PostgreSQL scaler for KEDA; and postgres-batch, the Job that it scales.
//!
//! The way of a call: KEDA's RPC enters [`server`]. [`scaler`] parses the trigger's metadata against the `Catalog` of
//! queries and asks the [`cache`] for the freshest reading. [`postgres`] reads it in one read-only transaction, and
//! [`scaling`] divides and rounds it.
//!
//! ```text
//! query ─> presets ─> config ─> postgres ─> cache ─> scaler ─> admin ─> server ─> command
//! query ─> presets ─> config ─> postgres ─> batch
//! query ─> presets ─> config ─> postgres ─> cache ─> scaler ─> lint ─> migrate ─> command
//! ```
//!
//! A module names only modules to its left. The others are leaves that every module may name.
//! `tests/layers.rs` has both as tables and checks every import.

pub mod admin;
pub mod batch;
pub mod blocking;
pub mod budget;
pub mod cache;
pub mod command;
pub mod config;
pub mod conninfo;
pub mod diagnostics;
pub mod fault;
pub mod file;
pub mod json;
pub mod keda;
pub mod lint;
pub mod manifest;
pub mod metrics;
pub mod migrate;
pub mod notify_sql;
pub mod pem;
pub mod places;
pub mod plot;
pub mod postgres;
pub mod presets;
pub mod proto;
pub mod query;
pub mod reading;
pub mod recorder;
pub mod remedy;
pub mod scaler;
pub mod scaling;
pub mod server;
pub mod shutdown;
pub mod telemetry;
pub mod terminal;
pub mod turns;
pub mod version;
mod yaml;
