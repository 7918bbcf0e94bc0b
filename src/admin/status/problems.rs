//! The things that need a person, in the order in which they do: the first screen of the page.

use super::{DatabaseState, QueryState, ReloadResult, Status, Trigger, TriggerState, clock::Moment};
use crate::terminal::text::plural;

/// The most triggers of one state that are named.
const NAMED: usize = 5;

/// One thing that needs a person.
pub(super) struct Problem<'a> {
    pub(super) weight: Weight,
    /// A word for it, as in the tables below.
    pub(super) word: &'static str,
    /// The thing that it is about.
    pub(super) subject: Subject<'a>,
    pub(super) since: Option<Moment>,
    pub(super) text: &'a str,
}

/// The weight of a problem, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    Bad,
    Warning,
    /// It may be on purpose.
    Note,
}

pub(super) enum Subject<'a> {
    Configuration,
    Database(&'a str),
    Query(&'a str),
    Trigger {
        namespace: &'a str,
        name: &'a str,
    },
    /// So many triggers in this state that are not named.
    MoreTriggers(usize, TriggerState),
    /// KEDA asks for nothing.
    Keda,
}

impl Status {
    /// Returns the number of triggers in a state.
    pub(super) fn count(&self, state: TriggerState) -> usize {
        self.triggers.iter().filter(|trigger| trigger.state == state).count()
    }

    /// Returns a sentence without a full stop, and whether all is well.
    pub(super) fn headline(&self) -> (String, Option<Weight>) {
        let down = self.databases.iter().filter(|database| database.state == DatabaseState::Down).count();
        let failing = self.queries.iter().filter(|query| query.state == QueryState::Failing).count();
        let mut parts = Vec::new();
        if self.is_rejected() {
            parts.push("the configuration on disk is rejected".to_owned());
        }
        let are = |count: usize| if count == 1 { "is" } else { "are" };
        if down > 0 {
            parts.push(format!("{} {} down", plural(down, "database", "databases"), are(down)));
        }
        if failing > 0 {
            parts.push(format!(
                "{} {}",
                plural(failing, "query", "queries"),
                if failing == 1 { "fails" } else { "fail" }
            ));
        }
        for state in [TriggerState::Refused, TriggerState::Failing] {
            let count = self.count(state);
            if count > 0 {
                parts.push(format!("{} {} {}", plural(count, "trigger", "triggers"), are(count), state.word()));
            }
        }
        let is_bad = !parts.is_empty();
        let silent = self.count(TriggerState::Silent);
        if silent > 0 {
            parts.push(format!("{} {} silent", plural(silent, "trigger", "triggers"), are(silent)));
        }
        match parts.as_slice() {
            [] => (self.quiet_headline(), None),
            parts => (capitalised(&parts.join(", ")), Some(if is_bad { Weight::Bad } else { Weight::Warning })),
        }
    }

    fn quiet_headline(&self) -> String {
        if self.triggers.is_empty() { "KEDA has not asked yet".to_owned() } else { "All is well".to_owned() }
    }

    fn is_rejected(&self) -> bool {
        self.reloads.first().is_some_and(|latest| latest.result == ReloadResult::Rejected)
    }

    fn is_failing(&self, query: &str) -> bool {
        self.queries.iter().any(|known| known.name == query && known.state == QueryState::Failing)
    }

    /// Returns everything that needs a person.
    pub(super) fn problems(&self) -> Vec<Problem<'_>> {
        let mut problems = Vec::new();
        let new = |weight, word, subject, since, text| Problem { weight, word, subject, since, text };
        if let Some(latest) = self.reloads.first().filter(|_| self.is_rejected()) {
            // The first of the rejected ones in a row is when it began.
            let rejected = self.reloads.iter().take_while(|reload| reload.result == ReloadResult::Rejected);
            let since = rejected.last().map(|reload| reload.at);
            let text = latest.faults.first().map_or("", String::as_str);
            problems.push(new(Weight::Bad, "rejected", Subject::Configuration, since, text));
        }
        for database in &self.databases {
            let (subject, text) = (Subject::Database(&database.name), database.error.as_deref().unwrap_or_default());
            if database.state == DatabaseState::Down {
                problems.push(new(Weight::Bad, "down", subject, Some(database.since), text));
            } else if database.notifications == Some(false) {
                let text = "notifications do not arrive; readings get as old as max_age";
                problems.push(new(Weight::Warning, "deaf", subject, None, text));
            }
        }
        let is_down = |name: &String| {
            self.databases.iter().any(|database| database.name == *name && database.state == DatabaseState::Down)
        };
        // What fails with its database is told by that.
        let failing = self.queries.iter().filter(|query| query.state == QueryState::Failing);
        for query in failing.filter(|query| !query.databases.iter().any(is_down)) {
            let text = query.error.as_deref().unwrap_or_default();
            problems.push(new(Weight::Bad, "failing", Subject::Query(&query.name), query.since, text));
        }
        for state in [TriggerState::Refused, TriggerState::Failing, TriggerState::Silent] {
            let weight = if state == TriggerState::Silent { Weight::Note } else { Weight::Bad };
            // A trigger that fails with its query is told by that.
            let is_told = |trigger: &&Trigger| state == TriggerState::Failing && self.is_failing(&trigger.query);
            let triggers = self.triggers.iter().filter(|trigger| trigger.state == state);
            let mut triggers = triggers.filter(|trigger| !is_told(trigger));
            for trigger in triggers.by_ref().take(if state == TriggerState::Refused { NAMED } else { 2 }) {
                let (namespace, name) = (trigger.namespace.as_str(), trigger.name.as_str());
                let text = match state {
                    TriggerState::Silent => "KEDA has stopped asking; deleted, paused, or asking another pod?",
                    _ => trigger.error.as_deref().unwrap_or_default(),
                };
                problems.push(new(
                    weight,
                    state.word(),
                    Subject::Trigger { namespace, name },
                    Some(trigger.since),
                    text,
                ));
            }
            match triggers.count() {
                0 => {}
                more => problems.push(new(weight, state.word(), Subject::MoreTriggers(more, state), None, "")),
            }
        }
        let all_silent = !self.triggers.is_empty() && self.count(TriggerState::Silent) == self.triggers.len();
        if all_silent {
            let since = self.triggers.iter().map(|trigger| trigger.asked_at).min_by_key(|asked_at| asked_at.age);
            let text = "no trigger at all is asked for: is the operator up, and does it reach this pod?";
            problems.insert(0, new(Weight::Bad, "silent", Subject::Keda, since, text));
        }
        problems
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
