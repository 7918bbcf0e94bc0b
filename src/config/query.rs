//! The section `queries`: statements, how their rows are read, and who may use them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::json;

use super::{
    bounds::{self, Bounds},
    budget::{self, Beside},
    builtin,
    entry::{Entry, still_open},
    key::{DefaultValue, Key, Kind, words},
    preset,
    section::Section,
};
use crate::{
    diagnostics::quoted,
    presets,
    query::{
        Absent, KEEPER, METRIC_NAME, Namespaces, Notify, Parameter, ParameterKind, PresetQuery, Query, is_metric_name,
        sql::{self, Malformed},
    },
    scaling::{Activation, Divisor, Rounding, Target},
};

/// Far more than any count needs, and below PostgreSQL's limit of 65,535 with room for the wrapper.
const MOST_PARAMETERS: usize = 100;

const LONGEST_PARAMETER_NAME: usize = 63;

const ROUNDINGS: [(&str, Rounding); 4] =
    [("ceil", Rounding::Ceil), ("floor", Rounding::Floor), ("nearest", Rounding::Nearest), ("none", Rounding::None)];

const ABSENT: [(&str, Absent); 2] = [("error", Absent::Error), ("zero", Absent::Zero)];

const PARAMETER_KINDS: [(&str, ParameterKind); 6] = [
    ("text", ParameterKind::Text),
    ("bigint", ParameterKind::Bigint),
    ("double", ParameterKind::Double),
    ("boolean", ParameterKind::Boolean),
    ("uuid", ParameterKind::Uuid),
    ("timestamptz", ParameterKind::Timestamptz),
];

/// Types by the names that SQL and other languages have for them.
const OTHER_TYPES: &[(&str, &str)] = &[
    ("varchar", "text"),
    ("char", "text"),
    ("string", "text"),
    ("str", "text"),
    ("int", "bigint"),
    ("integer", "bigint"),
    ("smallint", "bigint"),
    ("int4", "bigint"),
    ("int8", "bigint"),
    ("long", "bigint"),
    ("float", "double"),
    ("float8", "double"),
    ("real", "double"),
    ("numeric", "double"),
    ("number", "double"),
    ("double precision", "double"),
    ("timestamp", "timestamptz"),
    ("datetime", "timestamptz"),
    ("date", "timestamptz"),
];

/// The keys of `queries.<name>`.
pub(super) const KEYS: &[Key] = &[
    bounds::DATABASE,
    bounds::DATABASES,
    Key::new(
        "sql",
        Kind::Text,
        DefaultValue::Derived("required without `preset`"),
        "One statement that starts with SELECT, WITH, VALUES, TABLE or a parenthesis (comments may come first); a last \
         `;` is dropped. It runs inside of a read-only transaction, in `SELECT ... FROM (<sql>) AS q`. That form \
         protects from accidents; the role is what protects the database.",
    )
    .instead_of(&["query", "statement"]),
    preset::PRESET,
    preset::QUEUE,
    preset::SCHEMA,
    preset::WORKERS,
    preset::RESCUE_AFTER,
    preset::HEARTBEAT_TIMEOUT,
    preset::TASKS,
    preset::MAX_READS,
    Key::new(
        "value_column",
        Kind::Column,
        DefaultValue::Derived("the only column"),
        "The column that is reported. Required if there are several columns.",
    )
    .instead_of(&["column", "value", "valueColumn", "metric"]),
    Key::new(
        "activity_column",
        Kind::Column,
        DefaultValue::Derived("the reported value"),
        "The column that is compared, undivided, with the activation threshold. Needs `value_column`.",
    )
    .instead_of(&["activityColumn"]),
    Key::new(
        "next_change",
        Kind::Column,
        DefaultValue::Derived("none"),
        "The column, a `timestamptz`, that says when the numbers change by the clock alone. Needs `value_column`.",
    ),
    Key::new(
        "divide_by",
        Kind::Number { least: 0.0, is_least_included: false },
        DefaultValue::Is("1"),
        "What the value is divided by before it is reported. Divide in one place: `ceil(n/10)` in SQL and target 10 \
         divides by 100.",
    )
    .instead_of(&["divisor", "divideBy"]),
    Key::new(
        "rounding",
        Kind::Words(&words(&ROUNDINGS), &[("up", "ceil"), ("down", "floor"), ("round", "nearest"), ("half_up", "nearest")]),
        DefaultValue::Derived("`none` where nothing is divided, else `ceil`"),
        "The rounding of the quotient. Where neither the query nor the trigger sets it, it follows from the divisor in effect (the trigger's `divideBy`, else `divide_by`): `none` for 1, so that a value that is not divided is reported as it is, and `ceil` for every other one. `nearest` takes halves away from zero. A quotient within 1e-9 of its size, and at most 0.001, of an integer is that integer; of a half, that half. `floor` starves the last rows.",
    )
    .instead_of(&["round"]),
    Key::new(
        "target",
        Kind::Number { least: 0.001, is_least_included: true },
        DefaultValue::Is("1"),
        "For triggers that set no `targetQueryValue`: how much one Job or replica is expected to handle.",
    )
    .instead_of(&["targetQueryValue", "targetValue", "threshold"]),
    Key::new(
        "activation",
        Kind::Number { least: 0.0, is_least_included: true },
        DefaultValue::Is("0"),
        "For triggers that set no `activationTargetQueryValue`: active while the activity exceeds it.",
    )
    .instead_of(&["activationTargetQueryValue", "activationThreshold"]),
    Key::new(
        "parameters",
        Kind::Parameters(&PARAMETER),
        DefaultValue::Derived("none"),
        "Bound as `$1`, `$2`... in this order; a trigger gives `param.<name>`. Each name has a type: `text`, `bigint`, \
         `double`, `boolean`, `uuid` or `timestamptz`. The highest `$n` in `sql` must equal their number.",
    )
    .instead_of(&["params", "arguments", "args"]),
    Key::new(
        "group_by",
        Kind::Column,
        DefaultValue::Derived("none"),
        "The column whose value tells rows apart: the statement returns a row per key, and each trigger picks its own by \
         `param.<group_by>`. It must not be one of `parameters`, because it is picked and not bound. Needs \
         `value_column`. The empty text says the same as leaving the key out.",
    )
    .instead_of(&["groupBy", "key_column"]),
    Key::new(
        "on_null",
        Kind::Words(&words(&ABSENT), &[("0", "zero"), ("fail", "error")]),
        DefaultValue::Is("error"),
        "What a NULL number means. `zero` hides a broken query as an empty queue.",
    ),
    Key::new(
        "on_no_row",
        Kind::Words(&words(&ABSENT), &[("0", "zero"), ("fail", "error")]),
        DefaultValue::Is("error"),
        "What a missing row means, likewise. With `group_by` the default is `zero`.",
    )
    .instead_of(&["on_no_rows", "on_empty"]),
    Key::new(
        "timeout",
        Kind::Duration { range: Duration::from_millis(10)..=Duration::from_secs(60), zero: None },
        DefaultValue::Is("1500ms"),
        "The statement's own limit. A call is answered within 2.5 s in any case; a statement that takes longer goes on \
         and serves the next call.",
    )
    .instead_of(&["statement_timeout"]),
    Key::new(
        "max_age",
        Kind::Duration {
            range: Duration::from_millis(1)..=Duration::from_secs(3600),
            zero: Some("only calls that overlap share"),
        },
        DefaultValue::Is("1s"),
        "A reading this young is shared by all triggers. `0s`: only calls that overlap share. More than a second makes \
         KEDA start Jobs for rows that are gone.",
    )
    .instead_of(&["cache", "ttl", "cache_ttl"]),
    Key::new(
        "notify",
        Kind::Mapping(NOTIFY_KEYS),
        DefaultValue::Derived("not listened for"),
        "Where the database says that the numbers may have changed.",
    )
    .instead_of(&["listen"]),
    Key::new(
        "namespaces",
        Kind::List { of: "Kubernetes namespaces", such_as: "or [\"*\"] for all" },
        DefaultValue::Is("[\"*\"]"),
        "Kubernetes namespaces whose triggers may use the query: names, or `[\"*\"]` alone. There are no patterns. The \
         namespace is the caller's claim; behind mTLS or a NetworkPolicy it is worth something.",
    )
    .instead_of(&["namespace", "allowed_namespaces"]),
    budget::BUDGET,
];

/// The keys of `queries.<name>.notify`.
const NOTIFY_KEYS: &[Key] = &[
    Key::new(
        "channel",
        Kind::Column,
        DefaultValue::Required("the channel to LISTEN on"),
        "What to LISTEN on, at most 63 bytes.",
    ),
    Key::new(
        "resync",
        Kind::Duration { range: Duration::from_secs(1)..=Duration::from_secs(60), zero: None },
        DefaultValue::Is("5s"),
        "What a missed notification costs at most.",
    ),
];

/// The row for every member of `queries.<name>.parameters`.
const PARAMETER: Key = Key::new(
    "parameters",
    Kind::Words(&words(&PARAMETER_KINDS), OTHER_TYPES),
    DefaultValue::Required("its type"),
    "How the text of a trigger is parsed and bound.",
);

/// Reads `queries` by name, and leaves out a built-in query that has no database to ask.
///
/// A query without `namespaces` has those of `default`. Also returns the names of the built-in queries that nothing has
/// changed.
pub(super) fn read(
    section: &Section<'_>,
    bounds: &Bounds<'_>,
    default: Option<&Namespaces>,
) -> (BTreeMap<String, Arc<Query>>, BTreeSet<String>) {
    let databases = bounds.databases;
    let (mut queries, mut untouched) = (BTreeMap::new(), BTreeSet::new());
    let mut named = section.named();
    named.sort_unstable_by_key(|(name, _)| *name);
    for (name, section) in named {
        let is_ours = builtin::is_builtin(name) && !section.is_configured();
        let preferred = match databases.len() {
            _ if is_ours && databases.contains(builtin::DATABASE) => Some(builtin::DATABASE),
            1 => databases.first().map(String::as_str),
            _ => None,
        };
        if is_ours && preferred.is_none() && !section.has("database") && !section.has("databases") {
            continue;
        }
        if !is_metric_name(name) {
            section.own_fault(format!("the name must be {METRIC_NAME}"));
        }
        if name == KEEPER {
            section.own_fault("the name is reserved for the query without a database, see docs/keda.md");
        }
        if !section.is_present() {
            continue;
        }
        if is_ours && section.is_untouched() {
            untouched.insert(name.to_owned());
        }
        let query = read_one(name, &section, preferred, bounds, default);
        queries.extend(query.map(|query| (name.to_owned(), Arc::new(query))));
    }
    (queries, untouched)
}

fn read_one(
    name: &str,
    section: &Section<'_>,
    preferred: Option<&str>,
    bounds: &Bounds<'_>,
    default: Option<&Namespaces>,
) -> Option<Query> {
    let databases = bounds.databases_of(section, preferred);
    let preset = section.entry("preset");
    let asked = if section.has("preset") { Asked::preset(section, preset) } else { Asked::written(section) };
    let divide_by = section.number("divide_by", Divisor::new);
    let rounding = section.word("rounding", &ROUNDINGS);
    let target = section.number("target", Target::new);
    let activation = section.number("activation", Activation::new);
    let on_null = section.word("on_null", &ABSENT);
    let is_grouped = asked.as_ref().is_some_and(|asked| asked.group_by.is_some());
    let on_no_row = section.entry_or("on_no_row", is_grouped.then_some("zero"));
    let on_no_row = on_no_row.and_then(|entry| entry.word(&ABSENT));
    let timeout = section.duration("timeout");
    let max_age = section.duration("max_age");
    let notify = section.section("notify");
    let notify = notify.is_present().then(|| read_notify(&notify)).flatten();
    let namespaces = namespaces(section, default);
    if let (Some(found), true) = (&namespaces, section.has("namespaces")) {
        bounds.check(section, found);
    }
    let column = |of: fn(&Asked) -> &Option<String>| asked.as_ref().and_then(|asked| of(asked).as_deref());
    let (group_by, value_column) = (column(|asked| &asked.group_by), column(|asked| &asked.columns.value));
    let activity_column = column(|asked| &asked.columns.activity);
    let beside = Beside { group_by, value_column, activity_column, divide_by, rounding, target, activation };
    let budget = budget::read(section, &beside);
    section.finish();
    let asked = asked?;
    Some(Query {
        name: name.to_owned(),
        databases: databases?,
        sql: asked.sql,
        value_column: asked.columns.value,
        activity_column: asked.columns.activity,
        next_change: asked.columns.next_change,
        divide_by: divide_by?,
        rounding,
        target: target?,
        activation: activation?,
        parameters: asked.parameters,
        group_by: asked.group_by,
        on_null: on_null?,
        on_no_row: on_no_row?,
        timeout: timeout?,
        max_age: max_age?,
        notify: notify.or(asked.notify),
        namespaces: namespaces?,
        budget,
        preset: asked.preset,
    })
}

/// The part of a query that a preset brings.
struct Asked {
    sql: String,
    columns: Columns,
    parameters: Vec<Parameter>,
    group_by: Option<String>,
    notify: Option<Notify>,
    preset: Option<PresetQuery>,
}

impl Asked {
    /// Reads what stands in the file.
    fn written(section: &Section<'_>) -> Option<Self> {
        preset::refuse_options(section);
        let sql = section.text("sql");
        if !section.has("sql") {
            section.fault("sql", "is missing; give the statement that counts, or a preset");
        }
        let columns = Columns::read(section);
        let declared = section.section("parameters");
        let parameters = (declared.is_present() || !section.has("parameters")).then(|| parameters(&declared));
        if let Some(sql) = &sql {
            check_statement(section, sql, parameters.as_ref().map(Vec::len));
        }
        let group_by = group_by(section, parameters.as_deref().unwrap_or_default());
        let parameters = parameters?.into_iter().collect::<Option<_>>()?;
        Some(Self { sql: sql?, columns, parameters, group_by, notify: None, preset: None })
    }

    fn preset(section: &Section<'_>, preset: Option<Entry<'_>>) -> Option<Self> {
        let expanded = preset::read(section, preset)?;
        Some(Self {
            sql: expanded.sql,
            columns: Columns {
                value: Some(presets::VALUE.to_owned()),
                activity: Some(expanded.activity_column.to_owned()),
                next_change: Some(presets::NEXT_CHANGE.to_owned()),
            },
            parameters: Vec::new(),
            group_by: expanded.is_grouped.then(|| presets::QUEUE.to_owned()),
            notify: expanded.channel.map(|channel| Notify { channel, resync: None }),
            preset: Some(expanded.query),
        })
    }
}

/// Checks the statement; `parameters` is the number of declared ones, if it is known.
fn check_statement(section: &Section<'_>, sql: &str, parameters: Option<usize>) {
    if let Some((character, what)) = sql::look_alike(sql) {
        let code = u32::from(character);
        section.fault("sql", format!("has {what} (U+{code:04X}) outside of quotes; write the plain character"));
    }
    match sql::is_one_statement(sql) {
        Err(Malformed::Unterminated) => section.fault("sql", "has a string, quoted name or comment that does not end"),
        Err(Malformed::Unbalanced) => section.fault("sql", "has parentheses that do not match"),
        Err(Malformed::SeveralStatements) => section.fault("sql", "has more after a ;, must be one statement"),
        Ok(()) if !sql::looks_like_sql(sql) => {
            section.fault("sql", "must start with SELECT, WITH, VALUES, TABLE or a parenthesis");
        }
        Ok(()) => match &sql::open_questions(sql)[..] {
            [] => {}
            // The answers may use the parameters.
            questions => return section.fault("sql", still_open(questions)),
        },
    }
    let highest = sql::highest_placeholder(sql);
    let Some(declared) = parameters.filter(|declared| usize::try_from(highest) != Ok(*declared)) else { return };
    let message = match (highest, declared) {
        (0, count) => format!("uses no $n, but parameters has {count}; use each, as $1, $2..., or leave it out"),
        (highest, 0) => format!("uses up to ${highest}, but there are no parameters; declare {highest}"),
        (highest, count) => format!("uses up to ${highest}, but parameters has {count}; the numbers must be equal"),
    };
    section.fault("sql", message);
}

struct Columns {
    value: Option<String>,
    activity: Option<String>,
    next_change: Option<String>,
}

impl Columns {
    fn read(section: &Section<'_>) -> Self {
        let columns = Self {
            value: section.text("value_column"),
            activity: section.text("activity_column"),
            next_change: section.text("next_change"),
        };
        for (name, column) in [("activity_column", &columns.activity), ("next_change", &columns.next_change)] {
            if column.is_some() && !section.has("value_column") {
                section.fault(name, "needs value_column: name the column that is reported");
            }
        }
        columns
    }
}

fn group_by(section: &Section<'_>, parameters: &[Option<Parameter>]) -> Option<String> {
    let name = section.text_or_none("group_by")?;
    if !section.has("value_column") {
        section.fault("group_by", "needs value_column: name the column that is reported");
    }
    if parameters.iter().flatten().any(|parameter| parameter.name == name) {
        let message =
            "is also one of parameters; the key is picked from the rows and not bound, so declare it only here";
        section.fault("group_by", message);
    }
    Some(name)
}

/// The declared parameters, those with a wrong type as `None`.
fn parameters(section: &Section<'_>) -> Vec<Option<Parameter>> {
    let mut parameters = Vec::new();
    for entry in section.entries() {
        let name = entry.name().to_owned();
        let is_name = (1..=LONGEST_PARAMETER_NAME).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !is_name {
            section.fault(&name, "the name must be 1 to 63 letters, digits, '-', '_' and '.'");
        }
        parameters.push(entry.word(&PARAMETER_KINDS).map(|kind| Parameter { name, kind }));
    }
    if parameters.len() > MOST_PARAMETERS {
        section.own_fault(format!("has {} names, must have at most {MOST_PARAMETERS}", parameters.len()));
    }
    parameters
}

fn read_notify(section: &Section<'_>) -> Option<Notify> {
    let channel = section.text("channel");
    let resync = section.duration("resync");
    section.finish();
    Some(Notify { channel: channel?, resync: Some(resync?) })
}

/// Reads `namespaces`, which are `default` or those of the row if the key is not set.
pub(super) fn namespaces(section: &Section<'_>, default: Option<&Namespaces>) -> Option<Namespaces> {
    if let (Some(Namespaces::Only(names)), false) = (default, section.has("namespaces")) {
        section.note_default("namespaces", json!(names));
        return default.cloned();
    }
    let names = section.texts("namespaces")?;
    match &names[..] {
        [] => {
            let right = "must be a list of Kubernetes namespaces, or [\"*\"] for all";
            section.fault("namespaces", format!("is empty, so nobody could use the query; {right}"));
        }
        [all] if all == "*" => return Some(Namespaces::All),
        names if names.iter().any(|name| name == "*") => {
            section.fault("namespaces", "has * beside other names; must be [\"*\"] alone, or names alone");
        }
        names => {
            for name in names.iter().filter(|name| !is_namespace(name)) {
                let right = "must be names of Kubernetes namespaces (there are no patterns)";
                section.fault("namespaces", format!("found {}, {right}", quoted(name)));
            }
        }
    }
    Some(Namespaces::Only(names))
}

/// Returns whether a text can be a namespace's name: an RFC 1123 label.
fn is_namespace(name: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = name.as_bytes();
    bytes.len() <= 63
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}
