//! The list of what changed around the moment.

use std::time::Duration;

use time::OffsetDateTime;

use super::story::{ONE_POLL, Story, alike, held};
use crate::{
    recorder::{Change, Event, History, Incident, TriggerHistory},
    terminal::{
        reading_width,
        style::{ColorChoice, Style},
        text::{number, plural, printable, span, wrapped},
    },
};

/// The most changes that are shown of a process, those around the moment.
const MOST_LINES: usize = 40;

impl Story<'_> {
    /// Lists the changes around the moment.
    pub(super) fn list(&self, history: &History, colors: ColorChoice, lines: &mut Vec<String>) {
        if history.started_at > history.until {
            return;
        }
        let several = history.triggers.iter().any(|trigger| trigger.query != history.triggers[0].query);
        let mut changes: Vec<(OffsetDateTime, String, Style)> = Vec::new();
        // Before what they may have caused in the same moment.
        for (index, trigger) in history.triggers.iter().enumerate().skip(1).filter(|(_, one)| one.target.is_some()) {
            let mut before = history.triggers[..index].iter().filter(|before| before.query == trigger.query);
            let is_later = before.any(|before| before.first_asked_at + ONE_POLL < trigger.first_asked_at);
            let is_told = trigger.changes.iter().any(|change| matches!(change.event, Event::Metadata { .. }));
            if is_later && !is_told && trigger.first_asked_at >= history.from {
                let text = "the trigger's metadata changed, or its query's target, activation or divisor";
                changes.push((trigger.first_asked_at, text.to_owned(), Style::Quiet));
            }
            if let Some(before) = self.query_before(trigger, history) {
                let text = format!("the trigger's query changed from {} to {}", before.query, trigger.query);
                changes.push((trigger.first_asked_at, text, Style::Quiet));
            }
        }
        for trigger in &history.triggers {
            let query = match (several, alike(trigger, history)) {
                (true, Some((number, count))) => format!("{} ({number} of {count}): ", trigger.query),
                (true, None) => format!("{}: ", trigger.query),
                (false, Some((number, count))) => format!("trigger {number} of {count}: "),
                (false, None) => String::new(),
            };
            let shown = trigger.changes.iter().filter(|change| change.at >= history.from);
            changes.extend(shown.map(|change| {
                let (text, style) = self.change(change, trigger);
                (change.at, format!("{query}{text}"), style)
            }));
        }
        let shown = history.incidents.iter().filter(|happening| happening.at >= history.from);
        changes.extend(shown.map(|happening| {
            let (text, style) = incident(&happening.incident);
            (happening.at, text, style)
        }));
        if history.started_at >= history.from {
            changes.push((history.started_at, "the process started".to_owned(), Style::Quiet));
        }
        if history.triggers_left_off > 0 {
            let others = plural(history.triggers_left_off, "other trigger", "other triggers");
            self.say(
                &format!("{others} of this object, with other metadata, are not told: KEDA asked for too many."),
                lines,
            );
        }
        changes.sort_by_key(|(at, _, _)| *at);
        let before = changes.partition_point(|(at, _, _)| *at <= self.at);
        let first = before.saturating_sub(MOST_LINES / 2).min(changes.len().saturating_sub(MOST_LINES));
        let shown = &changes[first..changes.len().min(first + MOST_LINES)];
        let (from, until) =
            (self.time(history.from.max(history.started_at)), self.time(history.until.min(history.now)));
        if shown.is_empty() {
            return self.say(&format!("Nothing changed from {from} to {until}."), lines);
        }
        let left_off =
            changes.len() - shown.len() + history.triggers.iter().map(|trigger| trigger.left_off).sum::<usize>();
        let more = match left_off {
            0 => String::new(),
            number => format!(", without {} further away", plural(number, "change", "changes")),
        };
        self.say(&format!("What changed from {from} to {until}{more}:"), lines);
        for (at, text, style) in shown {
            let time = self.time(*at);
            let indent = " ".repeat(time.chars().count() + 2);
            let room = reading_width().saturating_sub(indent.len() + 4);
            let text: Vec<String> = wrapped(text, room).iter().map(|line| colors.paint(*style, line)).collect();
            let time = colors.paint(Style::Quiet, &time);
            lines.push(format!("    {time}  {}", text.join(&format!("\n    {indent}"))));
        }
    }

    /// Returns the trigger of another query that a trigger has taken the place of.
    pub(super) fn query_before<'a>(
        &self,
        trigger: &TriggerHistory,
        history: &'a History,
    ) -> Option<&'a TriggerHistory> {
        let began = trigger.first_asked_at;
        let others = history.triggers.iter().filter(|other| other.target.is_some() && other.first_asked_at < began);
        let latest = others.max_by_key(|other| other.last_asked_at)?;
        let has_left = latest.query != trigger.query && latest.last_asked_at < began && history.now > began + ONE_POLL;
        (has_left && began >= history.from).then_some(latest)
    }

    fn change(&self, change: &Change, trigger: &TriggerHistory) -> (String, Style) {
        let word = |active: bool| if active { "active" } else { "inactive" };
        match &change.event {
            Event::Value { value } => {
                let target = trigger.target.map_or_else(String::new, |target| format!(" / {}", number(target)));
                (format!("value {}{target}", number(*value)), Style::Good)
            }
            Event::Activity { active } => (word(*active).to_owned(), Style::Good),
            Event::Pushed { active } => (format!("{}, by a stream", word(*active)), Style::Good),
            Event::NoValue { code, text } => (format!("no value: {code}, \"{}\"", printable(text)), Style::Bad),
            Event::NoActivity { code, text } => (format!("no activity: {code}, \"{}\"", printable(text)), Style::Bad),
            Event::Refusal { code, text } => (format!("refused: {code}, \"{}\"", printable(text)), Style::Bad),
            Event::Silence { since, .. } => {
                (format!("KEDA asked again, which it had not done since {}", self.time(*since)), Style::Warning)
            }
            Event::Metadata { keys } => {
                (format!("the trigger's metadata changed: {}", printable(keys)), Style::Warning)
            }
        }
    }
}

fn incident(incident: &Incident) -> (String, Style) {
    let with = |text: &str, detail: &str| match detail {
        "" => text.to_owned(),
        detail => format!("{text}: {}", printable(detail)),
    };
    match incident {
        Incident::Reload { changed } => (with("the configuration was reloaded", changed), Style::Quiet),
        Incident::ReloadRejected { fault } => {
            (with("a wrong configuration was rejected, and the one before stayed in force", fault), Style::Warning)
        }
        Incident::DatabaseDown { database, reason, step } => {
            (with(&format!("database {database} failed ({reason})"), step.as_deref().unwrap_or_default()), Style::Bad)
        }
        Incident::DatabaseUp { database } => (format!("database {database} answered again"), Style::Good),
        Incident::Standby { database } => {
            (format!("readings of {database} came from a standby, and from a primary before"), Style::Warning)
        }
        Incident::Primary { database } => (format!("readings of {database} came from a primary again"), Style::Good),
        Incident::Deaf { database, reason } => {
            let text = format!("notifications of {database} did not arrive any more");
            // A process of the version before gives no reason.
            (if reason.is_empty() { text } else { format!("{text} ({reason})") }, Style::Warning)
        }
        Incident::Unannounced { query, database } => (
            format!(
                "a change of {query} came without a notification of {database}: is the table's NOTIFY trigger gone?"
            ),
            Style::Warning,
        ),
        Incident::SearchPath { database } => (
            format!("the search_path of the role in {database} changed: names of tables may mean others"),
            Style::Warning,
        ),
        Incident::SearchPathSet { database } => {
            (format!("the configuration set the search_path of {database}"), Style::Good)
        }
        Incident::PoolFull { database, held_by } => {
            (with(&format!("readings of {database} had to wait for a connection"), &held(held_by)), Style::Warning)
        }
        Incident::PoolFree { database } => {
            (format!("readings of {database} waited for a connection no more"), Style::Good)
        }
        Incident::Standstill { seconds } => (
            format!(
                "the process had stood still for {}: it had no CPU, or was paused",
                span(Duration::from_secs(*seconds).as_secs_f64())
            ),
            Style::Bad,
        ),
        Incident::Hearing { database } => (format!("notifications of {database} arrived again"), Style::Good),
    }
}
