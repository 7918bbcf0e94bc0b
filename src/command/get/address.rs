//! The address of a scaler, and the certificates for the connection.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use http::Uri;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::telemetry::error_chain;

/// The longest that DNS, TCP and TLS may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The options `--address` and `--tls-*`.
#[derive(Debug, Args)]
pub(super) struct Address {
    /// The scaler's address; https:// before it turns on TLS
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9090")]
    address: String,
    /// The CA of the scaler's certificate (PEM) [default: the CAs that the system trusts]
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The client certificate (PEM), for a scaler that requires one
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The name that the scaler's certificate must have, for `kubectl port-forward` [default: the
    /// host of --address]
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
}

impl Address {
    /// Returns the address as it was given.
    pub(super) fn shown(&self) -> &str {
        &self.address
    }

    /// Returns whether the connection uses TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.address.starts_with("https://")
            || self.tls_ca.is_some()
            || self.tls_cert.is_some()
            || self.tls_server_name.is_some()
    }

    /// Returns the endpoint to connect to.
    ///
    /// # Errors
    /// Says what is wrong with the address or a file.
    pub(super) fn endpoint(&self) -> Result<Endpoint, String> {
        let (scheme, rest) = match self.address.split_once("://") {
            Some(("http", _)) if self.is_secure() => {
                return Err("--address: http:// is plain text, but --tls-* is given; leave one out".to_owned());
            }
            Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
            Some(_) => return Err("--address: must be HOST:PORT, http://HOST:PORT or https://HOST:PORT".to_owned()),
            None => (if self.is_secure() { "https" } else { "http" }, self.address.as_str()),
        };
        let uri: Uri = format!("{scheme}://{rest}")
            .parse()
            .map_err(|error| format!("--address: must be HOST:PORT, such as 127.0.0.1:9090 ({error})"))?;
        if uri.port_u16().is_none() {
            return Err("--address: needs a port; KEDA dials 443 where scalerAddress has none".to_owned());
        }
        let endpoint = Endpoint::from(uri).connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        if !self.is_secure() {
            return Ok(endpoint);
        }
        endpoint.tls_config(self.tls()?).map_err(|error| format!("--tls-*: {}", error_chain(&error)))
    }

    fn tls(&self) -> Result<ClientTlsConfig, String> {
        let mut tls = match &self.tls_ca {
            Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(file("--tls-ca", path)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            tls = tls.identity(Identity::from_pem(file("--tls-cert", cert)?, file("--tls-key", key)?));
        }
        if let Some(name) = &self.tls_server_name {
            tls = tls.domain_name(name);
        }
        Ok(tls)
    }
}

/// Connects now rather than at the first call, so that the two kinds of failure can be distinguished.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
    endpoint.connect().await
}

fn file(option: &str, path: &PathBuf) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{option}: cannot read {}: {error}", path.display()))
}
