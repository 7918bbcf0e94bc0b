//! Logs: JSON for machines, plain text on a terminal, always on standard error.

use std::{
    env,
    io::{self, IsTerminal},
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// What is logged unless `RUST_LOG` says otherwise (`debug`, or `target=level,...`).
const DEFAULT_LEVEL: LevelFilter = LevelFilter::INFO;

/// What other crates may log whatever `RUST_LOG` says. They quote what they handle: the driver
/// statements at debug and the server's notices at info, rustls certificates, h2 headers.
const DEPENDENCIES: LevelFilter = LevelFilter::ERROR;

/// Sends the log of this process to standard error. To be called once, first of all.
pub fn init() {
    let from_environment = env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let wanted = from_environment.unwrap_or_else(|| Targets::new().with_default(DEFAULT_LEVEL));
    let caps = Targets::new().with_default(DEPENDENCIES).with_target(env!("CARGO_CRATE_NAME"), LevelFilter::TRACE);
    let registry = tracing_subscriber::registry().with(caps).with(wanted);
    if io::stderr().is_terminal() {
        registry.with(fmt::layer().with_target(false).with_writer(io::stderr)).init();
    } else {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(io::stderr).boxed()).init();
    }
}
