//! TLS on the gRPC port: who is answered, who is not, and certificates that change while streams are open.

mod database;
mod flood;
mod mount;
mod raw;

use std::{net::SocketAddr, time::Duration};

use rcgen::{CertificateParams, date_time_ymd};
use serde_json::Value;
use tokio::net::TcpStream;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

pub(crate) use self::mount::Mount;
use crate::support::{
    admin,
    certificates::{Certificates, Identity},
    executable::{Executable, Serving},
    grpc::{Scaler, trigger},
    wait,
};

/// The name in the certificate of KEDA's operator.
const KEDA: &str = "keda-operator";
/// Files are looked at every two seconds; a busy machine adds to it.
const RELOAD: Duration = Duration::from_secs(15);
/// The contract's bound on a handshake, and slack.
const HANDSHAKE: Duration = Duration::from_secs(5 + 10);

/// Two streams and a query that needs no database: what is tested here is the way to it.
fn configuration(mount: &Mount, target: u32) -> String {
    format!(
        "server:\n  tls:\n    cert: {0}/tls.crt\n    key: {0}/tls.key\n    client_ca: {0}/ca.crt\n    \
         client_names: [{KEDA}]\n\
         databases:\n  nowhere: {{host: 127.0.0.1, port: 1, dbname: x, user: x, sslmode: disable}}\n\
         queries:\n  seven: {{sql: SELECT 7, target: {target}}}\n",
        mount.path().display()
    )
}

/// A scaler with a certificate that one authority has signed, for clients of another one.
struct MutualTls {
    servers: Certificates,
    clients: Certificates,
    mount: Mount,
    serving: Serving,
}

impl MutualTls {
    async fn new() -> Self {
        let (servers, clients) = (Certificates::generate(), Certificates::generate());
        let mount = Mount::new();
        mount.swap(&files(&servers.server, &clients.authority));
        let serving = Executable::serve(&configuration(&mount, 1)).serving().await;
        Self { servers, clients, mount, serving }
    }

    /// A client that trusts our authority and shows this certificate.
    fn client(&self, identity: Option<&Identity>) -> Scaler {
        client(self.serving.grpc, &self.servers.authority, identity)
    }

    fn keda(&self) -> Identity {
        self.clients.sign("kedaorg", &[KEDA, "keda-operator.keda.svc"])
    }

    /// Checks that there is an answer.
    async fn answers(&self, identity: &Identity) {
        let spec = self.client(Some(identity)).spec(&trigger("seven", &[])).await;
        assert_eq!(spec.expect("this client is to be answered").metric_name, "seven");
    }

    async fn metric(&self, name: &str) -> f64 {
        admin::metric(self.serving.admin, name).await
    }
}

pub(crate) fn files(server: &Identity, client_authority: &str) -> [(&'static str, String); 3] {
    [("tls.crt", server.certificate.clone()), ("tls.key", server.key.clone()), ("ca.crt", client_authority.to_owned())]
}

pub(crate) fn client(address: SocketAddr, authority: &str, identity: Option<&Identity>) -> Scaler {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority)).domain_name("localhost");
    if let Some(Identity { certificate, key }) = identity {
        tls = tls.identity(tonic::transport::Identity::from_pem(certificate, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap();
    Scaler::over(endpoint.connect_lazy())
}

#[tokio::test]
async fn keda_is_answered_over_tls_1_2_and_1_3_with_h2_agreed() {
    let fixture = MutualTls::new().await;
    let keda = fixture.keda();
    fixture.answers(&keda).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let session =
            raw::handshake(fixture.serving.grpc, &fixture.servers.authority, Some(&keda), &[version], &[b"h2"]).await;
        let session = session.unwrap();
        assert_eq!(session.version, Some(version.version));
        assert_eq!(session.protocol.as_deref(), Some(&b"h2"[..]));
    }
}

#[tokio::test]
async fn the_whole_chain_is_served_to_a_client_that_knows_the_root_only() {
    let (root, clients) = (Certificates::generate(), Certificates::generate());
    let intermediate = root.authority_below("intermediate");
    let mut server = intermediate.server.clone();
    server.certificate += &intermediate.authority;
    let mount = Mount::new();
    mount.swap(&files(&server, &clients.authority));
    let serving = Executable::serve(&configuration(&mount, 1)).serving().await;
    let keda = clients.sign("x", &[KEDA]);
    let spec = client(serving.grpc, &root.authority, Some(&keda)).spec(&trigger("seven", &[])).await;
    assert_eq!(spec.unwrap().metric_name, "seven");
}

#[tokio::test]
async fn a_client_that_cannot_prove_to_be_keda_is_not_answered() {
    let fixture = MutualTls::new().await;
    let expire = |parameters: &mut CertificateParams| parameters.not_after = date_time_ymd(2020, 1, 1);
    let not_yet = |parameters: &mut CertificateParams| parameters.not_before = date_time_ymd(2999, 1, 1);
    let for_servers = |parameters: &mut CertificateParams| {
        parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    };
    let strangers = Certificates::generate();
    let self_signed = Certificates::generate();
    let refused: [(&str, Option<Identity>); 10] = [
        ("no certificate", None),
        ("another authority's certificate with the right name", Some(strangers.sign(KEDA, &[KEDA]))),
        ("the server's own authority", Some(fixture.servers.sign(KEDA, &[KEDA]))),
        ("a self-signed certificate", Some(self_signed.server.clone())),
        ("another name", Some(fixture.clients.sign("x", &["keda-metrics-apiserver"]))),
        ("a name that only begins alike", Some(fixture.clients.sign("x", &["keda-operator.evil.example"]))),
        ("the name as common name only", Some(fixture.clients.sign(KEDA, &["other"]))),
        ("an expired certificate", Some(fixture.clients.sign_with(KEDA, &[KEDA], expire))),
        ("a certificate of the future", Some(fixture.clients.sign_with(KEDA, &[KEDA], not_yet))),
        ("a certificate for servers", Some(fixture.clients.sign_with(KEDA, &[KEDA], for_servers))),
    ];
    for (who, identity) in refused {
        let answer = fixture.client(identity.as_ref()).spec(&trigger("seven", &[])).await;
        assert!(answer.is_err(), "{who} was answered");
    }
    assert_eq!(fixture.metric("grpc_server_handled_total").await, 0.0, "a handler was reached");

    fixture.answers(&fixture.keda()).await;
    assert_eq!(fixture.metric("grpc_server_handled_total").await, 1.0);
    let reasons = ["no_certificate", "unknown_authority", "expired", "name", "certificate"];
    wait::eventually("the log says so", RELOAD, || fixture.serving.process.count_logged("TLS handshakes failed") > 0)
        .await;
    let lines = fixture.serving.process.count_logged("TLS handshakes failed");
    assert!(lines <= reasons.len() + 1, "strangers can fill the log: {lines}");
    let page = admin::get(fixture.serving.admin, "/metrics").await;
    for reason in reasons {
        let series = format!("clapometer_tls_handshake_failures_total{{reason=\"{reason}\"}} ");
        let failures: f64 =
            page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).expect("it is shown");
        assert!(failures >= 1.0, "{reason}: {failures}");
    }
}

#[tokio::test]
async fn plain_text_and_old_tls_are_refused_on_a_tls_port() {
    let fixture = MutualTls::new().await;
    let plain = Scaler::at(fixture.serving.grpc).spec(&trigger("seven", &[])).await;
    assert!(plain.is_err(), "plain text was answered on a TLS port");
    wait::first("plain text is told", RELOAD, async || {
        let told =
            |line: &Value| line["message"].as_str().is_some_and(|text| text.starts_with("TLS handshakes failed"));
        fixture.serving.process.log().iter().any(|line| told(line) && line["reason"] == "no_tls").then_some(())
    })
    .await;
    // A fatal alert "protocol version" (RFC 8446, section 6.2) is all there is for TLS 1.0 and 1.1.
    for minor in [1, 2] {
        let answer = raw::hello_of_old_tls(fixture.serving.grpc, minor).await;
        assert_eq!(answer.get(..1), Some(&[21][..]), "no alert: {answer:?}");
        assert_eq!(answer.get(5..7), Some(&[2, 70][..]), "another alert: {answer:?}");
    }
    fixture.answers(&fixture.keda()).await;
}

#[tokio::test]
async fn a_client_that_speaks_only_http_1_over_tls_is_refused_in_the_handshake() {
    let fixture = MutualTls::new().await;
    let keda = fixture.keda();
    let versions = &[&rustls::version::TLS13];
    let session =
        raw::handshake(fixture.serving.grpc, &fixture.servers.authority, Some(&keda), versions, &[b"http/1.1"]).await;
    assert!(session.is_err(), "HTTP/1.1 was agreed upon");
}

#[tokio::test]
async fn silent_and_half_spoken_connections_are_closed_and_cost_nothing_that_stays() {
    let secure = MutualTls::new().await;
    let plain = Executable::serve("databases:\n  nowhere: {host: 127.0.0.1, port: 1, dbname: x, user: x}\n");
    let plain = plain.serving().await;
    let beginnings: [&[u8]; 5] =
        [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01", b"PRI * HTTP/2", b"GET / HTTP/1.1\r\nHost: x\r\n"];
    let mut waiting = Vec::new();
    for address in [secure.serving.grpc, plain.grpc] {
        for beginning in beginnings {
            waiting.push(raw::closed_after(address, beginning));
        }
    }
    wait::bounded("closing silent connections", HANDSHAKE, futures_util::future::join_all(waiting)).await;
    for admin in [secure.serving.admin, plain.admin] {
        wait::first("no connection is counted", HANDSHAKE, async || {
            (admin::metric(admin, "clapometer_grpc_connections").await == 0.0).then_some(())
        })
        .await;
    }
    secure.answers(&secure.keda()).await;
}

#[tokio::test]
async fn a_secret_that_kubernetes_swaps_is_served_without_ending_a_stream() {
    let mut fixture = MutualTls::new().await;
    let keda = fixture.keda();
    let before = fixture.client(Some(&keda));
    let mut specs = before.client().stream_metric_spec(trigger("seven", &[])).await.unwrap().into_inner();
    assert_eq!(specs.message().await.unwrap().unwrap().metric_specs[0].target_size_float, 1.0);

    let (servers, clients) = (Certificates::generate(), Certificates::generate());
    fixture.mount.swap(&files(&servers.server, &clients.authority));
    fixture.serving.process.logged("the reload", RELOAD, |line| line["message"] == "configuration reloaded").await;

    let new = clients.sign("x", &[KEDA]);
    let answered = client(fixture.serving.grpc, &servers.authority, Some(&new)).spec(&trigger("seven", &[])).await;
    answered.expect("the new client is answered with the new certificate");
    let refused = client(fixture.serving.grpc, &servers.authority, Some(&keda)).spec(&trigger("seven", &[])).await;
    assert!(refused.is_err(), "a client of the old authority was answered");
    let refused =
        client(fixture.serving.grpc, &fixture.servers.authority, Some(&new)).spec(&trigger("seven", &[])).await;
    assert!(refused.is_err(), "the old certificate was served");

    // The old connection goes on, unary calls and streams alike, and hears of the next change.
    assert_eq!(before.spec(&trigger("seven", &[])).await.unwrap().metric_name, "seven");
    let file = fixture.serving.process.directory().join("clapometer.yaml");
    std::fs::write(file, configuration(&fixture.mount, 2)).unwrap();
    let next = wait::bounded("the new target", RELOAD, specs.message()).await.unwrap().unwrap();
    assert_eq!(next.metric_specs[0].target_size_float, 2.0);
}

#[tokio::test]
async fn a_bad_certificate_is_told_once_and_the_last_good_one_stays() {
    let mut fixture = MutualTls::new().await;
    let keda = fixture.keda();
    let good = files(&fixture.servers.server, &fixture.clients.authority);
    let other = Certificates::generate();
    let [certificate, key, authority] = good.clone();
    let bad: [[(&'static str, String); 3]; 4] = [
        [("tls.crt", "canary-certificate".to_owned()), key.clone(), authority.clone()],
        [certificate.clone(), ("tls.key", other.server.key.clone()), authority.clone()],
        [certificate.clone(), key.clone(), ("ca.crt", String::new())],
        [certificate, ("tls.key", "-----BEGIN PRIVATE KEY-----\ncanary-key\n".to_owned()), authority],
    ];
    for (index, files) in bad.iter().enumerate() {
        fixture.mount.swap(files);
        let told = index + 1;
        wait::eventually("the fault is told", RELOAD, || {
            fixture.serving.process.count_logged("configuration not reloaded") == told
        })
        .await;
        assert_eq!(fixture.metric("clapometer_config_valid").await, 0.0);
        fixture.answers(&keda).await;
    }
    // Two more looks at the files, which nothing shows: what was logged must not be logged again.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(fixture.serving.process.count_logged("configuration not reloaded"), bad.len());
    let rejected = fixture.metric("clapometer_config_reloads_total{result=\"rejected\"}").await;
    assert_eq!(rejected, 4.0, "the metric counts each once");

    fixture.mount.swap(&good);
    fixture.serving.process.logged("the reload", RELOAD, |line| line["message"] == "configuration reloaded").await;
    assert_eq!(fixture.metric("clapometer_config_valid").await, 1.0);
    fixture.answers(&keda).await;
    assert!(!fixture.serving.process.errors().contains("canary"), "a file's content is in the log");
}

#[tokio::test]
async fn certificates_that_cannot_be_used_at_the_start_are_faults_of_the_configuration_all_at_once() {
    let mount = Mount::new();
    mount.swap(&["tls.crt", "tls.key", "ca.crt"].map(|name| (name, "canary-certificate".to_owned())));
    let ended = Executable::serve(&configuration(&mount, 1)).finish(Duration::from_secs(20)).await;
    assert_eq!(ended.code(), Some(78), "{}", ended.errors);
    for key in ["cert: found ", "key: found ", "client_ca: found "] {
        assert!(ended.errors.contains(&format!("server.tls.{key}")), "no {key} in {}", ended.errors);
    }
    assert!(!ended.errors.contains("canary"), "{}", ended.errors);
}

#[tokio::test]
async fn when_certificates_end_is_a_metric() {
    let fixture = MutualTls::new().await;
    for certificate in ["server.tls.cert", "server.tls.client_ca"] {
        let name = format!("clapometer_certificate_expiry_timestamp_seconds{{certificate=\"{certificate}\"}}");
        // rcgen's certificates end in the year 4096.
        assert!(fixture.metric(&name).await > 6e10, "{certificate}");
    }
}

#[tokio::test]
async fn a_client_is_answered_beside_a_thousand_strangers_who_never_begin_the_handshake() {
    let fixture = MutualTls::new().await;
    let keda = fixture.keda();
    let mut silent = Vec::new();
    for _ in 0..=1_000 {
        silent.push(TcpStream::connect(fixture.serving.grpc).await.unwrap());
    }
    // Each is a new connection, from the address of the strangers.
    for _ in 0..3 {
        fixture.answers(&keda).await;
    }
    drop(silent);
}
