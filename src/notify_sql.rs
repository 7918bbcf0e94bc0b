//! Generates the SQL that makes a table notify clapometer of its changes, and the SQL that removes it.
//!
//! This is text only; nothing connects. The form was chosen by measurement, see
//! `docs/decisions/notify-trigger.md`. What a DBA has to know is in `docs/notify.md`. Used by
//! `clapometer notify-sql` and `postgres-batch migrate up --with-notify`.

use std::fmt::Write as _;

use postgres_protocol::escape::{escape_identifier, escape_literal};
use sha2::{Digest, Sha256};

/// The most bytes of a name. PostgreSQL cuts off longer ones without an error (NAMEDATALEN - 1).
const LONGEST_NAME: usize = 63;

/// The prefix of the names of our functions.
const PREFIX: &str = "clapometer_notify_";

/// A name as it stands in the catalogue: not quoted, not folded, 1 to 63 bytes long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identifier(String);

/// An error about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentifierError {
    /// The name is empty.
    #[error("a name cannot be empty")]
    Empty,
    /// The name is so long that PostgreSQL would cut it off.
    #[error("a name has at most {LONGEST_NAME} bytes in PostgreSQL, this one has {0}")]
    TooLong(usize),
    /// The name contains NUL, which no text in PostgreSQL does.
    #[error("a name cannot contain the character NUL")]
    Nul,
    /// The name can be read in more than one way.
    #[error("more than one dot, so that it is not clear which one ends the schema")]
    Ambiguous,
}

/// A table and its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyTable {
    schema: Identifier,
    name: Identifier,
}

/// A kind of change of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// INSERT, COPY or MERGE.
    Insert,
    /// UPDATE. Moving a row to another partition is a DELETE and an INSERT.
    Update,
    /// DELETE and TRUNCATE.
    Delete,
}

/// A trigger: the changes of a table that are notified on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyTrigger {
    /// The table.
    pub table: NotifyTable,
    /// The channel of NOTIFY. Several tables may share one.
    pub channel: Identifier,
    /// The operations that notify.
    pub operations: Vec<Operation>,
    /// The columns of which an UPDATE must set one to notify. Empty: every UPDATE notifies.
    pub columns: Vec<Identifier>,
}

impl Identifier {
    /// Checks a name.
    ///
    /// # Errors
    /// The name is empty, too long, or contains NUL.
    pub fn new(text: impl Into<String>) -> Result<Self, IdentifierError> {
        let text = text.into();
        match text.len() {
            0 => Err(IdentifierError::Empty),
            _ if text.contains('\0') => Err(IdentifierError::Nul),
            1..=LONGEST_NAME => Ok(Self(text)),
            length => Err(IdentifierError::TooLong(length)),
        }
    }

    fn quoted(&self) -> String {
        escape_identifier(&self.0)
    }
}

impl NotifyTable {
    /// Names a table by its schema and its own name.
    pub fn new(schema: Identifier, name: Identifier) -> Self {
        Self { schema, name }
    }

    /// Parses `schema.table`, or the name of a table in the schema `public`.
    ///
    /// # Errors
    /// See [`IdentifierError`]. A name with a dot in it needs [`NotifyTable::new`].
    pub fn parse(text: &str) -> Result<Self, IdentifierError> {
        let (schema, name) = text.split_once('.').unwrap_or(("public", text));
        if name.contains('.') {
            return Err(IdentifierError::Ambiguous);
        }
        Ok(Self::new(Identifier::new(schema)?, Identifier::new(name)?))
    }

    /// Returns the names of the schema and of the table, as they are in the catalog.
    pub fn names(&self) -> (&str, &str) {
        (&self.schema.0, &self.name.0)
    }

    fn quoted(&self) -> String {
        format!("{}.{}", self.schema.quoted(), self.name.quoted())
    }

    /// Returns the name of the table's trigger function, in the table's schema. A long name is cut, and a hash keeps it
    /// unique.
    fn function(&self) -> String {
        let mut name = format!("{PREFIX}{}", self.name.0);
        if name.len() > LONGEST_NAME {
            let hash = format!("_{:016x}", hash("table", &self.name.0));
            name.truncate(name.floor_char_boundary(LONGEST_NAME - hash.len()));
            name.push_str(&hash);
        }
        format!("{}.{}", self.schema.quoted(), Identifier(name).quoted())
    }

    /// Returns the SQL that removes the trigger, whatever options it was installed with. Without a trigger it does
    /// nothing.
    pub fn remove(&self) -> String {
        let (table_text, function) = (escape_literal(&self.quoted()), self.function());
        let outer = dollar_quote("clapometer", &[&table_text, &function]);
        format!(include_str!("notify_sql/remove.sql"), outer = outer, table_text = table_text, function = function)
    }
}

impl NotifyTrigger {
    /// Returns the SQL that installs the trigger: one statement, which replaces an earlier trigger of this table.
    pub fn install(&self) -> String {
        let Self { table, channel, .. } = self;
        let (table_text, channel_text) = (escape_literal(&table.quoted()), escape_literal(&channel.0));
        let function = table.function();
        let triggers = self.triggers();
        let given = [function.as_str(), &table_text, &channel_text, &triggers];
        format!(
            include_str!("notify_sql/install.sql"),
            outer = dollar_quote("clapometer", &given),
            inner = dollar_quote("function", &given),
            function = function,
            setting = self.setting(),
            key = self.key(),
            channel = channel_text,
            relation = table_text,
            table_text = table_text,
            triggers = triggers,
        )
    }

    /// Returns the statements that create the trigger: it runs after each statement, or, where transactions may be
    /// prepared, at COMMIT.
    fn triggers(&self) -> String {
        let (table, function) = (self.table.quoted(), self.table.function());
        let rows: Vec<String> = self.operations.iter().map(|operation| self.event(*operation)).collect();
        let rows = rows.join(" OR ");
        let truncates = self.operations.contains(&Operation::Delete);
        let or_truncate = if truncates { " OR TRUNCATE" } else { "" };
        let mut triggers = format!(
            "
    IF pg_catalog.current_setting('max_prepared_transactions') OPERATOR(pg_catalog.=) '0' THEN
        CREATE TRIGGER clapometer_notify
            AFTER {rows}{or_truncate} ON {table}
            FOR EACH STATEMENT
            EXECUTE FUNCTION {function}();
    ELSE
        -- PREPARE TRANSACTION fails after NOTIFY, so this waits for the COMMIT. Until then a change of rows forbids
        -- ALTER TABLE, TRUNCATE, DROP TABLE and CREATE INDEX, unless SET CONSTRAINTS ALL IMMEDIATE comes first.
        CREATE CONSTRAINT TRIGGER clapometer_notify
            AFTER {rows} ON {table}
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW
            EXECUTE FUNCTION {function}();
"
        );
        if truncates {
            let _ = write!(
                triggers,
                "        CREATE TRIGGER clapometer_notify_truncate
            AFTER TRUNCATE ON {table}
            FOR EACH STATEMENT
            EXECUTE FUNCTION {function}();
"
            );
        }
        triggers.push_str("    END IF;\n");
        triggers
    }

    /// Returns the event of one operation, without WHEN: PostgreSQL compiles a WHEN anew for every statement, which
    /// costs more than everything else.
    fn event(&self, operation: Operation) -> String {
        match operation {
            Operation::Insert => "INSERT".to_owned(),
            Operation::Delete => "DELETE".to_owned(),
            Operation::Update if self.columns.is_empty() => "UPDATE".to_owned(),
            Operation::Update => {
                let columns: Vec<String> = self.columns.iter().map(Identifier::quoted).collect();
                format!("UPDATE OF {}", columns.join(", "))
            }
        }
    }

    /// Returns the number of the channel's first advisory lock. One lock for each tenth of a second since 1970 follows
    /// it. It is positive, and so far below the greatest number that the sum never overflows.
    fn key(&self) -> u64 {
        hash("channel", &self.channel.0) >> 2
    }

    /// Returns, as a literal, the name of the setting that remembers that a transaction has already notified.
    fn setting(&self) -> String {
        escape_literal(&format!("clapometer.notify_{:016x}", hash("channel", &self.channel.0)))
    }
}

/// Returns the first 64 bits of a SHA-256, which are the same on every machine and in every version.
fn hash(kind: &str, text: &str) -> u64 {
    let digest = Sha256::digest(format!("clapometer {kind} {text}"));
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Returns a dollar quote that occurs in none of the texts.
pub(crate) fn dollar_quote(name: &str, texts: &[&str]) -> String {
    let mut quote = format!("${name}$");
    let mut number = 1_u32;
    while texts.iter().any(|text| text.contains(&quote)) {
        number += 1;
        quote = format!("${name}{number}$");
    }
    quote
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Identifier {
        Identifier::new(text).unwrap()
    }

    fn trigger(table: &str, channel: &str, columns: &[&str]) -> NotifyTrigger {
        NotifyTrigger {
            table: NotifyTable::parse(table).unwrap(),
            channel: name(channel),
            operations: vec![Operation::Insert, Operation::Update, Operation::Delete],
            columns: columns.iter().map(|column| name(column)).collect(),
        }
    }

    #[test]
    fn the_script_as_people_read_it() {
        insta::assert_snapshot!(trigger("app.jobs", "jobs", &["status"]).install());
    }

    #[test]
    fn the_removal_as_people_read_it() {
        insta::assert_snapshot!(NotifyTable::parse("app.jobs").unwrap().remove());
    }

    #[test]
    fn only_what_was_asked_for_fires() {
        let insert = NotifyTrigger { operations: vec![Operation::Insert], ..trigger("jobs", "jobs", &[]) }.install();
        assert!(insert.contains("AFTER INSERT ON \"public\".\"jobs\""));
        assert!(!insert.contains("OR TRUNCATE") && !insert.contains("AFTER TRUNCATE") && !insert.contains("UPDATE"));
        let every_update = trigger("jobs", "jobs", &[]).install();
        assert!(
            every_update.contains("AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON")
                && every_update.contains("AFTER TRUNCATE ON")
        );
    }

    #[test]
    fn a_dollar_quote_in_a_name_does_not_end_ours() {
        let script = trigger("a$clapometer$b", "$function$", &["$clapometer2$"]).install();
        assert!(script.contains("DO $clapometer3$\n") && script.ends_with("$clapometer3$;\n"));
        assert!(script.contains("AS $function2$\n"));
    }

    #[test]
    fn quotes_and_backslashes_are_doubled() {
        assert!(trigger("t", r"a'b\c", &[]).install().contains(r"E'a''b\\c'"));
        assert_eq!(name("a\"b").quoted(), "\"a\"\"b\"");
    }

    #[test]
    fn a_long_table_has_a_function_of_its_own() {
        let function = |letter: &str| NotifyTable::parse(&format!("{}{letter}", "ä".repeat(31))).unwrap().function();
        assert_ne!(function("a"), function("b"));
        assert!(function("a").len() <= "\"public\".\"\"".len() + LONGEST_NAME);
    }

    #[test]
    fn names_that_postgresql_would_change_are_refused() {
        assert_eq!(Identifier::new(""), Err(IdentifierError::Empty));
        assert_eq!(Identifier::new("a\0"), Err(IdentifierError::Nul));
        assert_eq!(Identifier::new("a".repeat(64)), Err(IdentifierError::TooLong(64)));
        assert_eq!(NotifyTable::parse("a.b.c"), Err(IdentifierError::Ambiguous));
        assert_eq!(NotifyTable::parse("a."), Err(IdentifierError::Empty));
    }

    #[test]
    fn the_key_of_a_channel_never_changes() {
        // Two versions at work at once must compete for the same lock.
        assert_eq!(trigger("jobs", "claps", &[]).key(), 1_187_903_155_259_989_571);
    }
}
