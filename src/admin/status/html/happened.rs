//! The lists of what happened: events with their ends, and reloads.

use std::time::Duration;

use super::{
    super::{Event, Reload, ReloadResult, Status, clock::Moment},
    Markup, end_table, error, span_of,
};
use crate::{admin::status::clock::DAY, terminal::text::plural};

/// The time for which a change stands below the headline, and the most of them.
const LATELY: Duration = Duration::from_secs(1_800);
const CHANGES: usize = 3;

/// The most events and reloads on the page, and the most faults of a reload.
const EVENTS: usize = 12;
const RELOADS: usize = 10;
const FAULTS: usize = 3;

impl Status {
    /// Returns a line about what changed lately, if anything did. All may be well, and be something else than before.
    pub(super) fn changed_lately(&self) -> String {
        let events = self.events.iter().filter(|event| ["changed", "path", "started", "still"].contains(&event.word));
        let reloads = self.reloads.iter().filter(|reload| reload.result == ReloadResult::Applied);
        let mut changes: Vec<(Moment, Option<&Event>, String)> = events
            .map(|event| (event.until.unwrap_or(event.at), Some(event), event.text.clone()))
            .chain(reloads.map(|reload| {
                let changed = reload.changed.as_deref().unwrap_or_default();
                (reload.at, None, format!("a reload changed {changed}"))
            }))
            .filter(|(at, ..)| at.age < LATELY)
            .collect();
        changes.sort_by_key(|(at, ..)| at.age);
        let mut markup = Markup::default();
        for (index, (at, event, text)) in changes.iter().take(CHANGES).enumerate() {
            markup.raw(if index == 0 { "<p class=\"quiet\">Changed lately: " } else { "; " });
            if let Some(Event { namespace: Some(namespace), name: Some(name), .. }) = event {
                markup.name(namespace).raw("/").name(name).raw(": ");
            } else if let Some(Event { database: Some(database), .. }) = event {
                markup.raw("database ").name(database).raw(": ");
            }
            markup.text(text).raw(", ").age(at).raw(" ago");
        }
        match changes.len().saturating_sub(CHANGES) {
            _ if changes.is_empty() => return String::new(),
            0 => markup.raw(".</p>"),
            more => markup.raw(format_args!("; {more} more below.</p>")),
        };
        markup.0
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
        None => markup.raw("not yet"),
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
