//! The libraries that are in a database.

use crate::{
    postgres::{Inspector, QueryError, Table},
    presets::{self, Options, Preset, Queue},
};

/// The most queues of one library that are listed.
const MOST_QUEUES: usize = 20;

/// The prefix of the tables of pgmq's queues.
const QUEUE_TABLE: &str = "q_";

/// Everything that was found.
pub(super) struct Findings {
    /// In the order of the presets, then of the schemas.
    pub(super) libraries: Vec<Library>,
    /// The things that look like a library and are none that a preset could count, a sentence each.
    pub(super) remarks: Vec<String>,
}

/// A library in one schema.
pub(super) struct Library {
    pub(super) preset: &'static Preset,
    pub(super) schema: String,
    pub(super) schema_in_sql: String,
    /// The tables that the preset reads, as SQL names them.
    pub(super) tables: Vec<String>,
    /// True if row level security is on for one of them.
    pub(super) has_row_security: bool,
    pub(super) queues: Queues,
}

/// The queues of a library.
pub(super) enum Queues {
    /// Its jobs cannot be told apart by a queue.
    None,
    /// Those that are known, and whether there are more.
    Listed { names: Vec<String>, has_more: bool },
    /// This role may not read them.
    Unreadable,
}

/// Looks for the tables of every preset.
pub(super) async fn look(inspector: &mut Inspector) -> Result<Findings, QueryError> {
    let mut names: Vec<&str> = presets::ALL.iter().flat_map(|preset| preset.tables).copied().collect();
    names.retain(|name| !name.starts_with(QUEUE_TABLE));
    let tables = inspector.tables(&names).await?;
    let mut findings = Findings { libraries: Vec::new(), remarks: Vec::new() };
    for preset in presets::ALL {
        for first in tables.iter().filter(|table| table.name == preset.tables[0]) {
            match missing(preset, first, &tables) {
                None => {
                    let library = library(inspector, preset, first, &tables).await?;
                    match &library.queues {
                        Queues::Listed { names, .. } if names.is_empty() && preset.queue == Queue::Required => {
                            findings.remarks.push(format!(
                                "{} is in the schema {} and has no queue yet: run this again when there is one.",
                                preset.library, library.schema
                            ));
                        }
                        _ => findings.libraries.push(library),
                    }
                }
                Some(missing) if is_named_by_the_library(preset, first) => findings.remarks.push(format!(
                    "{} looks like {} but has no {missing}: the preset expects {}.",
                    first.name_in_sql,
                    preset.library,
                    preset.expects()
                )),
                Some(_) => {}
            }
        }
    }
    Ok(findings)
}

/// Returns what a library's tables lack in the schema of its first table.
fn missing(preset: &Preset, first: &Table, tables: &[Table]) -> Option<String> {
    let column = preset.columns.iter().find(|name| !first.columns.iter().any(|column| column.name == **name));
    if let Some(column) = column {
        return Some(format!("column {column}"));
    }
    let is_there = |name: &str| tables.iter().any(|table| table.schema == first.schema && table.name == name);
    let table = preset.tables.iter().find(|name| !name.starts_with(QUEUE_TABLE) && !is_there(name))?;
    Some(format!("table {table} beside it"))
}

/// Returns whether a table with another library's columns would not have this name: `jobs` is anybody's.
fn is_named_by_the_library(preset: &Preset, table: &Table) -> bool {
    preset.schema.is_none_or(|schema| schema == table.schema)
}

async fn library(
    inspector: &mut Inspector,
    preset: &'static Preset,
    first: &Table,
    tables: &[Table],
) -> Result<Library, QueryError> {
    let queues = queues(inspector, preset, &first.schema).await?;
    let mut read: Vec<Table> = tables
        .iter()
        .filter(|table| table.schema == first.schema && preset.tables.contains(&table.name.as_str()))
        .cloned()
        .collect();
    if let (Queue::Required, Queues::Listed { names, .. }) = (preset.queue, &queues) {
        let names: Vec<String> = names.iter().flat_map(|queue| preset.tables(Some(queue))).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| *name != first.name).collect();
        read.extend(inspector.tables(&names).await?.into_iter().filter(|table| table.schema == first.schema));
    }
    read.sort_by_key(|table| preset.tables.iter().position(|name| *name == table.name).unwrap_or(usize::MAX));
    Ok(Library {
        preset,
        schema: first.schema.clone(),
        schema_in_sql: first.schema_in_sql.clone(),
        has_row_security: read.iter().any(|table| table.has_row_security),
        tables: read.into_iter().map(|table| table.name_in_sql).collect(),
        queues,
    })
}

/// Lists the queues, as far as the role may read them.
async fn queues(inspector: &mut Inspector, preset: &Preset, schema: &str) -> Result<Queues, QueryError> {
    let options = Options { schema: Some(schema.to_owned()), ..Options::default() };
    let Some(statement) = preset.queues(&options, MOST_QUEUES + 1) else { return Ok(Queues::None) };
    let names = match inspector.texts(&statement).await {
        Ok(names) => names,
        // The catalog tells everybody of the tables, and each of pgmq's queues is one.
        Err(_) if preset.queue == Queue::Required => {
            let limit = i64::try_from(MOST_QUEUES + 1).unwrap_or(i64::MAX);
            let tables = inspector.tables_like(schema, QUEUE_TABLE, limit).await?;
            tables.iter().filter_map(|table| table.strip_prefix(QUEUE_TABLE).map(str::to_owned)).collect()
        }
        Err(_) => return Ok(Queues::Unreadable),
    };
    let has_more = names.len() > MOST_QUEUES;
    Ok(Queues::Listed { names: names.into_iter().take(MOST_QUEUES).collect(), has_more })
}
