//! Logs: JSON for machines, plain text on a terminal, always on standard error.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{EnvFilter, Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// What is logged unless `RUST_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info";

/// Capped whatever `RUST_LOG` says: the driver logs statements at debug and the server's
/// notices at info, and both may hold what must not be seen.
const CAPPED: [&str; 3] = ["tokio_postgres", "postgres_protocol", "deadpool"];

/// Sends the log of this process to standard error. To be called once, first of all.
pub fn init() {
    let wanted = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let mut caps = Targets::new().with_default(LevelFilter::TRACE);
    for target in CAPPED {
        caps = caps.with_target(target, LevelFilter::ERROR);
    }
    let registry = tracing_subscriber::registry().with(caps).with(wanted);
    if io::stderr().is_terminal() {
        registry.with(fmt::layer().with_target(false).with_writer(io::stderr)).init();
    } else {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(io::stderr).boxed()).init();
    }
}
