//! HTTP/2 written by hand, since no client library sends what an attacker does (RFC 9113, RFC 7541).

use std::{net::SocketAddr, time::Duration};

use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Header fields, each literal and not indexed.
pub(super) fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            integer(text.len(), &mut bytes);
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// An integer with a prefix of seven bits (RFC 7541, section 5.1).
fn integer(mut number: usize, bytes: &mut Vec<u8>) {
    if number < 127 {
        bytes.push(u8::try_from(number).unwrap());
        return;
    }
    bytes.push(127);
    number -= 127;
    while number >= 128 {
        bytes.push(u8::try_from(number % 128).unwrap() | 128);
        number /= 128;
    }
    bytes.push(u8::try_from(number).unwrap());
}

/// The fields of a right call.
pub(super) fn call<'a>(path: &'a str, content_type: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "clapometer"),
        ("te", "trailers"),
        ("content-type", content_type),
    ]
}

/// A message as gRPC frames it.
pub(super) fn grpc(message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Preface and empty settings.
pub(super) async fn open(address: SocketAddr) -> TcpStream {
    open_from([127, 0, 0, 1], address).await
}

/// The same from an address of this machine's own network, as a peer of its own.
pub(super) async fn open_from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let mut socket = connect_from(source, address).await;
    socket.set_nodelay(true).unwrap();
    // Whoever has to give way at once sees a reset.
    let _ = socket.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
    socket
}

/// Connects from an address of this machine's own network, as a peer of its own.
pub(crate) async fn connect_from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

/// Says all this, and reads until the other side closes or says nothing more for `patience`.
pub(super) async fn say(address: SocketAddr, bytes: &[u8], patience: Duration) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.unwrap();
    // Whoever is refused in the middle of a sentence sees a reset.
    let _ = socket.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(length)) = tokio::time::timeout(patience, socket.read(&mut buffer)).await {
        if length == 0 {
            break;
        }
        answer.extend(&buffer[..length]);
    }
    answer
}
