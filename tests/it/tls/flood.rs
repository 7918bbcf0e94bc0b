//! Strangers that say hello and nothing more: each hello makes the server sign.

use std::{
    net::SocketAddr,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rcgen::KeyPair;
use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::io::AsyncWriteExt;

use super::{KEDA, Mount, client, configuration, files};
use crate::{
    hostile::frames,
    support::{certificates::Certificates, executable::Executable, grpc::trigger, skip::skip},
};

/// The address of the strangers: another peer than the client that is answered.
const STRANGERS: [u8; 4] = [127, 0, 0, 2];

/// Hellos that wait at the same time: as many connections as one peer may have that carried no call.
const AT_ONCE: usize = 256;

/// How long it lasts, and how many hellos there are at most: fewer than an address has ports.
const FLOOD: Duration = Duration::from_secs(6);
const HELLOS: usize = 10_000;

/// Returns a key whose signatures take long, as people have them.
fn rsa_4096() -> Option<KeyPair> {
    let made = Command::new("openssl").args(["genrsa", "4096"]).output().ok()?;
    KeyPair::from_pem(&String::from_utf8(made.stdout).ok()?).ok()
}

/// Returns the first bytes of a client that takes TLS 1.3.
fn hello() -> Vec<u8> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let mut stranger = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut bytes = Vec::new();
    stranger.write_tls(&mut bytes).unwrap();
    bytes
}

/// Says hello on connection after connection, and returns how often.
async fn flood(address: SocketAddr, hello: &[u8]) -> usize {
    let began = Instant::now();
    let mut sockets = std::collections::VecDeque::new();
    let mut said = 0;
    while began.elapsed() < FLOOD && said < HELLOS {
        let mut socket = frames::connect_from(STRANGERS, address).await;
        // The server may have closed it.
        said += usize::from(socket.write_all(hello).await.is_ok());
        sockets.push_back(socket);
        if sockets.len() > AT_ONCE {
            sockets.pop_front();
        }
    }
    said
}

#[tokio::test]
async fn a_flood_of_hellos_keeps_nobody_waiting_whose_connection_is_open_or_new() {
    let Some(key) = rsa_4096() else { return skip("openssl, which makes RSA keys, is not there") };
    let (servers, clients) = (Certificates::generate(), Certificates::generate());
    let server = servers.sign_key(key, "localhost", &["localhost", "127.0.0.1"], |_| {});
    let mount = Mount::new();
    mount.swap(&files(&server, &clients.authority));
    let serving = Executable::serve(&configuration(&mount, 1)).serving().await;
    let (address, keda) = (serving.grpc, clients.sign(KEDA, &[KEDA]));
    let connect = || client(address, &servers.authority, Some(&keda));
    let open = connect();
    open.spec(&trigger("seven", &[])).await.expect("an answer before the flood");

    let strangers = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(flood(address, &hello()))
    });
    let (mut answers, mut slowest) = (0, Duration::ZERO);
    while !strangers.is_finished() {
        for client in [&open, &connect()] {
            let asked_at = Instant::now();
            client.spec(&trigger("seven", &[])).await.expect("an answer beside the flood");
            slowest = slowest.max(asked_at.elapsed());
            answers += 1;
        }
    }
    let hellos = strangers.join().expect("nothing keeps strangers from trying");
    println!("{hellos} hellos; {answers} answers to another client, the slowest after {slowest:.1?}");
    assert!(hellos > 2 * AT_ONCE, "{hellos} hellos are no flood");
}
