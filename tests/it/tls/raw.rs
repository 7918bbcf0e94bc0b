//! Connections that are written byte by byte, as no gRPC client would write them.

use std::{io, net::SocketAddr, sync::Arc};

use rustls::{
    ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::support::certificates::Identity;

/// The result of a handshake.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) version: Option<ProtocolVersion>,
    pub(super) protocol: Option<Vec<u8>>,
}

/// Shakes hands; with TLS 1.3 a client that is refused learns it only when it reads.
pub(super) async fn handshake(
    address: SocketAddr,
    authority: &str,
    identity: Option<&Identity>,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&[u8]],
) -> io::Result<Session> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { certificate, key }) => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    // The server speaks first in HTTP/2: its SETTINGS prove that it has taken us.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    stream.read_exact(&mut [0; 9]).await?;
    let (_, connection) = stream.get_ref();
    Ok(Session { version: connection.protocol_version(), protocol: connection.alpn_protocol().map(<[u8]>::to_vec) })
}

/// Says hello as TLS 1.0 (`minor` 1) or 1.1 (2) does, and returns all that is answered.
pub(super) async fn hello_of_old_tls(address: SocketAddr, minor: u8) -> Vec<u8> {
    let mut hello = vec![3, minor];
    hello.extend([7; 32]);
    // No session, two cipher suites of that time (AES128-SHA, ECDHE-RSA-AES128-SHA), no compression.
    hello.extend([0, 0, 4, 0, 0x2f, 0xc0, 0x13, 1, 0]);
    // One extension, signature algorithms, or its absence would be the cause of the refusal.
    hello.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    let mut record =
        vec![22, 3, 1, 0, u8::try_from(hello.len() + 4).unwrap(), 1, 0, 0, u8::try_from(hello.len()).unwrap()];
    record.extend(hello);
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the alert is an end like any other.
    let _ = socket.read_to_end(&mut answer).await;
    answer
}

/// Says this and nothing more; returns when the other side has closed.
pub(super) async fn closed_after(address: SocketAddr, beginning: &[u8]) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(beginning).await.unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
}
