//! The statements that let the scaler's role read what the queries read, and no more.

use super::{draft::Place, page::comment};
use crate::{notify_sql::dollar_quote, terminal::text::printable};

/// The limits of a role that is made, as those of deploy/postgres/own-table.sql.
const MOST_CONNECTIONS: u32 = 20;
const DEFAULTS: [&str; 4] = [
    "default_transaction_read_only = on",
    "statement_timeout = '10s'",
    "lock_timeout = '1s'",
    "idle_in_transaction_session_timeout = '10s'",
];

/// Something in one schema that is read.
pub(super) struct Reading<'a> {
    /// The library, or the table of the user's own.
    pub(super) what: &'a str,
    /// The schema, as SQL names it.
    pub(super) schema: &'a str,
    /// The tables, as SQL names them.
    pub(super) tables: Vec<&'a str>,
    /// True if row level security is on for one of them.
    pub(super) has_row_security: bool,
}

/// Writes the statements, which may be run again.
pub(super) fn text(place: &Place, readings: &[Reading<'_>]) -> String {
    let role = &place.known;
    let name = &role.name_in_sql;
    let mut text = comment("--", &format!("What the role {name} reads in the database {}.", role.dbname_in_sql));
    let who = if role.exists && role.can_log_in {
        "As the owner of these tables, or as a superuser:"
    } else {
        "As the owner of these tables, if it has CREATEROLE, or as a superuser:"
    };
    text += &format!("-- {who}\n--     {} -v ON_ERROR_STOP=1 -f grants.sql\n", place.psql);
    text += "\nBEGIN;\n";
    if !role.exists {
        let mark = place.role.mark("").replacen('#', "-- #", 1);
        let quote = dollar_quote("role", &[name, &mark]);
        text += &format!("DO {quote}\nBEGIN\n");
        text += &format!("    CREATE ROLE {name} LOGIN CONNECTION LIMIT {MOST_CONNECTIONS};{mark}\n");
        for default in DEFAULTS {
            text += &format!("    ALTER ROLE {name} SET {default};\n");
        }
        text +=
            "EXCEPTION WHEN duplicate_object THEN\n    RAISE NOTICE 'the role is there already, and stays as it is';\n";
        text += &format!("END {quote};\n");
        text += &comment("--", &format!("Its password: \\password {name}"));
    } else if !role.can_log_in {
        text += &format!("ALTER ROLE {name} LOGIN;\n");
    }
    if !role.can_connect {
        text += &format!("GRANT CONNECT ON DATABASE {} TO {name};\n", role.dbname_in_sql);
    }
    for reading in readings {
        text += "\n";
        text += &comment("--", &printable(&format!("{}, in the schema {}", reading.what, reading.schema)));
        text += &format!("GRANT USAGE ON SCHEMA {} TO {name};\n", reading.schema);
        let tables = reading.tables.join(",\n    ");
        text += &match reading.tables.len() {
            1 => format!("GRANT SELECT ON {tables} TO {name};\n"),
            _ => format!("GRANT SELECT ON\n    {tables}\n    TO {name};\n"),
        };
    }
    if readings.iter().any(|reading| reading.has_row_security) && !role.bypasses_row_security {
        text += "\n";
        text += &comment(
            "--",
            "Row level security is on for tables above: to this role they would look empty. This one takes a superuser.",
        );
        text += &format!("ALTER ROLE {name} BYPASSRLS;\n");
    }
    text + "COMMIT;\n"
}
