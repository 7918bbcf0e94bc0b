//! Mistakes about the way to a database, each provoked, and what `clapometer check` says about it: what, where, and
//! what to do.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{SOON, configuration, redacted, run};
use crate::support::{
    certificates::{Certificates, Identity},
    cluster::{Cluster, Settings, speaks_tls},
    database::{Access, Database},
    executable::Executable,
    fixture::Fixture,
    pooler::Pooler,
    skip::skip,
    tempdir,
};

/// The texts that each check says, by the name of its mistake.
#[derive(Default)]
struct Told {
    text: String,
    known: Vec<(String, &'static str)>,
}

impl Told {
    /// Replaces what differs from run to run.
    fn knows(&mut self, piece: impl ToString, name: &'static str) {
        self.known.push((piece.to_string(), name));
    }

    /// Checks one database, and keeps what is said of its mistake.
    async fn check(&mut self, name: &str, access: &Access) {
        self.check_yaml(name, &configuration(access, "  jobs: {sql: SELECT 7}\n")).await;
    }

    async fn check_yaml(&mut self, name: &str, yaml: &str) {
        let finished = run(yaml, &["check"]).await;
        assert!(!finished.output.contains("canary") && !finished.errors.contains("canary"), "{name}: a secret is told");
        let mut said = format!("{}{}", finished.output, finished.errors);
        // When a certificate has ended, and for how long: a port may stand in such a number.
        let is_long = |word: &str| word.len() > 8 && word.bytes().all(|byte| byte.is_ascii_digit());
        let words = said.split_inclusive([' ', '(', ')', '\n']);
        said = words
            .map(|word| {
                if is_long(word.trim_end_matches([' ', '(', ')', '\n'])) {
                    word.replace(|c: char| c.is_ascii_digit(), "9")
                } else {
                    word.to_owned()
                }
            })
            .collect();
        for (piece, name) in &self.known {
            said = said.replace(piece, name);
        }
        said = redacted(&said, &[]);
        writeln!(self.text, "== {name} (exit {})", finished.code().unwrap_or(-1)).unwrap();
        let facts = [
            "server  ",
            "TLS  ",
            "role  ",
            "search_path  ",
            "unasked  ",
            "absent  ",
            "pending-claps (`postgres-batch migrate up`",
            "queries)",
            "ok  ",
            "reads no table",
        ];
        for line in said.lines().skip(1).filter(|line| !line.is_empty()) {
            if !facts.iter().any(|fact| line.trim_start().starts_with(fact)) && !line.contains(" on 1 database: ") {
                writeln!(self.text, "{line}").unwrap();
            }
        }
    }
}

/// A listener that says this to whoever connects, after the first bytes if it is polite, and closes.
async fn says(words: &'static [u8], is_polite: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            if is_polite {
                let _ = stream.read(&mut buffer).await;
            }
            let _ = stream.write_all(words).await;
            let _ = stream.shutdown().await;
            while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        }
    });
    address
}

#[tokio::test]
async fn what_is_no_postgresql_is_told_as_such() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut told = Told::default();
    told.knows(database.cluster().port(), "<port>");
    for (name, words, is_polite) in [
        ("a web server", &b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..], true),
        ("an SSH server", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", false),
        ("MySQL", b"\x4a\x00\x00\x00\x0a8.0.36\x00\x08\x00\x00\x00abcdefgh\x00", false),
        ("Redis", b"-ERR unknown command\r\n", true),
        ("an HTTP/2 server", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", false),
        ("a proxy without a server", b"", true),
    ] {
        let address = says(words, is_polite).await;
        told.knows(address.port(), "<port>");
        for sslmode in ["disable", "require"] {
            let access = database.scaler().by_way_of(address).with("sslmode", sslmode);
            told.check(&format!("{name}, sslmode {sslmode}"), &access).await;
        }
    }
    let seven = "\n  seven: {sql: SELECT 7}\n";
    let scaler = Fixture::with(&database.scaler(), seven).await;
    for (name, own) in [("server", scaler.serving.grpc), ("admin", scaler.serving.admin)] {
        told.knows(own.port(), "<own port>");
        let text =
            configuration(&database.scaler().by_way_of(own).with("connect_timeout", "6s"), "  jobs: {sql: SELECT 7}\n");
        told.check_yaml(&format!("clapometer's own {name}.listen"), &format!("{name}: {{listen: \"{own}\"}}\n{text}"))
            .await;
    }
    insta::assert_snapshot!(told.text);
}

#[tokio::test]
async fn what_a_server_refuses_is_told_with_what_to_do() {
    let settings = Settings::default()
        .authenticate("host all nobody 127.0.0.1/32 reject")
        .authenticate("host all trusted 127.0.0.1/32 trust");
    let cluster = Cluster::with_settings(settings).await;
    let database = Database::empty(&cluster).await;
    database
        .execute(
            "CREATE ROLE nobody LOGIN; CREATE ROLE trusted LOGIN; CREATE ROLE nologin PASSWORD 'p';
             CREATE ROLE few LOGIN PASSWORD 'p' CONNECTION LIMIT 2; CREATE ROLE expired LOGIN PASSWORD 'p' VALID UNTIL '2020-01-01';
             CREATE TABLE job (n int); CREATE TABLE other (n int)",
        )
        .await;
    let mut told = Told::default();
    told.knows(cluster.port(), "<port>");
    told.knows(database.name(), "<database>");
    let as_role = |name: &str, password: &str| {
        let mut access = database.scaler().with_password(password);
        access.user = name.to_owned();
        access
    };
    let without_password = |access: &Access| {
        configuration(access, "  jobs: {sql: SELECT 7}\n").replace(&format!("    password: {}\n", access.password), "")
    };
    told.check_yaml("no password", &without_password(&database.scaler())).await;
    told.check("wrong password", &as_role("scaler", "canary-wrong")).await;
    told.check("expired password", &as_role("expired", "p")).await;
    told.check("unknown role", &as_role("unknown", "p")).await;
    told.check("a role that may not log in", &as_role("nologin", "p")).await;
    told.check("refused by pg_hba.conf", &as_role("nobody", "p")).await;
    let limited = run(&configuration(&as_role("few", "p"), "  jobs: {sql: SELECT 7}\n"), &["check"]).await;
    let is_told =
        limited.output.contains("of the 4 sessions of pool_size: ") && limited.output.contains("CONNECTION LIMIT");
    assert!(limited.code() == Some(0) && is_told, "{}", limited.output);
    let Access { port, dbname, user, password, .. } = &database.scaler();
    let url = format!("postgres://{user}:{password}@127.0.0.1:{port}/{dbname}?sslmode=disable&channel_binding=require");
    told.check_yaml("channel_binding without TLS", &format!("databases: {{claps: {{url: \"{url}\"}}}}\n")).await;
    let mut elsewhere = database.scaler();
    elsewhere.dbname = "nowhere".to_owned();
    told.check("unknown database", &elsewhere).await;
    told.check("read-only is asked of a primary", &database.scaler().with("target_session_attrs", "standby")).await;
    let standby = cluster.standby().await;
    told.knows(standby.port(), "<standby's port>");
    let at_standby = database.scaler().by_way_of(([127, 0, 0, 1], standby.port()).into());
    told.check("read-write is asked of a standby", &at_standby.clone().with("target_session_attrs", "read-write"))
        .await;
    told.check("a standby", &at_standby).await;
    let queries = "  jobs: {sql: SELECT count(*) FROM job JOIN other USING (n)}\n";
    told.check_yaml("a superuser", &configuration(&database.superuser(), queries)).await;
    let refused = database.superuser().with("require_unprivileged_role", true);
    told.check("a superuser is refused", &refused).await;
    let socket = database.scaler().at("/nowhere/postgresql");
    told.check("no socket", &socket).await;
    told.check("an unknown name", &database.scaler().at("db.invalid")).await;
    told.check("no server", &database.scaler().by_way_of(([127, 0, 0, 1], 1).into())).await;
    insta::assert_snapshot!(told.text);
}

#[tokio::test]
async fn each_failure_of_tls_has_its_own_advice() {
    if !speaks_tls().await {
        return skip("PostgreSQL was built without TLS");
    }
    let (ours, strange) = (Certificates::generate(), Certificates::generate());
    let directory = tempdir::new("certificates");
    let mut told = Told::default();
    told.knows(directory.display(), "<directory>");
    let file = |name: &str, content: &str| {
        let path = directory.join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (root, strangers) = (file("ca.crt", &ours.authority), file("strange.crt", &strange.authority));
    let end = |parameters: &mut rcgen::CertificateParams| parameters.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let cluster_with = async |server: Identity| {
        let mut certificates = ours.clone();
        certificates.server = server;
        let wants = "hostssl all owner 127.0.0.1/32 cert";
        Cluster::with_settings(Settings::default().with_certificates(certificates).authenticate(wants)).await
    };
    let alone = {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        parameters.is_ca = rcgen::IsCa::ExplicitNoCa;
        Identity { certificate: parameters.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    };
    let (right, misnamed, ended, own, plain, lone) = tokio::join!(
        cluster_with(ours.server.clone()),
        cluster_with(ours.sign("x", &["elsewhere.example"])),
        cluster_with(ours.sign_with("localhost", &["localhost", "127.0.0.1"], end)),
        cluster_with(ours.self_signed().server),
        Cluster::private(),
        cluster_with(alone.clone()),
    );
    let (sslcert, sslkey) = {
        let stranger = strange.sign("owner", &[]);
        (file("stranger.crt", &stranger.certificate), file("stranger.key", &stranger.key))
    };
    for cluster in [&right, &misnamed, &ended, &own, &plain] {
        told.knows(cluster.port(), "<port>");
    }
    let full = |access: Access, root: &str| access.with("sslmode", "verify-full").with("sslrootcert", root);
    let databases = tokio::join!(
        Database::empty(&right),
        Database::empty(&misnamed),
        Database::empty(&ended),
        Database::empty(&own),
        Database::empty(&plain),
        Database::empty(&lone),
    );
    told.check("another authority", &full(databases.0.scaler(), &strangers)).await;
    told.check("the system's authorities", &databases.0.scaler().with("sslmode", "verify-full")).await;
    told.check("another name", &full(databases.1.scaler(), &root)).await;
    told.check("an ended certificate", &full(databases.2.scaler(), &root)).await;
    told.check("its own root", &full(databases.3.scaler(), &root)).await;
    told.check("no TLS", &full(databases.4.scaler(), &root)).await;
    told.check("no client's certificate", &full(databases.0.owner(), &root)).await;
    let with_stranger = full(databases.0.owner(), &root).with("sslcert", sslcert).with("sslkey", sslkey);
    told.check("a stranger's certificate", &with_stranger).await;
    let not_pem = file("not.pem", "canary, and no certificate");
    told.check("no certificate in the file", &full(databases.0.scaler(), &not_pem)).await;
    insta::assert_snapshot!(told.text);
    let yaml =
        configuration(&full(databases.5.scaler(), &file("alone.crt", &alone.certificate)), "  jobs: {sql: SELECT 7}\n");
    let finished = run(&yaml, &["check"]).await;
    assert_eq!(finished.code(), Some(0), "a certificate with CA:FALSE is its own root: {}", finished.output);
}

#[tokio::test]
async fn a_pooler_in_the_wrong_mode_or_too_small_is_told() {
    let database = Database::empty(Cluster::shared().await).await;
    let scaler = database.scaler();
    let (Some(statement), Some(session), Some(transaction)) = tokio::join!(
        Pooler::in_mode("statement", &scaler, 2),
        Pooler::in_mode("session", &scaler, 2),
        Pooler::before(&scaler, 2),
    ) else {
        return skip("there is no PgBouncer");
    };
    let mut told = Told::default();
    for pooler in [&statement, &session, &transaction] {
        told.knows(pooler.address().port(), "<pooler's port>");
    }
    told.knows(database.name(), "<database>");
    // A session that was just closed may still hold its place.
    told.knows("room for 1 of", "room for <n> of");
    told.knows("room for 2 of", "room for <n> of");
    told.check("statement pooling", &scaler.clone().by_way_of(statement.address())).await;
    // Long enough for PgBouncer on a busy machine; the third session never gets one.
    let by_session = scaler.clone().by_way_of(session.address()).with("connect_timeout", "5s");
    let yaml = format!("{}built_in_queries: false\n", configuration(&by_session, "  jobs: {sql: SELECT 7}\n"));
    told.check_yaml("a session pool smaller than pool_size", &yaml).await;
    let by_transaction = scaler.clone().by_way_of(transaction.address());
    let listens = "  jobs: {sql: SELECT 7, notify: {channel: jobs}}\n";
    told.check_yaml("LISTEN by way of transaction pooling", &configuration(&by_transaction, listens)).await;
    let past = by_transaction.with("listen_host", &scaler.host).with("listen_port", scaler.port);
    told.check_yaml("LISTEN past the pooler", &configuration(&past, listens)).await;
    insta::assert_snapshot!(told.text);
}

#[tokio::test]
async fn a_connection_strings_timeout_is_told_where_it_is_cut() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut told = Told::default();
    let Access { port, dbname, user, password, .. } = &database.scaler();
    let url = format!("postgres://{user}:{password}@127.0.0.1:{port}/{dbname}?sslmode=disable&connect_timeout=30");
    told.check_yaml("30 s", &format!("databases: {{claps: {{url: \"{url}\"}}}}\nbuilt_in_queries: false\n")).await;
    insta::assert_snapshot!(told.text);
}

#[tokio::test]
async fn a_slow_connection_is_waited_for_and_told() {
    let cluster = Cluster::shared().await;
    let database = Database::empty(cluster).await;
    let port = cluster.port();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Each connection begins late, as through a far VPN.
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(1_000)).await;
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    let access = database.scaler().by_way_of(address).with("pool_size", 1).with("connect_timeout", "800ms");
    let finished = run(&configuration(&access, "  jobs: {sql: SELECT 7}\n"), &["check"]).await;
    assert_eq!(finished.code(), Some(0), "{}", finished.output);
    assert!(finished.output.contains("the scaler gives up after 800ms"), "{}", finished.output);
    assert!(finished.output.contains("raise databases.claps.connect_timeout"), "{}", finished.output);
}

#[tokio::test]
async fn a_query_that_failed_leaves_its_session_to_no_other() {
    let database = Database::empty(Cluster::shared().await).await;
    // Behind pgpool-II the session of a failed statement may answer no later one.
    let queries = "  a: {sql: SELECT pg_backend_pid()}\n  b: {sql: SELECT nothing}\n  c: {sql: SELECT pg_backend_pid()}\n  \
                   d: {sql: SELECT pg_backend_pid()}\n";
    let yaml = format!("{}built_in_queries: false\n", configuration(&database.scaler(), queries));
    let finished = run(&yaml, &["check", "--json"]).await;
    let document: serde_json::Value = serde_json::from_str(&finished.output).unwrap();
    let [a, _, c, d] = [0, 1, 2, 3].map(|index| document["databases"][0]["queries"][index]["value"].as_i64());
    assert!(a.is_some() && c.is_some() && a != c, "{document:#}");
    assert_eq!(c, d, "an answer leaves the session as it is");
}

#[tokio::test]
async fn the_built_in_queries_can_be_left_out() {
    let database = Database::empty(Cluster::shared().await).await;
    let yaml = format!("{}built_in_queries: false\n", configuration(&database.scaler(), "  jobs: {sql: SELECT 7}\n"));
    let finished = run(&yaml, &["check"]).await;
    assert!(finished.output.contains("1 query on 1 database: 1 answered\n"), "{}", finished.output);
    let by_variable = Executable::clapometer(["check"])
        .variables(database.scaler().environment())
        .variable("CLAPOMETER__BUILT_IN_QUERIES", "false")
        .finish(SOON)
        .await;
    assert!(by_variable.output.contains("0 queries on 1 database"), "{}", by_variable.output);
}
