//! Behaviour seen from outside: real PostgreSQL, real executables, a real client. A file per behaviour.

mod batch;
mod dashboard;
mod examples;
mod keda;
mod support;
mod tls;
