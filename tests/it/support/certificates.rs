//! Certificates for one test run: an authority, a server, clients, and certificates that must be refused.

use std::{fmt, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// One authority with what it has signed.
#[derive(Clone)]
pub(crate) struct Certificates {
    /// The authority's own certificate, PEM.
    pub(crate) authority: String,
    issuer: Arc<Issuer<'static, KeyPair>>,
    /// A server at `localhost` and 127.0.0.1.
    pub(crate) server: Identity,
}

impl Certificates {
    /// Makes a new authority, which nothing trusts yet.
    pub(crate) fn generate() -> Self {
        let key = KeyPair::generate().expect("there is a random source");
        // The name is unique: of two authorities with one name, the other would be refused as a forger, not as unknown.
        let parameters = authority_parameters(&format!("clapometer test authority {:08x}", rand::random::<u32>()));
        let authority = parameters.self_signed(&key).expect("the parameters are sound").pem();
        Self::new(authority, parameters, key)
    }

    /// Makes an authority that this one has signed.
    pub(crate) fn authority_below(&self, common_name: &str) -> Self {
        let key = KeyPair::generate().expect("there is a random source");
        let parameters = authority_parameters(common_name);
        let authority = parameters.signed_by(&key, &self.issuer).expect("the parameters are sound").pem();
        Self::new(authority, parameters, key)
    }

    /// Returns the same with the authority's own certificate as the server's, as people in a hurry make it.
    pub(crate) fn self_signed(&self) -> Self {
        let server = Identity { certificate: self.authority.clone(), key: self.issuer.key().serialize_pem() };
        Self { server, ..self.clone() }
    }

    fn new(authority: String, parameters: CertificateParams, key: KeyPair) -> Self {
        let mut certificates = Self {
            authority,
            issuer: Arc::new(Issuer::new(parameters, key)),
            server: Identity { certificate: String::new(), key: String::new() },
        };
        certificates.server = certificates.sign("localhost", &["localhost", "127.0.0.1"]);
        certificates
    }

    /// Signs an identity, good for servers and clients alike.
    pub(crate) fn sign(&self, common_name: &str, names: &[&str]) -> Identity {
        self.sign_with(common_name, names, |_| {})
    }

    /// Signs an identity after `change` has altered it, for example to an expired one.
    pub(crate) fn sign_with(
        &self,
        common_name: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let key = KeyPair::generate().expect("there is a random source");
        self.sign_key(key, common_name, names, change)
    }

    /// Signs an identity with this key.
    pub(crate) fn sign_key(
        &self,
        key: KeyPair,
        common_name: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let mut parameters = parameters(common_name, names);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut parameters);
        let certificate = parameters.signed_by(&key, &self.issuer).expect("the parameters are sound").pem();
        Identity { certificate, key: key.serialize_pem() }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Certificates")
    }
}

fn authority_parameters(common_name: &str) -> CertificateParams {
    let mut parameters = parameters(common_name, &[]);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters
}

fn parameters(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).expect("the names are ASCII");
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters
}
