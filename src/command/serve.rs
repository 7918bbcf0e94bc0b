//! `clapometer serve`.

use std::{net::SocketAddr, time::Duration};

use clap::Args;

use super::{ConfigFile, Exit, misconfigured};
use crate::{metrics::Build, server, telemetry};

/// Answer KEDA over gRPC until SIGTERM.
///
/// Serves the external scaler protocol, gRPC health and reflection on one port, and /livez,
/// /readyz and /metrics on another. Logs go to standard error.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    config: ConfigFile,
    /// Where to serve gRPC; overrides server.listen [default: 0.0.0.0:9090]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where to serve probes and metrics; overrides admin.listen [default: 0.0.0.0:9091]
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<SocketAddr>,
}

impl Serve {
    pub(super) fn run(self) -> Exit {
        let Self { config: file, listen, admin_listen } = self;
        let mut config = match file.load() {
            Ok(config) => config,
            Err(faults) => return misconfigured(&faults),
        };
        config.server.listen = listen.unwrap_or(config.server.listen);
        config.admin.listen = admin_listen.unwrap_or(config.admin.listen);
        telemetry::init();
        // One thread: two workers cost 1.5 times the CPU per request here, and more on fan-out.
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "cannot start the runtime");
                return Exit::Failure;
            }
        };
        let build = Build {
            version: env!("CARGO_PKG_VERSION"),
            commit: env!("CLAPOMETER_COMMIT"),
            rustc: env!("CLAPOMETER_RUSTC"),
        };
        let ended = runtime.block_on(server::run(config, file.config, build));
        // What is left is cut off: a DNS look-up in a thread of its own may take its time.
        runtime.shutdown_timeout(Duration::ZERO);
        match ended {
            Ok(()) => Exit::Success,
            Err(error) => {
                tracing::error!(error = %chain(&error), "ended");
                Exit::Failure
            }
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
