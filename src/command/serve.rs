//! `clapometer serve`: answers KEDA until SIGTERM.

use std::{net::SocketAddr, time::Duration};

use clap::Args;

use super::{ConfigFile, Exit, build, listen_address, misconfigured, misused, runtime};
use crate::{server, telemetry};

const EXAMPLES: &str = "\
On SIGTERM or SIGINT it ends its streams with OK, answers the calls that are under way, and exits \
with 0. The log is JSON unless standard error is a terminal; RUST_LOG sets its level, and
CLAPOMETER_LOG_FORMAT its format, json or text.

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
    /// The address for gRPC; overrides server.listen [default: 0.0.0.0:9090]
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    listen: Option<SocketAddr>,
    /// The address for probes, metrics, the status page and `clapometer why`; overrides admin.listen [default:
    /// 0.0.0.0:9091]
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    admin_listen: Option<SocketAddr>,
}

impl Serve {
    pub(super) fn run(self) -> Exit {
        let Self { config: file, listen, admin_listen } = self;
        if let Some(problem) = file.is_not_followed() {
            return misused("serve", problem);
        }
        let config = match file.load_main() {
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
        // Cuts off what is left: a DNS look-up in a thread of its own may take long.
        runtime.shutdown_timeout(Duration::ZERO);
        match ended {
            Ok(()) => Exit::Success,
            Err(error) => {
                tracing::error!(error = %telemetry::error_chain(&error), "the server ended");
                // An unusable certificate is a fault of the configuration that only shows once the server starts.
                if matches!(error, server::ServeError::Tls(_)) { Exit::Configuration } else { Exit::Failure }
            }
        }
    }
}
