//! TLS towards PostgreSQL: libpq's `sslmode` words, each against servers that deserve trust and servers that do not.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tonic::Code;

use super::mount::Mount;
use crate::support::{
    certificates::{Certificates, Identity},
    cluster::{Cluster, Settings, speaks_tls},
    database::{Access, Database},
    executable::{Executable, Serving},
    grpc::{Scaler, trigger},
    skip::skip,
    wait,
};

const SOON: Duration = Duration::from_secs(5);

/// One way to a database, and whether it leads there over TLS, in plain text, or not at all.
struct Way {
    name: &'static str,
    access: Access,
    expected: Expected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Encrypted,
    Plain,
    Refused,
}

fn way(name: &'static str, access: Access, expected: Expected) -> Way {
    Way { name, access, expected }
}

/// A scaler with a database for each way, and a query on each that counts its own TLS sessions.
async fn serving(ways: &[Way]) -> Serving {
    let mut text = "databases:\n".to_owned();
    for way in ways {
        // Each of them begins at once with a handshake, on a busy machine.
        text += &way.access.clone().with("connect_timeout", "5s").yaml(way.name);
    }
    text += "queries:\n";
    for way in ways {
        let sql = "SELECT count(*) FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl";
        writeln!(text, "  {0}: {{database: {0}, sql: {sql}}}", way.name).unwrap();
    }
    Executable::serve(&text).serving().await
}

/// Makes a database whose roles may read all statistics: a query of `pg_stat_ssl` is refused to others.
async fn with_statistics(cluster: &Cluster) -> Database<'_> {
    let database = Database::empty(cluster).await;
    database.execute("GRANT pg_read_all_stats TO scaler, owner").await;
    database
}

async fn check(ways: &[Way]) -> Serving {
    let serving = serving(ways).await;
    let scaler = Scaler::at(serving.grpc);
    for way in ways {
        let seen = match scaler.value(&trigger(way.name, &[])).await {
            Ok(1.0) => Expected::Encrypted,
            Ok(_) => Expected::Plain,
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{}: {status:?}", way.name);
                assert!(!status.message().contains("127.0.0.1"), "{status:?}");
                Expected::Refused
            }
        };
        assert_eq!(seen, way.expected, "{}; the log:\n{}", way.name, serving.process.errors());
    }
    serving
}

/// Settings of a server that takes the scaler over TLS only.
fn tls_only(certificates: &Certificates, server: &Identity) -> Settings {
    let mut certificates = certificates.clone();
    certificates.server = server.clone();
    Settings::default().with_certificates(certificates).authenticate("hostnossl all scaler 127.0.0.1/32 reject")
}

#[tokio::test]
async fn every_sslmode_trusts_whom_libpq_trusts() {
    if !speaks_tls().await {
        return skip("PostgreSQL was built without TLS");
    }
    use Expected::{Encrypted, Plain, Refused};
    let (ours, strange) = (Certificates::generate(), Certificates::generate());
    let mount = Mount::new();
    mount.swap(&[("ours", ours.authority.clone()), ("strange", strange.authority.clone())]);
    let root = |name: &str| mount.path().join(name).display().to_string();

    let right = Cluster::with_settings(tls_only(&ours, &ours.server)).await;
    let misnamed = Cluster::with_settings(tls_only(&ours, &ours.sign("x", &["elsewhere.example"]))).await;
    let plain = Cluster::private().await;
    let (right, misnamed, plain) =
        tokio::join!(with_statistics(&right), with_statistics(&misnamed), with_statistics(&plain));
    let mode = |database: &Database<'_>, sslmode: &str| database.scaler().with("sslmode", sslmode);
    let rooted =
        |database: &Database<'_>, sslmode: &str, name: &str| mode(database, sslmode).with("sslrootcert", root(name));
    let serving = check(&[
        way("disable-refused", mode(&right, "disable"), Refused),
        way("disable", mode(&plain, "disable"), Plain),
        way("prefer", mode(&right, "prefer"), Encrypted),
        way("prefer-plain", mode(&plain, "prefer"), Plain),
        way("require", mode(&right, "require"), Encrypted),
        way("require-plain", mode(&plain, "require"), Refused),
        way("require-root", rooted(&right, "require", "ours"), Encrypted),
        way("require-root-strange", rooted(&right, "require", "strange"), Refused),
        way("require-root-misnamed", rooted(&misnamed, "require", "ours"), Encrypted),
        way("verify-ca", rooted(&right, "verify-ca", "ours"), Encrypted),
        way("verify-ca-strange", rooted(&right, "verify-ca", "strange"), Refused),
        way("verify-ca-misnamed", rooted(&misnamed, "verify-ca", "ours"), Encrypted),
        way("verify-ca-plain", rooted(&plain, "verify-ca", "ours"), Refused),
        way("verify-full", rooted(&right, "verify-full", "ours"), Encrypted),
        way("verify-full-strange", rooted(&right, "verify-full", "strange"), Refused),
        way("verify-full-misnamed", rooted(&misnamed, "verify-full", "ours"), Refused),
        way("verify-full-plain", rooted(&plain, "verify-full", "ours"), Refused),
    ])
    .await;
    for (database, cause) in [("verify-full-misnamed", "not valid for name"), ("verify-full-strange", "UnknownIssuer")]
    {
        wait::eventually(&format!("the log says {cause}"), SOON, || {
            let tells = |line: &serde_json::Value| {
                line["database"] == database && line["error"].as_str().is_some_and(|error| error.contains(cause))
            };
            serving.process.log().iter().any(tells)
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_certificate_opens_the_door_and_another_does_not() {
    if !speaks_tls().await {
        return skip("PostgreSQL was built without TLS");
    }
    use Expected::{Encrypted, Refused};
    let (ours, strange) = (Certificates::generate(), Certificates::generate());
    let (owner, other, stranger) = (ours.sign("owner", &[]), ours.sign("other", &[]), strange.sign("owner", &[]));
    let mount = Mount::new();
    mount.swap(&[
        ("ca", &ours.authority),
        ("owner", &owner.certificate),
        ("owner-key", &owner.key),
        ("other", &other.certificate),
        ("other-key", &other.key),
        ("stranger", &stranger.certificate),
        ("stranger-key", &stranger.key),
    ]);
    let path = |name: &str| mount.path().join(name).display().to_string();
    let settings =
        Settings::default().with_certificates(ours.clone()).authenticate("hostssl all owner 127.0.0.1/32 cert");
    let cluster = Cluster::with_settings(settings).await;
    let database = with_statistics(&cluster).await;
    let with = |name: &str| {
        let access = database.owner().with("sslmode", "verify-full").with("sslrootcert", path("ca"));
        access.with("sslcert", path(name)).with("sslkey", path(&format!("{name}-key")))
    };
    let without = database.owner().with("sslmode", "verify-full").with("sslrootcert", path("ca"));
    check(&[
        way("owner", with("owner"), Encrypted),
        way("other", with("other"), Refused),
        way("stranger", with("stranger"), Refused),
        way("nobody", without, Refused),
    ])
    .await;
}

/// Begins TLS with the first byte before a server, as PostgreSQL 17 does, for clients that name the protocol.
async fn direct_tls_before(port: u16, identity: &Identity) -> SocketAddr {
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(stream).await else { return };
                if client.get_ref().1.alpn_protocol() == Some(b"postgresql") {
                    let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn direct_tls_begins_with_the_first_byte_and_connects_to_hostaddr_under_the_name() {
    let cluster = Cluster::shared().await;
    let database = Database::empty(cluster).await;
    let ours = Certificates::generate();
    let mount = Mount::new();
    mount.swap(&[("root", ours.authority.clone())]);
    let root = mount.path().join("root");
    let proxy = direct_tls_before(cluster.port(), &ours.sign("x", &["db.example"])).await;
    let access = database.scaler();
    let url = |name: &str, port: u16, further: &str| {
        let Access { user, password, dbname, .. } = &access;
        let root = root.display();
        format!(
            "  {name}: {{url: 'host=db.example hostaddr=127.0.0.1 port={port} user={user} password={password} \
             dbname={dbname} sslmode=verify-full sslrootcert={root} {further}'}}\n"
        )
    };
    let text = format!(
        "databases:\n{}{}queries:\n  direct: {{database: direct, sql: SELECT 7}}\n  old: {{database: old, sql: SELECT 7}}\n",
        url("direct", proxy.port(), "sslnegotiation=direct"),
        url("old", cluster.port(), "sslnegotiation=direct"),
    );
    let checked = Executable::clapometer(["check", "--config", "c.yaml"]).file("c.yaml", &text).finish(SOON * 4).await;
    assert_eq!(checked.code(), Some(69), "{}{}", checked.output, checked.errors);
    assert!(checked.output.contains("ok       direct"), "{}", checked.output);
    // Older servers take the first byte for a wrong length, and hang up.
    assert!(checked.output.contains("sslnegotiation=direct"), "{}", checked.output);
    assert!(!checked.output.contains("canary"), "{}", checked.output);
}

#[tokio::test]
async fn a_self_signed_certificate_that_is_its_own_root_is_refused_with_what_to_do() {
    if !speaks_tls().await {
        return skip("PostgreSQL was built without TLS");
    }
    let own = Certificates::generate();
    let mount = Mount::new();
    mount.swap(&[("root", own.authority.clone())]);
    let cluster = Cluster::with_settings(Settings::default().with_certificates(own.self_signed())).await;
    let database = Database::empty(&cluster).await;
    let access =
        database.scaler().with("sslmode", "verify-ca").with("sslrootcert", mount.path().join("root").display());
    let serving = check(&[way("own", access, Expected::Refused)]).await;
    wait::eventually("the log says what to do", SOON, || {
        serving.process.errors().contains("sign the server's certificate with a CA of its own")
    })
    .await;
}
