//! The address of a scaler, and the certificates for the connection.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use http::Uri;
use rustls::{crypto::ring, sign::CertifiedKey};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::{
    diagnostics::shown_path,
    file,
    manifest::{Trigger, boolean},
    pem,
    recorder::LOOKING,
    telemetry::error_chain,
};

/// The address of a scaler on this machine.
const LOCAL: &str = "127.0.0.1:9090";

/// The port that KEDA dials where an address has none.
const HTTPS_PORT: &str = "443";

/// The time limit for DNS, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The options `--address` and `--tls-*`.
#[derive(Debug, Args)]
pub(super) struct Address {
    /// The scaler's address; with https:// in front of it, over TLS [default: 127.0.0.1:9090, or the
    /// scalerAddress of a manifest's trigger]
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
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
    /// host of the address; of scalerAddress if the manifest's trigger has enableTLS]
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
}

/// The scaler to ask, and how to connect to it.
pub(super) struct Target<'a> {
    address: String,
    /// The option or the key that the address comes from.
    origin: &'static str,
    is_secure: bool,
    server_name: Option<String>,
    options: &'a Address,
}

impl Address {
    /// Returns the scaler that the options name.
    pub(super) fn target(&self) -> Target<'_> {
        let address = self.address.clone().unwrap_or_else(|| LOCAL.to_owned());
        self.target_at(address, "--address", false, None)
    }

    /// Returns the scaler that KEDA asks for a trigger, at --address if that is given.
    pub(super) fn target_of(&self, trigger: Trigger<'_>) -> Target<'_> {
        let named = trigger.text("scalerAddress").unwrap_or_default();
        let named = named.strip_prefix("dns:///").unwrap_or(named);
        let (host, port) = named.rsplit_once(':').unwrap_or((named, HTTPS_PORT));
        let is_secure = trigger.text("enableTLS").and_then(boolean) == Some(true);
        match &self.address {
            // The address differs, but the certificate is the same.
            Some(address) if is_secure => self.target_at(address.clone(), "--address", true, Some(host.to_owned())),
            Some(address) => self.target_at(address.clone(), "--address", false, None),
            None => self.target_at(format!("{host}:{port}"), "scalerAddress", is_secure, None),
        }
    }

    fn target_at(
        &self,
        address: String,
        origin: &'static str,
        is_secure: bool,
        server_name: Option<String>,
    ) -> Target<'_> {
        let is_secure = address.starts_with("https://")
            || self.tls_ca.is_some()
            || self.tls_cert.is_some()
            || self.tls_server_name.is_some()
            || (is_secure && !address.starts_with("http://"));
        let server_name = self.tls_server_name.clone().or(server_name).filter(|_| is_secure);
        Target { address, origin, is_secure, server_name, options: self }
    }

    fn tls(&self, server_name: Option<&str>) -> Result<ClientTlsConfig, String> {
        let mut tls = match &self.tls_ca {
            Some(path) => {
                pem::certificates(path).map_err(|error| unusable("--tls-ca", path, &error))?;
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(content("--tls-ca", path)?))
            }
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            let chain = pem::certificates(cert).map_err(|error| unusable("--tls-cert", cert, &error))?;
            let private_key = pem::private_key(key).map_err(|error| unusable("--tls-key", key, &error))?;
            CertifiedKey::from_der(chain, private_key, &ring::default_provider())
                .map_err(|error| unusable("--tls-key", key, &pem::unfit(&error, cert)))?;
            tls = tls.identity(Identity::from_pem(content("--tls-cert", cert)?, content("--tls-key", key)?));
        }
        if let Some(name) = server_name {
            tls = tls.domain_name(name);
        }
        Ok(tls)
    }
}

impl Target<'_> {
    /// Returns the address as it was given.
    pub(super) fn shown(&self) -> &str {
        &self.address
    }

    /// Returns whether the connection uses TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Returns the endpoint to connect to.
    ///
    /// # Errors
    /// Says what is wrong with the address or a file.
    pub(super) fn endpoint(&self) -> Result<Endpoint, String> {
        let Self { address, origin, is_secure, server_name, options } = self;
        let (scheme, rest) = match address.split_once("://") {
            Some(("http", _)) if *is_secure => {
                return Err(format!("{origin}: http:// is plain text, but --tls-* is given; leave one out"));
            }
            Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
            Some(_) => return Err(format!("{origin}: must be HOST:PORT, http://HOST:PORT or https://HOST:PORT")),
            None => (if *is_secure { "https" } else { "http" }, address.as_str()),
        };
        let port = rest.trim_end_matches('/').rsplit_once(':').map_or("", |(_, port)| port);
        if port.parse::<u32>().is_ok_and(|port| port == 0 || port > u32::from(u16::MAX)) {
            return Err(format!("{origin}: the port must be from 1 to 65535"));
        }
        if rest.matches(':').count() > 1 && !rest.contains('[') {
            return Err(format!("{origin}: an IPv6 address stands in brackets, such as [::1]:9090"));
        }
        if rest.starts_with(':') {
            return Err(format!("{origin}: must be HOST:PORT, such as 127.0.0.1:9090"));
        }
        let uri: Uri = format!("{scheme}://{rest}")
            .parse()
            .map_err(|error| format!("{origin}: must be HOST:PORT, such as 127.0.0.1:9090 ({error})"))?;
        if uri.port_u16().is_none() {
            return Err(format!("{origin}: needs a port; KEDA dials 443 where scalerAddress has none"));
        }
        // The server knows by it that a person looks.
        let endpoint = Endpoint::from(uri).user_agent(LOOKING).expect("it has the characters of a header's value");
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        if !is_secure {
            return Ok(endpoint);
        }
        let tls = options.tls(server_name.as_deref())?;
        endpoint.tls_config(tls).map_err(|error| format!("--tls-*: {}", error_chain(&error)))
    }
}

/// Connects now rather than at the first call, so that the two kinds of failure can be distinguished.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
    endpoint.connect().await
}

fn unusable(option: &str, path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{option}: {}: {error}", shown_path(path))
}

fn content(option: &str, path: &Path) -> Result<Vec<u8>, String> {
    file::read(path).map_err(|error| unusable(option, path, &error))
}
