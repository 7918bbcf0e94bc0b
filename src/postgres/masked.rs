//! The check whether a statement reads statistics that PostgreSQL masks for the session's role.
//!
//! `pg_stat_activity` and its family return every session to everybody, but to a role without the
//! privileges of `pg_read_all_stats` most columns of other roles' sessions are NULL: a query that
//! counts the active ones gets 0. The plan tells, also through views; what functions read is not seen.
//!
//! The plan is read as text, line by line: as JSON it is one message, which grows with the partitions
//! of a table beyond what a session may send at once.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{TryStreamExt, pin_mut};
use tokio::time::Instant;
use tokio_postgres::{Client, Error, RowStream};

/// A statement that is refused is looked at again after this: the role may have been granted what it needs.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The question whether the session's role has the privileges of `pg_read_all_stats`.
const SEES_ALL: &str = "\
-- clapometer: statistics check
SELECT pg_has_role('pg_read_all_stats', 'USAGE')";

/// Columns of a function's rows that are masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Masks {
    /// All but these.
    AllBut(&'static [&'static str]),
    /// Only these.
    Only(&'static [&'static str]),
}

/// Functions that return rows of which some columns are masked.
///
/// *Source:* HAS_PGSTAT_PERMISSIONS in PostgreSQL's src/backend/utils/adt/pgstatfuncs.c, and
/// replication/walsender.c, replication/walreceiver.c, contrib/pg_stat_statements.
const ROW_FUNCTIONS: [(&str, Masks); 5] = [
    (
        "pg_stat_get_activity",
        Masks::AllBut(&["datid", "pid", "usesysid", "application_name", "backend_xid", "backend_xmin"]),
    ),
    ("pg_stat_get_progress_info", Masks::AllBut(&["pid", "datid"])),
    ("pg_stat_get_wal_senders", Masks::AllBut(&["pid"])),
    ("pg_stat_get_wal_receiver", Masks::AllBut(&["pid"])),
    ("pg_stat_statements", Masks::Only(&["queryid", "query"])),
];

/// Functions of one session's statistics that are masked as a whole, by the beginnings of their names.
const SCALAR_FUNCTIONS: [&str; 6] = [
    "pg_stat_get_backend_activity(",
    "pg_stat_get_backend_activity_start(",
    "pg_stat_get_backend_client_",
    "pg_stat_get_backend_start(",
    "pg_stat_get_backend_wait_event",
    "pg_stat_get_backend_xact_start(",
];

/// Nodes above a function's scan that let it return all its columns and use only some.
///
/// *Source:* CP_EXACT_TLIST and CP_SMALL_TLIST in PostgreSQL's src/backend/optimizer/plan/createplan.c.
const WASTEFUL_PARENTS: [&str; 3] = [" Join", "Nested Loop", "Aggregate"];

/// The latest verdict on one statement; none before the first.
#[derive(Debug, Default)]
pub(super) struct Masking(Mutex<Option<Verdict>>);

#[derive(Debug, Clone, Copy)]
struct Verdict {
    /// The number of sessions that there had been.
    sessions: u64,
    seen: Seen,
    looked_at: Instant,
}

/// The outcome of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// True if the statement reads statistics that PostgreSQL masks for ordinary roles.
    reads_masked: bool,
    /// True if nothing is masked for the session's role.
    sees_all: bool,
}

impl Seen {
    fn is_masked(self) -> bool {
        self.reads_masked && !self.sees_all
    }
}

/// The step that comes before a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: the plan was looked at.
    Read,
    /// The question what the role may see, in the same round trip: it may have been revoked.
    Ask,
    /// A look at the plan as well.
    Look,
    /// There is no reading.
    Refuse,
}

impl Masking {
    /// Returns what comes before the next reading: a look once for each new session, and each minute while it is
    /// refused; the question with each reading of a statement that lives on the role's grant.
    pub(super) fn next_step(&self, sessions: u64) -> Step {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(verdict) if verdict.seen.is_masked() && verdict.looked_at.elapsed() < LOOK_AGAIN => Step::Refuse,
            Some(verdict) if verdict.seen.is_masked() || verdict.sessions != sessions => Step::Look,
            Some(verdict) if verdict.seen.reads_masked => Step::Ask,
            Some(_) => Step::Read,
            None => Step::Look,
        }
    }

    /// Records the outcome of a look or of the question, and returns whether the statement is refused.
    pub(super) fn record(&self, sessions: u64, seen: Seen) -> bool {
        let verdict = Verdict { sessions, seen, looked_at: Instant::now() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
        seen.is_masked()
    }
}

/// Looks at a statement's plan, the rows of `EXPLAIN (VERBOSE, COSTS OFF)`, in the transaction that is open: whether the
/// statement reads what is masked for ordinary roles, and whether this one sees it.
pub(super) async fn look(
    client: &Client,
    explain: impl Future<Output = Result<RowStream, Error>>,
) -> Result<Seen, Error> {
    let explained = async {
        let lines = explain.await?;
        pin_mut!(lines);
        let mut plan = Plan::default();
        while let Some(row) = lines.try_next().await? {
            plan.line(row.try_get(0)?);
        }
        Ok::<_, Error>(plan.is_masked())
    };
    let (reads_masked, sees_all) = tokio::try_join!(explained, sees_all(client))?;
    Ok(Seen { reads_masked, sees_all })
}

/// Asks what the role sees now, for a statement whose plan is known to read what is masked for ordinary roles.
pub(super) async fn ask(client: &Client) -> Result<Seen, Error> {
    Ok(Seen { reads_masked: true, sees_all: sees_all(client).await? })
}

async fn sees_all(client: &Client) -> Result<bool, Error> {
    client.query_typed_one(SEES_ALL, &[]).await?.try_get(0)
}

/// Follows the lines of `EXPLAIN (VERBOSE, COSTS OFF)`.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The nodes from the top to the one whose lines come, with their indentation.
    path: Vec<(usize, String)>,
    /// The aliases of scanned functions, and what is masked of their rows.
    scans: Vec<(String, Masks)>,
    /// Every `alias.column` that some node uses.
    used: HashSet<(String, String)>,
    /// True if an expression calls a function that masks: in a select list, or beside others in one scan.
    calls: bool,
}

impl Plan {
    /// Takes the next line.
    pub(super) fn line(&mut self, line: &str) {
        self.calls |= SCALAR_FUNCTIONS.iter().any(|function| line.contains(function));
        let content = line.trim_start();
        let indentation = line.len() - content.len();
        let (indentation, node) = match content.strip_prefix("->  ") {
            Some(node) => (indentation + 4, Some(node)),
            None if self.path.is_empty() => (indentation, Some(content)),
            None => (indentation, None),
        };
        if let Some(node) = node {
            self.path.retain(|(above, _)| *above < indentation);
            self.path.push((indentation, node.to_owned()));
            self.scans.extend(scan(node));
            return;
        }
        if self.path.last().is_none_or(|(_, node)| scan(node).is_none()) {
            self.calls |= ROW_FUNCTIONS.iter().any(|(name, _)| is_called(name, content));
        }
        if !self.is_wasted(content) {
            self.used.extend(columns(content));
        }
    }

    /// Returns whether the statement reads a masked column.
    pub(super) fn is_masked(&self) -> bool {
        let reads_column = self
            .scans
            .iter()
            .any(|(alias, masks)| self.used.iter().any(|(used, column)| used == alias && masks.cover(column)));
        self.calls || reads_column
    }

    /// Returns whether a line lists what a function's scan returns to a node that need not use it.
    fn is_wasted(&self, content: &str) -> bool {
        let [.., (_, parent), (_, node)] = self.path.as_slice() else { return false };
        content.starts_with("Output: ")
            && scan(node).is_some()
            && WASTEFUL_PARENTS.iter().any(|kind| parent.contains(kind))
    }
}

impl Masks {
    fn cover(self, column: &str) -> bool {
        match self {
            Self::AllBut(plain) => !plain.contains(&column),
            Self::Only(masked) => masked.contains(&column) || column == "*",
        }
    }
}

/// Returns the alias of the masking function that a node scans, and what is masked of its rows.
fn scan(node: &str) -> Option<(String, Masks)> {
    let scanned = node.strip_prefix("Function Scan on ")?;
    let mut words = scanned.split(' ');
    let function = words.next()?.rsplit('.').next()?;
    let (_, masks) = ROW_FUNCTIONS.into_iter().find(|(name, _)| *name == function)?;
    let alias = words.next().unwrap_or(function);
    Some((alias.trim_matches('"').to_owned(), masks))
}

/// Returns whether an expression calls a function.
fn is_called(name: &str, expression: &str) -> bool {
    expression.match_indices(name).any(|(at, _)| expression[at + name.len()..].starts_with('('))
}

/// Returns every `alias.column` of an expression.
fn columns(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '.' | '"' | '*');
    text.split(move |c| !is_part(c)).filter_map(|word| {
        let (alias, column) = word.split_once('.')?;
        Some((alias.trim_matches('"').to_owned(), column.trim_matches('"').to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_masked(plan: &str) -> bool {
        let mut followed = Plan::default();
        plan.lines().for_each(|line| followed.line(line));
        followed.is_masked()
    }

    const COUNT: &str = "\
Limit
  Output: (((SubPlan 1))::double precision)
  ->  Subquery Scan on q
        Output: ((SubPlan 1))::double precision
        ->  Aggregate
              Output: count(*)
              ->  Function Scan on pg_catalog.pg_stat_get_activity s
                    Output: s.datid, s.pid, s.state, s.query
                    Function Call: pg_stat_get_activity(NULL::integer)
";

    #[test]
    fn a_masked_column_counts_where_it_is_used_and_not_where_it_is_only_returned() {
        assert!(!is_masked(COUNT));
        assert!(is_masked(&format!("{COUNT}                    Filter: (s.state = 'active'::text)\n")));
        assert!(!is_masked(&format!("{COUNT}                    Filter: (s.pid = 1)\n")));
        assert!(is_masked(&COUNT.replace("count(*)", "count(s.query)")));
        assert!(is_masked(&COUNT.replace("count(*)", "count(s.*)")));
        assert!(is_masked(&COUNT.replace("Aggregate", "Subquery Scan on p")), "a parent that uses all");
    }

    #[test]
    fn another_functions_column_of_the_same_name_does_not_count() {
        assert!(!is_masked(&COUNT.replace("pg_stat_get_activity", "jobs").replace("count(*)", "count(s.state)")));
        assert!(is_masked("Result\n  Output: pg_stat_get_backend_activity(1)\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_plan_is_looked_at_once_for_each_new_session_and_each_minute_while_refused() {
        let masking = Masking::default();
        assert_eq!(masking.next_step(1), Step::Look);
        assert!(!masking.record(1, Seen { reads_masked: false, sees_all: false }));
        assert_eq!(masking.next_step(1), Step::Read);
        assert_eq!(masking.next_step(2), Step::Look);
        assert!(!masking.record(2, Seen { reads_masked: true, sees_all: true }));
        assert_eq!(masking.next_step(2), Step::Ask);
        assert_eq!(masking.next_step(3), Step::Look);
        assert!(masking.record(2, Seen { reads_masked: true, sees_all: false }));
        assert_eq!(masking.next_step(3), Step::Refuse);
        tokio::time::advance(LOOK_AGAIN).await;
        assert_eq!(masking.next_step(3), Step::Look);
    }
}
