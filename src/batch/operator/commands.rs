//! `add`, `retry`, `cancel` and `prune`.

use std::{cell::Cell, collections::BTreeMap, fmt::Write as _, time::Duration};

use serde_json::json;
use tokio_postgres::{Row, types::Type};

use super::{Answer, View, by, show};
use crate::batch::{
    status::Status,
    transaction::{Error, Parameter, Transactions},
};

/// The most claps that an answer has a line for each; more are summed up.
const LINES: usize = 50;

/// The most claps that one statement changes, so that it ends within its limit however many there are.
const AT_A_TIME: usize = 10_000;

/// Requests to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// The number of requests; they are all alike.
    pub count: i32,
    /// The time that the seed's work takes, in seconds.
    pub duration_seconds: i32,
    /// A JSON document.
    pub payload: String,
    /// The most attempts that each request may cost.
    pub max_attempts: i16,
    /// A key; if a request has it already, nothing is added.
    pub key: Option<String>,
}

/// Adds requests.
///
/// # Errors
/// Those of [`Transactions::run`]; the same holds for all functions here.
pub(super) async fn add(transactions: &mut Transactions, request: &Request, view: View) -> Result<Answer, Error> {
    let Request { count, duration_seconds, payload, max_attempts, key } = request;
    let parameters: [Parameter<'_>; 5] = [
        (count, Type::INT4),
        (duration_seconds, Type::INT4),
        (payload, Type::TEXT),
        (max_attempts, Type::INT2),
        (key, Type::TEXT),
    ];
    let ids = ids(&transactions.run(include_str!("../store/operator/add.sql"), &parameters, by()).await?)?;
    let existing = match (ids.is_empty(), key) {
        (true, Some(_)) => {
            let sql = include_str!("../store/operator/keyed.sql");
            self::ids(&transactions.run(sql, &[(key, Type::TEXT)], by()).await?)?.first().copied()
        }
        _ => None,
    };
    let text = match (view, &ids[..], existing) {
        (View::Json, ids, existing) => format!("{}\n", json!({ "ids": ids, "existing": existing })),
        (View::Human { .. }, [], Some(id)) => format!("clap {id} has this key already; nothing was added\n"),
        (View::Human { .. }, [], None) => "nothing was added\n".to_owned(),
        (View::Human { .. }, [id], _) => format!("added clap {id}\n"),
        (View::Human { .. }, [first, .., last], _) => format!("added {} claps: {first} to {last}\n", ids.len()),
    };
    Ok(Answer { text, complete: true })
}

/// The claps that a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Which {
    /// The claps with these ids.
    Ids(Vec<i64>),
    /// Every dead clap.
    AllDead,
}

/// Grants one more attempt, due now, to claps that failed, died or were cancelled.
pub(super) async fn retry(transactions: &mut Transactions, which: &Which, view: View) -> Result<Answer, Error> {
    let asked = match which {
        Which::Ids(ids) => ids.clone(),
        Which::AllDead => ids(&transactions.run(include_str!("../store/operator/dead.sql"), &[], by()).await?)?,
    };
    let changed = change(transactions, include_str!("../store/operator/retry.sql"), &asked).await?;
    let say = |effect: Option<&str>, now: &State| match (effect, &now.reason) {
        (Some(_), _) => "due now".to_owned(),
        (None, Some(reason)) => format!("not retried, because {reason}"),
        (None, None) => "not retried".to_owned(),
    };
    Ok(changed.answer(&asked, view, say, |now| now.reason.as_deref()))
}

/// Cancels requests and claps. One that is being worked on is stopped at its next heartbeat.
pub(super) async fn cancel(transactions: &mut Transactions, asked: &[i64], view: View) -> Result<Answer, Error> {
    const SQL: &str = include_str!("../store/operator/cancel.sql");
    let mut changed = change(transactions, SQL, asked).await?;
    // A claim that was committed while the statement waited for its row is not in the statement's snapshot: the
    // statement found neither the request nor the clap. A second statement sees it.
    let missed: Vec<i64> = asked.iter().copied().filter(|id| changed.is_missed(*id)).collect();
    if !missed.is_empty() {
        let again = change(transactions, SQL, &missed).await?;
        changed.effects.extend(again.effects);
        changed.states.extend(again.states);
    }
    let say = |effect: Option<&str>, _: &State| match effect {
        Some("REQUESTED") => "is being worked on; stops at its next heartbeat".to_owned(),
        Some(_) => "cancelled".to_owned(),
        None => "not cancelled".to_owned(),
    };
    Ok(changed.answer(asked, view, say, |_| None))
}

/// The effects of a statement on claps, and the claps' states after it, by id.
struct Changed {
    effects: BTreeMap<i64, String>,
    states: BTreeMap<i64, State>,
}

/// The state of a clap.
struct State {
    status: String,
    /// The reason why nobody could work on it once more, if there is one.
    reason: Option<String>,
}

/// Runs a statement that returns the claps which it changed, then reads the state of every clap that was asked for;
/// both for [`AT_A_TIME`] claps at a time.
async fn change(transactions: &mut Transactions, sql: &str, asked: &[i64]) -> Result<Changed, Error> {
    let (mut effects, mut states) = (BTreeMap::new(), BTreeMap::new());
    for some in asked.chunks(AT_A_TIME) {
        for row in transactions.run(sql, &[(&some, Type::INT8_ARRAY)], by()).await? {
            effects.insert(row.try_get("id")?, row.try_get("effect")?);
        }
        let sql = include_str!("../store/operator/statuses.sql");
        for row in transactions.run(sql, &[(&some, Type::INT8_ARRAY)], by()).await? {
            let state = State { status: row.try_get("status")?, reason: row.try_get("reason")? };
            states.insert(row.try_get("id")?, state);
        }
    }
    Ok(Changed { effects, states })
}

impl Changed {
    /// Returns whether a clap was left as it was although it is not over.
    fn is_missed(&self, id: i64) -> bool {
        let status = self.states.get(&id).and_then(|state| Status::parse(&state.status));
        !self.effects.contains_key(&id) && status.is_some_and(|status| !status.is_terminal())
    }

    /// Answers for every clap that was asked for, in the order of the question. `say` tells people what became of a
    /// clap, `why` tells programs the reason if nothing did.
    fn answer(
        &self,
        asked: &[i64],
        view: View,
        say: impl Fn(Option<&str>, &State) -> String,
        why: fn(&State) -> Option<&str>,
    ) -> Answer {
        let Self { effects, states } = self;
        let mut text = String::new();
        let mut documents = Vec::new();
        let mut alike: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        let is_summary = asked.len() > LINES && matches!(view, View::Human { .. });
        for id in asked {
            let effect = effects.get(id).map(String::as_str);
            let state = states.get(id);
            if is_summary {
                let what =
                    state.map_or("no such clap".to_owned(), |now| format!("{} ({})", say(effect, now), now.status));
                alike.entry(what).or_default().push(*id);
                continue;
            }
            let status = state.map(|now| now.status.as_str());
            let mut document = json!({ "id": id, "status": status, "changed": effect.is_some() });
            if let Some(reason) = state.filter(|_| effect.is_none()).and_then(why) {
                document["reason"] = reason.into();
            }
            documents.push(document);
            let _ = match (view, state) {
                (View::Json, _) => Ok(()),
                (View::Human { colors, .. }, Some(now)) => {
                    let status = &now.status;
                    let painted =
                        Status::parse(status).map_or(status.clone(), |known| colors.paint(show::style(known), status));
                    writeln!(text, "clap {id}: {} ({painted})", say(effect, now))
                }
                (View::Human { .. }, None) => writeln!(text, "clap {id}: there is none"),
            };
        }
        for (what, ids) in alike {
            let _ = writeln!(text, "{} claps: {what}: {}", ids.len(), some_of(&ids));
        }
        match view {
            View::Json => text = format!("{}\n", serde_json::Value::Array(documents)),
            View::Human { .. } if is_summary => text.push_str("--json names each of them\n"),
            View::Human { .. } if asked.is_empty() => text = "no clap is dead\n".to_owned(),
            View::Human { .. } => {}
        }
        Answer { text, complete: asked.iter().all(|id| effects.contains_key(id)) }
    }
}

/// Returns the ids, or the first and the last of many.
fn some_of(ids: &[i64]) -> String {
    match ids {
        [first, second, third, _, .., last] if ids.len() > 5 => format!("{first}, {second}, {third} ... {last}"),
        ids => ids.iter().map(i64::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// The claps to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pruning {
    /// The time that must have passed since a clap ended.
    pub older_than: Duration,
    /// The states to delete, all of them terminal.
    pub statuses: Vec<Status>,
    /// The number of claps that one transaction deletes.
    pub batch: i64,
}

/// Deletes claps that ended long ago, with their requests, batch by batch, and counts them in `progress`.
pub(super) async fn prune(
    transactions: &mut Transactions,
    pruning: &Pruning,
    progress: &Cell<usize>,
    view: View,
) -> Result<Answer, Error> {
    let statuses: Vec<&str> = pruning.statuses.iter().map(|status| status.as_str()).collect();
    let age = pruning.older_than.as_secs_f64();
    loop {
        let parameters: [Parameter<'_>; 3] =
            [(&statuses, Type::TEXT_ARRAY), (&age, Type::FLOAT8), (&pruning.batch, Type::INT8)];
        let rows = transactions.run(include_str!("../store/operator/prune.sql"), &parameters, by()).await?;
        if rows.is_empty() {
            break;
        }
        progress.set(progress.get() + rows.len());
    }
    let deleted = progress.get();
    let text = match view {
        View::Json => format!("{}\n", json!({ "deleted": deleted })),
        View::Human { .. } => format!("deleted {deleted} claps, with their requests and attempts\n"),
    };
    Ok(Answer { text, complete: true })
}

/// Counts the claps that [`prune`] would delete.
pub(super) async fn prunable(transactions: &mut Transactions, pruning: &Pruning, view: View) -> Result<Answer, Error> {
    let statuses: Vec<&str> = pruning.statuses.iter().map(|status| status.as_str()).collect();
    let age = pruning.older_than.as_secs_f64();
    let parameters: [Parameter<'_>; 2] = [(&statuses, Type::TEXT_ARRAY), (&age, Type::FLOAT8)];
    let rows = transactions.run(include_str!("../store/operator/prunable.sql"), &parameters, by()).await?;
    let mut counts = serde_json::Map::new();
    for row in &rows {
        counts.insert(row.try_get("status")?, row.try_get::<_, i64>("claps")?.into());
    }
    let text = match view {
        View::Json => format!("{}\n", json!({ "would_delete": counts })),
        View::Human { .. } if counts.is_empty() => "nothing to delete\n".to_owned(),
        View::Human { .. } => {
            let parts: Vec<String> = counts.iter().map(|(status, count)| format!("{count} {status}")).collect();
            format!("would delete {}\n", parts.join(", "))
        }
    };
    Ok(Answer { text, complete: true })
}

fn ids(rows: &[Row]) -> Result<Vec<i64>, Error> {
    rows.iter().map(|row| row.try_get("id").map_err(Error::from)).collect()
}
