//! A report as text: a block for each database, a few lines for each query.

use super::{
    page::{INDENT, Page, WORD},
    report::{
        ConnectionState, DatabaseReport, PlanReport, QueryAnswer, QueryOutcome, QueryReport, Report, ServerInfo,
        SumReport,
    },
    tls::{CertificateExpiry, TlsReport, days},
};
use crate::{
    command::count_cap,
    terminal::{
        reading_width,
        style::{ColorChoice, Style},
        text::{elapsed, number, plural, printable, wrapped},
    },
};

/// The relations of a plan that are named; a table may have a thousand partitions, all of which are in the JSON.
const RELATIONS_SHOWN: usize = 10;

/// The scaler's own block: TLS towards KEDA.
pub(super) fn serving(tls: &TlsReport, colors: ColorChoice) -> String {
    let mut page = Page::new(colors);
    let title = colors.paint(Style::Heading, "server");
    page.heading(&format!("{title}  TLS towards KEDA"));
    for CertificateExpiry { key, days_left } in &tls.certificates {
        let ends = if *days_left < 0 { "has ended".to_owned() } else { format!("ends in {}", days(*days_left)) };
        page.fact("certificate", &format!("{key} {ends}"));
    }
    match &tls.clients {
        None => page.fact("clients", "need no certificate: whoever can reach the port can ask"),
        Some(names) if names.is_empty() => page.fact("clients", "need a certificate that client_ca has signed"),
        Some(names) => page.fact("clients", &format!("need a certificate with a name of {}", names.join(", "))),
    }
    for warning in &tls.warnings {
        page.warning(INDENT, warning);
    }
    page.text
}

/// One database's block.
pub(super) fn block(database: &DatabaseReport, colors: ColorChoice) -> String {
    let mut page = Page::new(colors);
    heading(&mut page, database);
    match &database.state {
        ConnectionState::Disabled => {
            page.fact("disabled", "enabled: false; its triggers get UNAVAILABLE, nothing is asked");
        }
        ConnectionState::NotConnected => page.fact("offline", "nothing is connected"),
        ConnectionState::Unavailable(problem) => {
            page.line(Style::Bad, "failed", &printable(&problem.message));
            page.explain(problem);
        }
        ConnectionState::Reached(server) => server_facts(&mut page, database, server),
    }
    for warning in &database.warnings {
        page.warning(INDENT, warning);
    }
    if !database.queries.is_empty() {
        page.push("");
    }
    let widths = ColumnWidths::fitting(&database.queries);
    for report in &database.queries {
        query(&mut page, report, widths);
    }
    absent(&mut page, &database.queries);
    page.push("");
    page.text
}

/// The block of the queries with several databases: the answers that KEDA would get. Empty if there are none.
pub(super) fn sums(sums: &[SumReport], colors: ColorChoice) -> String {
    if sums.is_empty() {
        return String::new();
    }
    let mut page = Page::new(colors);
    page.heading(&format!("{}  over several databases", colors.paint(Style::Heading, "sums")));
    for sum in sums {
        let name = colors.paint(Style::Heading, &sum.name);
        match &sum.outcome {
            QueryOutcome::Answered(answer) => {
                page.line(Style::Good, "ok", &format!("{name}  {}  {}", value(answer), activity(answer)));
            }
            QueryOutcome::Grouped { keys, first } => groups(&mut page, &name, *keys, first, ""),
            QueryOutcome::Failed(problem) => {
                page.line(Style::Bad, "failed", &format!("{name}  {}", printable(&problem.message)));
                page.explain(problem);
            }
            QueryOutcome::NotAsked | QueryOutcome::Skipped { .. } | QueryOutcome::Absent(_) => {
                let text = format!("{name}  there is no sum without an answer from each database");
                page.line(Style::Quiet, "no sum", &text);
            }
        }
        page.below(&colors.paint(Style::Quiet, &format!("of {}", printable(&sum.databases.join(", ")))));
    }
    page.push("");
    page.text
}

fn groups(page: &mut Page, name: &str, keys: usize, first: &[(String, QueryAnswer)], timing: &str) {
    page.line(Style::Good, "ok", &format!("{name}  {}{timing}", plural(keys, "key", "keys")));
    for (key, answer) in first {
        page.below(&format!("{} = {}, {}", printable(key), value(answer), activity(answer)));
    }
    if keys > first.len() {
        page.below(&format!("and {} more", keys - first.len()));
    }
}

/// The last line: the numbers of queries, databases and outcomes.
pub(super) fn summary(report: &Report, colors: ColorChoice) -> String {
    let answered = report.count(|outcome| matches!(outcome, QueryOutcome::Answered(_) | QueryOutcome::Grouped { .. }));
    let failed = report.count(|outcome| matches!(outcome, QueryOutcome::Failed(_)));
    let skipped = report.count(|outcome| matches!(outcome, QueryOutcome::Skipped { .. }));
    let not_asked = report.count(|outcome| matches!(outcome, QueryOutcome::NotAsked));
    let absent = report.count(|outcome| matches!(outcome, QueryOutcome::Absent(_)));
    let counts = [
        (answered, "answered", Style::Good),
        (failed, "failed", Style::Bad),
        (not_asked, "not asked", Style::Quiet),
        (absent, "absent", Style::Quiet),
        (skipped, "skipped", Style::Quiet),
    ];
    let mut parts: Vec<String> = counts
        .into_iter()
        .filter(|(count, _, _)| *count > 0)
        .map(|(count, word, style)| colors.paint(style, &format!("{count} {word}")))
        .collect();
    let unavailable = report.unavailable();
    if unavailable > 0 {
        parts.push(colors.paint(Style::Bad, &plural(unavailable, "database unavailable", "databases unavailable")));
    }
    let warnings = report.warnings();
    if warnings > 0 {
        parts.push(colors.paint(Style::Warning, &plural(warnings, "warning", "warnings")));
    }
    let queries = report.count(|_| true);
    let mut page = Page::new(colors);
    page.heading(&format!(
        "{} on {}: {}",
        plural(queries, "query", "queries"),
        plural(report.databases.len(), "database", "databases"),
        parts.join(", ")
    ));
    page.text
}

fn heading(page: &mut Page, database: &DatabaseReport) {
    let name = page.colors.paint(Style::Heading, &database.name);
    let target = database.target.as_ref().map_or_else(String::new, |target| {
        format!("  {}, database {}, role {}", target.addresses.join(", "), target.dbname, target.user)
    });
    page.heading(&format!("{name}{}", printable(&target)));
}

fn server_facts(page: &mut Page, database: &DatabaseReport, server: &ServerInfo) {
    let standby = if server.is_standby { "standby" } else { "primary" };
    let read_only = if server.is_read_only { ", read-only by default" } else { "" };
    let several = database.target.as_ref().is_some_and(|target| target.addresses.len() > 1);
    let which = server.address.as_ref().filter(|_| several).map_or_else(String::new, |a| format!(", at {a}"));
    page.fact("server", &format!("PostgreSQL {}, {standby}{read_only}{which}", server.version));
    let mode = database.target.as_ref().map_or("", |target| target.sslmode);
    match (&server.tls, &server.address) {
        (Some(tls), _) => page.fact("TLS", &format!("{tls} (sslmode {mode})")),
        (None, None) => page.fact("TLS", "none, a Unix socket"),
        (None, Some(_)) => page.fact("TLS", &format!("none (sslmode {mode})")),
    }
    let privileges = if server.privileges.is_empty() { "not privileged" } else { "privileged" };
    page.fact("role", &format!("{}, {privileges}", server.role));
    page.fact("search_path", &server.search_path);
}

/// One line for the built-in queries that have no tables, because people who do not use postgres-batch need not read
/// more.
fn absent(page: &mut Page, queries: &[QueryReport]) {
    let names: Vec<&str> = queries.iter().filter(|query| query.is_absent()).map(|query| query.name.as_str()).collect();
    if names.is_empty() {
        return;
    }
    let word = page.colors.padded(Style::Quiet, "absent", WORD);
    let text = format!(
        "built in for postgres-batch, whose tables are not here: {} (`postgres-batch migrate up` makes them, \
         built_in_queries: false drops the queries)",
        names.join(", ")
    );
    page.wrapped(INDENT, &word, WORD, &text);
}

/// The widest column: beside one long name, short ones need no more room than this.
const WIDEST_COLUMN: usize = 32;

/// Column widths, equal for all queries of a database.
#[derive(Clone, Copy)]
struct ColumnWidths {
    name: usize,
    value: usize,
}

impl ColumnWidths {
    fn fitting(queries: &[QueryReport]) -> Self {
        let shown = queries.iter().filter(|query| !query.is_absent());
        let name = shown.map(|query| query.name.chars().count()).max().unwrap_or(0);
        let value = queries.iter().filter_map(|query| match &query.outcome {
            QueryOutcome::Answered(answer) => Some(value(answer).chars().count()),
            _ => None,
        });
        Self { name: name.min(WIDEST_COLUMN), value: value.max().unwrap_or(0).min(WIDEST_COLUMN) }
    }
}

fn query(page: &mut Page, query: &QueryReport, widths: ColumnWidths) {
    let colors = page.colors;
    let name = colors.padded(Style::Heading, &query.name, widths.name);
    let timing = query.took.map_or_else(String::new, |took| format!("  {}", elapsed(took)));
    let timing = colors.paint(Style::Quiet, &timing);
    match &query.outcome {
        QueryOutcome::Answered(answer) => {
            let value = colors.padded(Style::Heading, &value(answer), widths.value);
            page.line(Style::Good, "ok", &format!("{name}  {value}  {}{timing}", activity(answer)));
            if answer.at_least {
                page.advice(INDENT + WORD, count_cap::REMARK);
            }
        }
        QueryOutcome::Grouped { keys, first } => {
            groups(page, &name, *keys, first, &timing);
        }
        QueryOutcome::Skipped { missing } => {
            let options: Vec<String> = missing.iter().map(|name| format!("--param {name}=VALUE")).collect();
            page.line(Style::Quiet, "skipped", &format!("{name}  to run it, add {}", options.join(" ")));
        }
        QueryOutcome::NotAsked => page.line(Style::Quiet, "unasked", &name),
        QueryOutcome::Absent(_) => {}
        QueryOutcome::Failed(problem) => {
            page.line(Style::Bad, "failed", &format!("{name}  {}{timing}", printable(&problem.message)));
            page.explain(problem);
        }
    }
    if let Some(plan) = &query.plan {
        for line in wrapped(&plan_summary(plan), reading_width().saturating_sub(INDENT + WORD)) {
            page.below(&colors.paint(Style::Quiet, &line));
        }
    }
    for warning in &query.warnings {
        page.warning(INDENT + WORD, warning);
    }
}

fn value(answer: &QueryAnswer) -> String {
    let at_least = if answer.at_least { "at least " } else { "" };
    let value = format!("{at_least}{}", number(answer.value));
    if answer.divide_by == 1.0 && answer.value == answer.undivided {
        return value;
    }
    format!("{value} = {} / {}, {}", number(answer.undivided), number(answer.divide_by), rounding(answer.rounding))
}

fn rounding(name: &str) -> &'static str {
    match name {
        "ceil" => "rounded up",
        "floor" => "rounded down",
        "nearest" => "rounded to the nearest",
        _ => "not rounded",
    }
}

fn activity(answer: &QueryAnswer) -> String {
    let (activity, activation) = (number(answer.activity), number(answer.activation));
    if answer.active {
        format!("active ({activity} > {activation})")
    } else {
        format!("inactive ({activity} is not above {activation})")
    }
}

fn plan_summary(plan: &PlanReport) -> String {
    let (shown, more) = plan.relations.split_at(plan.relations.len().min(RELATIONS_SHOWN));
    let mut reads = if shown.is_empty() { "no table".to_owned() } else { shown.join(", ") };
    if !more.is_empty() {
        reads += &format!(" and {} more", more.len());
    }
    let rows = if plan.rows == 1.0 { "row" } else { "rows" };
    printable(&format!("reads {reads}; plan cost {:.2}, {:.0} {rows} expected", plan.cost, plan.rows))
}
