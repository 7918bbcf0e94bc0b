//! Floods of what each may do once, while another client is answered: streams that are given up at once, windows that
//! grow by a byte, and pages.

use std::{mem, net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    Victim,
    frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, grpc},
    held::{ALL, HeldConnection, OtherClient, PATIENCE},
    limits::{AT_ONCE, PEERS},
};
use crate::support::{
    admin,
    cluster::Cluster,
    database::Database,
    fixture::named,
    grpc::{Scaler, trigger},
    wait,
};

/// Streams that are given up, a hundred at a time.
const GIVEN_UP: u32 = 10_000;

/// Calls of one connection whose answers wait for its window, and the bytes by which that grows, one at a time.
const CALLS: u32 = 5_000;
const BYTES: usize = 300_000;

/// Triggers that the record and the pages have, and what is asked of them at once.
const TRIGGERS: usize = 6_000;
const PAGES: usize = 300;
const HISTORIES: usize = 200;

/// The life of a connection to the admin port, and slack.
const LIFE: Duration = Duration::from_secs(20 + 10);

/// Polls of the other client that show that it was answered.
const POLLS: usize = 5;

/// Starts the other client.
fn other_client(victim: &Victim) -> OtherClient {
    let address = victim.address();
    OtherClient::start(move || Scaler::at(address), Victim::trigger())
}

#[tokio::test]
async fn another_client_is_answered_while_streams_are_opened_and_given_up_at_once() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let other = other_client(&victim);
    let mut peer = HeldConnection::new(PEERS[0], victim.address(), ALL).await;
    let (mut numbers, mut resets) = (0..GIVEN_UP, Vec::new());
    while !numbers.is_empty() {
        let mut calls = Vec::new();
        let ends = mem::take(&mut resets);
        for number in numbers.by_ref().take(AT_ONCE) {
            let mut reference = trigger("jobs", &[("param.queue", &number.to_string())]);
            reference.namespace = "flood".to_owned();
            let call = peer.call("StreamIsActive", &[], &grpc(&reference), false);
            let stream = u32::from_be_bytes([call[5], call[6], call[7], call[8]]);
            calls.extend(call);
            resets.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        }
        peer.say(&[ends, calls].concat()).await;
    }
    peer.say(&resets).await;
    other.is_answered(POLLS).await;
    let admin = victim.fixture.serving.admin;
    let opened = wait::first("most of the streams were opened", PATIENCE, async || {
        let metrics = admin::get(admin, "/metrics").await;
        let handled = metrics.lines().filter(|line| line.starts_with("grpc_server_handled_total{"));
        let of_streams = handled.filter(|line| line.contains("\"StreamIsActive\""));
        let opened: f64 = of_streams.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum();
        (opened > f64::from(GIVEN_UP) / 2.0).then_some(opened)
    })
    .await;
    other.is_answered(POLLS).await;
    println!("{opened} were opened; the slowest answer took {:.1?}", other.slowest());
    other.end();
    drop(peer);
    victim.is_unharmed_but_for(2 * super::GROWTH).await;
}

#[tokio::test]
async fn another_client_is_answered_while_a_window_grows_by_single_bytes() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let other = other_client(&victim);
    let settings = frame(SETTINGS, 0, 0, &[&[0, 4], &ALL.to_be_bytes()[..]].concat());
    let head = frames::fields(&frames::call("/externalscaler.ExternalScaler/GetMetricSpec", "application/grpc"));
    let body = grpc(&Victim::trigger());
    let mut calls = [PREFACE, &settings].concat();
    for number in 0..CALLS {
        let stream = 2 * number + 1;
        calls.extend(frame(HEADERS, END_HEADERS, stream, &head));
        calls.extend(frame(DATA, END_STREAM, stream, &body));
    }
    let (mut reader, mut writer) = frames::connect_from(PEERS[0], victim.address()).await.into_split();
    let reading = tokio::spawn(async move {
        let (mut buffer, mut read) = ([0; 4_096], 0);
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            read += length;
        }
        read
    });
    let grows = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(AT_ONCE);
    let writing = async {
        writer.write_all(&calls).await?;
        for _ in 0..BYTES / AT_ONCE {
            writer.write_all(&grows).await?;
        }
        writer.shutdown().await
    };
    // The server may close the connection.
    let written = writing.await;
    other.is_answered(POLLS).await;
    println!("written: {written:?}; the slowest answer took {:.1?}", other.slowest());
    other.end();
    drop(writer);
    println!("{} bytes were read", reading.await.unwrap());
    victim.is_unharmed().await;
}

/// Loads a page, and returns whether it came.
async fn load(address: SocketAddr, source: [u8; 4], path: String) -> bool {
    let mut socket = frames::connect_from(source, address).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    let mut answer = Vec::new();
    socket.write_all(request.as_bytes()).await.is_ok()
        && timeout(LIFE, socket.read_to_end(&mut answer)).await.is_ok_and(|read| read.is_ok())
        && answer.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn another_client_is_answered_beside_three_hundred_pages_and_two_hundred_histories() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let port = victim.fixture.serving.admin;
    for first in (0..TRIGGERS).step_by(AT_ONCE) {
        let asking = (first..first + AT_ONCE).map(async |number| {
            let one = named(&Victim::trigger(), format!("a-scaled-job-with-a-name-of-the-usual-length-{number}"));
            victim.scaler().active(&one).await.unwrap();
        });
        join_all(asking).await;
    }
    let other = other_client(&victim);
    let pages = ["/", "/api/status", "/metrics"];
    let page = |number: usize| load(port, PEERS[number % PEERS.len()], pages[number % pages.len()].to_owned());
    let history = |number: usize| {
        let name = format!("a-scaled-job-with-a-name-of-the-usual-length-{}", TRIGGERS - 1 - number);
        load(port, PEERS[number % PEERS.len()], format!("/api/triggers/default/{name}"))
    };
    let loads = (join_all((0..PAGES).map(page)), join_all((0..HISTORIES).map(history)));
    let (pages, histories) = tokio::join!(loads.0, loads.1);
    let came = |loads: Vec<bool>| loads.into_iter().filter(|came| *came).count();
    let (pages, histories) = (came(pages), came(histories));
    assert_eq!(admin::get(port, "/livez").await, "ok\n");
    other.is_answered(POLLS).await;
    println!("{pages} pages and {histories} histories; the slowest answer took {:.1?}", other.slowest());
    assert!(pages > PAGES / 2 && histories > 0, "{pages} pages and {histories} histories came");
    other.end();
    victim.is_unharmed_but_for(2 * super::GROWTH).await;
}
