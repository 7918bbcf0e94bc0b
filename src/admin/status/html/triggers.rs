//! The list of triggers: what KEDA was told about each, and what that comes to.

use super::{
    super::{
        Status, Trigger, TriggerChange, TriggerState, Variant,
        clock::DAY,
        view::{Sort, View},
    },
    Markup, error,
};
use crate::{
    recorder::shortened_list,
    terminal::text::{number, plural},
};

/// The most triggers on one page.
const TRIGGERS: usize = 50;

/// The most lines of a page for the triggers of objects that have several.
const LINES: usize = 24;

/// The most bytes of the names of keys that changed.
const LONGEST_LIST: usize = 80;

impl Status {
    pub(super) fn trigger_list(&self, view: &View) -> String {
        let mut markup = Markup::default();
        markup.raw("<div id=\"list\">");
        let mut shown: Vec<&Trigger> = self.triggers.iter().filter(|trigger| trigger.has(&view.find)).collect();
        self.state_links(&mut markup, &shown, view);
        shown.retain(|trigger| view.state.is_none_or(|state| trigger.state == state));
        shown.sort_by(|a, b| view.sort.compare(a, b));
        let pages = shown.len().div_ceil(TRIGGERS).max(1);
        let page = view.page.min(pages - 1);
        if shown.is_empty() {
            let found = if self.triggers.is_empty() { "KEDA has not asked for any trigger." } else { "None found." };
            markup.raw(format_args!("<p>{found}</p>"));
        } else {
            markup.raw("<table><caption class=\"sr\">Triggers</caption><thead><tr>");
            for (sort, title, class) in [
                (Sort::Name, "Trigger", ""),
                (Sort::Query, "Query", "wide"),
                (Sort::State, "State", ""),
                (Sort::Value, "KEDA was told value / target", ""),
                (Sort::Asked, "Asked", "n tablet"),
            ] {
                sort_head(&mut markup, sort, title, class, view);
            }
            markup.raw("</thead><tbody>");
            let mut lines = LINES;
            for trigger in shown.iter().skip(page * TRIGGERS).take(TRIGGERS) {
                trigger_row(&mut markup, trigger, &mut lines);
            }
            markup.raw("</tbody></table>");
        }
        if pages > 1 {
            page_links(&mut markup, page, pages, view);
        }
        if self.untracked_requests > 0 {
            let requests =
                plural(usize::try_from(self.untracked_requests).unwrap_or(usize::MAX), "request", "requests");
            markup.raw(format_args!("<p class=\"quiet\">{requests} of triggers that found no place among these.</p>"));
        }
        markup.raw("</div>").0.clone()
    }

    fn state_links(&self, markup: &mut Markup, found: &[&Trigger], view: &View) {
        markup.raw("<nav aria-label=\"States of triggers\">");
        let all = [None].into_iter().chain(TriggerState::ALL.map(Some));
        for state in all {
            let count = found.iter().filter(|trigger| state.is_none_or(|state| trigger.state == state)).count();
            if count == 0 && state.is_some() && view.state != state {
                continue;
            }
            let there = View { state, page: 0, ..view.clone() };
            let current = if view.state == state { " aria-current=\"true\"" } else { "" };
            let word = state.map_or("all", TriggerState::word);
            markup.raw("<a href=\"").text(&there.address()).raw(format_args!("\"{current}>{word} {count}</a>"));
        }
        markup.raw("</nav>");
    }
}

impl Trigger {
    /// Returns whether a text is found in what the page shows of it.
    fn has(&self, find: &str) -> bool {
        let Self { namespace, name, query, code, error, .. } = self;
        let shown = format!("{namespace}/{name} {query} {} {}", code.unwrap_or(""), error.as_deref().unwrap_or(""));
        find.is_empty() || shown.to_lowercase().contains(find)
    }
}

fn trigger_row(markup: &mut Markup, trigger: &Trigger, lines: &mut usize) {
    let class = match trigger.state {
        TriggerState::Refused | TriggerState::Failing => "bad",
        TriggerState::Silent => "warn",
        TriggerState::Waiting => "",
        TriggerState::Answered => "good",
    };
    markup.raw("<tr><td>").name(&trigger.namespace).raw("/").name(&trigger.name);
    markup.raw("<td class=\"wide\">").name(&trigger.query);
    // Since when all is well needs room that a telephone does not have.
    let since = if trigger.state == TriggerState::Answered { " <span class=\"tablet\">" } else { " <span>" };
    markup.raw("<td>").badge(class, trigger.state.word()).raw(since).since(&trigger.since).raw("</span><td>");
    if trigger.state == TriggerState::Silent {
        markup.raw("last ");
    }
    match &trigger.variants[..] {
        [] => told(markup, trigger.told()),
        variants => told_to_several(markup, trigger, variants, lines),
    }
    let is_answered = trigger.code == Some("OK") && trigger.variants.is_empty();
    if let (Some(since), Some(before), true) = (&trigger.value_since, trigger.value_before, is_answered) {
        let day = if since.age < DAY { String::new() } else { format!("{} ", since.date()) };
        error(markup, Some(&format!("since {day}{}, {} before", since.time_of_day(), number(before))));
    }
    if let Some(TriggerChange { at, keys, numbers }) = &trigger.changed {
        let text = if numbers.is_empty() { shortened_list(keys, LONGEST_LIST) } else { numbers.clone() };
        let day = if at.age < DAY { String::new() } else { format!("{} ", at.date()) };
        error(markup, Some(&format!("changed at {day}{}: {text}", at.time_of_day())));
    }
    markup.raw("<td class=\"n tablet\">").age(&trigger.asked_at);
}

/// What one trigger was told.
struct Told<'a> {
    value: Option<f64>,
    is_active: Option<bool>,
    target: Option<f64>,
    code: Option<&'static str>,
    error: Option<&'a str>,
    effect: Option<&'a str>,
}

impl Trigger {
    fn told(&self) -> Told<'_> {
        let Self { value, active: is_active, target, code, .. } = *self;
        Told { value, is_active, target, code, error: self.error.as_deref(), effect: self.effect.as_deref() }
    }
}

impl Variant {
    fn told(&self) -> Told<'_> {
        let Self { value, active: is_active, target, code, .. } = *self;
        Told { value, is_active, target, code, error: self.error.as_deref(), effect: self.effect.as_deref() }
    }
}

fn told(markup: &mut Markup, told: Told<'_>) {
    let Told { value, is_active, target, code, .. } = told;
    let activity = is_active.map(|is_active| if is_active { "active" } else { "not active" }.to_owned());
    let value = value.map(|value| match target {
        Some(target) => format!("{} / {}", number(value), number(target)),
        None => number(value),
    });
    match code {
        Some(code) if code != "OK" => markup.raw(breakable(code)),
        _ => markup.raw([value, activity].into_iter().flatten().collect::<Vec<_>>().join(", ")),
    };
    error(markup, told.effect);
    error(markup, told.error);
}

/// Writes what each of several triggers of one object was told.
fn told_to_several(markup: &mut Markup, trigger: &Trigger, variants: &[Variant], lines: &mut usize) {
    let mut count = plural(variants.len(), "trigger", "triggers");
    if trigger.state == TriggerState::Refused {
        told(markup, trigger.told());
        count = format!("and {count} more");
    }
    let Some(left) = lines.checked_sub(variants.len()) else {
        markup.raw(format_args!("<div>{count}, see /api/status</div>"));
        return;
    };
    *lines = left;
    markup.raw(format_args!("<div>{count}:</div>"));
    for variant in variants {
        markup.raw("<div>");
        told(markup, variant.told());
        markup.raw("</div>");
    }
}

/// Lets a narrow screen break a code between its words.
fn breakable(code: &str) -> String {
    let mut markup = String::new();
    for (at, c) in code.char_indices() {
        markup += if at > 0 && c.is_ascii_uppercase() { "<wbr>" } else { "" };
        markup.push(c);
    }
    markup
}

fn sort_head(markup: &mut Markup, sort: Sort, title: &str, class: &str, view: &View) {
    let there = View { sort, page: 0, ..view.clone() };
    let order = match sort {
        Sort::Value | Sort::Asked => "descending",
        Sort::State | Sort::Name | Sort::Query => "ascending",
    };
    let current = if view.sort == sort { format!(" aria-sort=\"{order}\"") } else { String::new() };
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    let mark = if view.sort == sort { " \u{25be}" } else { "" };
    markup.raw(format_args!("<th scope=\"col\"{class}{current}><a href=\"")).text(&there.address());
    markup.raw(format_args!("\">{title}</a>{mark}"));
}

fn page_links(markup: &mut Markup, page: usize, pages: usize, view: &View) {
    markup.raw("<nav aria-label=\"Pages of triggers\">");
    let mut link = |to: usize, word: &str, is_there: bool| {
        if is_there {
            let there = View { page: to, ..view.clone() };
            markup.raw("<a href=\"").text(&there.address()).raw(format_args!("\">{word}</a>"));
        }
    };
    link(0, "first", page > 1);
    link(page.saturating_sub(1), "previous", page > 0);
    link(page + 1, "next", page + 1 < pages);
    link(pages - 1, "last", page + 2 < pages);
    markup.raw(format_args!("<span>page {} of {pages}</span></nav>", page + 1));
}
