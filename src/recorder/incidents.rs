//! The incidents of the process and its databases: which states they begin and end.
//!
//! A reload that changes a database makes another handle of it. The new handle knows nothing of a state that the one
//! before has begun, so it records the end of each state in which it is not, and an end that ends nothing is dropped.

use std::time::Duration;

use tokio::time::Instant;

use super::{DroppedState, Incident, LIFETIME, Recorder, Store, Tenths, shortened_list, tenths_of};

/// The most incidents that are remembered, however old they are: a state may last for long.
pub(super) const INCIDENTS: usize = 2_048;

/// The most bytes of the text of an incident.
const LONGEST_TEXT: usize = 200;

/// The state of a database whose role has another `search_path` than before. A person ends it, so that an episode of it
/// has no end.
const OTHER_PATH: &str = "path";

impl Recorder {
    /// Records a reload, or that a state of a database or the process began or ended. An end is dropped if that state
    /// did not last.
    pub fn happened(&self, mut incident: Incident) {
        match &mut incident {
            Incident::Reload { changed } => *changed = shortened_list(changed, LONGEST_TEXT),
            Incident::ReloadRejected { fault, .. } => fault.truncate(fault.floor_char_boundary(LONGEST_TEXT)),
            _ => {}
        }
        let at = self.clock.tenths(Instant::now());
        let mut store = self.lock();
        if begins(&incident) == Some(false) && !store.lasts(&incident) {
            return;
        }
        if store.incidents.len() >= INCIDENTS {
            store.incidents.pop_front();
        }
        store.incidents.push_back((at, incident));
    }
}

impl Store {
    /// Returns whether the state lasts that an incident ends.
    fn lasts(&self, end: &Incident) -> bool {
        let state = state(end);
        let latest = self.incidents.iter().rev().find(|(_, known)| self::state(known) == state);
        latest.is_some_and(|(_, known)| begins(known) == Some(true))
    }

    /// Returns the incidents before a time whose states lasted then, and those of the time itself. What is older than
    /// [`LIFETIME`] is forgotten, unless it lasted at the beginning of what is remembered.
    pub(super) fn told_incidents(&self, (from, until): (i64, i64), now: Tenths) -> Vec<&(Tenths, Incident)> {
        let oldest = i64::from(now.saturating_sub(tenths_of(LIFETIME)));
        let from = from.max(oldest);
        let mut told: Vec<&(Tenths, Incident)> = Vec::new();
        for happening in self.incidents.iter().take_while(|(at, _)| i64::from(*at) < from.min(until)) {
            let (at, incident) = happening;
            match (state(incident), begins(incident)) {
                (Some((OTHER_PATH, _)), Some(true)) if i64::from(*at) < oldest => {}
                (Some(of @ (OTHER_PATH, _)), Some(true)) => {
                    told.retain(|(_, known)| state(known) != Some(of));
                    told.push(happening);
                }
                (Some(_), Some(true)) => told.push(happening),
                (Some(of), Some(false)) => told.retain(|(_, known)| state(known) != Some(of)),
                _ => {}
            }
        }
        told.extend(self.incidents.iter().filter(|(at, _)| (from..=until).contains(&i64::from(*at))));
        told
    }
}

/// Returns the time that an incident had lasted when it was noted.
pub(super) fn lasted(incident: &Incident) -> Tenths {
    match incident {
        Incident::Standstill { seconds } => tenths_of(Duration::from_secs(*seconds)),
        _ => 0,
    }
}

/// Returns the state of an episode that an incident begins or ends; none for what has no duration.
pub(super) fn lasting_state(incident: &Incident) -> Option<(&'static str, &str)> {
    state(incident).filter(|(word, _)| *word != OTHER_PATH)
}

/// Returns the state that an incident begins or ends: a word for it, and the database; none if nothing ends it.
fn state(incident: &Incident) -> Option<(&'static str, &str)> {
    match incident {
        Incident::DatabaseDown { database, .. } | Incident::DatabaseUp { database } => Some(("down", database)),
        Incident::Standby { database } | Incident::Primary { database } => Some(("standby", database)),
        Incident::Deaf { database, .. } | Incident::Hearing { database } => Some(("deaf", database)),
        Incident::PoolFull { database, .. } | Incident::PoolFree { database } => Some(("full", database)),
        Incident::SearchPath { database } | Incident::SearchPathSet { database } => Some((OTHER_PATH, database)),
        Incident::Dropped { database, state, .. } => Some((of_dropped(*state), database)),
        Incident::Unannounced { .. }
        | Incident::Standstill { .. }
        | Incident::Reload { .. }
        | Incident::ReloadRejected { .. } => None,
    }
}

fn of_dropped(state: DroppedState) -> &'static str {
    match state {
        DroppedState::Down => "down",
        DroppedState::Standby => "standby",
        DroppedState::Deaf => "deaf",
    }
}

/// Returns whether an incident begins an episode or ends one; none for reloads, which have a list of their own.
pub(super) fn begins(incident: &Incident) -> Option<bool> {
    match incident {
        Incident::DatabaseDown { .. }
        | Incident::Standby { .. }
        | Incident::Deaf { .. }
        | Incident::PoolFull { .. }
        | Incident::Unannounced { .. }
        | Incident::SearchPath { .. }
        | Incident::Standstill { .. } => Some(true),
        Incident::DatabaseUp { .. }
        | Incident::Primary { .. }
        | Incident::Hearing { .. }
        | Incident::PoolFree { .. }
        | Incident::Dropped { .. }
        | Incident::SearchPathSet { .. } => Some(false),
        Incident::Reload { .. } | Incident::ReloadRejected { .. } => None,
    }
}
