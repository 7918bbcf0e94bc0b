//! The latest episodes of everything: troubles of triggers, and incidents with their ends, for the status page.

use tokio::time::Instant;

use super::{
    Incident, LIFETIME, Recorder, Tenths,
    incidents::{begins, lasted, lasting_state},
    tenths_of,
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
        let present = Instant::now();
        let now = self.clock.tenths(present);
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
        let instant = |at: Tenths| self.clock.instant(at, present);
        let made = episodes.into_iter().map(|(began_at, ended_at, matter)| Episode {
            began_at: instant(began_at),
            ended_at: ended_at.map(instant),
            matter,
        });
        made.collect()
    }
}

/// Joins each incident that has an end with it. What comes back soon is not over.
fn paired<'a>(incidents: impl Iterator<Item = &'a (Tenths, Incident)>) -> Vec<(Tenths, Option<Tenths>, Matter)> {
    let mut episodes: Vec<(Tenths, Option<Tenths>, &Incident)> = Vec::new();
    for (at, incident) in incidents {
        let state = lasting_state(incident);
        let same = episodes.iter().rposition(|(.., known)| state.is_some() && lasting_state(known) == state);
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
