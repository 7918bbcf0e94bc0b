//! Asks every process: each address that a name resolves to.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, sleep, timeout},
};

use crate::{recorder::History, telemetry::error_chain};

/// The longest that an answer may take, connection included. One takes milliseconds.
const ANSWER: Duration = Duration::from_secs(5);

/// The time for which a loopback port that refuses connections is tried again: a `kubectl port-forward` that was
/// started at the same moment needs a part of it until it listens.
const FORWARD: Duration = Duration::from_secs(2);

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// The longest answer that is read: more than the recorder of a process can hold.
const LARGEST: usize = 64 * 1024 * 1024;

/// The answer of one address.
pub(super) struct Answered {
    pub(super) address: String,
    /// The history that it remembers, or the reason why it did not answer.
    pub(super) history: Result<History, String>,
}

/// Asks all addresses at the same time, and returns their answers in order.
pub(super) async fn all(names: &[String], path: &str) -> Vec<Answered> {
    let answers = join_all(names.iter().map(|name| of_name(name, path))).await;
    let mut all: Vec<Answered> = Vec::new();
    for answered in answers.into_iter().flatten() {
        if all.iter().all(|known| known.address != answered.address) {
            all.push(answered);
        }
    }
    all
}

async fn of_name(name: &str, path: &str) -> Vec<Answered> {
    let resolved: Result<Vec<SocketAddr>, String> = match timeout(ANSWER, lookup_host(name)).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(error_chain(&error)),
        Err(_) => Err(format!("the name is not resolved within {} s", ANSWER.as_secs())),
    };
    match resolved {
        Ok(addresses) if !addresses.is_empty() => {
            join_all(addresses.into_iter().map(async |address| {
                let answer = timeout(ANSWER, one(address, name, path)).await;
                let history = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER.as_secs())));
                Answered { address: address.to_string(), history }
            }))
            .await
        }
        Ok(_) => vec![Answered { address: name.to_owned(), history: Err("the name has no address".to_owned()) }],
        Err(problem) => vec![Answered { address: name.to_owned(), history: Err(problem) }],
    }
}

async fn one(address: SocketAddr, name: &str, path: &str) -> Result<History, String> {
    let socket = connected(address).await.map_err(|error| error_chain(&error))?;
    let (mut requests, connection) =
        http1::handshake(TokioIo::new(socket)).await.map_err(|error| error_chain(&error))?;
    let request =
        Request::get(path).header(HOST, name).body(Empty::<Bytes>::new()).map_err(|error| error_chain(&error))?;
    let answer = async move {
        let response = requests.send_request(request).await.map_err(|error| error_chain(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        Ok::<_, String>((status, body.map_err(|error| error_chain(&*error))?.to_bytes()))
    };
    // What ends the connection is an error of the answer, too.
    let (answer, _) = tokio::join!(answer, connection);
    let (status, body) = answer?;
    match serde_json::from_slice(&body) {
        // An object that never asked is a 404 with a history that has no trigger.
        Ok(history) if status == StatusCode::OK || status == StatusCode::NOT_FOUND => Ok(history),
        _ => Err(format!(
            "HTTP status {}, and no history: is it the admin port of this version of clapometer?",
            status.as_u16()
        )),
    }
}

async fn connected(address: SocketAddr) -> io::Result<TcpStream> {
    let until = Instant::now() + FORWARD;
    loop {
        match TcpStream::connect(address).await {
            Err(error)
                if error.kind() == ErrorKind::ConnectionRefused
                    && address.ip().is_loopback()
                    && Instant::now() < until =>
            {
                sleep(PAUSE).await;
            }
            connected => return connected,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpSocket;

    use super::*;

    /// Returns a socket that has a port and does not listen yet.
    fn bound() -> (TcpSocket, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[tokio::test(start_paused = true)]
    async fn a_loopback_port_may_begin_to_listen_a_little_later() {
        let (socket, address) = bound();
        let forward = async {
            sleep(FORWARD - PAUSE).await;
            socket.listen(1).unwrap()
        };
        let (connected, _listener) = tokio::join!(connected(address), forward);
        assert!(connected.is_ok(), "{connected:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_goes_on_refusing_is_told() {
        let (_socket, address) = bound();
        let began_at = Instant::now();
        let refused = connected(address).await.map_err(|error| error.kind());
        assert_eq!(refused.err(), Some(ErrorKind::ConnectionRefused));
        assert!((FORWARD..FORWARD + PAUSE).contains(&began_at.elapsed()), "{:?}", began_at.elapsed());
    }
}
