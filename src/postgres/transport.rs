//! The byte stream of a session: plain or TLS, as `sslmode` asks, with a limit to what the server may send.
//!
//! The driver accepts a message of a gigabyte, remembers every parameter that the server reports, and
//! asks the server about each type that it does not know: types of types, and labels without end. A
//! server that is broken, or not ours, must fill neither our memory nor our stack: one process serves
//! many databases, and all of them would go down with it (tests/it/hostile/postgres.rs). The driver's
//! only hook for this is TLS, so plain text is negotiated here as well.

use std::{
    collections::HashMap,
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_postgres::{
    Socket,
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream},
    types::Type,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::conninfo::{SslMode, SslNegotiation};

type Secure = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
type Handshake = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;

/// Length, and the code of SSLRequest (PostgreSQL's manual, "Message Formats").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// The most bytes that a server may send before it is ready for the first query.
const LARGEST_PREAMBLE: usize = 256 * 1024;

/// The most bytes of the parameters that a server reports, of each its latest value.
const LARGEST_PARAMETERS: usize = 256 * 1024;

/// The bytes that a parameter takes beside its name and its value.
const PARAMETER: usize = 100;

/// The most bytes of a description of a row's columns. PostgreSQL has 1,664 columns at most, with names of 63 bytes.
const LARGEST_DESCRIPTION: usize = 256 * 1024;

/// A message's type and its length.
const HEADER: usize = 5;

const PARAMETER_STATUS: u8 = b'S';
const ROW_DESCRIPTION: u8 = b'T';
const READY_FOR_QUERY: u8 = b'Z';

/// The messages that a server sends before it is ready: authentication, keys, parameters, notices, errors.
const STARTUP: &[u8] = b"RKSNEvZ";

/// Makes the transports of sessions.
#[derive(Clone)]
pub(super) struct Transport {
    pub(super) tls: MakeRustlsConnect,
    pub(super) sslmode: SslMode,
    pub(super) sslnegotiation: SslNegotiation,
    /// The most bytes of one message.
    pub(super) largest_message: usize,
}

/// A server's violation of the protocol, or of what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misbehaviour {
    /// It has no TLS.
    #[error("the server does not support TLS")]
    NoTls,
    /// Its answer is not that of a PostgreSQL server.
    #[error("what answers is no PostgreSQL server")]
    NotPostgres,
    /// It closed the connection instead of an answer to the first bytes.
    #[error("the server closed the connection at once")]
    HungUp,
    /// It closed the connection when TLS began with the first byte.
    #[error("the server does not take TLS without being asked for it first (sslnegotiation=direct)")]
    NotDirect,
    /// It sends more than our memory limits allow.
    #[error("the server sent {0}")]
    TooMuch(&'static str),
}

impl From<Misbehaviour> for io::Error {
    fn from(misbehaviour: Misbehaviour) -> Self {
        let kind = match misbehaviour {
            Misbehaviour::TooMuch(_) | Misbehaviour::NotPostgres => io::ErrorKind::InvalidData,
            Misbehaviour::HungUp => io::ErrorKind::UnexpectedEof,
            Misbehaviour::NoTls | Misbehaviour::NotDirect => io::ErrorKind::Other,
        };
        Self::new(kind, misbehaviour)
    }
}

impl MakeTlsConnect<Socket> for Transport {
    type Stream = Bounded;
    type TlsConnect = Negotiation;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<Negotiation> {
        let handshake = match self.sslmode {
            SslMode::Disable => None,
            _ => Some(MakeTlsConnect::<Socket>::make_tls_connect(&mut self.tls, domain).map_err(io::Error::other)?),
        };
        let Self { sslmode, sslnegotiation, largest_message, tls: _ } = *self;
        Ok(Negotiation { handshake, sslmode, sslnegotiation, largest_message })
    }
}

/// Sets up the transport of one session.
pub(super) struct Negotiation {
    handshake: Option<Handshake>,
    sslmode: SslMode,
    sslnegotiation: SslNegotiation,
    largest_message: usize,
}

impl TlsConnect<Socket> for Negotiation {
    type Stream = Bounded;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Bounded>> + Send>>;

    fn connect(self, mut socket: Socket) -> Self::Future {
        Box::pin(async move {
            let Some(handshake) = self.handshake else {
                return Ok(Bounded::new(Inner::Plain(socket), self.largest_message));
            };
            if self.sslnegotiation == SslNegotiation::Direct {
                let stream = handshake.connect(socket).await.map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Misbehaviour::NotDirect.into(),
                    _ => io::Error::other(error),
                })?;
                return Ok(Bounded::new(Inner::Secure(Box::new(stream)), self.largest_message));
            }
            socket.write_all(&SSL_REQUEST).await?;
            // One byte, since what an attacker sends after it must not be taken for what TLS protects.
            let answer = socket.read_u8().await.map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Misbehaviour::HungUp.into(),
                _ => error,
            })?;
            let inner = match (answer, self.sslmode) {
                (b'S', _) => Inner::Secure(Box::new(handshake.connect(socket).await.map_err(io::Error::other)?)),
                (b'N', SslMode::Prefer) => Inner::Plain(socket),
                (b'N', _) => return Err(Misbehaviour::NoTls.into()),
                _ => return Err(Misbehaviour::NotPostgres.into()),
            };
            Ok(Bounded::new(inner, self.largest_message))
        })
    }
}

enum Inner {
    Plain(Socket),
    Secure(Box<Secure>),
}

/// The byte stream of a session, which ends with an error where the server sends too much.
pub(super) struct Bounded {
    inner: Inner,
    meter: Meter,
}

impl Bounded {
    fn new(inner: Inner, largest_message: usize) -> Self {
        Self { inner, meter: Meter { largest_message, ..Meter::default() } }
    }
}

/// Follows the messages by their headers.
#[derive(Debug, Default)]
struct Meter {
    largest_message: usize,
    header: [u8; HEADER],
    of_header: usize,
    of_body: usize,
    is_ready: bool,
    preamble: usize,
    /// The kind of the message that is being received, if its body matters.
    collected: Option<u8>,
    /// The body of that message, as far as it has been received.
    body: Vec<u8>,
    parameters: Parameters,
}

/// The parameters that the driver remembers.
#[derive(Debug, Default)]
struct Parameters {
    /// The bytes that each of them takes, by name.
    sizes: HashMap<Vec<u8>, usize>,
    size: usize,
}

impl Parameters {
    /// Takes the body of a [`PARAMETER_STATUS`]: a name and its value, each with a zero behind it.
    ///
    /// A server reports a parameter whenever it changes, and `SET LOCAL` changes it twice in every transaction. So
    /// reports come without end in a session that is used, and only what is remembered may be counted.
    fn take(&mut self, report: &[u8]) -> io::Result<()> {
        let name = report.split(|byte| *byte == 0).next().unwrap_or_default();
        let size = PARAMETER + report.len();
        let before = match self.sizes.get_mut(name) {
            Some(known) => mem::replace(known, size),
            None => {
                self.sizes.insert(name.to_vec(), size);
                0
            }
        };
        self.size = self.size - before + size;
        if self.size > LARGEST_PARAMETERS { Err(too_much("too many parameters")) } else { Ok(()) }
    }
}

impl Meter {
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.of_body > 0 {
                let (body, rest) = bytes.split_at(self.of_body.min(bytes.len()));
                self.of_body -= body.len();
                bytes = rest;
                if self.collected.is_some() {
                    self.body.extend(body);
                }
                if self.of_body == 0 {
                    self.end()?;
                }
                continue;
            }
            self.header[self.of_header] = *first;
            self.of_header += 1;
            bytes = rest;
            if self.of_header == HEADER {
                self.of_header = 0;
                self.begin()?;
            }
        }
        Ok(())
    }

    /// Begins a message, whose header has been received.
    fn begin(&mut self) -> io::Result<()> {
        let [kind, a, b, c, d] = self.header;
        // The length counts itself.
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        self.of_body = length.saturating_sub(4);
        if !self.is_ready && (!STARTUP.contains(&kind) || self.of_body > LARGEST_PREAMBLE) {
            return Err(Misbehaviour::NotPostgres.into());
        }
        let largest = match kind {
            ROW_DESCRIPTION => self.largest_message.min(LARGEST_DESCRIPTION),
            PARAMETER_STATUS => self.largest_message.min(LARGEST_PARAMETERS),
            _ => self.largest_message,
        };
        if self.of_body > largest {
            return Err(too_much("a message that is too long"));
        }
        self.collected = matches!(kind, ROW_DESCRIPTION | PARAMETER_STATUS).then_some(kind);
        if !self.is_ready {
            self.preamble += length;
        }
        self.is_ready |= kind == READY_FOR_QUERY;
        if self.preamble > LARGEST_PREAMBLE { Err(too_much("too much before it was ready")) } else { Ok(()) }
    }

    /// Ends a message, whose body has been received. All that we ask for has types that PostgreSQL comes with.
    fn end(&mut self) -> io::Result<()> {
        // A session that lives for long must not keep the room of the longest one.
        let body = mem::take(&mut self.body);
        match self.collected.take() {
            Some(ROW_DESCRIPTION) if !has_known_types(&body) => Err(too_much("a column of a type of its own")),
            Some(PARAMETER_STATUS) => self.parameters.take(&body),
            _ => Ok(()),
        }
    }
}

/// Returns whether the driver knows the type of every column, so that it will not ask the server about one.
fn has_known_types(description: &[u8]) -> bool {
    /// Table, column, type, its length and modifier, and the format, behind a name (PostgreSQL's manual, "Message
    /// Formats").
    const FIELD: usize = 18;
    // The driver reads as many columns as the number at the beginning says; what follows them does not count.
    let Some((_, mut fields)) = description.split_at_checked(2) else { return true };
    while let Some(name) = fields.iter().position(|byte| *byte == 0) {
        let Some((field, rest)) = fields.get(name + 1..).and_then(|field| field.split_at_checked(FIELD)) else {
            return true;
        };
        if let [_, _, _, _, _, _, a, b, c, d, ..] = *field
            && Type::from_oid(u32::from_be_bytes([a, b, c, d])).is_none()
        {
            return false;
        }
        fields = rest;
    }
    true
}

fn too_much(what: &'static str) -> io::Error {
    Misbehaviour::TooMuch(what).into()
}

impl TlsStream for Bounded {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.inner {
            Inner::Plain(_) => ChannelBinding::none(),
            Inner::Secure(stream) => stream.channel_binding(),
        }
    }
}

impl AsyncRead for Bounded {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(match &mut this.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Inner::Secure(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        })?;
        Poll::Ready(this.meter.take(buffer.filled().get(before..).unwrap_or_default()))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Inner::Secure(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_flush(context),
            Inner::Secure(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Inner::Secure(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> Meter {
        Meter { largest_message: 100, ..Meter::default() }
    }

    fn message(kind: u8, body: usize) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(u32::try_from(body + 4).expect("small").to_be_bytes());
        bytes.resize(HEADER + body, 0);
        bytes
    }

    #[test]
    fn messages_within_the_bound_pass_however_they_are_cut() {
        let bytes: Vec<u8> =
            [message(b'R', 8), message(b'Z', 1), message(b'D', 100), message(b'C', 0), message(b'Z', 1)].concat();
        for length in 1..bytes.len() {
            let mut meter = meter();
            assert!(bytes.chunks(length).all(|chunk| meter.take(chunk).is_ok()), "cut every {length} bytes");
        }
    }

    #[test]
    fn a_long_message_is_refused_at_its_header() {
        let mut meter = meter();
        assert!(meter.take(&message(b'Z', 1)).is_ok());
        assert!(meter.take(&message(b'D', 101)[..HEADER]).is_err());
    }

    /// The report of a parameter.
    fn report(name: &str, value: &str) -> Vec<u8> {
        let body = format!("{name}\0{value}\0");
        [&message(PARAMETER_STATUS, body.len())[..HEADER], body.as_bytes()].concat()
    }

    #[test]
    fn a_parameter_that_changes_without_end_takes_the_room_of_one() {
        let mut meter = meter();
        assert!(meter.take(&message(b'Z', 1)).is_ok());
        let changes = [report("application_name", "clapometer/invoices"), report("application_name", "clapometer")];
        for _ in 0..100_000 {
            assert!(changes.iter().all(|change| meter.take(change).is_ok()));
        }
        assert!(meter.parameters.size < 200, "{:?}", meter.parameters);
    }

    /// A column of this type, as the server describes it.
    fn column(type_of: u32) -> Vec<u8> {
        let mut bytes = b"column\0".to_vec();
        bytes.extend([0; 6]);
        bytes.extend(type_of.to_be_bytes());
        bytes.extend([0, 8, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        bytes
    }

    #[test]
    fn a_type_that_the_driver_would_ask_about_is_refused_in_whatever_column() {
        let (known, unknown) = (column(Type::FLOAT8.oid()), column(16_384));
        let described = |columns: &[&[u8]]| {
            let mut bytes = message(ROW_DESCRIPTION, 2 + columns.concat().len());
            bytes.truncate(HEADER);
            bytes.extend(u16::try_from(columns.len()).expect("few").to_be_bytes());
            bytes.extend(columns.concat());
            bytes
        };
        for length in 1..60 {
            let takes = |bytes: &[u8]| {
                let mut meter = Meter { largest_message: 1_000, ..Meter::default() };
                meter.take(&message(b'Z', 1)).is_ok() && bytes.chunks(length).all(|chunk| meter.take(chunk).is_ok())
            };
            assert!(takes(&described(&[&known, &known])));
            assert!(takes(&described(&[])));
            assert!(!takes(&described(&[&unknown])));
            assert!(!takes(&described(&[&known, &unknown])), "cut every {length} bytes");
            assert!(takes(&message(b'D', 40)), "only descriptions are looked into");
        }
    }

    #[test]
    fn a_long_message_leaves_no_room_behind() {
        let mut meter = Meter { largest_message: 1 << 20, ..Meter::default() };
        assert!(meter.take(&message(b'Z', 1)).is_ok());
        assert!(meter.take(&report("search_path", &"s".repeat(200_000))).is_ok());
        assert_eq!(meter.body.capacity(), 0);
    }

    #[test]
    fn a_preamble_and_parameters_without_end_are_refused() {
        let mut meter_of_startup = meter();
        let endless = message(b'N', 100);
        assert!((0..10_000).any(|_| meter_of_startup.take(&endless).is_err()));
        let mut ready = meter();
        assert!(ready.take(&message(b'Z', 1)).is_ok());
        assert!((0..10_000).any(|number| ready.take(&report(&format!("parameter_{number}"), "on")).is_err()));
        let mut rows = meter();
        assert!(rows.take(&message(b'Z', 1)).is_ok());
        assert!((0..10_000).all(|_| rows.take(&message(b'D', 100)).is_ok()), "rows are not bounded here");
    }
}
