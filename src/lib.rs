//! clapometer: a PostgreSQL scaler for KEDA; and postgres-batch, the Job that it scales.
//!
//! The way of a call: KEDA's RPC enters [`server`], [`scaler`] parses the trigger's metadata
//! against the registry of [`query`], asks its [`cache`] for the freshest reading, which
//! [`postgres`] counts in one read-only transaction, and converts it with [`scaling`].
//!
//! ```text
//! config ─> query ─> postgres ─> cache ─> scaler ─> admin ─> server ─> command
//! config ──────────> postgres ─> batch
//! ```
//!
//! Modules name only what stands to their left; `tests/layers.rs` holds them to it. [`scaling`],
//! [`conninfo`], [`diagnostics`], [`reading`], [`fault`], [`keda`], [`terminal`], [`metrics`], [`notify_sql`], [`pem`], [`shutdown`], [`telemetry`], [`version`] and
//! [`wire`] are leaves that anybody may name.

pub mod admin;
pub mod batch;
pub mod cache;
pub mod command;
pub mod config;
pub mod conninfo;
pub mod diagnostics;
pub mod fault;
pub mod keda;
pub mod metrics;
pub mod notify_sql;
pub mod pem;
pub mod postgres;
pub mod query;
pub mod reading;
pub mod scaler;
pub mod scaling;
pub mod server;
pub mod shutdown;
pub mod telemetry;
pub mod terminal;
pub mod version;
pub mod wire;
