//! As many connections over TLS as one process keeps, and as many handshakes that are not complete.

use std::{net::SocketAddr, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Victim,
    frames::{self, grpc},
    held::{ALL, HeldConnection, OtherClient, PATIENCE},
    limits::{PEERS, remembered},
};
use crate::{
    support::{admin, certificates::Certificates, cluster::Cluster, database::Database, fixture::Fixture, wait},
    tls::{Mount, client, files},
};

/// The contract's numbers. The good client has one of the places of those that carry calls.
const SERVED: usize = 1_000 - PEERS.len();
const NEWCOMERS: usize = 512;

/// The sum of docs/limits.md has so many bytes for each.
const OF_ONE_SERVED: u64 = 96 * 1024;
const OF_A_NEWCOMER: u64 = 64 * 1024;

/// Bytes of a hello that is not complete, in records of TLS.
const HELLO: usize = 63 * 1024;

/// Polls of the other client that show that it was answered.
const POLLS: usize = 5;

/// Makes connections over TLS.
struct Strangers {
    connector: TlsConnector,
    address: SocketAddr,
}

impl Strangers {
    fn new(authority: &str, address: SocketAddr) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { connector: TlsConnector::from(Arc::new(config)), address }
    }

    async fn connect(&self, source: [u8; 4]) -> TlsStream<TcpStream> {
        let socket = frames::connect_from(source, self.address).await;
        let name = ServerName::try_from("localhost").unwrap();
        self.connector.connect(name, socket).await.expect("a handshake")
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

#[tokio::test]
async fn connections_over_tls_cost_what_the_documents_say_and_another_client_is_answered() {
    let database = Database::empty(Cluster::shared().await).await;
    let table = "CREATE TABLE jobs (queue text); GRANT SELECT ON jobs TO scaler;
        INSERT INTO jobs SELECT 'mail' FROM generate_series(1, 3)";
    database.execute(table).await;
    let servers = Certificates::generate();
    let mount = Mount::new();
    mount.swap(&files(&servers.server, &servers.authority));
    let configuration = format!(
        "server: {{tls: {{cert: {0}/tls.crt, key: {0}/tls.key}}}}\ndatabases:\n{1}queries:
  jobs: {{sql: 'SELECT count(*) FROM jobs WHERE queue = $1', parameters: {{queue: text}}, max_age: 0s}}
",
        mount.path().display(),
        database.scaler().yaml("own"),
    );
    let mut fixture = Fixture::configured(&configuration).await;
    let (address, admin) = (fixture.serving.grpc, fixture.serving.admin);
    let strangers = Strangers::new(&servers.authority, address);
    let other = OtherClient::start(move || client(address, &servers.authority, None));
    other.is_answered(POLLS).await;

    let before = fixture.serving.process.memory("VmRSS");
    let mut served = Vec::new();
    for number in 0..SERVED {
        // Every second one takes no answers.
        let window = if (number / PEERS.len()).is_multiple_of(2) { ALL } else { 0 };
        let mut caller = HeldConnection::over(strangers.connect(PEERS[number % PEERS.len()]).await, window).await;
        let call = caller.call("GetMetricSpec", &remembered(), &grpc(&Victim::trigger()), false);
        caller.say(&call).await;
        served.push(caller);
    }
    other.is_answered(POLLS).await;
    let connected = fixture.serving.process.memory("VmRSS");

    let hello = half_a_hello();
    let mut newcomers = Vec::new();
    for number in 0..NEWCOMERS {
        let mut socket = frames::connect_from(PEERS[number % PEERS.len()], address).await;
        let _ = socket.write_all(&hello).await;
        newcomers.push(socket);
    }
    other.is_answered(POLLS).await;
    let most = fixture.serving.process.memory("VmHWM");
    let (of_one, of_newcomer) =
        ((connected - before) / u64::try_from(SERVED).unwrap(), (most - connected) / u64::try_from(NEWCOMERS).unwrap());
    println!("{} KiB for each that carries calls, {} KiB for each handshake", of_one / 1024, of_newcomer / 1024);
    assert!(of_one <= OF_ONE_SERVED, "{of_one} bytes for each connection that carries calls");
    assert!(of_newcomer <= OF_A_NEWCOMER, "{of_newcomer} bytes for each handshake");
    assert!(admin::metric(admin, "clapometer_grpc_connections").await >= f64::from(u32::try_from(SERVED).unwrap()));

    wait::first("the handshakes are over", PATIENCE, async || {
        (admin::metric(admin, "clapometer_grpc_connections").await <= f64::from(u32::try_from(SERVED).unwrap()) + 1.0)
            .then_some(())
    })
    .await;
    other.is_answered(POLLS).await;
    println!("the slowest answer took {:.1?}", other.slowest());
    other.end();
    assert!(fixture.serving.process.ended().is_none(), "the process has ended");
    drop((served, newcomers));
}
