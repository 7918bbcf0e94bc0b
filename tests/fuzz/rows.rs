//! Rows as a PostgreSQL may send them: whatever the types and the bytes, a number comes only from a number.
//!
//! The driver and all that reads its rows are the real ones. The server behind them is of this process; it answers
//! every statement with what the input says, within the protocol. What breaks the protocol is `tests/it/hostile`'s.

use std::{
    cell::RefCell,
    collections::HashMap,
    str,
    sync::{Arc, Mutex},
};

use clapometer::{
    config::{Config, Environment},
    fault::Kind,
    metrics::{Build, Metrics},
    postgres::{Database, Statement},
    query::{Absent, Query},
    reading::{Numbers, Rows},
    shutdown::{Failures, Supervisor},
};
use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

const QUERIES: &str = "
  one: {sql: SELECT 1}
  zero: {sql: SELECT 2, on_null: zero, on_no_row: zero}
  two: {sql: SELECT 3, value_column: n, activity_column: m}
  three: {sql: SELECT 4, value_column: n, activity_column: m, next_change: at, on_null: zero}
  changing: {sql: SELECT 5, value_column: n, next_change: at}
  grouped: {sql: SELECT 6, value_column: n, group_by: queue}
  all: {sql: SELECT 7, value_column: n, activity_column: m, next_change: at, group_by: queue, on_null: zero}
";

const BOOL: u32 = 16;
const TEXT: u32 = 25;
const FLOAT8: u32 = 701;

/// The types of columns: bytea, name, bigint, text, json, real, double, unknown, char, varchar, numeric, uuid.
const TYPES: [u32; 12] = [17, 19, 20, TEXT, 114, 700, FLOAT8, 705, 1042, 1043, 1700, 2950];

/// The types that are read as text.
const TEXTS: [u32; 5] = [19, TEXT, 705, 1042, 1043];

/// The server's answer.
#[derive(Debug, Default)]
struct Answer {
    types: Vec<u32>,
    rows: Vec<Vec<Option<Vec<u8>>>>,
}

impl Answer {
    /// Columns as the statement wants them, or as the input does; then rows, cell by cell.
    fn decode(query: &Query, mut input: &[u8]) -> Self {
        let mut next = || {
            let (first, rest) = input.split_first()?;
            input = rest;
            Some(*first)
        };
        let right: Vec<u32> = query
            .group_by
            .iter()
            .map(|_| TEXT)
            .chain([FLOAT8])
            .chain(query.activity_column.iter().chain(&query.next_change).map(|_| FLOAT8))
            .collect();
        let types = match next().unwrap_or_default() {
            odd if odd % 4 == 3 => {
                (0..odd / 4 % 6).map(|_| TYPES[usize::from(next().unwrap_or_default()) % TYPES.len()]).collect()
            }
            _ => right,
        };
        let mut rows = Vec::new();
        // A row of no cells takes nothing from the input, so that their number has a bound of its own.
        while rows.len() < 20 && next().is_some() {
            let row = types.iter().map(|_| match next().unwrap_or_default() {
                255 => None,
                length => {
                    let length = if length % 2 == 0 { 8 } else { usize::from(length) / 2 % 12 };
                    Some((0..length).map(|_| next().unwrap_or_default()).collect())
                }
            });
            rows.push(row.collect());
        }
        Self { types, rows }
    }

    fn encoded(&self) -> Vec<u8> {
        let mut description = count(self.types.len());
        for type_of in &self.types {
            description.extend(b"c\0");
            description.extend([0; 6]);
            description.extend(type_of.to_be_bytes());
            description.extend([0, 8, 0xff, 0xff, 0xff, 0xff, 0, 1]);
        }
        let mut bytes = message(b'T', &description);
        for row in &self.rows {
            let mut body = count(row.len());
            for cell in row {
                match cell {
                    None => body.extend((-1i32).to_be_bytes()),
                    Some(cell) => {
                        body.extend(u32::try_from(cell.len()).unwrap().to_be_bytes());
                        body.extend(cell);
                    }
                }
            }
            bytes.extend(message(b'D', &body));
        }
        bytes
    }

    /// Returns its meaning, if it has one.
    fn meaning(&self, query: &Query) -> Option<Rows> {
        if query.group_by.is_some() {
            let mut by_key = HashMap::new();
            for row in &self.rows {
                let (key, numbers) = row.split_first()?;
                let is_text = TEXTS.contains(self.types.first()?);
                let key = str::from_utf8(key.as_ref().filter(|_| is_text)?).ok()?;
                let is_first = by_key.insert(key.into(), self.numbers(query, numbers, 1)?).is_none();
                is_first.then_some(())?;
            }
            return Some(Rows::ByKey(by_key));
        }
        match &self.rows[..] {
            [] => (query.on_no_row == Absent::Zero)
                .then(|| Rows::One(Numbers { value: 0.0, activity: query.activity_column.as_ref().map(|_| 0.0) })),
            [row] => Some(Rows::One(self.numbers(query, row, 0)?)),
            _ => None,
        }
    }

    fn numbers(&self, query: &Query, cells: &[Option<Vec<u8>>], first: usize) -> Option<Numbers> {
        self.types[first..].iter().all(|type_of| *type_of == FLOAT8).then_some(())?;
        let mut cells = cells.iter();
        let mut double = || -> Option<Option<f64>> {
            match cells.next()? {
                None => Some(None),
                Some(cell) => Some(Some(f64::from_be_bytes(cell[..].try_into().ok()?))),
            }
        };
        let number = |double: Option<f64>| match double {
            None => (query.on_null == Absent::Zero).then_some(0.0),
            Some(number) => (number.is_finite() && number >= 0.0).then_some(number),
        };
        let value = number(double()?)?;
        let activity = match query.activity_column {
            Some(_) => Some(number(double()?)?),
            None => None,
        };
        if query.next_change.is_some() {
            double()?;
        }
        cells.next().is_none().then_some(Numbers { value, activity })
    }
}

fn count(number: usize) -> Vec<u8> {
    u16::try_from(number).unwrap().to_be_bytes().to_vec()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

/// One session, whose every statement is answered with what is in `answer` by then.
async fn serve(mut socket: TcpStream, answer: Arc<Mutex<Vec<u8>>>) -> io::Result<()> {
    let length = usize::try_from(socket.read_u32().await?).unwrap();
    socket.read_exact(&mut vec![0; length - 4]).await?;
    socket.write_all(&[message(b'R', &[0; 4]), message(b'Z', b"I")].concat()).await?;
    let mut parsed = String::new();
    loop {
        let kind = socket.read_u8().await?;
        let length = usize::try_from(socket.read_u32().await?).unwrap();
        let mut body = vec![0; length - 4];
        socket.read_exact(&mut body).await?;
        let columns = |types: Vec<u32>| {
            let cells = types.iter().map(|_| Some(vec![0])).collect();
            Answer { types, rows: vec![cells] }.encoded()
        };
        let said = match kind {
            b'P' => {
                parsed = String::from_utf8_lossy(&body).into_owned();
                continue;
            }
            b'Q' => message(b'C', b"BEGIN\0"),
            b'S' => {
                let text = |cells: &[&str]| {
                    let cells: Vec<_> = cells.iter().map(|cell| Some(cell.as_bytes().to_vec())).collect();
                    Answer { types: vec![TEXT; cells.len()], rows: vec![cells] }.encoded()
                };
                let rows = if parsed.contains("session check") {
                    text(&["false", "public"])
                } else if parsed.contains("statistics check") {
                    columns(vec![BOOL])
                } else if parsed.contains("EXPLAIN") {
                    text(&["Result"])
                } else if parsed.contains("role check") {
                    columns(vec![BOOL; 6])
                } else if parsed.contains("set_config") {
                    columns(vec![TEXT; 6])
                } else {
                    answer.lock().unwrap().clone()
                };
                [message(b'1', &[]), message(b'2', &[]), rows, message(b'C', b"SELECT 1\0")].concat()
            }
            b'X' => return Ok(()),
            _ => continue,
        };
        socket.write_all(&[said, message(b'Z', b"T")].concat()).await?;
    }
}

/// A database whose server answers as the input says.
struct ScriptedDatabase {
    runtime: Runtime,
    database: Arc<Database>,
    statements: Vec<Statement>,
    answer: Arc<Mutex<Vec<u8>>>,
    _failures: Failures,
}

impl ScriptedDatabase {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let inside = runtime.enter();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = Arc::<Mutex<Vec<u8>>>::default();
        let planted = Arc::clone(&answer);
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).unwrap();
                tokio::spawn(serve(socket, Arc::clone(&planted)));
            }
        });
        let database = format!("{{host: 127.0.0.1, port: {port}, dbname: x, user: x, sslmode: disable}}");
        let yaml = format!("databases: {{app: {database}}}\nqueries:{QUERIES}");
        let config = Config::parse(&yaml, &Environment::default()).unwrap();
        let metrics = Arc::new(Metrics::new(Build { version: "0", commit: "0", rustc: "0" }));
        let (supervisor, failures) = Supervisor::new();
        let database = Database::new(Arc::clone(&config.databases["app"]), metrics, &supervisor);
        let named = QUERIES.lines().filter_map(|line| line.trim().split_once(':'));
        let statements = named.map(|(name, _)| Statement::new(Arc::clone(&config.queries[name]), "app")).collect();
        drop(inside);
        Self { runtime, database, statements, answer, _failures: failures }
    }

    fn check(&self, statement: &Statement, input: &[u8]) {
        let query = &statement.query;
        let answer = Answer::decode(query, input);
        *self.answer.lock().unwrap() = answer.encoded();
        let counted = self.runtime.block_on(self.database.read(statement, &[], &tokio::sync::watch::channel(None).1));
        match (counted, answer.meaning(query)) {
            (Ok(reading), Some(meaning)) => {
                assert_eq!(reading.rows, meaning, "{}: {answer:?}", query.name);
                assert!(reading.changes_at.is_none_or(|at| query.next_change.is_some() && at >= reading.sent_at));
            }
            (Err((fault, _)), None) => assert_eq!(fault.kind(), Kind::Precondition, "{}: {answer:?}", query.name),
            (counted, meaning) => panic!("{}: {counted:?} is not {meaning:?}: {answer:?}", query.name),
        }
    }
}

thread_local! {
    static DATABASE: RefCell<Option<ScriptedDatabase>> = const { RefCell::new(None) };
}

/// The first byte is the query; the others are the server's answer to it.
pub(super) fn check(input: &[u8]) {
    let Some((query, rest)) = input.split_first() else { return };
    DATABASE.with_borrow_mut(|database| {
        let database = database.get_or_insert_with(ScriptedDatabase::new);
        database.check(&database.statements[usize::from(*query) % database.statements.len()], rest);
    });
}
