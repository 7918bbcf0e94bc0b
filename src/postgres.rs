//! PostgreSQL.
pub mod connect;
mod tls;
