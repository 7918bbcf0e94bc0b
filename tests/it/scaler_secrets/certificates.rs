//! Certificates and private keys: right, broken and swapped ones are put wherever a file may be named, and no piece of
//! them appears in any output.

use std::{fmt::Write as _, fs, time::Duration};

use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use crate::{
    support::{
        admin,
        certificates::{Certificates, Identity},
        cluster::{Cluster, Settings, speaks_tls},
        database::{Access, Database},
        executable::{Executable, Serving},
        grpc::{Scaler, trigger},
        skip::skip,
        wait,
    },
    tls::Mount,
};

const SOON: Duration = Duration::from_secs(20);

/// A part of the names in every certificate but the authorities'.
const NAME: &str = "canary-name";

/// Bytes of a piece that would be recognised; shorter ones occur by chance.
const PIECE: usize = 12;

/// Returns the secret pieces of a PEM file: its lines and what they encode, as text, hexadecimal and lists of numbers.
fn pieces(pem: &str) -> Vec<String> {
    let mut secrets: Vec<Vec<u8>> = pem.lines().filter(|line| !line.starts_with('-')).map(Into::into).collect();
    secrets.extend(CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| der.unwrap().to_vec()));
    secrets.extend(PrivateKeyDer::from_pem_slice(pem.as_bytes()).map(|der| der.secret_der().to_vec()));
    let pieces = secrets.iter().flat_map(|secret| secret.chunks_exact(PIECE));
    let shown = pieces.flat_map(|piece| {
        let numbers = format!("{piece:?}");
        let hexadecimal = piece.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        [String::from_utf8(piece.to_vec()).ok(), Some(hexadecimal), Some(numbers.trim_matches(['[', ']']).to_owned())]
    });
    shown.flatten().collect()
}

/// Fails with the line of `said` that holds a secret.
fn assert_untold(who: &str, said: &str, secrets: &[String]) {
    for line in said.lines() {
        let told = secrets.iter().find(|secret| line.contains(secret.as_str()));
        assert!(told.is_none(), "{who} tells {told:?}: {line}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// Returns a PEM file as it may be damaged on its way into a cluster.
fn broken(pem: &str) -> Vec<String> {
    let lines: Vec<&str> = pem.lines().collect();
    let (body, last) = (lines[1].to_owned(), lines[lines.len() - 1]);
    let swapped = if pem.contains("PRIVATE KEY") {
        pem.replace("PRIVATE KEY", "CERTIFICATE")
    } else {
        pem.replace("CERTIFICATE", "PRIVATE KEY")
    };
    vec![
        // The line breaks are gone, or were escaped.
        pem.replace('\n', " "),
        pem.replace('\n', ""),
        pem.replace('\n', "\\n"),
        // The file is cut in the middle of a line, before its last line, and in a way that leaves it well formed.
        pem[..pem.len() / 2].to_owned(),
        pem.replace(last, ""),
        [lines[0], &body[..40], last].join("\n"),
        // A character is wrong: in the first line, in the middle.
        pem.replacen("-----\n", "---\n", 1),
        pem.replace(&body, &format!("{}*{}", &body[..20], &body[20..])),
        // It stands where the other one belongs.
        swapped,
        // The first line and what follows are one.
        pem.replacen("-----\n", " ", 1),
    ]
}

/// The files of a scaler's TLS: certificate, key, authority of the clients.
fn files(server: &Identity, clients: &str) -> [(&'static str, String); 3] {
    [("tls.crt", server.certificate.clone()), ("tls.key", server.key.clone()), ("ca.crt", clients.to_owned())]
}

/// Each of these files broken in each way, beside the others that are whole.
fn broken_sets(good: &[(&'static str, String); 3]) -> Vec<[(&'static str, String); 3]> {
    let each = good.iter().enumerate().flat_map(|(index, (name, pem))| {
        broken(pem).into_iter().map(move |broken| {
            let mut files = good.clone();
            files[index] = (name, broken);
            files
        })
    });
    each.collect()
}

/// The files and the configuration under test, with all the output so far.
struct Transcript {
    mount: Mount,
    good: [(&'static str, String); 3],
    configuration: String,
    secrets: Vec<String>,
    said: Vec<(String, String)>,
}

impl Transcript {
    fn says(&mut self, who: impl Into<String>, text: String) {
        self.said.push((who.into(), text));
    }

    /// A reload for each broken set of files.
    async fn reload_with_broken_files(&self, serving: &Serving) {
        for (told, files) in broken_sets(&self.good).iter().enumerate() {
            self.mount.swap(files);
            serving.process.signal(Signal::HUP);
            wait::eventually(&format!("the fault of {files:?} is told"), SOON, || {
                serving.process.errors().matches("configuration not reloaded").count() > told
            })
            .await;
        }
        self.mount.swap(&self.good);
        serving.process.signal(Signal::HUP);
        wait::eventually("the reload", SOON, || serving.process.errors().contains("configuration reloaded")).await;
    }

    /// A start, and a check, for each broken set of files.
    async fn start_with_broken_files(&mut self) {
        for files in broken_sets(&self.good) {
            self.mount.swap(&files);
            let ended = Executable::serve(&self.configuration).variable("RUST_LOG", "trace").finish(SOON).await;
            assert_eq!(ended.code(), Some(78), "{files:?}: {}", ended.errors);
            self.says("a start", ended.output + &ended.errors);
            let check = self.command(&["check", "--offline"]).finish(SOON).await;
            assert_ne!(check.code(), Some(0), "{files:?}: {}", check.output);
            self.says("check --offline", check.output + &check.errors);
        }
        self.mount.swap(&self.good);
    }

    fn command(&self, arguments: &[&str]) -> Executable {
        let command = Executable::clapometer(arguments).file("clapometer.yaml", &self.configuration);
        command.argument("--config").argument("clapometer.yaml").variable("RUST_LOG", "trace")
    }
}

/// A database for each way in which a file for it can be broken, and one whose server has another name.
fn databases(access: &Access, mount: &Mount, client: &Identity, authority: &str) -> (String, usize) {
    let path = |name: &str, content: &str| {
        let path = mount.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let with = |cert: &str, key: &str, root: &str| {
        let access = access.clone().with("sslmode", "verify-ca").with("sslrootcert", root);
        access.with("sslcert", cert).with("sslkey", key)
    };
    let (cert, key) = (path("good.crt", &client.certificate), path("good.key", &client.key));
    let root = path("good-ca.crt", authority);
    let mut ways = vec![access.clone().with("sslmode", "verify-full").with("sslrootcert", &root)];
    for (index, broken) in broken(&client.certificate).iter().enumerate() {
        ways.push(with(&path(&format!("{index}.crt"), broken), &key, &root));
    }
    for (index, broken) in broken(&client.key).iter().enumerate() {
        ways.push(with(&cert, &path(&format!("{index}.key"), broken), &root));
    }
    for (index, broken) in broken(authority).iter().enumerate() {
        ways.push(with(&cert, &key, &path(&format!("{index}-ca.crt"), broken)));
    }
    let mut text = "databases:\n".to_owned() + &with(&cert, &key, &root).yaml("good");
    for (index, access) in ways.iter().enumerate() {
        text += &access.yaml(&format!("d{index}"));
    }
    text += "queries:\n  good: {database: good, sql: SELECT 7, max_age: 0s}\n";
    for index in 0..ways.len() {
        writeln!(text, "  q{index}: {{database: d{index}, sql: SELECT 7}}").unwrap();
    }
    (text, ways.len())
}

#[tokio::test]
async fn no_piece_of_a_certificate_or_key_is_told_whatever_is_wrong_with_it() {
    if !speaks_tls().await {
        return skip("PostgreSQL was built without TLS");
    }
    let (ours, theirs) = (Certificates::generate(), Certificates::generate());
    let named = |from: &Certificates, kind: &str| {
        let name = format!("{NAME}-{kind}");
        from.sign(&name, &["localhost", &format!("{name}.example")])
    };
    let mut of_database = ours.clone();
    of_database.server = ours.sign(NAME, &[&format!("{NAME}-database.example")]);
    let (server, keda) = (named(&ours, "server"), theirs.sign("x", &["keda-operator"]));
    let (stranger, at_database) = (named(&theirs, "stranger"), named(&ours, "at-database"));

    let cluster = Cluster::with_settings(Settings::default().with_certificates(of_database.clone())).await;
    let database = Database::empty(&cluster).await;
    let mount = Mount::new();
    let good = files(&server, &theirs.authority);
    mount.swap(&good);
    let (databases, ways) = databases(&database.scaler(), &mount, &at_database, &ours.authority);
    let configuration = format!(
        "server:\n  tls:\n    cert: {0}/tls.crt\n    key: {0}/tls.key\n    client_ca: {0}/ca.crt\n    \
         client_names: [keda-operator]\n{databases}",
        mount.path().display()
    );
    let identities = [&server, &keda, &stranger, &at_database, &of_database.server];
    let mut secrets: Vec<String> = identities
        .iter()
        .flat_map(|identity| [pieces(&identity.certificate), pieces(&identity.key)].concat())
        .collect();
    secrets.extend([&ours.authority, &theirs.authority].map(|authority| pieces(authority)).concat());
    secrets.push(NAME.to_owned());
    let mut transcript = Transcript { mount, good, configuration, secrets, said: Vec::new() };

    let serving = Executable::serve(&transcript.configuration).variable("RUST_LOG", "trace").serving().await;
    let client = |identity: &Identity| {
        let tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ours.authority)).domain_name("localhost");
        let tls = tls.identity(tonic::transport::Identity::from_pem(&identity.certificate, &identity.key));
        let endpoint = Endpoint::from_shared(format!("https://{}", serving.grpc)).unwrap().tls_config(tls).unwrap();
        Scaler::over(endpoint.connect_lazy())
    };
    let scaler = client(&keda);
    scaler.reaches(&trigger("good", &[]), 7.0, SOON).await;
    for index in 0..ways {
        let status = scaler.refusal(&trigger(&format!("q{index}"), &[])).await;
        assert_eq!(status.code(), Code::Unavailable, "q{index}: {status:?}");
        transcript.says(format!("the status of q{index}"), format!("{status:?}"));
    }
    client(&stranger).spec(&trigger("good", &[])).await.expect_err("strangers are not answered");
    transcript.reload_with_broken_files(&serving).await;
    scaler.reaches(&trigger("good", &[]), 7.0, SOON).await;

    for (arguments, code) in [(&["config"][..], 0), (&["check"], 69)] {
        let ended = transcript.command(arguments).finish(SOON).await;
        assert_eq!(ended.code(), Some(code), "{}{}", ended.output, ended.errors);
        transcript.says(arguments.join(" "), ended.output + &ended.errors);
    }
    for files in broken_sets(&files(&keda, &ours.authority)) {
        let mut get = Executable::clapometer(["get", "good", "--address", &serving.grpc.to_string()]);
        get = get.argument("--tls-server-name").argument("localhost");
        for ((name, content), option) in files.iter().zip(["--tls-cert", "--tls-key", "--tls-ca"]) {
            get = get.file(name, content).argument(option).argument(name);
        }
        let ended = get.variable("RUST_LOG", "trace").finish(SOON).await;
        assert_ne!(ended.code(), Some(0), "{files:?}: {}", ended.output);
        transcript.says("get", ended.output + &ended.errors);
    }
    transcript.start_with_broken_files().await;
    let metrics = admin::get(serving.admin, "/metrics").await;
    transcript.says("the page of metrics", metrics);
    let log = serving.process.terminate(SOON).await.errors;
    for told in ["TLS handshakes failed", "not valid for name", "lost its line breaks", "not base64"] {
        assert!(log.contains(told), "{told:?} is not in the log, which then proves nothing: {log}");
    }
    transcript.says("the log", log);

    assert!(transcript.secrets.len() > 500, "{} secrets", transcript.secrets.len());
    for (who, said) in &transcript.said {
        assert_untold(who, said, &transcript.secrets);
    }
}

#[test]
#[should_panic(expected = "a test tells")]
fn a_key_that_is_printed_as_a_list_of_bytes_is_found() {
    let key = Certificates::generate().server.key;
    let body = key.lines().nth(1).unwrap();
    assert_untold("a test", &format!("the file says {:?}", body.as_bytes()), &pieces(&key));
}
