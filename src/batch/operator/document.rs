//! Claps and attempts as JSON, which PostgreSQL makes. A value that cannot be read hides no other.

use std::fmt::Write as _;

use serde_json::Value;
use tokio_postgres::types::Type;

use super::by;
use crate::batch::transaction::{Error, Parameter, Transactions};

/// The columns of [`super::show::LIST`].
const CLAP: [&str; 21] = [
    "id",
    "status",
    "iteration",
    "interruptions",
    "max_attempts",
    "duration_seconds",
    "payload",
    "request_key",
    "requested_at",
    "created_at",
    "started_at",
    "finished_at",
    "lease_expires_at",
    "next_attempt_at",
    "cancel_requested_at",
    "session_id",
    "job_uid",
    "job_name",
    "pod_name",
    "exit_code",
    "last_error",
];

/// The columns of [`super::show::ATTEMPTS`].
const ATTEMPT: [&str; 11] = [
    "iteration",
    "outcome",
    "started_at",
    "ended_at",
    "exit_code",
    "error",
    "session_id",
    "job_uid",
    "job_name",
    "pod_name",
    "node_name",
];

/// Returns the claps that `list` finds with these parameters, as one JSON array.
///
/// # Errors
/// Those of [`Transactions::run`]; the same holds for all functions here.
pub(super) async fn claps(
    transactions: &mut Transactions,
    list: &str,
    parameters: &[Parameter<'_>],
) -> Result<String, Error> {
    let error = match whole(transactions, list, parameters).await {
        Err(error) if error.may_be_about_a_value() => error,
        result => return result,
    };
    let Ok(rows) = transactions.run(&format!("SELECT q.id FROM ({list}) q"), parameters, by()).await else {
        return Err(error);
    };
    let mut documents = Vec::new();
    for row in rows {
        let id: i64 = row.try_get("id")?;
        let alone: [Parameter<'_>; 5] = [
            (&None::<Vec<String>>, Type::TEXT_ARRAY),
            (&None::<String>, Type::TEXT),
            (&None::<f64>, Type::FLOAT8),
            (&id, Type::INT8),
            (&1_i64, Type::INT8),
        ];
        documents.extend(one(transactions, &format!("({list}) q"), &CLAP, &alone).await?);
    }
    Ok(format!("[{}]", documents.join(",\n ")))
}

/// Returns the attempts on a clap, as one JSON array.
pub(super) async fn attempts(transactions: &mut Transactions, sql: &str, id: i64) -> Result<String, Error> {
    let parameters: [Parameter<'_>; 1] = [(&id, Type::INT8)];
    let error = match whole(transactions, sql, &parameters).await {
        Err(error) if error.may_be_about_a_value() => error,
        result => return result,
    };
    let Ok(rows) = transactions.run(&format!("SELECT q.iteration FROM ({sql}) q"), &parameters, by()).await else {
        return Err(error);
    };
    let mut documents = Vec::new();
    for row in rows {
        let iteration: i32 = row.try_get("iteration")?;
        let alone: [Parameter<'_>; 2] = [(&id, Type::INT8), (&iteration, Type::INT4)];
        let from = format!("({sql}) q WHERE q.iteration = $2");
        documents.extend(one(transactions, &from, &ATTEMPT, &alone).await?);
    }
    Ok(format!("[{}]", documents.join(",\n ")))
}

/// Returns the rows of a statement as one JSON array.
async fn whole(transactions: &mut Transactions, sql: &str, parameters: &[Parameter<'_>]) -> Result<String, Error> {
    let sql = format!("SELECT coalesce(json_agg(q), '[]')::text AS document FROM ({sql}) q");
    Ok(text(transactions, &sql, parameters).await?.unwrap_or_else(|| "[]".to_owned()))
}

/// Returns one row as a JSON object, if it is still there. A value that cannot be read is null, and `unreadable` has
/// the reason, by the column's name.
async fn one(
    transactions: &mut Transactions,
    from: &str,
    columns: &[&str],
    parameters: &[Parameter<'_>],
) -> Result<Option<String>, Error> {
    let error = match text(transactions, &format!("SELECT to_json(q)::text AS document FROM {from}"), parameters).await
    {
        Err(error) if error.may_be_about_a_value() => error,
        result => return result,
    };
    let (mut members, mut unreadable) = (Vec::new(), serde_json::Map::new());
    for column in columns {
        let sql = format!("SELECT coalesce(to_json(q.{column})::text, 'null') AS document FROM {from}");
        let value = match text(transactions, &sql, parameters).await {
            Ok(Some(value)) => value,
            Ok(None) => return Ok(None),
            Err(error) if !error.may_be_about_a_value() => return Err(error),
            Err(error) => {
                unreadable.insert((*column).to_owned(), error.to_string().into());
                "null".to_owned()
            }
        };
        members.push(format!("\"{column}\":{value}"));
    }
    if unreadable.len() == columns.len() {
        return Err(error);
    }
    members.push(format!("\"unreadable\":{}", escaped(&Value::Object(unreadable).to_string())));
    Ok(Some(format!("{{{}}}", members.join(","))))
}

/// Returns the JSON of a statement's first row.
async fn text(
    transactions: &mut Transactions,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Option<String>, Error> {
    let rows = transactions.run(sql, parameters, by()).await?;
    rows.first().map(|row| Ok(escaped(row.try_get("document")?))).transpose()
}

/// Escapes the control characters beyond ASCII, which some terminals obey as well. Those of ASCII are escaped in JSON.
fn escaped(json: &str) -> String {
    json.chars().fold(String::with_capacity(json.len()), |mut escaped, character| {
        match character {
            '\u{7f}'..='\u{9f}' => {
                let _ = write!(escaped, "\\u{:04x}", u32::from(character));
            }
            _ => escaped.push(character),
        }
        escaped
    })
}
