//! A report as people read it: a block for each database, a few lines for each query.

use std::fmt::Write;

use super::{
    report::{Answer, Excerpt, OfDatabase, OfPlan, OfQuery, Outcome, Reached, Report, Standing, Trouble, Warning},
    serving::{Certificate, Serving, days},
};
use crate::{
    command::backlog,
    terminal::{
        reading_width,
        style::{ColorChoice, Style},
        text::{elapsed, number, plural, printable, wrapped},
    },
};

/// The width of the words that say how it went: `skipped`, `warning`.
const WORD: usize = 9;

/// The width of the words about a server.
const KEY: usize = 13;

/// The longest part of a line of SQL that is shown.
const EXCERPT: usize = 100;

/// The scaler's own block: TLS towards KEDA.
pub(super) fn serving(serving: &Serving, colors: ColorChoice) -> String {
    let mut page = Page { text: String::new(), colors };
    let title = colors.paint(Style::Heading, "server");
    page.push(&format!("{title}  TLS towards KEDA"));
    for Certificate { key, days_left } in &serving.certificates {
        let ends = if *days_left < 0 { "has ended".to_owned() } else { format!("ends in {}", days(*days_left)) };
        page.fact("certificate", &format!("{key} {ends}"));
    }
    match &serving.clients {
        None => page.fact("clients", "need no certificate: whoever can reach the port can ask"),
        Some(names) if names.is_empty() => page.fact("clients", "need a certificate that client_ca has signed"),
        Some(names) => page.fact("clients", &format!("need a certificate with a name of {}", names.join(", "))),
    }
    for warning in &serving.warnings {
        page.warning(2, warning);
    }
    page.text
}

/// One database's block.
pub(super) fn block(database: &OfDatabase, colors: ColorChoice) -> String {
    let mut page = Page { text: String::new(), colors };
    page.heading(database);
    match &database.standing {
        Standing::Disabled => page.fact("disabled", "enabled: false; its triggers get UNAVAILABLE, nothing is asked"),
        Standing::Unavailable(trouble) => {
            page.line(2, Style::Bad, "failed", &printable(&trouble.message));
            page.explain(trouble);
        }
        Standing::Reached(reached) => page.server(database, reached),
    }
    for warning in &database.warnings {
        page.warning(2, warning);
    }
    page.text.push('\n');
    let widths = Widths::of(&database.queries);
    for query in &database.queries {
        page.query(query, widths);
    }
    page.text.push('\n');
    page.text
}

/// The last line: how many of what.
pub(super) fn summary(report: &Report, colors: ColorChoice) -> String {
    let unavailable =
        report.databases.iter().filter(|found| matches!(found.standing, Standing::Unavailable(_))).count();
    let answered = report.count(|outcome| matches!(outcome, Outcome::Answered(_) | Outcome::Grouped { .. }));
    let failed = report.count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let skipped = report.count(|outcome| matches!(outcome, Outcome::Skipped { .. }));
    let not_asked = report.count(|outcome| matches!(outcome, Outcome::NotAsked));
    let parts = [
        (answered, "answered", Style::Good),
        (failed, "failed", Style::Bad),
        (not_asked, "not asked", Style::Quiet),
        (skipped, "skipped", Style::Quiet),
    ];
    let mut told: Vec<String> = parts
        .into_iter()
        .filter(|(count, _, _)| *count > 0)
        .map(|(count, word, style)| colors.paint(style, &format!("{count} {word}")))
        .collect();
    if unavailable > 0 {
        told.push(colors.paint(Style::Bad, &plural(unavailable, "database unavailable", "databases unavailable")));
    }
    let warnings = report.warnings();
    if warnings > 0 {
        told.push(colors.paint(Style::Warning, &plural(warnings, "warning", "warnings")));
    }
    let queries = report.count(|_| true);
    format!(
        "{} on {}: {}\n",
        plural(queries, "query", "queries"),
        plural(report.databases.len(), "database", "databases"),
        told.join(", ")
    )
}

/// Column widths, equal for all queries of a database.
#[derive(Clone, Copy)]
struct Widths {
    name: usize,
    value: usize,
}

impl Widths {
    fn of(queries: &[OfQuery]) -> Self {
        let name = queries.iter().map(|query| query.name.chars().count()).max().unwrap_or(0);
        let value = queries.iter().filter_map(|query| match &query.outcome {
            Outcome::Answered(answer) => Some(value(answer).chars().count()),
            _ => None,
        });
        Self { name, value: value.max().unwrap_or(0) }
    }
}

struct Page {
    text: String,
    colors: ColorChoice,
}

impl Page {
    fn push(&mut self, line: &str) {
        writeln!(self.text, "{}", line.trim_end()).expect("writing to a String cannot fail");
    }

    fn heading(&mut self, database: &OfDatabase) {
        let name = self.colors.paint(Style::Heading, &database.name);
        let target = database.target.as_ref().map_or_else(String::new, |target| {
            format!("  {}, database {}, role {}", target.addresses.join(", "), target.dbname, target.user)
        });
        self.push(&format!("{name}{}", printable(&target)));
    }

    fn server(&mut self, database: &OfDatabase, reached: &Reached) {
        let standing = if reached.is_standby { "standby" } else { "primary" };
        let read_only = if reached.is_read_only { ", read-only by default" } else { "" };
        let several = database.target.as_ref().is_some_and(|target| target.addresses.len() > 1);
        let which = reached.address.as_ref().filter(|_| several).map_or_else(String::new, |a| format!(", at {a}"));
        self.fact("server", &format!("PostgreSQL {}, {standing}{read_only}{which}", reached.version));
        let mode = database.target.as_ref().map_or("", |target| target.sslmode);
        match (&reached.tls, &reached.address) {
            (Some(tls), _) => self.fact("TLS", &format!("{tls} (sslmode {mode})")),
            (None, None) => self.fact("TLS", "none, a Unix socket"),
            (None, Some(_)) => self.fact("TLS", &format!("none (sslmode {mode})")),
        }
        let privileges = if reached.privileges.is_empty() { "not privileged" } else { "privileged" };
        self.fact("role", &format!("{}, {privileges}", reached.role));
        self.fact("search_path", &reached.search_path);
    }

    fn fact(&mut self, key: &str, value: &str) {
        let key = self.colors.padded(Style::Quiet, key, KEY);
        self.push(&format!("  {key}{}", printable(value)));
    }

    fn line(&mut self, indent: usize, style: Style, word: &str, text: &str) {
        let word = self.colors.padded(style, word, WORD);
        self.push(&format!("{}{word}{text}", " ".repeat(indent)));
    }

    fn warning(&mut self, indent: usize, warning: &Warning) {
        let word = self.colors.padded(Style::Warning, "warning", WORD);
        self.wrapped(indent, &word, WORD, &warning.text);
        if let Some(advice) = &warning.advice {
            self.advice(indent + WORD, advice);
        }
    }

    fn advice(&mut self, indent: usize, advice: &str) {
        let arrow = self.colors.paint(Style::Quiet, "-> ");
        self.wrapped(indent, &arrow, 3, advice);
    }

    /// A text after its mark (of `width` on the screen), its further lines under its first.
    fn wrapped(&mut self, indent: usize, mark: &str, width: usize, text: &str) {
        let room = reading_width().saturating_sub(indent + width);
        for (index, line) in wrapped(&printable(text), room).into_iter().enumerate() {
            let mark = if index == 0 { mark.to_owned() } else { " ".repeat(width) };
            self.push(&format!("{}{mark}{line}", " ".repeat(indent)));
        }
    }

    fn explain(&mut self, trouble: &Trouble) {
        let indent = " ".repeat(2 + WORD);
        for further in &trouble.further {
            for line in further.lines() {
                self.push(&format!("{indent}{}", printable(line)));
            }
        }
        match &trouble.excerpt {
            Some(Excerpt::Sql { line, text, column }) => {
                let (text, column) = window(text, *column);
                let margin = format!("line {line}: ");
                let caret = " ".repeat(margin.chars().count() + column);
                let arrow = self.colors.paint(Style::Bad, "^");
                self.push(&format!("{indent}{}{text}", self.colors.paint(Style::Quiet, &margin)));
                self.push(&format!("{indent}{caret}{arrow}"));
            }
            Some(Excerpt::Wrapper) | None => {}
        }
        self.advice(2 + WORD, &trouble.advice);
    }

    fn query(&mut self, query: &OfQuery, widths: Widths) {
        let name = self.colors.padded(Style::Heading, &query.name, widths.name);
        match &query.outcome {
            Outcome::Answered(answer) => {
                let value = self.colors.padded(Style::Heading, &value(answer), widths.value);
                let text = format!("{name}  {value}  {}{}", activity(answer), self.timing(query));
                self.line(2, Style::Good, "ok", &text);
                if answer.at_least {
                    self.advice(2 + WORD, backlog::REMARK);
                }
            }
            Outcome::Grouped { keys, first } => {
                let told = plural(*keys, "key", "keys");
                self.line(2, Style::Good, "ok", &format!("{name}  {told}{}", self.timing(query)));
                let indent = " ".repeat(2 + WORD);
                for (key, answer) in first {
                    self.push(&format!("{indent}{} = {}, {}", printable(key), value(answer), activity(answer)));
                }
                if *keys > first.len() {
                    self.push(&format!("{indent}and {} more", *keys - first.len()));
                }
            }
            Outcome::Skipped { missing } => {
                let options: Vec<String> = missing.iter().map(|name| format!("--param {name}=VALUE")).collect();
                self.line(2, Style::Quiet, "skipped", &format!("{name}  to run it, add {}", options.join(" ")));
            }
            Outcome::NotAsked => self.line(2, Style::Quiet, "unasked", &name),
            Outcome::Absent(trouble) => {
                self.line(2, Style::Warning, "warning", &format!("{name}  {}", printable(&trouble.message)));
                self.explain(trouble);
            }
            Outcome::Failed(trouble) => {
                let text = format!("{name}  {}{}", printable(&trouble.message), self.timing(query));
                self.line(2, Style::Bad, "failed", &text);
                self.explain(trouble);
            }
        }
        if let Some(plan) = &query.plan {
            let text = self.colors.paint(Style::Quiet, &described(plan));
            self.push(&format!("{}{text}", " ".repeat(2 + WORD)));
        }
        for warning in &query.warnings {
            self.warning(2 + WORD, warning);
        }
    }

    fn timing(&self, query: &OfQuery) -> String {
        let text = query.took.map_or_else(String::new, |duration| format!("  {}", elapsed(duration)));
        self.colors.paint(Style::Quiet, &text)
    }
}

fn value(answer: &Answer) -> String {
    let at_least = if answer.at_least { "at least " } else { "" };
    let value = format!("{at_least}{}", number(answer.value));
    if answer.divide_by == 1.0 && answer.value == answer.undivided {
        return value;
    }
    format!("{value} = {} / {}, {}", number(answer.undivided), number(answer.divide_by), rounded(answer.rounding))
}

fn rounded(rounding: &str) -> &'static str {
    match rounding {
        "ceil" => "rounded up",
        "floor" => "rounded down",
        "nearest" => "rounded to the nearest",
        _ => "not rounded",
    }
}

fn activity(answer: &Answer) -> String {
    let (activity, activation) = (number(answer.activity), number(answer.activation));
    if answer.active {
        format!("active ({activity} > {activation})")
    } else {
        format!("inactive ({activity} is not above {activation})")
    }
}

fn described(plan: &OfPlan) -> String {
    let reads = if plan.relations.is_empty() { "no table".to_owned() } else { plan.relations.join(", ") };
    let rows = if plan.rows == 1.0 { "row" } else { "rows" };
    printable(&format!("reads {reads}; plan cost {:.2}, {:.0} {rows} expected", plan.cost, plan.rows))
}

/// The part of a long line around a column, without control characters.
fn window(text: &str, column: usize) -> (String, usize) {
    let characters: Vec<char> = printable(text).chars().collect();
    let start = column.saturating_sub(EXCERPT / 2).min(characters.len().saturating_sub(EXCERPT));
    (characters.iter().skip(start).take(EXCERPT).collect(), column - start)
}
