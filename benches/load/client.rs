//! A gRPC client that costs as little as one can: a connection, and messages encoded beforehand.
//!
//! tonic's client takes more CPU than the servers that are measured with it, so that on a small
//! machine it would measure itself. This one speaks HTTP/2 directly, and like KEDA sets no
//! deadline and puts every call on one connection.

use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, client::SendRequest};
use http::{HeaderMap, Method, Request, Uri, Version, header};
use tokio::{net::TcpStream, task::JoinHandle};
use tonic::Code;

/// Messages of an answer at most this long are expected; more is a fault of the server's.
const MAXIMUM: usize = 64 * 1024;

/// The reason why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The server refused with this status.
    Refused(Code, String),
    /// HTTP/2 or gRPC was broken.
    Broken(String),
}

/// One HTTP/2 connection; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    sender: SendRequest<Bytes>,
    authority: SocketAddr,
}

/// The connection's own work; dropped, it is cut.
#[derive(Debug)]
pub(crate) struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Connects.
    ///
    /// # Panics
    /// When that fails: nothing can be measured then.
    pub(crate) async fn open(address: SocketAddr) -> (Self, Driver) {
        let socket = TcpStream::connect(address).await.expect("the server listens");
        socket.set_nodelay(true).expect("a socket takes the option");
        // No limit on streams, neither before the server's settings have arrived nor after.
        let mut builder = h2::client::Builder::new();
        builder.initial_max_send_streams(10_000).initial_connection_window_size(1 << 24);
        let (sender, connection) = builder.handshake(socket).await.expect("the server speaks HTTP/2");
        let driver = tokio::spawn(async move {
            // The calls fail when it ends.
            let _ = connection.await;
        });
        (Self { sender, authority: address }, Driver(driver))
    }

    /// A request's head, to be cloned for each call.
    pub(crate) fn head(&self, path: &str) -> Request<()> {
        let uri: Uri = format!("http://{}{path}", self.authority).parse().expect("an address and a path make a URI");
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        let headers = request.headers_mut();
        headers.insert(header::TE, header::HeaderValue::from_static("trailers"));
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
        headers.insert(header::USER_AGENT, header::HeaderValue::from_static("grpc-go/1.76.0"));
        request
    }

    /// Asks, and returns the one message of the answer, without its frame.
    ///
    /// # Errors
    /// The status, or what was wrong with the answer.
    pub(crate) async fn unary(&self, head: Request<()>, message: Bytes) -> Result<Bytes, Failure> {
        let mut messages = self.stream(head, message).await?;
        let message = messages.next().await?.ok_or_else(|| Failure::Broken("OK without a message".to_owned()))?;
        match messages.next().await? {
            None => Ok(message),
            Some(_) => Err(Failure::Broken("more than one message".to_owned())),
        }
    }

    /// Asks, and returns the answer's messages as they come.
    ///
    /// # Errors
    /// The status, if it is refused at once.
    pub(crate) async fn stream(&self, head: Request<()>, message: Bytes) -> Result<Messages, Failure> {
        let mut sender = self.sender.clone().ready().await.map_err(broken)?;
        let (response, mut body) = sender.send_request(head, false).map_err(broken)?;
        body.send_data(message, true).map_err(broken)?;
        let (head, body) = response.await.map_err(broken)?.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(Failure::Broken(format!("HTTP status {}", head.status)));
        }
        if head.headers.contains_key("grpc-status") {
            status(&head.headers)?;
        }
        Ok(Messages { body, received: BytesMut::new() })
    }
}

/// The messages of one answer.
#[derive(Debug)]
pub(crate) struct Messages {
    body: RecvStream,
    received: BytesMut,
}

impl Messages {
    /// The next message; none at an end with OK.
    ///
    /// # Errors
    /// The status that it ended with.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(message) = self.complete()? {
                return Ok(Some(message));
            }
            match self.body.data().await {
                Some(chunk) => {
                    let chunk = chunk.map_err(broken)?;
                    self.body.flow_control().release_capacity(chunk.len()).map_err(broken)?;
                    self.received.extend_from_slice(&chunk);
                }
                None => {
                    if !self.received.is_empty() {
                        return Err(Failure::Broken("the answer ends within a message".to_owned()));
                    }
                    let trailers = self.body.trailers().await.map_err(broken)?;
                    return trailers.as_ref().map_or(Ok(None), |trailers| status(trailers).map(|()| None));
                }
            }
        }
    }

    fn complete(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(frame) = self.received.get(..5) else { return Ok(None) };
        let length = (&frame[1..]).get_u32();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if frame[0] != 0 || length > MAXIMUM {
            return Err(Failure::Broken(format!("a frame with flag {} and length {length}", frame[0])));
        }
        if self.received.len() < 5 + length {
            return Ok(None);
        }
        self.received.advance(5);
        Ok(Some(self.received.split_to(length).freeze()))
    }
}

fn status(headers: &HeaderMap) -> Result<(), Failure> {
    let code = headers.get("grpc-status").map_or(Code::Unknown, |status| Code::from_bytes(status.as_bytes()));
    if code == Code::Ok {
        return Ok(());
    }
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    Err(Failure::Refused(code, message.to_owned()))
}

fn broken(error: h2::Error) -> Failure {
    Failure::Broken(error.to_string())
}
