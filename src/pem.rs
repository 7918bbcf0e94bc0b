//! Reads certificates and private keys from PEM files, with errors that never quote the file.
//!
//! The parser's own errors quote the bytes that they could not read. With those, a key that lost
//! its line breaks in a variable or a template would end up in the log.

use std::{io, path::Path};

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};

use crate::file;

/// Some editors begin a file with it, and nobody sees it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// An error about a PEM file. It says what is wrong, and never quotes the content.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// The file could not be read.
    #[error("the file cannot be read: {0}")]
    File(#[source] io::Error),
    /// The file is not PEM, or holds nothing of the kind that was asked for.
    #[error("{0}")]
    Content(&'static str),
}

/// Reads all certificates of a file, in their order. Blocking.
///
/// # Errors
/// The file cannot be read, is malformed, or holds no certificate.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&content(path)?).collect::<Result<_, _>>().map_err(without_content)?;
    if chain.is_empty() { Err(PemError::Content("the file holds no certificate")) } else { Ok(chain) }
}

/// Reads the first private key of a file. Blocking.
///
/// # Errors
/// The file cannot be read, is malformed, or holds no private key.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(&content(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => PemError::Content("the file holds no private key"),
        error => without_content(error),
    })
}

/// Says in an operator's words why rustls does not take a key with the certificate of a file.
pub fn unfit(error: &rustls::Error, certificate: &Path) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => format!("is not the key of the certificate {}", certificate.display()),
        error => error.to_string(),
    }
}

fn content(path: &Path) -> Result<Vec<u8>, PemError> {
    let content = file::read(path).map_err(PemError::File)?;
    if u64::try_from(content.len()).is_ok_and(|length| length > file::LARGEST) {
        return Err(PemError::Content("the file is larger than 1 MiB"));
    }
    // It would hide the first section, and of a bundle only that.
    if content.starts_with(BYTE_ORDER_MARK) {
        return Err(PemError::Content("the file begins with a byte order mark; save it as UTF-8 without one"));
    }
    Ok(content)
}

fn without_content(error: pem::Error) -> PemError {
    match error {
        pem::Error::Io(error) => PemError::File(error),
        pem::Error::MissingSectionEnd { .. } => {
            PemError::Content("a section of the file has no end: it was cut short, or has lost its line breaks")
        }
        pem::Error::IllegalSectionStart { .. } => {
            PemError::Content("a section of the file begins with a malformed line")
        }
        pem::Error::Base64Decode(_) => PemError::Content("a section of the file is not base64"),
        _ => PemError::Content("the file is not PEM"),
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
        assert!(matches!(certificates(&directory.path().join("none")), Err(PemError::File(_))));
    }

    #[test]
    fn a_byte_order_mark_hides_no_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle");
        let one = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(&path, format!("{one}{one}")).unwrap();
        assert_eq!(certificates(&path).unwrap().len(), 2);
        fs::write(&path, format!("\u{feff}{one}{one}")).unwrap();
        assert!(certificates(&path).unwrap_err().to_string().contains("byte order mark"));
    }
}
