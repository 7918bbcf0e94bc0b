//! The latest episodes of everything: troubles of triggers, and incidents with their ends, for the status page.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Incident, LIFETIME, Recorder, Store, Tenths, tenths_of,
    troubles::{TOGETHER, Trouble},
};

/// The most incidents that are told as episodes.
const MOST_INCIDENTS: usize = 32;

/// Something that went wrong or changed, and may be over.
#[derive(Debug)]
pub struct Episode {
    /// Its beginning.
    pub began_at: Instant,
    /// Its end, which is its beginning if it has no duration; none while it lasts.
    pub ended_at: Option<Instant>,
    /// What it is about.
    pub matter: Matter,
}

/// The matter of an episode.
#[derive(Debug)]
pub enum Matter {
    /// A trouble of triggers.
    Triggers {
        /// Its kind.
        trouble: Trouble,
        /// The status code; empty where there is none.
        code: &'static str,
        /// The status text, or the names of the keys that changed; empty where there is none.
        text: String,
        /// The namespace of the trigger that had it first.
        namespace: String,
        /// Its object.
        name: String,
        /// Its query.
        query: String,
        /// The number of other triggers that had it at the same time.
        others: usize,
    },
    /// An incident of a database, a query or the process.
    Incident(Incident),
}

impl Recorder {
    /// Returns the latest episodes, the latest first. Reloads are none.
    pub fn episodes(&self) -> Vec<Episode> {
        let now = self.tenths(Instant::now());
        let store = self.lock();
        let of_triggers = store.troubles.all().map(|entry| {
            let matter = Matter::Triggers {
                trouble: entry.trouble,
                code: entry.code,
                text: entry.text.to_string(),
                namespace: entry.namespace.to_string(),
                name: entry.name.to_string(),
                query: entry.query.to_string(),
                others: entry.triggers.saturating_sub(1),
            };
            (entry.began_at, entry.ended_at(now), matter)
        });
        let mut episodes: Vec<(Tenths, Option<Tenths>, Matter)> = of_triggers.collect();
        let oldest = now.saturating_sub(tenths_of(LIFETIME));
        episodes.retain(|(_, ended_at, _)| ended_at.is_none_or(|ended_at| ended_at >= oldest));
        let incidents = store.incidents.iter().filter(|(at, _)| *at >= oldest);
        let of_incidents = paired(incidents);
        drop(store);
        let latest = of_incidents.len().saturating_sub(MOST_INCIDENTS);
        episodes.extend(of_incidents.into_iter().skip(latest));
        episodes.sort_by_key(|(began_at, ..)| std::cmp::Reverse(*began_at));
        let instant = |at: Tenths| self.began_at + Duration::from_millis(100) * at;
        let made = episodes.into_iter().map(|(began_at, ended_at, matter)| Episode {
            began_at: instant(began_at),
            ended_at: ended_at.map(instant),
            matter,
        });
        made.collect()
    }
}

impl Store {
    /// Returns the incidents before a time that held then: those that nothing has ended, and of what has no end the latest of each
    /// database.
    pub(super) fn standing(&self, from: i64) -> Vec<&(Tenths, Incident)> {
        let mut standing: Vec<&(Tenths, Incident)> = Vec::new();
        for happening in self.incidents.iter().take_while(|(at, _)| i64::from(*at) < from) {
            let incident = &happening.1;
            match (state(incident), begins(incident)) {
                (Some(_), Some(true)) => standing.push(happening),
                (Some(of), Some(false)) => standing.retain(|(_, known)| state(known) != Some(of)),
                _ if matches!(incident, Incident::SearchPath { .. }) => {
                    standing.retain(|(_, known)| known != incident);
                    standing.push(happening);
                }
                _ => {}
            }
        }
        standing
    }
}

/// Joins each incident that has an end with it. What comes back soon is not over.
fn paired<'a>(incidents: impl Iterator<Item = &'a (Tenths, Incident)>) -> Vec<(Tenths, Option<Tenths>, Matter)> {
    let mut episodes: Vec<(Tenths, Option<Tenths>, &Incident)> = Vec::new();
    for (at, incident) in incidents {
        let state = state(incident);
        let same = episodes.iter().rposition(|(.., known)| state.is_some() && self::state(known) == state);
        let is_near = |index: usize| episodes[index].1.is_none_or(|ended_at| at.saturating_sub(ended_at) < TOGETHER);
        match (same, begins(incident)) {
            (Some(index), Some(true)) if is_near(index) => episodes[index].1 = None,
            (_, Some(true)) => {
                let began_at = at.saturating_sub(lasted(incident));
                episodes.push((began_at, state.is_none().then_some(*at), incident));
            }
            (Some(index), Some(false)) => episodes[index].1 = Some(*at),
            (None, Some(false)) | (_, None) => {}
        }
    }
    let owned = |(at, ended_at, incident): (Tenths, Option<Tenths>, &Incident)| {
        (at, ended_at, Matter::Incident(incident.clone()))
    };
    episodes.into_iter().map(owned).collect()
}

/// Returns the time that an incident had lasted when it was noted.
fn lasted(incident: &Incident) -> Tenths {
    match incident {
        Incident::Standstill { seconds } => tenths_of(Duration::from_secs(*seconds)),
        _ => 0,
    }
}

/// Returns the state that an incident begins or ends: a word for it, and the database; none for what has no duration.
fn state(incident: &Incident) -> Option<(&'static str, &str)> {
    match incident {
        Incident::DatabaseDown { database, .. } | Incident::DatabaseUp { database } => Some(("down", database)),
        Incident::Standby { database } | Incident::Primary { database } => Some(("standby", database)),
        Incident::Deaf { database, .. } | Incident::Hearing { database } => Some(("deaf", database)),
        Incident::PoolFull { database, .. } | Incident::PoolFree { database } => Some(("full", database)),
        Incident::Unannounced { .. }
        | Incident::SearchPath { .. }
        | Incident::Standstill { .. }
        | Incident::Reload { .. }
        | Incident::ReloadRejected { .. } => None,
    }
}

/// Returns whether an incident begins an episode or ends one; none for reloads, which have a list of their own.
fn begins(incident: &Incident) -> Option<bool> {
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
        | Incident::PoolFree { .. } => Some(false),
        Incident::Reload { .. } | Incident::ReloadRejected { .. } => None,
    }
}
