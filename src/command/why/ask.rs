//! Asks every process: each address that a name resolves to.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use crate::{recorder::History, telemetry::error_chain};

/// The longest that an answer may take, connection included. One takes milliseconds.
const ANSWER: Duration = Duration::from_secs(5);

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
    let socket = TcpStream::connect(address).await.map_err(|error| error_chain(&error))?;
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
