//! `clapometer notify-sql`: prints the trigger that notifies the scaler of a table's changes.

use clap::{Args, ValueEnum};

use super::{Exit, misused};
use crate::{
    notify_sql::{Identifier, IdentifierError, NotifyTable, NotifyTrigger, Operation},
    terminal::print,
};

const EXAMPLES: &str = "\
Examples:
  clapometer notify-sql --table app.jobs --channel jobs --columns status | psql -v ON_ERROR_STOP=1
  clapometer notify-sql --table app.jobs --drop | psql -v ON_ERROR_STOP=1

and in clapometer's configuration, at the query that counts these rows:
  notify: {channel: jobs, resync: 5s}";

/// Print the SQL that makes a table notify clapometer of its changes
///
/// Prints one statement for the owner of the table. It creates a trigger that runs after each
/// statement and notifies once per transaction. The trigger never makes the application's own
/// statement fail or wait, and the application needs no further privilege. (Where
/// max_prepared_transactions is above 0 the trigger has to wait for COMMIT; docs/notify.md says
/// what that refuses.) Running the SQL again replaces the trigger; --drop prints the SQL that
/// removes it. The command itself connects to no database.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct NotifySql {
    /// The table, as psql's \d shows it: `table` in the schema public, or `schema.table`. With
    /// --schema the name is taken literally, dots included
    #[arg(long, value_name = "TABLE")]
    table: String,
    /// The table's schema
    #[arg(long, value_name = "SCHEMA", value_parser = name)]
    schema: Option<Identifier>,
    /// The channel in the query's `notify`; several tables may share one
    #[arg(long, value_name = "CHANNEL", value_parser = name, required_unless_present = "drop")]
    channel: Option<Identifier>,
    /// The operations to notify of; delete includes TRUNCATE
    #[arg(long, value_name = "OPERATION", value_enum, value_delimiter = ',', default_value = "insert,update,delete")]
    operations: Vec<Change>,
    /// Notify of an UPDATE only if it sets one of these columns. Name those that the query depends
    /// on, so that a heartbeat costs nothing [default: notify of every UPDATE]
    #[arg(long, value_name = "COLUMN", value_parser = name, value_delimiter = ',')]
    columns: Vec<Identifier>,
    /// Print the SQL that removes the trigger, whatever options it was installed with
    #[arg(long, conflicts_with_all = ["channel", "operations", "columns"])]
    drop: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Change {
    Insert,
    Update,
    Delete,
}

impl From<Change> for Operation {
    fn from(change: Change) -> Self {
        match change {
            Change::Insert => Self::Insert,
            Change::Update => Self::Update,
            Change::Delete => Self::Delete,
        }
    }
}

impl NotifySql {
    pub(super) fn run(self) -> Exit {
        match self.text() {
            Ok(text) => {
                print(&text);
                Exit::Success
            }
            Err(fault) => misused("notify-sql", &fault),
        }
    }

    fn text(self) -> Result<String, String> {
        let Self { table, schema, channel, operations, columns, drop } = self;
        let table = match schema {
            Some(schema) => Identifier::new(table).map(|table| NotifyTable::new(schema, table)),
            None => NotifyTable::parse(&table),
        };
        let table = table.map_err(|fault| match fault {
            IdentifierError::Ambiguous => {
                format!("--table: {fault}; give the schema with --schema, and the table alone with --table")
            }
            _ => format!("--table: {fault}"),
        })?;
        let Some(channel) = channel.filter(|_| !drop) else { return Ok(table.remove()) };
        let operations: Vec<Operation> = operations.into_iter().map(Operation::from).collect();
        if !columns.is_empty() && !operations.contains(&Operation::Update) {
            return Err("--columns is about updates: add update to --operations".to_owned());
        }
        Ok(NotifyTrigger { table, channel, operations, columns }.install())
    }
}

fn name(text: &str) -> Result<Identifier, IdentifierError> {
    Identifier::new(text)
}
