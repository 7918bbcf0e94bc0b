//! TLS towards PostgreSQL, with libpq's `sslmode` rules on rustls.
//!
//! tokio-postgres knows `disable`, `prefer` and `require`; what is checked of a certificate is
//! decided here. `require` checks the chain only where a root certificate is given, as libpq
//! does (its manual, "SSL Support").

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    conninfo::{Connection, SslMode, SslNegotiation},
    diagnostics::shown_path,
    pem,
};

/// A reason why TLS could not be set up. Names the key, never the content of a file.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{key}: {problem}")]
pub(super) struct Error {
    key: &'static str,
    problem: String,
}

/// Returns whether [`connector`] reads files: those of the connection, or the system's certificates.
pub(super) fn reads_files(connection: &Connection) -> bool {
    let Connection { sslmode, sslrootcert, sslcert, .. } = connection;
    sslrootcert.is_some() || sslcert.is_some() || matches!(sslmode, SslMode::VerifyCa | SslMode::VerifyFull)
}

/// Makes the connector for one connection. Reads its certificate files anew.
///
/// # Errors
/// A certificate or key that cannot be read or used.
pub(super) fn connector(connection: &Connection) -> Result<MakeRustlsConnect, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = verifier(connection, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error { key: "sslmode", problem: error.to_string() })?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match (&connection.sslcert, &connection.sslkey) {
        (Some(cert), Some(key)) => {
            let chain = certificates("sslcert", cert)?;
            let unusable = |problem| Error { key: "sslkey", problem: format!("{}: {problem}", shown_path(key)) };
            let private_key = pem::private_key(key).map_err(|error| unusable(error.to_string()))?;
            builder.with_client_auth_cert(chain, private_key).map_err(|error| unusable(pem::unfit(&error, cert)))?
        }
        _ => builder.with_no_client_auth(),
    };
    if connection.sslnegotiation == SslNegotiation::Direct {
        // PostgreSQL refuses TLS that begins with the first byte and does not name its protocol.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(config))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    pem::certificates(path).map_err(|error| Error { key, problem: format!("{}: {error}", shown_path(path)) })
}

fn verifier(connection: &Connection, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    if matches!(connection.sslmode, SslMode::Disable | SslMode::Prefer)
        || (connection.sslmode == SslMode::Require && connection.sslrootcert.is_none())
    {
        return Ok(Arc::new(Lenient { chain: None, provider: Arc::clone(provider) }));
    }
    let roots = match &connection.sslrootcert {
        Some(path) => trusted(certificates("sslrootcert", path)?)?,
        None => trusted(rustls_native_certs::load_native_certs().certs)?,
    };
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| Error { key: "sslrootcert", problem: error.to_string() })?;
    Ok(match connection.sslmode {
        SslMode::VerifyFull => webpki,
        _ => Arc::new(Lenient { chain: Some(webpki), provider: Arc::clone(provider) }),
    })
}

fn trusted(certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(Error { key: "sslrootcert", problem: "there is no usable root certificate".to_owned() });
    }
    Ok(roots)
}

/// Verifies less than `verify-full`: the chain and not the name (`verify-ca`), or neither (`prefer`, and `require`
/// without a root certificate), which is encryption without identity.
#[derive(Debug)]
struct Lenient {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        // rustls checks the chain before the name, so an error about the name means that the chain is good.
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
