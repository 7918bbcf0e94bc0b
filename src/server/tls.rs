//! TLS for KEDA: a certificate that reloads, and clients that are who they say.

use std::{
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::{danger::HandshakeSignatureValid, verify_server_name},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{config::ServerTls, pem};

/// What TLS cannot be served with; names the key, never a file's content.
#[derive(Debug, thiserror::Error)]
#[error("server.tls.{key}: {problem}")]
pub struct Error {
    key: &'static str,
    problem: String,
}

impl Error {
    fn new(key: &'static str, problem: impl fmt::Display) -> Self {
        Self { key, problem: problem.to_string() }
    }
}

/// The certificates in force; connections that are open keep theirs.
pub(super) struct Identity {
    config: ArcSwap<ServerConfig>,
}

/// When each certificate ends, by its configuration key.
pub(super) type Expiry = Vec<(&'static str, SystemTime)>;

impl Identity {
    /// Reads the files.
    pub(super) fn load(tls: &ServerTls) -> Result<(Self, Expiry), Error> {
        let (config, expiry) = read(tls)?;
        Ok((Self { config: ArcSwap::from_pointee(config) }, expiry))
    }

    /// Reads the files again; on an error the last good ones stay.
    pub(super) fn reload(&self, tls: &ServerTls) -> Result<Expiry, Error> {
        let (config, expiry) = read(tls)?;
        self.config.store(Arc::new(config));
        Ok(expiry)
    }

    /// For the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }
}

fn read(tls: &ServerTls) -> Result<(ServerConfig, Expiry), Error> {
    let ServerTls { cert, key, client_ca, client_names } = tls;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new("cert", error))?;
    let chain = certificates("cert", cert)?;
    let mut expiry = vec![("server.tls.cert", soonest("cert", &chain)?)];
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let anchors = certificates("client_ca", path)?;
            expiry.push(("server.tls.client_ca", soonest("client_ca", &anchors)?));
            let mut roots = RootCertStore::empty();
            for anchor in anchors {
                roots.add(anchor).map_err(|error| Error::new("client_ca", error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| Error::new("client_ca", error))?;
            let names = client_names
                .iter()
                .map(|name| ServerName::try_from(name.clone()).map_err(|error| Error::new("client_names", error)))
                .collect::<Result<Vec<_>, _>>()?;
            builder.with_client_cert_verifier(Arc::new(Named { verifier, names }))
        }
    };
    let key = pem::private_key(key).map_err(|error| Error::new("key", error))?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| Error::new("cert", error))?;
    // grpc-go refuses a connection without it.
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((config, expiry))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    pem::certificates(path).map_err(|error| Error::new(key, error))
}

/// When the first of these certificates ends.
fn soonest(key: &'static str, chain: &[CertificateDer<'_>]) -> Result<SystemTime, Error> {
    let mut soonest: Option<SystemTime> = None;
    for certificate in chain {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| Error::new(key, error))?;
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        soonest = Some(soonest.map_or(end, |soonest| soonest.min(end)));
    }
    soonest.ok_or_else(|| Error::new(key, "the file holds no certificate"))
}

/// Accepts clients whose chain holds and, where names are configured, that carry one of them.
#[derive(Debug)]
struct Named {
    verifier: Arc<dyn ClientCertVerifier>,
    names: Vec<ServerName<'static>>,
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.verifier.verify_client_cert(end_entity, intermediates, now)?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let is_named = |name| verify_server_name(&certificate, name).is_ok();
        if self.names.is_empty() || self.names.iter().any(is_named) {
            Ok(verified)
        } else {
            Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
