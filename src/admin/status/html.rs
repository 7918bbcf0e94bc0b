//! The state as a page: a template, in which the tables are made here.
//!
//! Everything that is not written here is escaped. The page is right without JavaScript; its script only puts a newer
//! page's parts in the place of the older ones.

mod happened;
mod triggers;

use std::{
    fmt::{Display, Write as _},
    sync::LazyLock,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

use super::{
    Breaker, Database, DatabaseState, Query, QueryState, Role, Status, TriggerState,
    clock::Moment,
    problems::{Problem, Subject, Weight},
    view::{Sort, View},
};
use crate::{
    plot::sparkline,
    terminal::text::{elapsed, number, plural, span},
};

/// The page, with places in double braces.
const TEMPLATE: &str = include_str!("page.html");

/// The most databases and queries on the page, and problems above them: so that the page stays below 100 KiB,
/// whatever there is.
const DATABASES: usize = 20;
const QUERIES: usize = 25;
const PROBLEMS: usize = 8;

/// The most characters of a text that the page shows. JSON has it in full.
const LONGEST_TEXT: usize = 200;

/// The header that lets the page's own script and style run, and nothing else.
pub(in crate::admin) static CONTENT_SECURITY_POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |tag: &str| {
        let (_, rest) = TEMPLATE.split_once(&format!("<{tag}>")).expect("the template has it");
        let (text, _) = rest.split_once(&format!("</{tag}>")).expect("the template has it");
        format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
    };
    format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'",
        hash("style"),
        hash("script")
    )
});

/// Markup under way.
#[derive(Default)]
struct Markup(String);

impl Markup {
    /// Writes markup of our own.
    fn raw(&mut self, markup: impl Display) -> &mut Self {
        write!(self.0, "{markup}").expect("a string takes everything");
        self
    }

    /// Writes a text from elsewhere: escaped, without control characters, and cut if it is too long.
    fn text(&mut self, text: &str) -> &mut Self {
        for (index, character) in text.chars().enumerate() {
            match character {
                _ if index == LONGEST_TEXT => {
                    self.0.push_str("...");
                    break;
                }
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                control if control.is_control() => self.0.push('\u{fffd}'),
                other => self.0.push(other),
            }
        }
        self
    }

    /// Writes a name. It is isolated, so that right-to-left letters in it do not reorder the text around it.
    fn name(&mut self, name: &str) -> &mut Self {
        self.raw("<bdi>").text(name).raw("</bdi>")
    }

    fn badge(&mut self, class: &str, word: &str) -> &mut Self {
        self.raw(format_args!("<span class=\"badge {class}\">{word}</span>"))
    }

    /// Writes how long ago a moment was, and for how long the state since then has lasted.
    fn age(&mut self, moment: &Moment) -> &mut Self {
        let Moment { age, .. } = moment;
        self.raw(format_args!("<time datetime=\"{}\">{}</time>", moment.rfc3339(), span_of(*age)))
    }

    fn since(&mut self, moment: &Moment) -> &mut Self {
        self.raw("for ").age(moment).raw(format_args!(", since {}", moment.time_of_day()))
    }
}

impl Status {
    /// Returns the page.
    pub(in crate::admin) fn html(&self, view: &View) -> String {
        let (headline, weight) = self.headline();
        let mut title = Markup::default();
        title.raw(if weight.is_some() { "\u{26a0} " } else { "\u{2713} " }).text(&headline).raw(" - clapometer");
        let mut find = Markup::default();
        find.text(&view.find);
        let mut kept = String::new();
        for (name, word) in [("state", view.state.map(TriggerState::word)), ("sort", Some(view.sort.word()))] {
            if let Some(word) = word.filter(|word| *word != Sort::default().word() || name == "state") {
                kept += &format!("<input type=\"hidden\" name=\"{name}\" value=\"{word}\">");
            }
        }
        let parts = [
            ("title", title.0),
            ("find", find.0),
            ("kept", kept),
            ("who", self.who()),
            ("now", self.now(&headline, weight)),
            ("databases", self.database_table()),
            ("queries", self.query_table()),
            ("events", self.event_list()),
            ("triggers", self.trigger_list(view)),
            ("reloads", self.reload_list()),
        ];
        // Each mark is searched for behind the one before it, and never in a text that was put in.
        let mut page = String::with_capacity(TEMPLATE.len() + parts.iter().map(|(_, part)| part.len()).sum::<usize>());
        let mut rest = TEMPLATE;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after.split_once("}}").expect("the template closes its braces");
            page.push_str(before);
            let (_, part) = parts.iter().find(|(part, _)| *part == name).expect("the template names parts that exist");
            page.push_str(part);
            rest = after;
        }
        page + rest
    }

    fn who(&self) -> String {
        let mut markup = Markup::default();
        let process = &self.process;
        markup.raw("<p id=\"who\"><b>").name(&process.name).raw("</b> ");
        markup.raw(format_args!("{} ({}), up for ", process.version, process.commit)).age(&process.started_at);
        let since = format!(" since {} {}", process.started_at.date(), process.started_at.time_of_day());
        markup.raw(since).raw(format_args!("; seen at {}. All times are UTC.</p>", process.now.time_of_day()));
        markup.0
    }

    fn now(&self, headline: &str, weight: Option<Weight>) -> String {
        let mut markup = Markup::default();
        let class = match weight {
            Some(Weight::Bad) => "bad",
            Some(Weight::Warning | Weight::Note) => "warn",
            None => "good",
        };
        markup.raw(format_args!("<section id=\"now\" class=\"{class}\" aria-label=\"Now\"><h2>{headline}</h2>"));
        let answered = plural(self.count(TriggerState::Answered), "trigger is answered", "triggers are answered");
        let held = match self.held() {
            0 => String::new(),
            1 => ", 1 of them not active although its value is above 0".to_owned(),
            held => format!(", {held} of them not active although their values are above 0"),
        };
        let (queries, databases) = (self.queries.len(), self.databases.len());
        let (queries, databases) = (plural(queries, "query", "queries"), plural(databases, "database", "databases"));
        markup.raw(format_args!("<p class=\"quiet\">{answered}{held}; {queries} on {databases} configured."));
        if self.count(TriggerState::Refused) + self.count(TriggerState::Failing) > 0 {
            markup.raw(" For one that is told an error KEDA starts nothing, and stops nothing that runs.");
        }
        markup.raw("</p>");
        let problems = self.problems();
        if !problems.is_empty() {
            markup.raw("<ul>");
            for problem in problems.iter().take(PROBLEMS) {
                self::problem(&mut markup, problem);
            }
            markup.raw("</ul>");
            if let more @ 1.. = problems.len().saturating_sub(PROBLEMS) {
                markup.raw(format_args!("<p class=\"quiet\">{more} more below.</p>"));
            }
        }
        self.change_list(&mut markup);
        markup.raw("</section>").0.clone()
    }

    fn database_table(&self) -> String {
        let mut markup = Markup::default();
        let columns = "<th>Database<th>State<th>Role<th class=\"wide\">Breaker<th class=\"wide\">Notifications\
                       <th class=\"n wide\">Statements";
        begin_table(&mut markup, "databases", "Databases", self.databases.len(), columns);
        for database in self.databases.iter().take(DATABASES) {
            database_row(&mut markup, database);
        }
        end_table(&mut markup, self.databases.len(), DATABASES);
        markup.0
    }

    fn query_table(&self) -> String {
        let mut markup = Markup::default();
        let columns = "<th>Query<th>State<th class=\"n\">Value<th class=\"tablet\">Last hour<th class=\"n wide\">Activity\
                       <th class=\"n wide\">Age<th class=\"n wide\">Took<th class=\"n wide\">Statements";
        begin_table(&mut markup, "queries", "Queries", self.queries.len(), columns);
        for query in self.queries.iter().take(QUERIES) {
            query_row(&mut markup, query);
        }
        end_table(&mut markup, self.queries.len(), QUERIES);
        markup.0
    }
}

fn problem(markup: &mut Markup, problem: &Problem<'_>) {
    let class = match problem.weight {
        Weight::Bad => "bad",
        Weight::Warning => "warn",
        Weight::Note => "dim",
    };
    markup.raw("<li>").badge(class, problem.word).raw("<span>");
    match &problem.subject {
        Subject::Configuration => markup.raw("<b>the configuration on disk</b>; the last good one is in force"),
        Subject::QueryFile(name) => markup.raw("query file <b>").name(name).raw("</b>"),
        Subject::Certificate(key) => markup.raw("certificate <b>").text(key).raw("</b>"),
        Subject::Database(name) => markup.raw("database <b>").name(name).raw("</b>"),
        Subject::Query(name) => markup.raw("query <b>").name(name).raw("</b>"),
        Subject::Trigger { namespace, name, query } => {
            markup.raw("<b>").name(namespace).raw("/").name(name).raw("</b>, query ").name(query)
        }
        Subject::MoreTriggers(more, state) => {
            let there = View { state: Some(*state), ..View::default() };
            let triggers = plural(*more, "more trigger", "more triggers");
            markup.raw("<a href=\"").text(&there.address()).raw(format_args!("\">{triggers}</a>"))
        }
        Subject::Keda => markup.raw("<b>KEDA</b>"),
    };
    if let Some(since) = &problem.since {
        markup.raw(" ").since(since);
    }
    if !problem.text.is_empty() {
        markup.raw("<span class=\"cause\">").text(&problem.text).raw("</span>");
    }
    if let Some(remedy) = problem.remedy {
        markup.raw("<span class=\"error\">");
        // A word in backquotes is code.
        for (index, part) in remedy.split('`').enumerate() {
            let (begin, end) = if index % 2 == 1 { ("<code>", "</code>") } else { ("", "") };
            markup.raw(begin).text(part).raw(end);
        }
        markup.raw("</span>");
    }
    markup.raw("</span></li>");
}

fn begin_table(markup: &mut Markup, id: &str, title: &str, count: usize, columns: &str) {
    markup.raw(format_args!(
        "<section id=\"{id}\" aria-labelledby=\"{id}-title\"><h2 id=\"{id}-title\">{title} <small>{count}</small></h2>\
         <table><caption class=\"sr\">{title}</caption><thead><tr>{columns}</thead><tbody>"
    ));
}

fn end_table(markup: &mut Markup, count: usize, shown: usize) {
    markup.raw("</tbody></table>");
    if let more @ 1.. = count.saturating_sub(shown) {
        markup.raw(format_args!("<p class=\"quiet\">{more} more in <a href=\"/api/status\">/api/status</a>.</p>"));
    }
    markup.raw("</section>");
}

fn database_row(markup: &mut Markup, database: &Database) {
    let (class, word) = match database.state {
        DatabaseState::Down => ("bad", "down"),
        DatabaseState::Unknown => ("", "unknown"),
        DatabaseState::Up => ("good", "up"),
        DatabaseState::Disabled => ("", "disabled"),
    };
    markup.raw("<tr><td>").name(&database.name).raw("<td>").badge(class, word).raw(" ").since(&database.since);
    error(markup, database.error.as_deref());
    markup.raw("<td>").raw(match database.role {
        Some(Role::Primary) => "primary",
        Some(Role::Standby) => "standby<span class=\"error\">as old as its replay</span>",
        None => "not known",
    });
    if database.privileged == Some(true) {
        markup.raw("<span class=\"error\">can do more than read</span>");
    }
    markup.raw("<td class=\"wide\">").raw(match database.breaker {
        Breaker::Closed => "closed",
        Breaker::Open => "open",
    });
    markup.raw("<td class=\"wide\">").raw(match database.notifications {
        Some(true) => "arrive",
        Some(false) => "do not arrive",
        None => "not used",
    });
    markup.raw(format_args!("<td class=\"n wide\">{}", database.statements));
}

fn query_row(markup: &mut Markup, query: &Query) {
    let (class, word) = match query.state {
        QueryState::Failing => ("bad", "failing"),
        QueryState::Good => ("good", "good"),
        QueryState::Unread => ("", "unread"),
    };
    markup.raw("<tr><td>").name(&query.name).raw("<td>").badge(class, word);
    if let Some(since) = &query.since {
        markup.raw(" ").since(since);
    }
    error(markup, query.error.as_deref());
    if let Some(read_at) = query.old_reading() {
        let text = format!("read {} ago: max_age is {}", span_of(read_at.age), span_of(query.max_age));
        error(markup, Some(&text));
    }
    if let Some(changed_at) = &query.changed_at {
        error(markup, Some(&format!("changed by a reload at {}", changed_at.time_of_day())));
    }
    markup.raw("<td class=\"n\">");
    match (query.value, query.keys) {
        (Some(value), _) => markup.raw(number(value)),
        (None, Some(keys)) => markup.raw(plural(keys, "key", "keys")),
        (None, None) => markup,
    };
    markup.raw("<td class=\"tablet\">");
    let known = query.history.iter().flatten();
    let (least, most) = known.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), value| (a.min(*value), b.max(*value)));
    if least <= most {
        markup.raw(sparkline(&query.history, query.changed_minute()));
        markup.raw(format_args!("<span class=\"sr\">peaks from {} to {}</span>", number(least), number(most)));
    }
    markup.raw("<td class=\"n wide\">").raw(query.activity.map_or_else(String::new, number));
    markup.raw("<td class=\"n wide\">");
    if let Some(read_at) = &query.read_at {
        markup.age(read_at);
    }
    let took = query.duration_seconds.map(|seconds| elapsed(Duration::from_secs_f64(seconds))).unwrap_or_default();
    markup.raw(format_args!("<td class=\"n wide\">{took}<td class=\"n wide\">{}", query.statements));
}

fn error(markup: &mut Markup, error: Option<&str>) {
    if let Some(text) = error {
        markup.raw("<span class=\"error\">").text(text).raw("</span>");
    }
}

fn span_of(age: Duration) -> String {
    // Tenths of a second are noise on a page that is some seconds old.
    if age < Duration::from_secs(10) { format!("{}s", age.as_secs()) } else { span(age.as_secs_f64()) }
}

#[cfg(test)]
mod tests;
