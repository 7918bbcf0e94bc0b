//! The check whether a statement reads statistics that PostgreSQL masks for the session's role.
//!
//! `pg_stat_activity` and its family return every session to everybody, but to a role without the
//! privileges of `pg_read_all_stats` most columns of other roles' sessions are NULL: a query that
//! counts the active ones gets 0. The plan tells, also through views; what functions read is not seen.
//!
//! The plan is read as text, line by line: as JSON it is one message, which grows with the partitions
//! of a table beyond what a session may send at once. Names and literals are shown with their line breaks,
//! so that what belongs together may be several lines.

use std::{
    collections::HashSet,
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{TryStreamExt, pin_mut};
use tokio::time::Instant;
use tokio_postgres::{Client, Error, RowStream};

/// A statement is looked at again after this: somebody may have replaced a view that it reads, or granted the role what
/// it needs. It is shorter than the `cooldownPeriod` after which KEDA takes workers away, and long beside a plan's
/// cost.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Lets plans show names as they are compared here: without quotes where none are needed.
pub(super) const PLAIN_NAMES: &str = "SET LOCAL quote_all_identifiers = off";

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

/// The beginnings of lines whose rest is shown as it is: a quote there opens nothing.
///
/// *Source:* ExplainSubPlans in PostgreSQL's src/backend/commands/explain.c, and contrib/file_fdw.
const UNQUOTED: [&str; 3] = ["CTE ", "Foreign File: ", "Foreign Program: "];

/// The latest verdict on one statement; none before the first.
#[derive(Debug, Default)]
pub(super) struct Masking(Mutex<Option<Verdict>>);

#[derive(Debug, Clone, Copy)]
struct Verdict {
    /// The number of sessions that there had been.
    sessions: u64,
    seen: Seen,
    /// The time of the latest look at the plan, or of the answer that has refused the statement.
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
    /// Returns what comes before the next reading: a look once for each new session, and each minute; the question with
    /// each reading of a statement that lives on the role's grant.
    pub(super) fn next_step(&self, sessions: u64) -> Step {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Step::Look,
            Some(verdict) if verdict.looked_at.elapsed() >= LOOK_AGAIN => Step::Look,
            Some(verdict) if verdict.seen.is_masked() => Step::Refuse,
            Some(verdict) if verdict.sessions != sessions => Step::Look,
            Some(verdict) if verdict.seen.reads_masked => Step::Ask,
            Some(_) => Step::Read,
        }
    }

    /// Records the outcome of a step, and returns whether the statement is refused.
    pub(super) fn record(&self, step: Step, sessions: u64, seen: Seen) -> bool {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let looked_at = match *latest {
            // The question says nothing about the plan.
            Some(before) if step == Step::Ask && !seen.is_masked() => before.looked_at,
            _ => Instant::now(),
        };
        *latest = Some(Verdict { sessions, seen, looked_at });
        seen.is_masked()
    }
}

/// Looks at a statement's plan, the rows of `EXPLAIN (VERBOSE, COSTS OFF)`, in the transaction that is open: whether
/// the statement reads what is masked for ordinary roles, and whether this one sees it.
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
    // In this order, all at once.
    let ((), reads_masked, sees_all) =
        tokio::try_join!(client.batch_execute(PLAIN_NAMES), explained, sees_all(client))?;
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
    /// True if any line names a function whose rows are masked.
    is_named: bool,
    /// The lines whose name or literal goes on in the next one.
    begun: String,
    /// The quote that is open at the end of these.
    open: Option<char>,
}

impl Plan {
    /// Takes the next line.
    pub(super) fn line(&mut self, line: &str) {
        self.calls |= SCALAR_FUNCTIONS.iter().any(|function| line.contains(function));
        self.is_named |= ROW_FUNCTIONS.iter().any(|(name, _)| line.contains(name));
        if self.open.is_some() {
            self.begun.push('\n');
        } else if !self.path.is_empty() && UNQUOTED.iter().any(|start| line.trim_start().starts_with(start)) {
            return;
        }
        self.open = open_after(self.open, line);
        self.begun.push_str(line);
        if self.open.is_none() {
            let whole = mem::take(&mut self.begun);
            self.node_or_property(&whole);
        }
    }

    /// Takes a node's first line or one of its properties, which has line breaks only in quotes.
    fn node_or_property(&mut self, line: &str) {
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
        // With a quote left open, a text of somebody's extension was taken for an expression, and what came after it
        // for a literal.
        let is_misread = self.open.is_some();
        self.calls || reads_column || (is_misread && self.is_named)
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
    let mut scanned = Names(node.strip_prefix("Function Scan on ")?);
    let function = scanned.next()?;
    let (name, masks) = ROW_FUNCTIONS.into_iter().find(|(name, _)| function.last().is_some_and(|last| last == name))?;
    let alias = scanned.next().and_then(|mut alias| alias.pop());
    Some((alias.unwrap_or_else(|| name.to_owned()), masks))
}

/// Returns the quote that is open after a text, by the one before it. Two that stand for one close it and open it
/// again; a backslash is a character like others, because plans show no literal in which it could escape a quote.
///
/// *Source:* simple_quote_literal in PostgreSQL's src/backend/utils/adt/ruleutils.c.
fn open_after(open: Option<char>, text: &str) -> Option<char> {
    text.chars().filter(|c| matches!(c, '"' | '\'')).fold(open, |open, quote| match open {
        None => Some(quote),
        Some(opened) => (opened != quote).then_some(opened),
    })
}

/// Returns whether an expression calls a function.
fn is_called(name: &str, expression: &str) -> bool {
    expression.match_indices(name).any(|(at, _)| expression[at + name.len()..].starts_with('('))
}

/// Returns every `alias.column` of an expression.
fn columns(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    Names(text).filter_map(|mut name| {
        let column = name.pop()?;
        Some((name.pop()?, column))
    })
}

/// The names of an expression, each with its qualifiers before it. Those in quotes are as they are, and what literals
/// hold are no names.
struct Names<'a>(&'a str);

impl Iterator for Names<'_> {
    type Item = Vec<String>;

    fn next(&mut self) -> Option<Vec<String>> {
        loop {
            let begin = self.0.find(|c| is_part(c) || matches!(c, '"' | '\''))?;
            self.0 = &self.0[begin..];
            if !self.0.starts_with('\'') {
                break;
            }
            quoted(&mut self.0, '\'');
        }
        let mut name = Vec::new();
        loop {
            name.push(if self.0.starts_with('"') { quoted(&mut self.0, '"') } else { plain(&mut self.0) });
            match self.0.strip_prefix('.').filter(|rest| rest.starts_with(|c| is_part(c) || c == '"')) {
                Some(rest) => self.0 = rest,
                None => return Some(name),
            }
        }
    }
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '*')
}

/// Takes what is not in quotes.
fn plain(rest: &mut &str) -> String {
    let (word, after) = rest.split_at(rest.find(|c| !is_part(c)).unwrap_or(rest.len()));
    *rest = after;
    word.to_owned()
}

/// Takes what is in quotes, in which two stand for one.
fn quoted(rest: &mut &str, quote: char) -> String {
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1).peekable();
    while let Some((_, character)) = characters.next() {
        if character == quote && characters.next_if(|(_, next)| *next == quote).is_none() {
            break;
        }
        text.push(character);
    }
    *rest = characters.next().map_or("", |(at, _)| &rest[at..]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_masked(plan: &str) -> bool {
        let mut followed = Plan::default();
        plan.trim_end().split('\n').for_each(|line| followed.line(line));
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
    fn a_name_in_quotes_is_a_name_and_what_a_literal_holds_is_none() {
        let quoted = COUNT.replace("pg_catalog.pg_stat_get_activity s", "pg_catalog.pg_stat_get_activity \"my \"\"s\"");
        let filter = |filter: &str| format!("{quoted}                    Filter: {filter}\n");
        assert!(is_masked(&filter("(\"my \"\"s\".state = 'a'::text)")));
        assert!(is_masked(&filter("(('it\"s'::text = 'b.c'::text) AND (\"my \"\"s\".\"state\" = 'a'::text))")));
        assert!(!is_masked(&filter("(\"my \"\"s\".pid = 1)")));
        assert!(!is_masked(&filter("('\"my \"\"s\".state'::text = 'it''s'::text)")));
        let names: Vec<_> = Names("a.b + \"c d\".\"e\" || 'x.y''z' || f(g.h.i) || j.* || 1.5 || \"open").collect();
        let expected: [&[&str]; 7] =
            [&["a", "b"], &["c d", "e"], &["f"], &["g", "h", "i"], &["j", "*"], &["1", "5"], &["open"]];
        assert_eq!(names, expected);
    }

    #[test]
    fn what_comes_after_a_literals_line_break_is_read() {
        let filter = |filter: &str| format!("{COUNT}                    Filter: {filter}\n");
        for literal in [
            r"'x¶y'",
            r"'¶'",
            r"'x¶¶''y'''",
            r"'x''¶''¶'",
            r#"'it"s¶y'"#,
            r"'x\¶y\'",
            r"'x\\¶'",
            r"E'x\\¶y'''",
            r"'x¶        ->  Seq Scan on t'",
            r"'x¶  CTE y'",
        ] {
            let both = |column: &str| {
                let both = format!("((s.application_name <> {literal}::text) AND (s.{column} = 'active'::text))");
                filter(&both.replace('¶', "\n"))
            };
            assert!(is_masked(&both("state")), "{literal}");
            assert!(!is_masked(&both("application_name")), "{literal}");
        }
        assert!(!is_masked(&filter("(s.application_name <> 'x\ns.state \"s\".query'::text)")), "a literal's words");
        let array = filter("(s.pid <> ALL ('{1,\n2}'::integer[]))");
        assert!(!is_masked(&array));
        assert!(is_masked(&format!("{array}                    Filter: (s.state = 'a'::text)\n")), "the next property");
    }

    #[test]
    fn a_name_that_has_line_breaks_is_one_name() {
        for name in [r#""a¶b""#, r#""¶""#, r#""a""¶'b""#, r#""it's¶  ->  b""#] {
            let name = &name.replace('¶', "\n");
            let named = COUNT.replace("activity s\n", &format!("activity {name}\n")).replace("s.", &format!("{name}."));
            let filter = |column: &str| format!("{named}                    Filter: ({name}.{column} = 'a'::text)\n");
            assert!(!is_masked(&named), "{name:?}");
            assert!(is_masked(&filter("state")), "{name:?}");
            assert!(!is_masked(&filter("application_name")), "{name:?}");
            assert!(is_masked(&named.replace("Aggregate", "Sort")), "{name:?}: a parent that uses all");
            let root = format!("Function Scan on pg_catalog.pg_stat_get_activity {name}\n  Output: {name}.state\n");
            assert!(is_masked(&root), "{name:?}");
        }
    }

    #[test]
    fn a_quote_in_what_is_shown_as_it_is_opens_nothing() {
        for shown in ["CTE it's", "CTE 5\"", "Foreign File: /tmp/it's.csv", "Foreign Program: echo '"] {
            let plan = COUNT.replace("        Output: ((Sub", &format!("        {shown}\n        Output: ((Sub"));
            assert_ne!(plan, COUNT);
            assert!(!is_masked(&plan), "{shown}");
            assert!(is_masked(&plan.replace("count(*)", "count(s.query)")), "{shown}");
        }
        assert!(!is_masked(&COUNT.replace("Limit\n", "CTE Scan on \"a\nb\" c\n")), "a node's name is in quotes");
    }

    #[test]
    fn a_plan_that_ends_within_quotes_is_not_trusted() {
        let plan = COUNT.replace("        Output: ((Sub", "        Path: /tmp/it's\n        Output: ((Sub");
        assert_ne!(plan, COUNT);
        assert!(is_masked(&plan));
        assert!(!is_masked(&plan.replace("pg_stat_get_activity", "jobs")));
    }

    #[test]
    fn another_functions_column_of_the_same_name_does_not_count() {
        assert!(!is_masked(&COUNT.replace("pg_stat_get_activity", "jobs").replace("count(*)", "count(s.state)")));
        assert!(is_masked("Result\n  Output: pg_stat_get_backend_activity(1)\n"));
    }

    const PLAIN: Seen = Seen { reads_masked: false, sees_all: false };
    const SEES_ALL: Seen = Seen { reads_masked: true, sees_all: true };
    const MASKED: Seen = Seen { reads_masked: true, sees_all: false };

    #[tokio::test(start_paused = true)]
    async fn a_plan_is_looked_at_once_for_each_new_session_and_each_minute() {
        let masking = Masking::default();
        assert_eq!(masking.next_step(1), Step::Look);
        assert!(!masking.record(Step::Look, 1, PLAIN));
        assert_eq!(masking.next_step(1), Step::Read);
        assert_eq!(masking.next_step(2), Step::Look);
        assert!(!masking.record(Step::Look, 2, SEES_ALL));
        assert_eq!(masking.next_step(2), Step::Ask);
        assert_eq!(masking.next_step(3), Step::Look);
        assert!(masking.record(Step::Ask, 2, MASKED));
        assert_eq!(masking.next_step(3), Step::Refuse);
        tokio::time::advance(LOOK_AGAIN).await;
        assert_eq!(masking.next_step(3), Step::Look);
    }

    /// Somebody replaces a view by one that reads masked statistics.
    #[tokio::test(start_paused = true)]
    async fn a_plan_that_changes_is_seen_within_a_minute_although_the_session_is_the_same() {
        let masking = Masking::default();
        assert!(!masking.record(Step::Look, 1, PLAIN));
        tokio::time::advance(LOOK_AGAIN / 2).await;
        assert_eq!(masking.next_step(1), Step::Read);
        tokio::time::advance(LOOK_AGAIN / 2).await;
        assert_eq!(masking.next_step(1), Step::Look);
        assert!(!masking.record(Step::Look, 1, SEES_ALL));
        for _ in 0..2 {
            assert_eq!(masking.next_step(1), Step::Ask);
            assert!(!masking.record(Step::Ask, 1, SEES_ALL));
            tokio::time::advance(LOOK_AGAIN / 2).await;
        }
        assert_eq!(masking.next_step(1), Step::Look, "the questions do not put it off");
    }
}
