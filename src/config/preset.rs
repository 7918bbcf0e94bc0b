//! A query that is a preset: its options, and the keys that it brings.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{
    entry::Entry,
    key::{DefaultValue, Key, Kind, words},
    section::Section,
};
use crate::{
    presets::{self, Options, Preset, Queue, Workers},
    query::PresetQuery,
};

/// The longest time of an option. A row that no worker has touched for this long belongs to no worker.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3_600);

/// The most queues of a library that are listed where the configured one was never seen.
const MOST_QUEUES: usize = 20;

const NAMES: [&str; presets::ALL.len()] = {
    let mut names = [""; presets::ALL.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = presets::ALL[index].name;
        index += 1;
    }
    names
};

const WORDS: [(&str, Workers); 2] = [("long-lived", Workers::LongLived), ("one-row", Workers::OneRow)];

pub(super) const PRESET: Key = Key::new(
    "preset",
    Kind::Words(
        &NAMES,
        &[
            ("pgboss", "pg-boss"),
            ("pg_boss", "pg-boss"),
            ("graphile", "graphile-worker"),
            ("graphile_worker", "graphile-worker"),
            ("goodjob", "good_job"),
            ("good-job", "good_job"),
            ("solidqueue", "solid_queue"),
            ("solid-queue", "solid_queue"),
            ("postgres_batch", "postgres-batch"),
        ],
    ),
    DefaultValue::Derived("none"),
    "The queue library whose rows are counted. It brings `sql`, the columns, `next_change`, `group_by` where no `queue` \
     is given, and `notify` where the library notifies; each of the first five beside it is a fault. \
     `clapometer presets NAME` shows what counts as what. See [presets.md](presets.md).",
)
.instead_of(&["library"]);

pub(super) const QUEUE: Key = Key::new(
    "queue",
    Kind::Text,
    DefaultValue::Derived("a row for each queue"),
    "With `preset`: the library's queue. Without it the query is grouped, and a trigger picks its queue by `param.queue`.",
)
.instead_of(&["queue_name"]);

pub(super) const SCHEMA: Key = Key::new(
    "schema",
    Kind::Column,
    DefaultValue::Derived("the library's own, or that of `search_path`"),
    "With `preset`: the schema of the library's tables.",
)
.instead_of(&["prefix"]);

pub(super) const WORKERS: Key = Key::new(
    "workers",
    Kind::Words(&words(&WORDS), &[("long_lived", "long-lived"), ("one_row", "one-row")]),
    DefaultValue::Derived("as the library's own worker runs"),
    "With `preset`: `long-lived` for a ScaledObject, active while anything is outstanding, so that no worker is taken away \
     while it holds a row; `one-row` for a ScaledJob, active while anything can be claimed.",
);

pub(super) const RESCUE_AFTER: Key = Key::new(
    "rescue_after",
    Kind::Duration { range: Duration::from_secs(1)..=LONGEST, zero: None },
    DefaultValue::Derived("the library's own default"),
    "With `preset`: the time after which the library takes a row that is still running for lost, as it is configured there.",
);

pub(super) const HEARTBEAT_TIMEOUT: Key = Key::new(
    "heartbeat_timeout",
    Kind::Duration { range: Duration::from_secs(1)..=LONGEST, zero: None },
    DefaultValue::Derived("the library's own default"),
    "With `preset`: the time after which the library takes a worker for dead whose heartbeat has stopped, as it is \
     configured there.",
);

pub(super) const TASKS: Key = Key::new(
    "tasks",
    Kind::List { of: "tasks", such_as: "such as [send-mail]" },
    DefaultValue::Derived("all tasks"),
    "With `preset: graphile-worker`: the tasks that the workers know. Jobs of other tasks wait for ever.",
)
.instead_of(&["task", "identifiers"]);

pub(super) const MAX_READS: Key = Key::new(
    "max_reads",
    Kind::Whole(1..=1_000_000),
    DefaultValue::Derived("no limit"),
    "With `preset: pgmq`: the number of reads after which the consumer puts a message aside.",
);

/// The options of presets.
const OPTIONS: [&str; 7] = ["queue", "schema", "workers", "rescue_after", "heartbeat_timeout", "tasks", "max_reads"];

/// The keys that a preset brings.
const BROUGHT: [&str; 6] = ["sql", "value_column", "activity_column", "next_change", "group_by", "parameters"];

/// The part of a query that a preset makes of its options.
pub(super) struct Expanded {
    pub(super) sql: String,
    pub(super) activity_column: &'static str,
    /// True if there is a row for each queue.
    pub(super) is_grouped: bool,
    pub(super) channel: Option<String>,
    pub(super) query: PresetQuery,
}

/// The rules about presets for the JSON Schema: `sql` or a preset, and each preset with its own options only.
pub(super) fn rules() -> Vec<Json> {
    let none_of = |keys: &[&str]| -> Json { keys.iter().map(|key| ((*key).to_owned(), json!(false))).collect() };
    let without = json!({"required": ["sql"], "properties": none_of(&OPTIONS)});
    let mut rules = vec![json!({
        "if": {"required": ["preset"]},
        "then": {"properties": none_of(&BROUGHT)},
        "else": without,
    })];
    for preset in presets::ALL {
        let others: Vec<&str> = OPTIONS.into_iter().filter(|option| !preset.keys().any(|key| key == *option)).collect();
        let required: &[&str] = if preset.queue == Queue::Required { &["queue"] } else { &[] };
        rules.push(json!({
            "if": {"properties": {"preset": {"const": preset.name}}, "required": ["preset"]},
            "then": {"properties": none_of(&others), "required": required},
        }));
    }
    rules
}

/// Notes a fault for each option of a query that has no preset.
pub(super) fn refuse_options(section: &Section<'_>) {
    for option in OPTIONS {
        section.refuse(option, "is an option of presets, and there is no preset");
    }
}

/// Reads the preset that a query names; `None` where something is wrong with it.
pub(super) fn read(section: &Section<'_>, preset: Option<Entry<'_>>) -> Option<Expanded> {
    for key in BROUGHT {
        section.refuse(key, "must not stand beside preset, which brings it");
    }
    let name = preset.and_then(|entry| entry.word(&NAMES.map(|name| (name, name))));
    let preset = name.and_then(presets::find);
    let options = options(section, preset);
    let preset = preset?;
    Some(Expanded {
        sql: preset.sql(&options),
        activity_column: options.workers.unwrap_or(preset.workers).activity_column(),
        is_grouped: preset.is_grouped(&options),
        channel: preset.channel(&options),
        query: PresetQuery {
            name: preset.name,
            expects: preset.expects(),
            stalled: preset.stalled,
            seen: preset.seen(&options),
            queues: preset.queues(&options, MOST_QUEUES),
        },
    })
}

fn options(section: &Section<'_>, preset: Option<&'static Preset>) -> Options {
    let has = |option: &str| preset.is_none_or(|preset| preset.keys().any(|key| key == option));
    if let Some(preset) = preset {
        let known: Vec<&str> = preset.keys().collect();
        for option in OPTIONS.into_iter().filter(|option| !has(option)) {
            section.refuse(option, format!("is no option of {}; its options: {}", preset.name, known.join(", ")));
        }
    }
    if preset.is_some_and(|preset| preset.queue == Queue::Required) && !section.has("queue") {
        section.fault("queue", "is missing; each queue has a table of its own, so give its name");
    }
    let text = |option| has(option).then(|| section.text(option)).flatten();
    let duration = |option| has(option).then(|| section.entry(option)?.duration()).flatten();
    Options {
        queue: text("queue"),
        schema: text("schema"),
        workers: section.word("workers", &WORDS),
        rescue_after: duration("rescue_after"),
        heartbeat_timeout: duration("heartbeat_timeout"),
        tasks: has("tasks").then(|| tasks(section)).flatten(),
        max_reads: has("max_reads").then(|| section.whole("max_reads")).flatten(),
    }
}

fn tasks(section: &Section<'_>) -> Option<Vec<String>> {
    let tasks = section.texts("tasks");
    if tasks.as_ref().is_some_and(Vec::is_empty) {
        section.fault("tasks", "is empty, so nothing would be counted; name a task or leave it out");
    }
    tasks
}
