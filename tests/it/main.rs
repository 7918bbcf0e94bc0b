//! Behaviour seen from outside: real PostgreSQL, real executables, a real client. A file per behaviour.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod allocations;
mod batch;
mod budget;
mod canaries;
mod commands;
mod conformance;
mod credentials;
mod dashboard;
mod dead_connection;
mod demo;
mod examples;
mod failover;
mod groups;
mod hanging_files;
mod hostile;
mod incidents;
mod keda;
mod listen;
mod migrate;
mod notify_sql;
mod oracle;
mod presets;
mod query_files;
mod recorder;
mod reload;
mod replicas;
mod right_server;
mod role_settings;
mod scaler_faults;
mod scaler_lifecycle;
mod scaler_load;
mod scaler_secrets;
mod shards;
mod shutdown;
mod silent_zero;
mod status;
mod streams;
mod support;
mod tenants;
mod tls;
