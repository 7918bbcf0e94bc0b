//! TLS of the gRPC port: certificates that can be reloaded, and the check of client certificates.

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

use crate::{
    config::{Config, ServerTls},
    diagnostics::Misconfiguration,
    pem,
};

/// All problems of the TLS files at once, each with the path of its key, its file, and without the content of a file.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<(&'static str, String)>);

impl Problems {
    /// Returns the value, or notes the problem under the key.
    fn note<T>(&mut self, key: &'static str, result: Result<T, impl fmt::Display>) -> Option<T> {
        result.map_err(|problem| self.0.push((key, problem.to_string()))).ok()
    }

    /// Returns the value, or notes the problem under the key with the file that it is about.
    fn note_file<T>(&mut self, key: &'static str, path: &Path, result: Result<T, impl fmt::Display>) -> Option<T> {
        self.note(key, result.map_err(|problem| format!("found {}: {problem}", path.display())))
    }

    /// Returns them as faults of the configuration that names the files.
    pub(super) fn located(self, config: &Config) -> Misconfiguration {
        config.faults(self.0.into_iter().map(|(key, problem)| (["server", "tls", key], problem)))
    }
}

/// The certificates in force. An open connection goes on with the ones that it started with.
pub(super) struct ServerIdentity {
    config: ArcSwap<ServerConfig>,
}

/// The expiry of each certificate, by its configuration key.
pub(super) type Expiry = Vec<(&'static str, SystemTime)>;

impl ServerIdentity {
    /// Reads the files.
    pub(super) fn load(tls: &ServerTls) -> Result<(Self, Expiry), Problems> {
        let (config, expiry) = read(tls)?;
        Ok((Self { config: ArcSwap::from_pointee(config) }, expiry))
    }

    /// Reads the files again. After an error the last good certificates stay in force.
    pub(super) fn reload(&self, tls: &ServerTls) -> Result<Expiry, Problems> {
        let (config, expiry) = read(tls)?;
        self.config.store(Arc::new(config));
        Ok(expiry)
    }

    /// Returns the acceptor for the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }
}

fn read(tls: &ServerTls) -> Result<(ServerConfig, Expiry), Problems> {
    let mut problems = Problems::default();
    match configured(tls, &mut problems) {
        Some(read) if problems.0.is_empty() => Ok(read),
        Some(_) | None => Err(problems),
    }
}

/// Makes the configuration of rustls and notes all problems. None if there is a problem that prevents it.
fn configured(tls: &ServerTls, problems: &mut Problems) -> Option<(ServerConfig, Expiry)> {
    let ServerTls { cert, key, client_ca, client_names } = tls;
    let chain = problems.note_file("cert", cert, certificates(cert));
    let private_key = problems.note_file("key", key, pem::private_key(key));
    let anchors = client_ca.as_ref().map(|path| problems.note_file("client_ca", path, authorities(path)));
    let right = "must be a DNS name, such as keda-operator";
    let names: Vec<_> = client_names
        .iter()
        .filter_map(|name| {
            let parsed = ServerName::try_from(name.clone()).map_err(|_| format!("found {name:?}, {right}"));
            problems.note("client_names", parsed)
        })
        .collect();
    let ((chain, ends_at), private_key) = (chain?, private_key?);
    let mut expiry = vec![("server.tls.cert", ends_at)];

    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = problems.note("cert", builder)?;
    let builder = match anchors {
        None => builder.with_no_client_auth(),
        Some(anchors) => {
            let (roots, ends_at) = anchors?;
            expiry.push(("server.tls.client_ca", ends_at));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            let verifier = problems.note("client_ca", verifier)?;
            builder.with_client_cert_verifier(Arc::new(NamedClients { verifier, names }))
        }
    };
    let config = builder.with_single_cert(chain, private_key).map_err(|error| pem::unfit(&error, cert));
    let mut config = problems.note_file("key", key, config)?;
    // grpc-go refuses a connection without it.
    config.alpn_protocols = vec![b"h2".to_vec()];
    Some((config, expiry))
}

/// Reads the certificates of a file, and the earliest expiry among them.
fn certificates(path: &Path) -> Result<(Vec<CertificateDer<'static>>, SystemTime), String> {
    let chain = pem::certificates(path).map_err(|error| error.to_string())?;
    let mut soonest: Option<SystemTime> = None;
    for certificate in &chain {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        soonest = Some(soonest.map_or(end, |soonest| soonest.min(end)));
    }
    let ends_at = soonest.expect("a file without a certificate is an error");
    Ok((chain, ends_at))
}

/// Reads the certificates of a file as trust anchors.
fn authorities(path: &Path) -> Result<(RootCertStore, SystemTime), String> {
    let (anchors, ends_at) = certificates(path)?;
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        roots.add(anchor).map_err(|error| error.to_string())?;
    }
    Ok((roots, ends_at))
}

/// Accepts a client with a valid chain and, where names are configured, with one of these names.
#[derive(Debug)]
struct NamedClients {
    verifier: Arc<dyn ClientCertVerifier>,
    names: Vec<ServerName<'static>>,
}

impl ClientCertVerifier for NamedClients {
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
