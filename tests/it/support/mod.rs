//! The test kit: a throwaway PostgreSQL, the real executables, a proxy that breaks connections, bounded waiting.
//!
//! Nothing here decides what is right: it makes things happen and shows the results. The demo and the load
//! generator include it, too. Every helper that decides whether a test fails has a test that sees it fail.
#![allow(dead_code, reason = "each of the crates that include this uses a part of it")]

pub(crate) mod admin;
pub(crate) mod binaries;
pub(crate) mod certificates;
pub(crate) mod clock;
pub(crate) mod cluster;
pub(crate) mod database;
pub(crate) mod executable;
pub(crate) mod fixture;
pub(crate) mod grpc;
pub(crate) mod memory_limit;
pub(crate) mod pooler;
pub(crate) mod preloaded;
pub(crate) mod processes;
pub(crate) mod proxy;
pub(crate) mod resolver;
pub(crate) mod skip;
pub(crate) mod tempdir;
pub(crate) mod terminal;
pub(crate) mod wait;
