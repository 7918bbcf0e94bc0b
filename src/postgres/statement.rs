//! The statement of a query, wrapped so that only numbers come back.
//!
//! The wrapper gives the shape of the answer. It does not protect the database, since a text can close the
//! parenthesis: the role does. A single column is read through a row sub-select, which PostgreSQL itself
//! refuses for several columns (42601), and with which NULL, no row and two rows stay distinct.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt, pin_mut};
use postgres_protocol::escape::escape_identifier;
use tokio::time::Instant;
use tokio_postgres::{
    Client, Error, Row, RowStream,
    types::{ToSql, Type},
};

use super::masked::Masking;
use crate::{
    budget::{self, Demand},
    fault::{Fault, Unusable},
    metrics::QueryLabels,
    query::{Absent, Budget, ParameterKind, Query, STALLED, UNKNOWN, Value, sql},
    reading::{MAXIMUM_KEY_BYTES, MAXIMUM_KEYS, Numbers, Reading, Rows},
    scaling,
};

/// A query with the text that the server gets.
#[derive(Debug)]
pub struct Statement {
    /// The query as configured.
    pub query: Arc<Query>,
    /// The labels of its metrics.
    pub(super) labels: QueryLabels,
    text: String,
    /// The latest verdict whether it reads statistics that PostgreSQL masks for the role.
    pub(super) masking: Masking,
}

/// The columns of a row after the key, in the order of the wrapper's select list.
#[derive(Debug, Clone, Copy)]
struct Cells {
    value: Option<f64>,
    activity: Option<f64>,
    seconds_to_change: Option<f64>,
    /// Of a preset: the rows that wait for somebody.
    stalled: Option<f64>,
    /// Of a preset: the rows in a state that it does not know.
    unknown: Option<f64>,
    /// Of a budget: the key's weight.
    weight: Option<f64>,
    /// Of a budget: the seconds since 1970 at which the key began to wait.
    since: Option<f64>,
}

impl Statement {
    /// Wraps a query's SQL for one of its databases.
    pub fn new(query: Arc<Query>, database: &str) -> Self {
        let text = wrapped(&query);
        let labels = QueryLabels { query: query.name.clone(), database: database.to_owned() };
        Self { query, labels, text, masking: Masking::default() }
    }

    /// Returns the SQL that is sent.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Sends the statement; the rows are read by [`Statement::read`].
    pub(super) async fn send(&self, client: &Client, parameters: &[Value]) -> Result<RowStream, Error> {
        client.query_typed_raw(self.text.as_str(), self.typed(parameters)).await
    }

    /// Asks for the statement's plan instead: one row, one column, JSON.
    pub(super) async fn explain(&self, client: &Client, parameters: &[Value]) -> Result<RowStream, Error> {
        let text = format!("EXPLAIN (VERBOSE, FORMAT JSON) {}", self.text);
        self.send_instead(client, &text, parameters).await
    }

    /// Asks for the statement's plan as text, a row for each line.
    pub(super) async fn explain_text(&self, client: &Client, parameters: &[Value]) -> Result<RowStream, Error> {
        let text = format!("EXPLAIN (VERBOSE, COSTS OFF) {}", self.text);
        self.send_instead(client, &text, parameters).await
    }

    /// Sends another statement with the same parameters.
    pub(super) async fn send_instead(
        &self,
        client: &Client,
        text: &str,
        parameters: &[Value],
    ) -> Result<RowStream, Error> {
        client.query_typed_raw(text, self.typed(parameters)).await
    }

    /// The types of its parameters.
    pub(super) fn parameter_types(&self) -> impl Iterator<Item = Type> {
        self.query.parameters.iter().map(|parameter| type_of(parameter.kind))
    }

    fn typed<'a>(
        &'a self,
        parameters: &'a [Value],
    ) -> impl ExactSizeIterator<Item = (Box<dyn ToSql + Sync + Send>, Type)> + 'a {
        let kinds = self.query.parameters.iter().zip(parameters);
        kinds.map(|(parameter, value)| (bound(value), type_of(parameter.kind)))
    }

    /// Reads the rows into a reading, and no more rows than it needs.
    pub(super) async fn read(&self, rows: RowStream, sent_at: Instant) -> Result<Result<Reading, Fault>, Error> {
        pin_mut!(rows);
        if self.query.group_by.is_some() {
            return self.read_groups(rows, sent_at).await;
        }
        let Some(row) = rows.next().await.transpose()? else {
            return Ok(without_row(&self.query).map(|numbers| reading(Rows::One(numbers), sent_at, None, None, None)));
        };
        if rows.next().await.transpose()?.is_some() {
            return Ok(Err(Fault::Unusable(Unusable::SeveralRows)));
        }
        Ok(self.cells(&row, 0).and_then(|cells| {
            let numbers = self.numbers(cells)?;
            Ok(reading(Rows::One(numbers), sent_at, cells.seconds_to_change, cells.stalled, None))
        }))
    }

    async fn read_groups(
        &self,
        mut rows: std::pin::Pin<&mut RowStream>,
        sent_at: Instant,
    ) -> Result<Result<Reading, Fault>, Error> {
        let mut by_key = HashMap::new();
        let mut shared = HashMap::new();
        let mut bytes = 0;
        let mut soonest: Option<f64> = None;
        let mut stalled = self.query.preset.is_some().then_some(0.0);
        while let Some(row) = rows.try_next().await? {
            let entry = self.key(&row).and_then(|key| Ok((key, self.cells(&row, 1)?)));
            let (key, cells) = match entry {
                Ok(entry) => entry,
                Err(fault) => return Ok(Err(fault)),
            };
            let numbers = match self.numbers(cells) {
                Ok(numbers) => numbers,
                Err(fault) => return Ok(Err(fault)),
            };
            soonest = match (soonest, cells.seconds_to_change) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            stalled = stalled.map(|sum| sum + cells.stalled.unwrap_or_default());
            bytes += key.len();
            if self.query.budget.is_some() {
                shared.insert(key.clone(), (cells.weight, cells.since));
            }
            if by_key.insert(key, numbers).is_some() {
                return Ok(Err(Fault::Unusable(Unusable::RepeatedKey)));
            }
            if by_key.len() > MAXIMUM_KEYS || bytes > MAXIMUM_KEY_BYTES {
                return Ok(Err(Fault::Unusable(Unusable::TooManyKeys)));
            }
        }
        let shared = self.query.budget.as_ref().map(|budget| share(budget, &mut by_key, &shared)).transpose();
        Ok(shared
            .map(|short_keys| reading(Rows::ByKey(by_key), sent_at, soonest, stalled, short_keys))
            .map_err(Fault::Unusable))
    }

    fn key(&self, row: &Row) -> Result<Box<str>, Fault> {
        match row.try_get::<_, Option<&str>>(0) {
            Ok(Some(key)) => Ok(key.into()),
            Ok(None) => Err(Fault::Unusable(Unusable::NullKey)),
            Err(_) => Err(Fault::Unusable(Unusable::WrongType)),
        }
    }

    fn cells(&self, row: &Row, first: usize) -> Result<Cells, Fault> {
        // Text that closes the wrapper's parenthesis could bring other columns.
        let wrong = Fault::Unusable(Unusable::WrongType);
        let columns = row.columns().get(first..).ok_or(wrong)?;
        let is_preset = self.query.preset.is_some();
        let budget = self.query.budget.as_ref();
        let is_weighed = budget.is_some_and(|budget| budget.weight_column.is_some());
        let is_since_known = budget.is_some_and(|budget| budget.since_column.is_some());
        let present = [
            self.query.activity_column.is_some(),
            self.query.next_change.is_some(),
            is_preset,
            is_preset,
            is_weighed,
            is_since_known,
        ];
        let expected = 1 + present.into_iter().filter(|present| *present).count();
        if columns.len() != expected || columns.iter().any(|column| *column.type_() != Type::FLOAT8) {
            return Err(wrong);
        }
        let mut index = first;
        let mut next = |present: bool| -> Result<Option<f64>, Fault> {
            if !present {
                return Ok(None);
            }
            let cell = row.try_get(index).map_err(|_| wrong)?;
            index += 1;
            Ok(cell)
        };
        Ok(Cells {
            value: next(true)?,
            activity: next(self.query.activity_column.is_some())?,
            seconds_to_change: next(self.query.next_change.is_some())?,
            stalled: next(is_preset)?,
            unknown: next(is_preset)?,
            weight: next(is_weighed)?,
            since: next(is_since_known)?,
        })
    }

    fn numbers(&self, cells: Cells) -> Result<Numbers, Fault> {
        if cells.unknown.is_some_and(|rows| rows > 0.0) {
            return Err(Fault::Unusable(Unusable::UnknownState));
        }
        let value = self.number(cells.value)?;
        let activity = match &self.query.activity_column {
            Some(_) => Some(self.number(cells.activity)?),
            None => None,
        };
        Ok(Numbers { value, activity })
    }

    fn number(&self, cell: Option<f64>) -> Result<f64, Fault> {
        let unusable = match cell {
            Some(number) if number.is_nan() => Unusable::NotANumber,
            Some(number) if number.is_infinite() => Unusable::Infinite,
            Some(number) if number < 0.0 => Unusable::Negative,
            // Adding zero turns -0 into 0.
            Some(number) => return Ok(number + 0.0),
            None if self.query.on_null == Absent::Zero => return Ok(0.0),
            None => Unusable::Null,
        };
        Err(Fault::Unusable(unusable))
    }
}

/// Returns the numbers that a missing row, or a missing key, stands for.
///
/// # Errors
/// [`Unusable::NoRow`], unless the operator said that it means zero.
pub fn without_row(query: &Query) -> Result<Numbers, Fault> {
    match query.on_no_row {
        Absent::Zero => Ok(Numbers { value: 0.0, activity: query.activity_column.as_ref().map(|_| 0.0) }),
        Absent::Error => Err(Fault::Unusable(Unusable::NoRow)),
    }
}

/// Puts the shares of a budget in the place of what each key would like to have, and returns how many keys get less.
///
/// `shared` has the weight and the time of each key. What a key is told above what it holds is what it may start.
fn share(
    budget: &Budget,
    by_key: &mut HashMap<Box<str>, Numbers>,
    shared: &HashMap<Box<str>, (Option<f64>, Option<f64>)>,
) -> Result<usize, Unusable> {
    let mut demands = Vec::with_capacity(by_key.len());
    for (key, Numbers { value, activity }) in by_key.iter() {
        let (weight, since) = shared.get(key).copied().unwrap_or_default();
        let weight = if budget.weight_column.is_some() { weight.ok_or(Unusable::NotShareable)? } else { 1.0 };
        let outstanding = scaling::whole(*value).ok_or(Unusable::NotShareable)?;
        let claimable = activity.and_then(scaling::whole).ok_or(Unusable::NotShareable)?;
        let held = outstanding.checked_sub(claimable).ok_or(Unusable::NotShareable)?;
        if !weight.is_finite() || weight <= 0.0 || since.is_some_and(f64::is_nan) {
            return Err(Unusable::NotShareable);
        }
        if outstanding > 0 {
            demands.push(Demand { key, outstanding, held, weight, since });
        }
    }
    let is_short = u64::try_from(demands.len()).is_ok_and(|keys| keys > budget.total);
    if is_short && budget.since_column.is_none() {
        return Err(Unusable::NoSinceColumn);
    }
    let shares = budget::shares(budget.total, &demands);
    let short_keys = demands.iter().zip(&shares).filter(|(demand, share)| **share < demand.outstanding).count();
    let told: Vec<(Box<str>, u64, u64)> =
        demands.iter().zip(shares).map(|(demand, share)| (demand.key.into(), share, demand.held)).collect();
    for (key, share, held) in told {
        let numbers = Numbers { value: scaling::float(share), activity: Some(scaling::float(share - held)) };
        by_key.insert(key, numbers);
    }
    Ok(short_keys)
}

fn reading(
    rows: Rows,
    sent_at: Instant,
    seconds_to_change: Option<f64>,
    stalled: Option<f64>,
    short_keys: Option<usize>,
) -> Reading {
    // A change in the past is due now. One too far away for an Instant never comes.
    let changes_at = seconds_to_change
        .and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok())
        .and_then(|wait| sent_at.checked_add(wait));
    Reading { rows, sent_at, changes_at, stalled, short_keys }
}

fn wrapped(query: &Query) -> String {
    let sql = sql::without_terminator(&query.sql);
    let (list, limit) = match &query.value_column {
        None => ("(SELECT q.*)::float8".to_owned(), 2),
        Some(value) => {
            let mut list = Vec::new();
            list.extend(query.group_by.as_ref().map(|key| format!("(q.{})::text", escape_identifier(key))));
            list.push(format!("(q.{})::float8", escape_identifier(value)));
            list.extend(
                query.activity_column.as_ref().map(|column| format!("(q.{})::float8", escape_identifier(column))),
            );
            list.extend(
                query
                    .next_change
                    .as_ref()
                    .map(|column| format!("extract(epoch FROM q.{} - now())::float8", escape_identifier(column))),
            );
            let of_preset = query.preset.iter().flat_map(|_| [STALLED, UNKNOWN]);
            list.extend(of_preset.map(|column| format!("(q.{column})::float8")));
            if let Some(Budget { total: _, weight_column, since_column }) = &query.budget {
                list.extend(weight_column.as_ref().map(|column| format!("(q.{})::float8", escape_identifier(column))));
                let epoch = |column| format!("extract(epoch FROM q.{})::float8", escape_identifier(column));
                list.extend(since_column.as_deref().map(epoch));
            }
            (list.join(", "), if query.group_by.is_some() { MAXIMUM_KEYS + 1 } else { 2 })
        }
    };
    // On lines of its own, so that a comment at the SQL's end does not swallow the wrapper.
    format!("SELECT {list} FROM (\n{sql}\n) AS q LIMIT {limit}")
}

fn type_of(kind: ParameterKind) -> Type {
    match kind {
        ParameterKind::Text => Type::TEXT,
        ParameterKind::Bigint => Type::INT8,
        ParameterKind::Double => Type::FLOAT8,
        ParameterKind::Boolean => Type::BOOL,
        ParameterKind::Uuid => Type::UUID,
        ParameterKind::Timestamptz => Type::TIMESTAMPTZ,
    }
}

fn bound(value: &Value) -> Box<dyn ToSql + Sync + Send> {
    match value {
        Value::Text(text) => Box::new(text.to_string()),
        Value::Bigint(number) => Box::new(*number),
        Value::Double(bits) => Box::new(f64::from_bits(*bits)),
        Value::Boolean(flag) => Box::new(*flag),
        Value::Uuid(uuid) => Box::new(*uuid),
        Value::Timestamptz(time) => Box::new(*time),
    }
}
