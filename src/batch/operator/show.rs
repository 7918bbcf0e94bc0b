//! `list` and `show`: many claps as a table, and one clap in full.

use std::{fmt::Write as _, time::Duration};

use tokio_postgres::{Row, types::Type};

use super::{Answer, View, by, document};
use crate::{
    batch::{
        status::Status,
        store::Statement,
        transaction::{Error, Parameter, Transactions},
    },
    terminal::{
        style::{ColorChoice, Style},
        table::{self, Align, Cell, Overlong},
        text::{printable, span, wrapped},
    },
};

pub(super) const LIST: &str = include_str!("../store/operator/list.sql");
/// Selects the columns of a person's table from the rows of [`LIST`].
const LIST_TABLE: &str = concat!(
    include_str!("../store/operator/list_table.sql"),
    "  FROM (",
    include_str!("../store/operator/list.sql"),
    ") q"
);
pub(super) const ATTEMPTS: &str = include_str!("../store/operator/attempts.sql");
/// Selects the columns of a person's table from the rows of [`ATTEMPTS`].
const ATTEMPTS_TABLE: &str = concat!(
    include_str!("../store/operator/attempts_table.sql"),
    "  FROM (",
    include_str!("../store/operator/attempts.sql"),
    ") q"
);
/// The column in which the values of one clap's facts begin.
const VALUES: usize = 16;
/// The most claps that are counted of those that a list leaves out: as many as the backlog counts.
const COUNT_AT_MOST: i64 = 100_000;
const BACKLOG: &str = include_str!("../store/operator/backlog.sql");

/// The claps that `list` shows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Filter {
    /// Claps in these states; all claps if it is empty.
    pub statuses: Vec<Status>,
    /// The claps of the Job with this uid or name.
    pub job: Option<String>,
    /// The claps that changed within this time.
    pub since: Option<Duration>,
    /// The largest number of claps.
    pub limit: i64,
}

/// Lists claps and requests, the newest first.
///
/// # Errors
/// Those of [`Transactions::run`].
pub(super) async fn list(transactions: &mut Transactions, filter: &Filter, view: View) -> Result<Answer, Error> {
    let Filter { statuses, job, since, limit } = filter;
    let statuses: Vec<&str> = statuses.iter().map(|status| status.as_str()).collect();
    let statuses = (!statuses.is_empty()).then_some(statuses);
    let since = since.map(|since| since.as_secs_f64());
    let parameters: [Parameter<'_>; 5] = [
        (&statuses, Type::TEXT_ARRAY),
        (job, Type::TEXT),
        (&since, Type::FLOAT8),
        (&None::<i64>, Type::INT8),
        (limit, Type::INT8),
    ];
    let View::Human { width, colors } = view else {
        let text = document::claps(transactions, LIST, &parameters).await?;
        return Ok(Answer { text: format!("{text}\n"), complete: true });
    };
    let rows = transactions.run(LIST_TABLE, &parameters, by()).await?;
    let heading = [
        ("ID", Align::Right),
        ("STATUS", Align::Left),
        ("ATTEMPT", Align::Right),
        ("TOOK", Align::Right),
        ("AGE", Align::Right),
        ("JOB", Align::Left),
        ("NOTE", Align::Left),
    ];
    let cells = rows.iter().map(line).collect::<Result<Vec<_>, _>>()?;
    let mut text = if rows.is_empty() {
        "no claps\n".to_owned()
    } else {
        table::render(&heading, &cells, width.map(|width| (width, Overlong::Cut)), colors)
    };
    if i64::try_from(rows.len()).is_ok_and(|shown| shown == *limit) {
        let all = count(transactions, &parameters[..4]).await?;
        if all > *limit {
            let at_least = if all > COUNT_AT_MOST { "more than " } else { "" };
            let all = all.min(COUNT_AT_MOST);
            let _ = writeln!(
                text,
                "\nthe newest {limit} of {at_least}{all} claps; --limit N shows more, --status and --since choose"
            );
        }
    }
    text.push_str(&backlog(transactions).await?);
    Ok(Answer { text, complete: true })
}

/// Counts the claps that a filter chooses, up to one more than [`COUNT_AT_MOST`].
async fn count(transactions: &mut Transactions, filter: &[Parameter<'_>]) -> Result<i64, Error> {
    let limit = COUNT_AT_MOST + 1;
    let parameters = [filter, &[(&limit, Type::INT8)]].concat();
    let rows = transactions.run(&format!("SELECT count(*) AS claps FROM ({LIST}) q"), &parameters, by()).await?;
    rows.first().map_or(Ok(0), |row| row.try_get("claps").map_err(Error::from))
}

/// Shows one clap with every attempt.
///
/// # Errors
/// Those of [`Transactions::run`].
pub(super) async fn show(transactions: &mut Transactions, id: i64, view: View) -> Result<Answer, Error> {
    let parameters: [Parameter<'_>; 5] = [
        (&None::<Vec<String>>, Type::TEXT_ARRAY),
        (&None::<String>, Type::TEXT),
        (&None::<f64>, Type::FLOAT8),
        (&id, Type::INT8),
        (&1_i64, Type::INT8),
    ];
    let View::Human { width, colors } = view else {
        let clap = document::claps(transactions, LIST, &parameters).await?;
        let attempts = document::attempts(transactions, ATTEMPTS, id).await?;
        // Both are PostgreSQL's own JSON. They are joined as text, so that no number loses a digit.
        let clap = clap.trim_start_matches('[').trim_end_matches(']');
        let found = !clap.is_empty();
        let clap = if found { clap } else { "null" };
        return Ok(Answer { text: format!("{{\"clap\":{clap},\"attempts\":{attempts}}}\n"), complete: found });
    };
    let rows = transactions.run(LIST_TABLE, &parameters, by()).await?;
    let Some(row) = rows.first() else {
        return Ok(Answer { text: format!("clap {id}: there is none\n"), complete: false });
    };
    let request = transactions.run(Statement::Request.sql(), &[(&id, Type::INT8)], by()).await;
    let mut text = headline(row, request, width, colors)?;
    let attempts = transactions.run(ATTEMPTS_TABLE, &[(&id, Type::INT8)], by()).await?;
    if !attempts.is_empty() {
        let heading = [
            ("#", Align::Right),
            ("OUTCOME", Align::Left),
            ("STARTED", Align::Left),
            ("TOOK", Align::Right),
            ("EXIT", Align::Right),
            ("JOB", Align::Left),
            ("POD", Align::Left),
            ("NODE", Align::Left),
            ("ERROR", Align::Left),
        ];
        let cells = attempts.iter().map(attempt).collect::<Result<Vec<_>, _>>()?;
        let _ = write!(
            text,
            "\n{}",
            table::render(&heading, &cells, width.map(|width| (width, Overlong::Wrapped)), colors)
        );
    }
    Ok(Answer { text, complete: true })
}

/// Returns a line with the numbers that KEDA sees.
async fn backlog(transactions: &mut Transactions) -> Result<String, Error> {
    let rows = transactions.run(BACKLOG, &[], by()).await?;
    let Some(row) = rows.first() else { return Ok(String::new()) };
    let count = |name: &str| row.try_get::<_, i64>(name);
    let mut text = format!(
        "\n{} pending, {} due, {} held by a Job, {} waiting for their next attempt",
        count("pending")?,
        count("due")?,
        count("held")?,
        count("waiting")?
    );
    if let Some(seconds) = row.try_get::<_, Option<f64>>("next_change")? {
        let _ = write!(text, "; next change in {}", span(seconds));
    }
    text.push('\n');
    Ok(text)
}

fn line(row: &Row) -> Result<Vec<Cell>, Error> {
    let status = status(row)?;
    let took: Option<f64> = row.try_get("took")?;
    let started: Option<f64> = row.try_get("started")?;
    let requested: Option<f64> = row.try_get("requested")?;
    Ok(vec![
        Cell::from(row.try_get::<_, i64>("id")?),
        Cell::styled(status, style(status)),
        Cell::from(attempts(row)?),
        took.map(span).map(Cell::from).unwrap_or_default(),
        started.or(requested).map(span).map(Cell::from).unwrap_or_default(),
        Cell::from(job(row)?),
        Cell::from(remark(row, status)?),
    ])
}

/// Returns what a person wants to know next: when the clap is tried again, whether it hangs, why it failed.
fn remark(row: &Row, status: Status) -> Result<String, Error> {
    let error: String = row.try_get::<_, Option<String>>("last_error")?.unwrap_or_default();
    let next: Option<f64> = row.try_get("next")?;
    let lease: Option<f64> = row.try_get("lease")?;
    let cancelling: bool = row.try_get("cancel_requested")?;
    Ok(match status {
        Status::Running if cancelling => "cancel requested".to_owned(),
        Status::Running => match lease {
            Some(lease) if lease <= 0.0 => format!("lease expired {} ago", span(-lease)),
            _ => String::new(),
        },
        Status::Failed => match next {
            Some(next) if next > 0.0 => format!("next in {}: {error}", span(next)),
            _ => format!("due: {error}"),
        },
        Status::Pending | Status::Success => String::new(),
        Status::Dead | Status::Cancelled => error,
    })
}

/// Returns the clap's state and its facts. A request that cannot be read is one of them.
fn headline(
    row: &Row,
    request: Result<Vec<Row>, Error>,
    width: Option<usize>,
    colors: ColorChoice,
) -> Result<String, Error> {
    let status = status(row)?;
    let id: i64 = row.try_get("id")?;
    let mut text = format!("clap {id}  {}", colors.paint(style(status), status.as_str()));
    if status != Status::Pending {
        let _ = write!(text, "  attempt {}", attempts(row)?);
        let interruptions: i32 = row.try_get("interruptions")?;
        if interruptions > 0 {
            let _ = write!(text, ", {interruptions} more interrupted");
        }
    }
    text.push('\n');
    let duration: i32 = row.try_get("duration_seconds")?;
    let requested: Option<f64> = row.try_get("requested")?;
    let requested = requested.map_or("at no time".to_owned(), |seconds| format!("{} ago", span(seconds)));
    let error: Option<String> = row.try_get("last_error")?;
    let mut facts = vec![("requested", format!("{requested}, {duration} s of work"))];
    match request {
        Ok(rows) => {
            for row in &rows {
                let key: Option<String> = row.try_get("request_key")?;
                let payload: String = row.try_get("payload")?;
                facts.extend(key.map(|key| ("key", printable(&key))));
                facts.extend((payload != "{}").then(|| ("payload", printable(&payload))));
            }
        }
        Err(error) => facts.push(("payload", format!("cannot be read: {}", printable(&error.to_string())))),
    }
    let job = job(row)?;
    if !job.is_empty() {
        facts.push(("job", printable(&job)));
    }
    let note = remark(row, status)?;
    if status == Status::Running && !note.is_empty() {
        facts.push(("note", printable(&note)));
    } else if let (Status::Failed, Some(next)) = (status, row.try_get::<_, Option<f64>>("next")?) {
        facts.push(("next attempt", if next > 0.0 { format!("in {}", span(next)) } else { "now".to_owned() }));
    }
    facts.extend(error.map(|error| ("last error", error.trim().lines().map(printable).collect::<Vec<_>>().join("\n"))));
    // Without a terminal a value stays as it is, so that it can be searched.
    let room = width.map_or(usize::MAX, |width| width.saturating_sub(VALUES).max(VALUES));
    for (name, value) in facts {
        let lines: Vec<String> = value.lines().flat_map(|line| wrapped(line, room)).collect();
        let _ = writeln!(text, "  {name:<12}  {}", lines.join(&format!("\n{}", " ".repeat(VALUES))));
    }
    Ok(text)
}

/// Returns the style in which a status is shown.
pub(super) fn style(status: Status) -> Style {
    match status {
        Status::Pending => Style::Waiting,
        Status::Running => Style::Active,
        Status::Failed => Style::Warning,
        Status::Success => Style::Good,
        Status::Dead => Style::Bad,
        Status::Cancelled => Style::Quiet,
    }
}

fn attempt(row: &Row) -> Result<Vec<Cell>, Error> {
    let text = |name: &str| row.try_get::<_, Option<String>>(name).map(Option::unwrap_or_default);
    let exit: Option<i32> = row.try_get("exit_code")?;
    let took: Option<f64> = row.try_get("took")?;
    let job = row.try_get::<_, Option<String>>("job_name")?.map_or_else(|| text("job_uid"), Ok)?;
    Ok(vec![
        Cell::from(row.try_get::<_, i32>("iteration")?),
        Cell::from(text("outcome")?),
        Cell::from(text("started")?),
        took.map(span).map(Cell::from).unwrap_or_default(),
        exit.map(Cell::from).unwrap_or_default(),
        Cell::from(job),
        Cell::from(text("pod_name")?),
        Cell::from(text("node_name")?),
        Cell::from(text("error")?),
    ])
}

/// Returns the attempts as `2/5`. Interrupted attempts cost nothing and are not counted.
fn attempts(row: &Row) -> Result<String, Error> {
    let iteration: i32 = row.try_get("iteration")?;
    let interruptions: i32 = row.try_get("interruptions")?;
    let most: i32 = row.try_get("max_attempts")?;
    Ok(format!("{}/{most}", iteration - interruptions))
}

fn job(row: &Row) -> Result<String, Error> {
    let name: Option<String> = row.try_get("job_name")?;
    Ok(name.map_or_else(|| row.try_get::<_, Option<String>>("job_uid"), |name| Ok(Some(name)))?.unwrap_or_default())
}

fn status(row: &Row) -> Result<Status, Error> {
    let text: String = row.try_get("status")?;
    Status::parse(&text).ok_or_else(|| Error::NotMigrated(format!("a clap has the unknown status {text:?}")))
}
