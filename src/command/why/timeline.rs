//! The list of what changed around the moment.

use std::time::Duration;

use time::OffsetDateTime;

use super::story::{Story, alike, held};
use crate::{
    recorder::{Change, DroppedState, Event, History, Incident, ONE_POLL, RejectedFile, Served, TriggerHistory},
    terminal::{
        reading_width,
        style::{ColorChoice, Style},
        text::{number, plural, printable, span, wrapped},
    },
};

/// The most changes that are shown of a process.
const MOST_LINES: usize = 40;

/// A line of the list.
struct Line {
    at: OffsetDateTime,
    text: String,
    style: Style,
    /// True for an answer after an answer, which is what normal work is made of.
    is_routine: bool,
}

impl Line {
    fn new(at: OffsetDateTime, text: String, style: Style) -> Self {
        Self { at, text, style, is_routine: false }
    }
}

/// Returns as many lines as there is room for: those that are not routine, and those around the moment.
fn most_telling(lines: Vec<Line>, at: OffsetDateTime) -> Vec<Line> {
    let mut places: Vec<usize> = (0..lines.len()).collect();
    places.sort_by_key(|place| (lines[*place].is_routine, (lines[*place].at - at).abs()));
    places.truncate(MOST_LINES);
    let shown = lines.into_iter().enumerate().filter(|(place, _)| places.contains(place));
    shown.map(|(_, line)| line).collect()
}

impl Story<'_> {
    /// Lists the changes around the moment.
    pub(super) fn list(&self, history: &History, colors: ColorChoice, lines: &mut Vec<String>) {
        if history.started_at > history.until {
            return;
        }
        let several = history.triggers.iter().any(|trigger| trigger.query != history.triggers[0].query);
        let mut changes: Vec<Line> = Vec::new();
        // What may be the cause comes first among the changes of one second.
        if history.started_at >= history.from {
            changes.push(Line::new(history.started_at, "the process started".to_owned(), Style::Quiet));
        }
        let shown = history.incidents.iter().filter(|happening| happening.at >= history.from);
        changes.extend(shown.map(|happening| {
            let (text, style) = incident(&happening.incident);
            Line::new(happening.at, text, style)
        }));
        for (index, trigger) in history.triggers.iter().enumerate().skip(1) {
            let mut before = history.triggers[..index].iter().filter(|before| before.query == trigger.query);
            let is_later = trigger.target.is_some()
                && before.any(|before| before.first_asked_at + ONE_POLL < trigger.first_asked_at);
            let is_told = trigger.changes.iter().any(|change| matches!(change.event, Event::Metadata { .. }));
            let predecessor = self.predecessor(trigger, history);
            let text = match predecessor.filter(|before| before.query != trigger.query) {
                Some(before) => format!("the trigger's query changed from {} to {}", before.query, trigger.query),
                None if is_later && !is_told && trigger.first_asked_at >= history.from => {
                    changed_trigger(predecessor, trigger)
                }
                None => continue,
            };
            changes.push(Line::new(trigger.first_asked_at, text, Style::Quiet));
        }
        for trigger in &history.triggers {
            let query = match (several, alike(trigger, history)) {
                (true, Some((number, count))) => format!("{} ({number} of {count}): ", trigger.query),
                (true, None) => format!("{}: ", trigger.query),
                (false, Some((number, count))) => format!("trigger {number} of {count}: "),
                (false, None) => String::new(),
            };
            let mut was_answer = false;
            for change in trigger.changes.iter().filter(|change| change.at >= history.from) {
                let (text, style) = self.change(change, trigger);
                let is_answer = style == Style::Good;
                let is_routine = is_answer && was_answer;
                was_answer = is_answer;
                changes.push(Line { is_routine, ..Line::new(change.at, format!("{query}{text}"), style) });
            }
        }
        if history.triggers_left_off > 0 {
            let others = plural(history.triggers_left_off, "other trigger", "other triggers");
            self.say(
                &format!("{others} of this object, with other metadata, are not told: KEDA asked for too many."),
                lines,
            );
        }
        changes.sort_by_key(|line| line.at.unix_timestamp());
        let all = changes.len();
        let shown = most_telling(changes, self.at);
        let (from, until) =
            (self.time(history.from.max(history.started_at)), self.time(history.until.min(history.now)));
        if shown.is_empty() {
            return self.say(&format!("Nothing changed from {from} to {until}."), lines);
        }
        let left_off = all - shown.len() + history.triggers.iter().map(|trigger| trigger.left_off).sum::<usize>();
        let more = match left_off {
            0 => String::new(),
            number => format!(", without {}", plural(number, "other change", "other changes")),
        };
        self.say(&format!("What changed from {from} to {until}{more}:"), lines);
        for Line { at, text, style, .. } in &shown {
            let time = self.time(*at);
            let indent = " ".repeat(time.chars().count() + 2);
            let room = reading_width().saturating_sub(indent.len() + 4);
            let text: Vec<String> = wrapped(text, room).iter().map(|line| colors.paint(*style, line)).collect();
            let time = colors.paint(Style::Quiet, &time);
            lines.push(format!("    {time}  {}", text.join(&format!("\n    {indent}"))));
        }
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

/// Says what was rejected, and what has been in force since.
pub(super) fn rejected(file: Option<&RejectedFile>) -> String {
    let Some(RejectedFile { name, served }) = file else {
        return "a wrong configuration was rejected, and the one before stayed in force".to_owned();
    };
    let name = printable(name);
    match served {
        Served::OtherQueries => format!("names of the query file {name} are taken, and its other queries are served"),
        Served::LastGood => format!("the query file {name} was rejected, and its last good version stayed in force"),
        Served::Nothing => format!("the query file {name} was rejected, and none of its queries is served"),
    }
}

/// Returns the numbers of a trigger that are not those of the one before it.
pub(super) fn other_numbers(before: Option<&TriggerHistory>, trigger: &TriggerHistory) -> String {
    let changed = |name: &str, number_of: fn(&TriggerHistory) -> Option<f64>| {
        let (before, after) = (before.and_then(number_of)?, number_of(trigger)?);
        (before != after).then(|| format!("{name} {}, which was {} before", number(after), number(before)))
    };
    let numbers = [
        changed("target", |one| one.target),
        changed("activation", |one| one.activation),
        changed("divisor", |one| one.divide_by),
    ];
    numbers.into_iter().flatten().collect::<Vec<String>>().join("; ")
}

/// Says that a trigger goes on as another one.
fn changed_trigger(before: Option<&TriggerHistory>, trigger: &TriggerHistory) -> String {
    match other_numbers(before, trigger).as_str() {
        "" => "the trigger's metadata changed, or its query's target, activation or divisor".to_owned(),
        numbers => format!("the trigger or its query was changed: {numbers}"),
    }
}

fn incident(incident: &Incident) -> (String, Style) {
    let with = |text: &str, detail: &str| match detail {
        "" => text.to_owned(),
        detail => format!("{text}: {}", printable(detail)),
    };
    match incident {
        Incident::Reload { changed } => (with("the configuration was reloaded", changed), Style::Quiet),
        Incident::ReloadRejected { fault, file } => (with(&rejected(file.as_ref()), fault), Style::Warning),
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
        Incident::Dropped { database, is_off: false, .. } => {
            (format!("no query waited for notifications of {database} any more"), Style::Quiet)
        }
        Incident::Dropped { database, state, .. } => {
            let state = match state {
                DroppedState::Down => "its outage",
                DroppedState::Standby => "its readings from a standby",
                DroppedState::Deaf => "its lost notifications",
            };
            (format!("database {database} was switched off, and {state} of no interest any more"), Style::Quiet)
        }
        Incident::Hearing { database } => (format!("notifications of {database} arrived again"), Style::Good),
    }
}
