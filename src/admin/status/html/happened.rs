//! The lists of what happened: events with their ends, and reloads.

use super::{
    super::{
        Event, Reload, ReloadResult, Status,
        lately::{Change, Subject},
    },
    Markup, end_table, error, span_of,
};
use crate::{admin::status::clock::DAY, terminal::text::plural};

/// The most changes below the headline.
const CHANGES: usize = 5;

/// The most events and reloads on the page, and the most faults of a reload.
const EVENTS: usize = 12;
const RELOADS: usize = 10;
const FAULTS: usize = 3;

impl Status {
    /// Writes what changed lately, if anything did.
    pub(super) fn change_list(&self, markup: &mut Markup) {
        let changes = self.changes();
        if changes.is_empty() {
            return;
        }
        markup.raw("<h3>Changed lately</h3><ul>");
        for change in changes.iter().take(CHANGES) {
            self::change(markup, change);
        }
        markup.raw("</ul>");
        if let more @ 1.. = changes.len().saturating_sub(CHANGES) {
            markup.raw(format_args!("<p class=\"quiet\">{more} more below.</p>"));
        }
    }

    pub(super) fn event_list(&self) -> String {
        let mut markup = Markup::default();
        markup
            .raw("<section id=\"events\" aria-labelledby=\"events-title\"><h2 id=\"events-title\">Latest events</h2>");
        if self.events.is_empty() {
            markup.raw("<p class=\"quiet\">Nothing went wrong within the last day, as far as this process knows.</p></section>");
            return markup.0;
        }
        markup.raw("<table><caption class=\"sr\">The latest events</caption><thead><tr><th>Event<th>When<th>Over");
        markup.raw("</thead><tbody>");
        for event in self.events.iter().take(EVENTS) {
            event_row(&mut markup, event);
        }
        end_table(&mut markup, self.events.len(), EVENTS);
        markup.0
    }

    pub(super) fn reload_list(&self) -> String {
        let mut markup = Markup::default();
        markup.raw("<section id=\"reloads\" aria-labelledby=\"reloads-title\"><h2 id=\"reloads-title\">Reloads</h2>");
        if self.reloads.is_empty() {
            markup.raw("<p class=\"quiet\">The configuration is the one of the start.</p></section>");
            return markup.0;
        }
        markup.raw("<table><caption class=\"sr\">The latest reloads</caption><thead><tr><th>Result<th>When<th>What");
        markup.raw("</thead><tbody>");
        for reload in self.reloads.iter().take(RELOADS) {
            reload_row(&mut markup, reload);
        }
        end_table(&mut markup, self.reloads.len(), RELOADS);
        markup.0
    }
}

fn change(markup: &mut Markup, change: &Change<'_>) {
    let Change { at, until, word, subject, others, text } = change;
    markup.raw("<li>").badge("dim", word).raw("<span>");
    match subject {
        Subject::Configuration => markup.raw("<b>the configuration</b>"),
        Subject::Process => markup.raw("<b>this process</b>"),
        Subject::Database(name) => markup.raw("database <b>").name(name).raw("</b>"),
        Subject::Query(name) => markup.raw("query <b>").name(name).raw("</b>"),
        Subject::Trigger { namespace, name } => markup.raw("<b>").name(namespace).raw("/").name(name).raw("</b>"),
    };
    if *others > 0 {
        markup.raw(format_args!(" and {}", plural(*others, "other trigger", "other triggers")));
    }
    match until.filter(|until| until != at) {
        Some(until) => {
            let lasted = span_of(at.age.saturating_sub(until.age));
            markup.raw(format_args!(" for {lasted}, until {}, ", until.time_of_day())).age(&until).raw(" ago")
        }
        // The minute of the last change is known, and not the second.
        None if matches!(subject, Subject::Query(_)) => &mut *markup,
        None => markup.raw(" at ").raw(at.time_of_day()).raw(", ").age(at).raw(" ago"),
    };
    markup.raw("<span class=\"cause\">").text(text).raw("</span></span></li>");
}

fn event_row(markup: &mut Markup, event: &Event) {
    markup.raw("<tr><td>").badge("", event.word).raw(" <b>");
    match (&event.database, &event.namespace, &event.name) {
        (_, Some(namespace), Some(name)) => markup.name(namespace).raw("/").name(name),
        (Some(database), ..) => markup.name(database),
        _ => markup.raw("this process"),
    };
    markup.raw("</b>");
    if let Some(query) = &event.query {
        markup.raw(" (").name(query).raw(")");
    }
    if event.others > 0 {
        markup.raw(format_args!(" and {}", plural(event.others, "other trigger", "other triggers")));
    }
    error(markup, Some(event.text.as_str()).filter(|text| !text.is_empty()));
    let day = if event.at.age < DAY { String::new() } else { format!("{} ", event.at.date()) };
    markup.raw("<td>").age(&event.at).raw(format_args!(" ago, at {day}{}<td>", event.at.time_of_day()));
    match &event.until {
        None => markup.raw("not&nbsp;yet"),
        Some(until) if *until == event.at => markup,
        Some(until) => {
            let lasted = span_of(event.at.age.saturating_sub(until.age));
            markup.raw(format_args!("after {lasted}, at {}", until.time_of_day()))
        }
    };
}

fn reload_row(markup: &mut Markup, reload: &Reload) {
    let (class, word) = match reload.result {
        ReloadResult::Applied => ("good", "applied"),
        ReloadResult::Rejected => ("bad", "rejected"),
    };
    markup.raw("<tr><td>").badge(class, word).raw("<td>").age(&reload.at).raw(" ago, at ").raw(reload.at.time_of_day());
    markup.raw("<td>").text(reload.changed.as_deref().unwrap_or_default());
    for fault in reload.faults.iter().take(FAULTS) {
        markup.raw("<div>").text(fault).raw("</div>");
    }
    if let more @ 1.. = reload.faults.len().saturating_sub(FAULTS) {
        markup.raw(format_args!("<div>{}</div>", plural(more, "more fault", "more faults")));
    }
}
