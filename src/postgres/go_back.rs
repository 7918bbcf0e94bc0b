//! Goes back to a host that is preferred, when it answers again.
//!
//! With `target_session_attrs: any` the hosts are preferred in their order, with `prefer-standby` the
//! standbys. Sessions are opened elsewhere while the preferred host is away, and would stay there.

use std::{sync::Weak, time::Duration};

use rand::Rng;
use tokio::time::{Instant, sleep};

use super::{Database, connect, requirement::Requirement};

/// The pause between two looks at the preferred hosts, +-20 %.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause. Each return doubles it, so that a host that comes and goes does not take the sessions along
/// each time.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Looks at the preferred hosts whenever sessions lead elsewhere, until the handle is dropped.
pub(super) async fn go_back(database: Weak<Database>) {
    let Some(mut is_preferred) = database.upgrade().map(|database| database.observed.is_preferred()) else { return };
    let mut pause = FIRST_PAUSE;
    loop {
        let waited_from = Instant::now();
        if is_preferred.wait_for(|is_preferred| !is_preferred).await.map(drop).is_err() {
            return;
        }
        if waited_from.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        let jittered = pause.mul_f64(rand::rng().random_range(0.8..1.2));
        sleep(jittered).await;
        let Some(database) = database.upgrade() else { return };
        if database.preferred_answers().await {
            let name = &database.labels.database;
            tracing::info!(database = %name, "a preferred host answers again; sessions go back to it");
            database.observed.went_back();
            database.renew();
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }
}

impl Database {
    /// Returns whether a session can be opened on a preferred host.
    async fn preferred_answers(&self) -> bool {
        let Ok(connection) = self.settings.connection.resolve_aside().await else { return false };
        let within = self.settings.connect_timeout;
        let preferred = Requirement::new(&connection, self.settings.max_lag).preferred(connection);
        connect::open(&preferred, self.settings.max_lag, within, "clapometer/probe", connect::NUMBERS, None)
            .await
            .is_ok()
    }
}
