//! `clapometer serve`.

use std::{net::SocketAddr, time::Duration};

use clap::Args;

use super::{ConfigFile, Exit, build, misconfigured, runtime};
use crate::{server, telemetry};

const EXAMPLES: &str = "\
SIGTERM and SIGINT end it: streams end with OK, calls are answered, then it exits with 0. The log is \
JSON unless standard error is a terminal; RUST_LOG sets its level.

Examples:
  clapometer serve --config clapometer.yaml
  PGHOST=localhost PGUSER=clapometer PGPASSFILE=~/.pgpass clapometer serve
  CLAPOMETER__DATABASES__CLAPS__POOL_SIZE=8 clapometer serve --config clapometer.yaml";

/// Answer KEDA over gRPC until SIGTERM
///
/// Serves the external scaler protocol, gRPC health and reflection on one port, and /livez,
/// /readyz and /metrics on another. Logs go to standard error.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
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
        let config = match file.load() {
            Ok(config) => config,
            Err(faults) => return misconfigured(&faults),
        };
        let addresses = server::Addresses {
            grpc: listen.unwrap_or(config.server.listen),
            admin: admin_listen.unwrap_or(config.admin.listen),
        };
        let _log = telemetry::init();
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "cannot start the runtime");
                return Exit::Failure;
            }
        };
        let ended = runtime.block_on(server::run(config, addresses, file.config, build()));
        // What is left is cut off: a DNS look-up in a thread of its own may take its time.
        runtime.shutdown_timeout(Duration::ZERO);
        match ended {
            Ok(()) => Exit::Success,
            Err(error) => {
                tracing::error!(error = %telemetry::error_chain(&error), "ended");
                // A certificate that cannot be used is the configuration's fault, found a moment later than its others.
                if matches!(error, server::ServeError::Tls(_)) { Exit::Configuration } else { Exit::Failure }
            }
        }
    }
}
