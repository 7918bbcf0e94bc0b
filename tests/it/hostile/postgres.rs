//! A server that is called PostgreSQL and means no good.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tonic::Code;

use super::GROWTH;
use crate::support::{
    admin,
    cluster::Cluster,
    database::Database,
    executable::Executable,
    fixture::SOON,
    grpc::{Scaler, trigger},
};

const CANARY: &str = "canary-of-a-hostile-server";

/// The attack; until then the server behaves as PostgreSQL would.
#[derive(Debug, Clone, Copy)]
pub(super) enum Attack {
    /// Says nothing, ever.
    Silence,
    /// Answers the start-up with bytes that are not a message.
    Garbage,
    /// Closes at once.
    Close,
    /// Agrees to TLS and never shakes hands.
    HalfTls,
    /// Answers the request for TLS with something else.
    NoTls(u8),
    /// Demands an unknown method of authentication.
    Authentication(u32),
    /// Never stops to announce, before it is ready.
    EndlessNotices,
    /// Never stops to report parameters, once it is ready.
    EndlessParameters,
    /// A message that says it is this long, and then is.
    Huge(u32),
    /// A message that says it is this long, and is not.
    Lie(i32),
    /// Rows of the right form, without end.
    EndlessRows,
    /// Rows of a type that was not asked for.
    WrongType,
    /// A cell of this many bytes in a column of eight.
    Cell(usize),
    /// More columns than were asked for.
    Columns(u16),
    /// Fewer cells than it has announced.
    FewCells,
    /// A number that is none: the bits of a double.
    Number(f64),
    /// An error with this SQLSTATE, which holds a canary.
    Error(&'static str),
    /// An error with this SQLSTATE and a message of this many bytes.
    LongError(&'static str, usize),
    /// An end without the answer before it.
    NoAnswer,
    /// Messages of kinds that do not belong here.
    Unasked(u8),
    /// An answer, and nothing after it.
    NotReady,
    /// An unknown type, whose definition has further unknown types, without end.
    Types(Unknown),
}

/// The definition of a type that the driver asks for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unknown {
    /// A domain over another unknown type.
    Domain,
    /// An array of another.
    Array,
    /// An enumeration with labels of a megabyte without end.
    Labels,
    /// The answer itself has columns of unknown types.
    Answer,
}

/// Everything that is tried, and the codes that an answer may have.
pub(super) fn attacks() -> Vec<(Attack, &'static [Code])> {
    use Attack::*;
    const LOST: &[Code] = &[Code::Unavailable];
    const LATE: &[Code] = &[Code::Unavailable, Code::DeadlineExceeded];
    const WRONG: &[Code] = &[Code::FailedPrecondition];
    const ODD: &[Code] = &[Code::Unavailable, Code::FailedPrecondition, Code::DeadlineExceeded];
    let mut all = vec![
        (Silence, LATE),
        (Garbage, LOST),
        (Close, LOST),
        (HalfTls, LATE),
        (EndlessNotices, LATE),
        (EndlessParameters, ODD),
        (EndlessRows, ODD),
        (WrongType, WRONG),
        (FewCells, ODD),
        (Types(Unknown::Domain), ODD),
        (Types(Unknown::Array), ODD),
        (Types(Unknown::Labels), ODD),
        (Types(Unknown::Answer), ODD),
        (NoAnswer, ODD),
        (NotReady, LATE),
        (Number(f64::NAN), WRONG),
        (Number(f64::INFINITY), WRONG),
        (Number(f64::NEG_INFINITY), WRONG),
        (Number(-1.0), WRONG),
        (Number(-f64::MIN_POSITIVE), WRONG),
        (Error("42P01"), WRONG),
        (Error("22P02"), WRONG),
        (LongError("XX000", 900_000), LOST),
        (LongError("42P01", 900_000), WRONG),
        (Error("57014"), &[Code::DeadlineExceeded]),
        (Error("57P01"), LOST),
        (Error("XX000"), LOST),
        (Error("00000"), WRONG),
        (Error("lower"), ODD),
        (Error("TOOLONG"), ODD),
        (Error(""), ODD),
        (Error("4\n2P0"), ODD),
    ];
    all.extend([b'E', b'X', 0, 0xff].map(|byte| (NoTls(byte), LOST)));
    all.extend([1, 2, 7, 9, 10, 11, 12, 99, u32::MAX].map(|method| (Authentication(method), LATE)));
    all.extend([2_000_000, 300_000_000, 0x7fff_fff0].map(|length| (Huge(length), ODD)));
    all.extend([-1, 0, 3, i32::MIN, i32::MAX].map(|length| (Lie(length), ODD)));
    all.extend([0, 1, 7, 9, 100_000].map(|length| (Cell(length), ODD)));
    all.extend([0, 2, 1_000].map(|columns| (Columns(columns), ODD)));
    all.extend(
        [b'G', b'H', b'W', b'd', b'R', b'K', b'v', b'A', b'n', b's', b'I', b'V', 0, 0xff]
            .map(|kind| (Unasked(kind), ODD)),
    );
    all
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

fn columns(count: u16, type_of: u32) -> Vec<u8> {
    let mut body = count.to_be_bytes().to_vec();
    for _ in 0..count {
        body.extend(b"c\0");
        body.extend([0; 6]);
        body.extend(type_of.to_be_bytes());
        body.extend([0, 8, 0xff, 0xff, 0xff, 0xff, 0, 1]);
    }
    message(b'T', &body)
}

fn row(cells: &[&[u8]]) -> Vec<u8> {
    let mut body = u16::try_from(cells.len()).unwrap().to_be_bytes().to_vec();
    for cell in cells {
        body.extend(u32::try_from(cell.len()).unwrap().to_be_bytes());
        body.extend(*cell);
    }
    message(b'D', &body)
}

const FLOAT8: u32 = 701;
const BOOL: u32 = 16;
const TEXT: u32 = 25;

/// The first number that no type of PostgreSQL's own has.
const UNKNOWN: u32 = 16_384;

const NAME: u32 = 19;
const CHAR: u32 = 18;
const OID: u32 = 26;

/// Answers the preparation of one of the driver's own queries about types.
fn describe(unknown: Unknown, query: &str, next_type: u32) -> Vec<u8> {
    let types: &[u32] = match unknown {
        Unknown::Answer => &[next_type],
        _ if query.contains("pg_enum") => &[NAME],
        _ => &[NAME, CHAR, OID, OID, OID, NAME, OID],
    };
    let mut described = u16::try_from(types.len()).unwrap().to_be_bytes().to_vec();
    for type_of in types {
        let column = columns(1, *type_of);
        described.extend(&column[7..]);
    }
    [message(b'1', &[]), message(b't', &[&[0, 1][..], &OID.to_be_bytes()].concat()), message(b'T', &described)].concat()
}

/// A row of the driver's own query about a type.
fn type_row(unknown: Unknown, next_type: u32) -> Vec<u8> {
    let (zero, next) = (0u32.to_be_bytes(), next_type.to_be_bytes());
    let (kind, element, base) = match unknown {
        Unknown::Domain => (b'd', &zero, &next),
        Unknown::Array => (b'b', &next, &zero),
        Unknown::Labels | Unknown::Answer => (b'e', &zero, &zero),
    };
    row(&[b"t", &[kind], element, &zero, base, b"public", &zero])
}

/// One such server; it ends with the test.
struct Server {
    address: SocketAddr,
    listening: JoinHandle<()>,
}

impl Server {
    async fn with(attack: Attack) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listening = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, attack));
            }
        });
        Self { address, listening }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn endless(socket: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let many = message.repeat(1 + 60_000 / message.len());
    loop {
        socket.write_all(&many).await?;
    }
}

async fn silence(socket: &mut TcpStream) -> io::Result<()> {
    socket.read_to_end(&mut Vec::new()).await.map(drop)
}

async fn serve(mut socket: TcpStream, attack: Attack) -> io::Result<()> {
    match attack {
        Attack::Silence => return silence(&mut socket).await,
        Attack::Close => return Ok(()),
        _ => {}
    }
    let start_up = read_start_up(&mut socket).await?;
    match attack {
        Attack::HalfTls => {
            socket.write_all(b"S").await?;
            return silence(&mut socket).await;
        }
        Attack::NoTls(byte) => {
            socket.write_all(&[byte]).await?;
            return silence(&mut socket).await;
        }
        // A cancel request wants no answer.
        _ if start_up == [4, 210, 22, 46] => return Ok(()),
        Attack::Garbage => return socket.write_all(&[0x55; 4096]).await,
        Attack::Authentication(method) => {
            socket.write_all(&message(b'R', &method.to_be_bytes())).await?;
            return silence(&mut socket).await;
        }
        _ => {}
    }
    socket.write_all(&message(b'R', &[0; 4])).await?;
    if matches!(attack, Attack::EndlessNotices) {
        return endless(&mut socket, &message(b'N', format!("SNOTICE\0M{CANARY}\0C00000\0\0").as_bytes())).await;
    }
    socket.write_all(&message(b'N', format!("SWARNING\0M{CANARY}\0C01000\0\0").as_bytes())).await?;
    socket.write_all(&message(b'K', &[1; 8])).await?;
    socket.write_all(&message(b'Z', b"I")).await?;
    let mut parsed = String::new();
    let mut is_parsed = false;
    let mut next_type = UNKNOWN;
    loop {
        let kind = socket.read_u8().await?;
        let length = usize::try_from(socket.read_u32().await?).unwrap();
        let mut body = vec![0; length - 4];
        socket.read_exact(&mut body).await?;
        match kind {
            b'P' => {
                parsed = String::from_utf8_lossy(&body).into_owned();
                is_parsed = true;
            }
            b'Q' => socket.write_all(&[message(b'C', b"BEGIN\0"), message(b'Z', b"T")].concat()).await?,
            b'S' if is_type_lookup(&parsed) => {
                let Attack::Types(unknown) = attack else { return Ok(()) };
                next_type += 1;
                let answer = if is_parsed {
                    describe(unknown, &parsed, next_type)
                } else if parsed.contains("pg_enum") {
                    socket.write_all(&message(b'2', &[])).await?;
                    endless(&mut socket, &row(&[&[b'x'; 500_000]])).await?;
                    return Ok(());
                } else {
                    [message(b'2', &[]), type_row(unknown, next_type), message(b'C', b"SELECT 1\0")].concat()
                };
                socket.write_all(&[answer, message(b'Z', b"T")].concat()).await?;
                is_parsed = false;
            }
            b'S' => {
                is_parsed = false;
                let answered = [message(b'1', &[]), message(b'2', &[])].concat();
                socket.write_all(&answered).await?;
                if parsed.contains("session check") {
                    socket.write_all(&[columns(2, TEXT), row(&[b"false", b"public"])].concat()).await?;
                } else if parsed.contains("statistics check") {
                    socket.write_all(&[columns(1, BOOL), row(&[&[1]])].concat()).await?;
                } else if parsed.contains("EXPLAIN") {
                    socket.write_all(&[columns(1, TEXT), row(&[b"Result"])].concat()).await?;
                } else if parsed.contains("role check") {
                    let no: &[u8] = &[0];
                    socket.write_all(&[columns(6, BOOL), row(&[no; 6])].concat()).await?;
                } else if parsed.contains("set_config") {
                    let nothing: &[u8] = &[];
                    socket.write_all(&[columns(6, TEXT), row(&[nothing; 6])].concat()).await?;
                } else if !misbehave(&mut socket, attack).await? {
                    return silence(&mut socket).await;
                }
                socket.write_all(&[message(b'C', b"SELECT 1\0"), message(b'Z', b"T")].concat()).await?;
            }
            b'X' => return Ok(()),
            _ => {}
        }
    }
}

/// Returns whether a statement is tokio-postgres' own, which looks a type up; ours read the catalogues, too.
fn is_type_lookup(sql: &str) -> bool {
    let ours = ["session check", "statistics check", "role check", "set_config", "EXPLAIN"];
    sql.contains("pg_catalog.pg_") && !ours.iter().any(|part| sql.contains(part))
}

/// The packet without its length. Requests for TLS are for [`Attack::HalfTls`] and its like.
async fn read_start_up(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::try_from(socket.read_u32().await?).unwrap();
    let mut body = vec![0; length.saturating_sub(4).min(10_000)];
    socket.read_exact(&mut body).await?;
    body.truncate(4);
    Ok(body)
}

/// Answers the query; false if nothing is to follow.
async fn misbehave(socket: &mut TcpStream, attack: Attack) -> io::Result<bool> {
    let seven = 7f64.to_be_bytes();
    let answer = match attack {
        Attack::EndlessParameters => {
            let mut number = 0u64;
            loop {
                number += 1;
                let body = format!("parameter_{number}\0{CANARY}\0");
                socket.write_all(&message(b'S', body.as_bytes())).await?;
            }
        }
        Attack::Huge(length) => {
            socket.write_all(&columns(1, FLOAT8)).await?;
            socket.write_all(b"D").await?;
            socket.write_all(&length.to_be_bytes()).await?;
            endless(socket, &[0; 4096]).await?;
            return Ok(false);
        }
        Attack::Lie(length) => {
            socket.write_all(&columns(1, FLOAT8)).await?;
            socket.write_all(b"D").await?;
            socket.write_all(&length.to_be_bytes()).await?;
            return Ok(true);
        }
        Attack::EndlessRows => {
            socket.write_all(&columns(1, FLOAT8)).await?;
            endless(socket, &row(&[&seven])).await?;
            return Ok(false);
        }
        Attack::WrongType => [columns(1, TEXT), row(&[b"7"])].concat(),
        Attack::Cell(length) => [columns(1, FLOAT8), row(&[&vec![0; length]])].concat(),
        Attack::Columns(count) => {
            let cells: Vec<&[u8]> = vec![&seven; usize::from(count)];
            [columns(count, FLOAT8), row(&cells)].concat()
        }
        Attack::FewCells => [columns(1, FLOAT8), row(&[])].concat(),
        Attack::Number(number) => [columns(1, FLOAT8), row(&[&number.to_be_bytes()])].concat(),
        Attack::Error(code) => {
            let mut body = String::new();
            write!(body, "SERROR\0VERROR\0C{code}\0M{CANARY}\0D{CANARY}\0").unwrap();
            message(b'E', (body + "\0").as_bytes())
        }
        Attack::LongError(code, length) => {
            let body = format!("SERROR\0VERROR\0C{code}\0M{}\0\0", "x".repeat(length));
            message(b'E', body.as_bytes())
        }
        Attack::Types(_) => columns(1, UNKNOWN),
        Attack::NoAnswer => return Ok(true),
        Attack::Unasked(kind) => message(kind, &[0; 12]),
        Attack::NotReady => {
            socket.write_all(&[columns(1, FLOAT8), row(&[&seven])].concat()).await?;
            return Ok(false);
        }
        Attack::Silence
        | Attack::Garbage
        | Attack::Close
        | Attack::HalfTls
        | Attack::NoTls(_)
        | Attack::Authentication(_)
        | Attack::EndlessNotices => return Ok(false),
    };
    socket.write_all(&answer).await?;
    Ok(true)
}

#[tokio::test]
async fn whatever_a_hostile_server_says_is_an_error_and_stays_small() {
    let attacks = attacks();
    let mut servers = Vec::new();
    let good = Database::empty(Cluster::shared().await).await;
    let mut databases = good.scaler().yaml("good");
    let mut queries = "  good: {database: good, sql: SELECT 1, max_age: 0s}\n".to_owned();
    for (index, (attack, _)) in attacks.iter().enumerate() {
        let server = Server::with(*attack).await;
        let sslmode = if matches!(attack, Attack::HalfTls | Attack::NoTls(_)) { "require" } else { "disable" };
        let port = server.address.port();
        writeln!(
            databases,
            "  d{index}: {{host: 127.0.0.1, port: {port}, dbname: x, user: x, password: x, sslmode: {sslmode}}}"
        )
        .unwrap();
        writeln!(queries, "  q{index}: {{database: d{index}, sql: SELECT 7, max_age: 0s}}").unwrap();
        servers.push(server);
    }
    let configuration = format!("databases:\n{databases}queries:\n{queries}");
    let serving = Executable::serve(&configuration).variable("RUST_LOG", "trace").serving().await;
    let scaler = Scaler::at(serving.grpc);
    scaler.reaches(&trigger("good", &[]), 1.0, SOON).await;
    let memory = serving.process.memory("VmRSS");

    for round in 0..2 {
        for (index, (attack, codes)) in attacks.iter().enumerate() {
            let name = format!("q{index}");
            let status = match scaler.value(&trigger(&name, &[])).await {
                Ok(value) => panic!("{attack:?} was believed: {value}"),
                Err(status) => status,
            };
            let is_allowed = codes.contains(&status.code()) || (round > 0 && status.code() == Code::Unavailable);
            assert!(is_allowed, "{attack:?}: {status:?}");
            assert!(!status.message().contains(CANARY), "{attack:?}: {status:?}");
            let peak = serving.process.memory("VmHWM");
            assert!(peak < memory + GROWTH, "{attack:?} made memory grow from {memory} to {peak} bytes");
            assert_eq!(scaler.value(&trigger("good", &[])).await.unwrap(), 1.0, "after {attack:?}");
        }
    }
    let metrics = admin::get(serving.admin, "/metrics").await;
    assert!(!metrics.contains(CANARY));
    let ended = serving.process.terminate(Duration::from_secs(24)).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.errors);
    assert!(!ended.errors.contains("panicked"), "{}", ended.errors);
    let longest = ended.errors.lines().map(str::len).max().unwrap();
    assert!(longest < 4_000, "a server can fill the log: a line has {longest} bytes");
    // What a server says in a notice is never logged, at no level. Its errors are where they name a table or tell of
    // the server's own trouble; those that quote data are not.
    let told = ended.errors.lines().filter(|line| line.contains(CANARY));
    for line in told {
        assert!(["42P01", "XX000", "57P01", "57014"].iter().any(|state| line.contains(state)), "{line}");
    }
    assert!(ended.errors.contains("ERROR 22P02; `clapometer check`"), "{}", ended.errors);
}
