//! The rows that the number of a trigger counts: those that wait, or these and the ones that workers hold.

use crate::{manifest::Trigger, presets, query::KEEPER};

/// The rows that a trigger counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Only the rows that wait.
    Pending,
    /// The rows that wait, and those that workers hold.
    Outstanding,
}

/// The rows that a trigger counts, and how sure that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) counted: Counted,
    /// It is known, not guessed from SQL or told by the caller.
    pub(super) is_known: bool,
    /// Names what says so.
    pub(super) because: &'static str,
}

/// The triggers whose number comes from SQL.
pub(super) const SQL_TRIGGERS: [&str; 3] = ["postgresql", "mysql", "mssql"];

/// States that rows have while a worker holds them, as queue tables call them.
const HELD_STATES: [&str; 12] = [
    "'running'",
    "'in_progress'",
    "'in-progress'",
    "'processing'",
    "'executing'",
    "'started'",
    "'active'",
    "'working'",
    "'claimed'",
    "'locked'",
    "'leased'",
    "'reserved'",
];

/// Returns what a trigger counts, unless nobody can know.
pub(super) fn of(trigger: Trigger<'_>, told: Option<Counted>) -> Option<Count> {
    use Counted::{Outstanding, Pending};
    let known = |counted, because| Some(Count { counted, is_known: true, because });
    let set = |key: &str, default: &str| trigger.text(key).unwrap_or(default).to_ascii_lowercase();
    match trigger.kind() {
        "external" | "external-push" => match trigger.text("query") {
            Some("pending-claps") => return known(Pending, "pending-claps counts only rows without a claim"),
            Some("outstanding-claps" | "clap-workers") => {
                return known(Outstanding, "this query counts the rows that Jobs hold, too");
            }
            Some(KEEPER) if names_clapometer(trigger) => return None, // it counts nothing
            Some(name) if names_clapometer(trigger) && (is_preset(name) || told.is_none() && is_of_preset(name)) => {
                return Some(Count {
                    counted: Outstanding,
                    is_known: false,
                    because: "a query of this name is taken for the preset, which counts the rows that workers hold, too",
                });
            }
            _ => {}
        },
        "aws-sqs-queue" => {
            return match set("scaleOnInFlight", "true").as_str() {
                "false" => known(Pending, "scaleOnInFlight: false leaves out messages in flight"),
                _ => known(Outstanding, "scaleOnInFlight counts messages in flight, too"),
            };
        }
        "rabbitmq" if ["unknown", "queuelength"].contains(&set("mode", "unknown").as_str()) => {
            match protocol(trigger) {
                Some(Protocol::Amqp) => {
                    return known(Pending, "over AMQP a queue's length has no messages that consumers hold");
                }
                _ if set("excludeUnacknowledged", "false") == "true" => {
                    return known(Pending, "excludeUnacknowledged leaves out messages that consumers hold");
                }
                Some(Protocol::Http) => {
                    return known(Outstanding, "over HTTP a queue's length has unacknowledged messages, too");
                }
                None => {}
            }
        }
        "azure-queue" if set("queueLengthStrategy", "all") == "visibleonly" => {
            return known(Pending, "queueLengthStrategy: visibleonly leaves out messages that consumers hold");
        }
        _ => {}
    }
    if let Some(counted) = told {
        return Some(Count { counted, is_known: false, because: "--counts says what the query counts" });
    }
    let sql = trigger.text("query").filter(|_| SQL_TRIGGERS.contains(&trigger.kind()))?;
    if !counts_rows(sql) || mentions_held_rows(sql) {
        return None;
    }
    Some(Count { counted: Pending, is_known: false, because: "SQL is taken to count only the rows that wait" })
}

/// The protocol by which KEDA asks RabbitMQ.
enum Protocol {
    Amqp,
    Http,
}

/// Returns how KEDA asks RabbitMQ, if that is in the trigger. Without a word about it the URL's scheme decides.
fn protocol(trigger: Trigger<'_>) -> Option<Protocol> {
    let said = trigger.text("protocol").filter(|protocol| *protocol != "auto");
    let name = said.or_else(|| trigger.text("host"))?;
    if name.starts_with("amqp") { Some(Protocol::Amqp) } else { name.starts_with("http").then_some(Protocol::Http) }
}

/// Returns whether the address of a trigger says that it is for clapometer.
pub(super) fn names_clapometer(trigger: Trigger<'_>) -> bool {
    trigger.text("scalerAddress").is_some_and(|address| address.contains("clapometer"))
}

/// Returns whether a query has the name of a preset, as `clapometer init` writes it for a library without queues.
fn is_preset(name: &str) -> bool {
    presets::ALL.iter().any(|preset| preset.name.replace('_', "-") == name.replace('_', "-"))
}

/// Returns whether a query's name begins with a preset's, as `clapometer init` writes it for each queue. This may be by
/// chance.
fn is_of_preset(name: &str) -> bool {
    let name = name.replace('_', "-");
    presets::ALL.iter().any(|preset| name.starts_with(&(preset.name.replace('_', "-") + "-")))
}

/// Returns whether SQL counts rows, or sums up what is counted elsewhere; it may also return a lag or an age.
fn counts_rows(sql: &str) -> bool {
    let sql = sql.to_ascii_lowercase();
    sql.contains("count") || sql.contains("sum(")
}

/// Returns whether SQL names a state of held rows, so that it may count them. Whether it wants or excludes them takes a
/// parser, and its author.
fn mentions_held_rows(sql: &str) -> bool {
    let sql = sql.to_ascii_lowercase();
    HELD_STATES.iter().any(|state| sql.contains(state))
}

/// Returns whether SQL divides by a number outside its texts and comments.
pub(super) fn divides(sql: &str) -> bool {
    let mut in_text = false;
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        match c {
            '\'' => in_text = !in_text,
            '-' if !in_text && after.starts_with('-') => {
                rest = after.split_once('\n').map_or("", |(_, next)| next);
                continue;
            }
            '/' if !in_text && after.starts_with('*') => {
                rest = after.split_once("*/").map_or("", |(_, next)| next);
                continue;
            }
            '/' if !in_text && after.trim_start().starts_with(|c: char| c.is_ascii_digit()) => return true,
            _ => {}
        }
        rest = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_division_is_one_outside_texts_and_comments() {
        for sql in ["SELECT ceil(COUNT(1)::decimal / 10) FROM a", "SELECT count(*)/5 FROM a WHERE b = '/'"] {
            assert!(divides(sql), "{sql}");
        }
        for sql in [
            "SELECT count(*) FROM a",
            "SELECT count(*) FROM a WHERE path = 'a/1'",
            "SELECT 1 -- a / 2\nFROM a",
            "SELECT /* / 3 */ 1",
            "SELECT 1 /* never closed / 3",
            "SELECT a / b FROM c",
            "",
        ] {
            assert!(!divides(sql), "{sql}");
        }
    }

    #[test]
    fn sql_that_counts_no_rows_leaves_the_question_open() {
        for sql in ["SELECT COUNT(1) FROM a", "SELECT sum(n) FROM a", "SELECT jobs_count FROM a"] {
            assert!(counts_rows(sql), "{sql}");
        }
        assert!(!counts_rows("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn) FROM pg_stat_replication"));
    }

    #[test]
    fn a_state_of_held_rows_leaves_the_question_open() {
        assert!(mentions_held_rows("SELECT count(*) FROM task WHERE state IN ('QUEUED', 'RUNNING')"));
        assert!(!mentions_held_rows("SELECT count(*) FROM task WHERE state = 'queued'"));
    }
}
