//! TLS as peers speak it: whole connections, and handshakes that are not complete.

use std::{net::SocketAddr, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::frames;

/// Bytes of a hello that is not complete, in records of TLS.
const HELLO: usize = 63 * 1024;

/// Makes connections over TLS.
pub(super) struct Strangers {
    connector: TlsConnector,
    address: SocketAddr,
}

impl Strangers {
    pub(super) fn new(authority: &str, address: SocketAddr) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { connector: TlsConnector::from(Arc::new(config)), address }
    }

    /// Connects from this address.
    pub(super) async fn connect(&self, source: [u8; 4]) -> TlsStream<TcpStream> {
        let socket = frames::connect_from(source, self.address).await;
        let name = ServerName::try_from("localhost").unwrap();
        self.connector.connect(name, socket).await.expect("a handshake")
    }

    /// Begins a handshake of which the rest never comes.
    pub(super) async fn begin(&self, source: [u8; 4]) -> TcpStream {
        let mut socket = frames::connect_from(source, self.address).await;
        // Whoever has to give way at once sees a reset.
        let _ = socket.write_all(&half_a_hello()).await;
        socket
    }
}

/// Returns a hello of 64 KiB, of which the last part is missing.
fn half_a_hello() -> Vec<u8> {
    let message = [&[1, 0, 0xff, 0xff][..], &vec![0; HELLO]].concat();
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[22, 3, 1][..], &length, part].concat()
    };
    message.chunks(16 * 1024).flat_map(record).collect()
}
