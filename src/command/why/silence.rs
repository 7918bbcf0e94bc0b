//! The time in which KEDA did not ask for a trigger, and what that says about its operator.

use time::OffsetDateTime;

use super::story::{State, Story};
use crate::{
    recorder::{Connection, EndedBy, Event, History, ONE_POLL, TriggerHistory},
    remedy,
    terminal::text::{plural, printable},
};

/// A time in which KEDA did not ask for a trigger.
pub(super) struct Silence {
    since: OffsetDateTime,
    /// None while it lasts.
    until: Option<OffsetDateTime>,
    connection: Option<Connection>,
}

impl Silence {
    pub(super) fn has_ended(&self) -> bool {
        self.until.is_some()
    }
}

impl Story<'_> {
    /// Returns the silence of a trigger at the moment, if there was one.
    pub(super) fn silence(&self, trigger: &TriggerHistory, history: &History) -> Option<Silence> {
        let ended = trigger.changes.iter().find_map(|change| match change.event {
            Event::Silence { since, connection } if since < self.at && self.at < change.at => {
                Some(Silence { since, until: Some(change.at), connection })
            }
            _ => None,
        });
        let lasts = trigger.is_silent && trigger.last_asked_at < self.at && self.at <= history.now;
        let lasting = Silence { since: trigger.last_asked_at, until: None, connection: trigger.connection };
        ended.or_else(|| lasts.then_some(lasting))
    }

    /// Says that KEDA did not ask for a trigger, and where to look.
    pub(super) fn told_of_silence(&self, state: &State<'_>, history: &History) -> String {
        let query = &state.trigger.query;
        match self.silence(state.trigger, history) {
            Some(Silence { since, until: Some(until), connection }) => {
                let (since, until) = (self.time(since), self.time(until));
                let fate = connection.map(|connection| format!(" {}", self.told_of_past(connection)));
                format!("KEDA did not ask for {query} from {since} to {until}.{}", fate.unwrap_or_default())
            }
            Some(silence) => {
                format!(
                    "KEDA has not asked for {query} since {}. {}",
                    self.time(silence.since),
                    self.where_to_look(&silence, history)
                )
            }
            None => String::new(),
        }
    }

    /// Says of a trigger that KEDA does not ask for, while it asks for `others` of its object.
    pub(super) fn told_of_removal(
        &self,
        state: &State<'_>,
        others: &[&State<'_>],
        history: &History,
    ) -> Option<String> {
        let last_asked_at = state.trigger.last_asked_at;
        if self.silence(state.trigger, history)?.until.is_some() {
            return Some(self.told_of_silence(state, history));
        }
        let goes_on = last_asked_at >= history.from
            && others.iter().any(|other| other.trigger.last_asked_at > last_asked_at + ONE_POLL);
        let told = || {
            format!(
                "KEDA asked for {} until {}, and still asks for other triggers of the object: this one was removed, or asks for something else.",
                printable(&state.trigger.query),
                self.time(last_asked_at)
            )
        };
        goes_on.then(told)
    }

    /// Says what became of the connection in a silence that has ended.
    fn told_of_past(&self, connection: Connection) -> String {
        match connection {
            Connection::Ended { at, by: EndedBy::Peer } => format!(
                "Its connection ended at {}, and no new one came until then: its operator was away, or could not connect. With several \
                 pods it may have asked another one.",
                self.time(at)
            ),
            Connection::Ended { at, by: EndedBy::Clapometer } => format!(
                "clapometer itself ended the connection at {}, as it does after `connection_age`, and no new one came until then: KEDA \
                 asked another pod, or its operator was away or could not connect.",
                self.time(at)
            ),
            Connection::Open => "Its connection stayed open: its operator hung, or the object was paused.".to_owned(),
        }
    }

    /// Says where to look while KEDA does not ask: a certificate, its operator, or the object.
    fn where_to_look(&self, silence: &Silence, history: &History) -> String {
        if !history.expired_certificates.is_empty() {
            return format!(
                "The certificate of {} has expired, so that KEDA cannot connect. Renew it: a new file is read by itself.",
                printable(&history.expired_certificates.join(" and "))
            );
        }
        if history.others_asked > 0 {
            return format!(
                "It does ask for {}, so that its operator reaches this pod. {}",
                plural(history.others_asked, "other trigger", "other triggers"),
                remedy::OF_ONE_SILENCE
            );
        }
        let others = match history.others_silent {
            0 => String::new(),
            silent => format!("Nor does it ask for {}. ", plural(silent, "other trigger", "other triggers")),
        };
        let fate = match silence.connection {
            Some(Connection::Ended { at, by: EndedBy::Peer }) => {
                format!("Its connection ended at {}, and no new one came. ", self.time(at))
            }
            Some(Connection::Ended { at, by: EndedBy::Clapometer }) => {
                format!("clapometer itself ended the connection at {}, and no new one came. ", self.time(at))
            }
            Some(Connection::Open) => "Its connection stayed open. ".to_owned(),
            None => String::new(),
        };
        format!("{others}{fate}{}", remedy::of_silence(silence.connection))
    }
}
