//! Presets: the statement, the states and the traps of each queue library that is known.
//!
//! Mostly data, with a few functions that turn it into SQL. [`crate::config`] makes queries of presets, and the
//! commands print them. Each library has a file with what it is, and one with its SQL, which says of each open row what
//! it counts as. Everything else of the statement is the same for all of them, and is put around that SQL here.

mod apalis;
mod good_job;
mod graphile_worker;
mod oban;
mod pg_boss;
mod pgmq;
mod postgres_batch;
mod procrastinate;
mod que;
mod river;
mod solid_queue;

use std::time::Duration;

use postgres_protocol::escape::{escape_identifier, escape_literal};

/// Every preset, in the order in which it is shown.
pub const ALL: [&Preset; 11] = [
    &river::PRESET,
    &oban::PRESET,
    &pg_boss::PRESET,
    &graphile_worker::PRESET,
    &good_job::PRESET,
    &solid_queue::PRESET,
    &que::PRESET,
    &procrastinate::PRESET,
    &pgmq::PRESET,
    &apalis::PRESET,
    &postgres_batch::PRESET,
];

/// The column of the value: what can be claimed and what is held.
pub const VALUE: &str = "outstanding";

/// The column of what can be claimed now.
pub const CLAIMABLE: &str = "claimable";

/// The column that says when the numbers change by the clock alone.
pub const NEXT_CHANGE: &str = "next_change";

/// The column of the key, where the statement returns a row for each queue.
pub const QUEUE: &str = "queue";

/// A queue library, and how its rows are counted.
#[derive(Debug)]
pub struct Preset {
    /// The name in the configuration.
    pub name: &'static str,
    /// The library's own name, and its language.
    pub library: &'static str,
    /// The versions that it was tested with.
    pub tested: &'static str,
    /// The option `queue`.
    pub queue: Queue,
    /// The schema in which the library makes its tables unless told otherwise; absent where `search_path` finds them.
    pub schema: Option<&'static str>,
    /// The options beside `queue`, `schema` and `workers`.
    pub options: &'static [PresetOption],
    /// The way in which the library's own worker runs.
    pub workers: Workers,
    /// A sentence that says whether its worker can run one job and exit.
    pub run_once: &'static str,
    /// The channel on which the library tells of inserts, with `{schema}` for the schema.
    pub channel: Option<&'static str>,
    /// The tables that are read, as GRANT needs them. The first tells that the library is there.
    pub tables: &'static [&'static str],
    /// Columns of the first table, by which it is told from another table of that name.
    pub columns: &'static [&'static str],
    /// The states of a row, and what each counts as.
    pub states: &'static [State],
    /// The thing that stalled rows wait for, in a sentence.
    pub stalled: &'static str,
    /// The traps, a sentence each.
    pub traps: &'static [&'static str],
    /// The statement that makes the index by which many finished rows cost nothing; absent where the library has one.
    /// It is shown, and never run.
    pub index: Option<&'static str>,
    sql: Sql,
    /// A statement that says whether the queue has ever been seen.
    seen: &'static str,
    /// A statement that lists the queues: those that the library has written down, else those with open jobs, and those
    /// of the latest 100,000 jobs, which say what a quiet queue is called and are cheap to read where millions are
    /// kept.
    queues: Option<&'static str>,
}

/// The library's own part of the statement.
#[derive(Debug, Clone, Copy)]
enum Sql {
    /// A row for each open job: `queue`, `state` and `next_change`.
    Rows(&'static str),
    /// The whole statement.
    Whole(&'static str),
}

/// The meaning of `queue` for a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// It may be left out: there is a row for each queue then. The text is the column in the library's SQL.
    Optional(&'static str),
    /// It must be set: each queue has a table of its own.
    Required,
    /// There is no such option.
    Absent,
}

/// An option that only some libraries have, with its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresetOption {
    /// `rescue_after`: the time after which the library takes a running row for lost.
    RescueAfter(Duration),
    /// `heartbeat_timeout`: the time after which a silent worker counts as dead.
    HeartbeatTimeout(Duration),
    /// `tasks`: the tasks that the workers know.
    Tasks,
    /// `max_reads`: the number of reads after which the consumer puts a message aside.
    MaxReads,
}

/// The way in which workers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// A process works on many rows: a ScaledObject, active while anything is outstanding.
    LongLived,
    /// A process works on one row and ends: a ScaledJob, active while anything is claimable.
    OneRow,
}

/// One state of a library's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The state as the table shows it.
    pub rows: &'static str,
    /// The kind of row that this state counts as.
    pub counts: Counts,
}

/// The kind of row that a state counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// A worker that asks now gets it.
    Claimable,
    /// A worker has it.
    Held,
    /// Claimable for long-lived workers, which release it themselves; for others it is stalled.
    Rescued,
    /// Neither: it waits for something that only a person or another process does.
    Stalled,
    /// Neither.
    Neither,
}

/// The options as they are configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `queue`.
    pub queue: Option<String>,
    /// `schema`.
    pub schema: Option<String>,
    /// `workers`.
    pub workers: Option<Workers>,
    /// `rescue_after`.
    pub rescue_after: Option<Duration>,
    /// `heartbeat_timeout`.
    pub heartbeat_timeout: Option<Duration>,
    /// `tasks`.
    pub tasks: Option<Vec<String>>,
    /// `max_reads`.
    pub max_reads: Option<u32>,
}

impl Counts {
    /// Returns the word in the table of states.
    pub fn word(self) -> &'static str {
        match self {
            Self::Claimable => "claimable",
            Self::Held => "held",
            Self::Rescued => "claimable; with workers: one-row stalled",
            Self::Stalled => "stalled",
            Self::Neither => "neither",
        }
    }
}

impl Workers {
    /// Returns the word of the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::LongLived => "long-lived",
            Self::OneRow => "one-row",
        }
    }

    /// Returns the column that decides whether there is anything to do.
    pub fn activity_column(self) -> &'static str {
        match self {
            Self::LongLived => VALUE,
            Self::OneRow => CLAIMABLE,
        }
    }
}

impl PresetOption {
    /// Returns the key of the configuration.
    pub fn key(self) -> &'static str {
        match self {
            Self::RescueAfter(_) => "rescue_after",
            Self::HeartbeatTimeout(_) => "heartbeat_timeout",
            Self::Tasks => "tasks",
            Self::MaxReads => "max_reads",
        }
    }

    /// Returns what it means, with its default.
    pub fn meaning(self) -> String {
        match self {
            Self::RescueAfter(default) => {
                format!("a row that runs longer is lost; {} s unless it is set", default.as_secs())
            }
            Self::HeartbeatTimeout(default) => {
                format!("a worker that is silent for longer is dead; {} s unless it is set", default.as_secs())
            }
            Self::Tasks => "the tasks that the workers know; all unless it is set".to_owned(),
            Self::MaxReads => "messages read so often wait for no worker; no limit unless it is set".to_owned(),
        }
    }
}

const fn state(rows: &'static str, counts: Counts) -> State {
    State { rows, counts }
}

/// Returns the preset of this name.
pub fn find(name: &str) -> Option<&'static Preset> {
    ALL.into_iter().find(|preset| preset.name == name)
}

impl Preset {
    /// Returns the library and the versions that it was tested with, for a message about tables of another kind.
    pub fn expects(&self) -> String {
        format!("{} {}", self.library, self.tested)
    }

    /// Returns every key that may stand beside `preset` because of this library.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        let queue = (self.queue != Queue::Absent).then_some("queue");
        queue.into_iter().chain(["schema", "workers"]).chain(self.options.iter().map(|option| option.key()))
    }

    /// Returns whether the statement has a row for each queue.
    pub fn is_grouped(&self, options: &Options) -> bool {
        matches!(self.queue, Queue::Optional(_)) && options.queue.is_none()
    }

    /// Returns the statement: a row for each queue, or one row for what the options say.
    pub fn sql(&self, options: &Options) -> String {
        let rows = match self.sql {
            Sql::Rows(rows) => rows,
            Sql::Whole(statement) => return self.filled(statement.trim_end(), options),
        };
        // Before it is filled: a name or a text may have line breaks, which are its own.
        let rows: String = rows.trim_end().lines().map(|line| format!("  {line}\n")).collect();
        let rows = self.filled(&rows, options);
        let (key, group) = match self.is_grouped(options) {
            true => ("queue,\n       ", "\nGROUP BY queue"),
            false => ("", ""),
        };
        format!(
            "-- {name}: each row of the inner SELECT is an open job and what it counts as\n\
             SELECT {key}count(*) FILTER (WHERE state = 'claimable') AS claimable,\n       \
             count(*) FILTER (WHERE state IN ('claimable', 'held')) AS outstanding,\n       \
             count(*) FILTER (WHERE state = 'stalled') AS stalled,\n       \
             count(*) FILTER (WHERE state = 'unknown') AS unknown,\n       \
             min(next_change) AS next_change\n\
             FROM (\n{rows}) AS open{group}",
            name = self.name,
        )
    }

    /// Returns a statement with one boolean: whether the configured queue has ever been seen.
    pub fn seen(&self, options: &Options) -> Option<String> {
        options.queue.is_some().then(|| self.filled(self.seen, options))
    }

    /// Returns a statement that lists the library's queues, at most `limit`; none where they cannot be told apart.
    pub fn queues(&self, options: &Options, limit: usize) -> Option<String> {
        let queues = self.filled(self.queues?, options);
        Some(format!(
            "SELECT q.name::text FROM (\n{queues}\n) AS q (name) WHERE q.name IS NOT NULL ORDER BY 1 LIMIT {limit}"
        ))
    }

    /// Returns the names of the tables that are read, as they are in the catalog.
    pub fn tables(&self, queue: Option<&str>) -> Vec<String> {
        self.tables.iter().map(|table| table.replace("q_<queue>", &queue_table(queue))).collect()
    }

    /// Returns the channel on which the library tells of inserts.
    pub fn channel(&self, options: &Options) -> Option<String> {
        let schema = options.schema.as_deref().or(self.schema).unwrap_or("public");
        self.channel.map(|channel| channel.replace("{schema}", schema))
    }

    /// Fills a text of the library's: options are quoted as what they are.
    fn filled(&self, text: &str, options: &Options) -> String {
        let schema = options.schema.as_deref().or(self.schema);
        let schema = schema.map_or_else(String::new, |schema| format!("{}.", escape_identifier(schema)));
        let queue = options.queue.as_deref();
        let is_queue = match (self.queue, queue) {
            (Queue::Optional(column), Some(queue)) => format!("{column} = {}", escape_literal(queue)),
            _ => "true".to_owned(),
        };
        let rescued = match options.workers.unwrap_or(self.workers) {
            Workers::LongLived => "'claimable'",
            Workers::OneRow => "'stalled'",
        };
        let mut pieces = vec![
            ("{schema}", schema),
            ("{is_queue}", is_queue),
            ("{queue}", queue.map_or_else(|| "NULL".to_owned(), escape_literal)),
            ("{queue_table}", escape_identifier(&queue_table(queue))),
            ("{rescued}", rescued.to_owned()),
        ];
        pieces.extend(self.options.iter().map(|option| match *option {
            PresetOption::RescueAfter(default) => ("{rescue_after}", interval(options.rescue_after.unwrap_or(default))),
            PresetOption::HeartbeatTimeout(default) => {
                ("{heartbeat_timeout}", interval(options.heartbeat_timeout.unwrap_or(default)))
            }
            PresetOption::Tasks => ("{is_task}", is_one_of("t.identifier", options.tasks.as_deref())),
            PresetOption::MaxReads => {
                let bound = |reads: u32| format!("m.read_ct < {reads}");
                ("{is_below_max_reads}", options.max_reads.map_or_else(|| "true".to_owned(), bound))
            }
        }));
        fill(text, &pieces)
    }
}

/// Replaces each placeholder of a text once, and looks at nothing that was put in.
fn fill(mut text: &str, pieces: &[(&str, String)]) -> String {
    let mut filled = String::new();
    while let Some(start) = text.find('{') {
        filled.push_str(&text[..start]);
        text = &text[start..];
        match pieces.iter().find(|(placeholder, _)| text.starts_with(placeholder)) {
            Some((placeholder, piece)) => {
                filled.push_str(piece);
                text = &text[placeholder.len()..];
            }
            None => {
                filled.push('{');
                text = &text[1..];
            }
        }
    }
    filled.push_str(text);
    filled
}

/// Returns the name of the table of one of pgmq's queues.
fn queue_table(queue: Option<&str>) -> String {
    format!("q_{}", queue.unwrap_or("jobs").to_lowercase())
}

fn is_one_of(column: &str, texts: Option<&[String]>) -> String {
    let Some(texts) = texts else { return "true".to_owned() };
    let texts: Vec<String> = texts.iter().map(|text| escape_literal(text)).collect();
    format!("{column} IN ({})", texts.join(", "))
}

fn interval(duration: Duration) -> String {
    format!("interval '{} s'", duration.as_secs_f64())
}

#[cfg(test)]
mod tests;
