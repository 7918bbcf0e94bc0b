//! Certificates and private keys from PEM files, whose faults are told without their content.
//!
//! The parser's own errors quote what they could not read. A key that lost its line breaks, in a
//! variable or a template, would be in the log as a list of bytes.

use std::{io, path::Path};

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};

/// Why a file holds nothing that can be used. Says what is wrong, never what is in the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read at all.
    #[error("the file cannot be read: {0}")]
    File(#[source] io::Error),
    /// It is no PEM, or what is wanted is not in it.
    #[error("{0}")]
    Form(&'static str),
}

/// Every certificate of a file, in its order; at least one. Blocking.
///
/// # Errors
/// A file that cannot be read, is malformed, or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(told)?;
    if chain.is_empty() { Err(Error::Form("the file holds no certificate")) } else { Ok(chain) }
}

/// The first private key of a file. Blocking.
///
/// # Errors
/// A file that cannot be read, is malformed, or holds none.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        pem::Error::NoItemsFound => Error::Form("the file holds no private key"),
        error => told(error),
    })
}

fn told(error: pem::Error) -> Error {
    match error {
        pem::Error::Io(error) => Error::File(error),
        pem::Error::MissingSectionEnd { .. } => {
            Error::Form("a section of the file has no end: it was cut short, or has lost its line breaks")
        }
        pem::Error::IllegalSectionStart { .. } => Error::Form("a section of the file begins with a malformed line"),
        pem::Error::Base64Decode(_) => Error::Form("a section of the file is not base64"),
        _ => Error::Form("the file is no PEM"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// In the place of a key's content.
    const CANARY: &str = "canaryCANARYcanary";

    #[test]
    fn no_fault_quotes_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let begin = "-----BEGIN PRIVATE KEY-----";
        let end = "-----END PRIVATE KEY-----";
        for content in [
            String::new(),
            CANARY.to_owned(),
            format!("{begin} {CANARY} {end}"),
            format!("{begin}{CANARY}{end}"),
            format!("{begin}\\n{CANARY}\\n{end}\\n"),
            format!("-----BEGIN {CANARY}\n{end}\n"),
            format!("{begin}\n{CANARY}\n"),
            format!("{begin}\n{CANARY}*\n{end}\n"),
            format!("{begin}\n{CANARY}"),
            format!("-----BEGIN CERTIFICATE----- {CANARY} -----END CERTIFICATE-----"),
            format!("-----BEGIN CERTIFICATE-----\n{CANARY}!\n-----END CERTIFICATE-----\n"),
        ] {
            fs::write(&path, &content).unwrap();
            for error in [certificates(&path).unwrap_err(), private_key(&path).unwrap_err()] {
                let said = format!("{error} {error:?}");
                let as_bytes = format!("{:?}", CANARY.as_bytes());
                assert!(!said.contains(CANARY), "{content}: {said}");
                assert!(!said.contains(as_bytes.trim_matches(['[', ']'])), "{content}: {said}");
            }
        }
        assert!(matches!(certificates(&directory.path().join("none")), Err(Error::File(_))));
    }
}
