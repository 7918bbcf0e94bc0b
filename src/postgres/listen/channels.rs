//! The notification channels that a database's queries listen on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::reading::ChannelState;

/// The shortest time between two invalidations of a channel; a storm of notifications is one invalidation at its end.
pub(super) const INVALIDATION_INTERVAL: Duration = Duration::from_millis(1);

/// The time that each cached query that an invalidation wakes adds to that interval: waking it takes a tenth of this.
const INVALIDATION_INTERVAL_PER_QUERY: Duration = Duration::from_micros(10);

/// The channels by their names.
pub(super) type ByName = BTreeMap<String, Arc<Channel>>;

/// The channels of one database.
#[derive(Debug)]
pub(in crate::postgres) struct Channels {
    wanted: watch::Sender<ByName>,
}

/// One channel.
#[derive(Debug)]
pub(super) struct Channel {
    state: watch::Sender<ChannelState>,
    /// True if a notification came too soon after an invalidation to invalidate at once.
    is_late: Mutex<bool>,
}

impl Channels {
    pub(in crate::postgres) fn new() -> Self {
        Self { wanted: watch::Sender::new(BTreeMap::new()) }
    }

    /// Returns the state of a channel, and listens on it from now on.
    pub(in crate::postgres) fn channel(&self, name: &str) -> watch::Receiver<ChannelState> {
        let mut receiver = None;
        self.wanted.send_if_modified(|wanted| {
            let is_new = !wanted.contains_key(name);
            let channel = wanted.entry(name.to_owned()).or_insert_with(|| {
                let state = ChannelState { is_healthy: false, invalidated_at: Instant::now() };
                Arc::new(Channel { state: watch::Sender::new(state), is_late: Mutex::new(false) })
            });
            receiver = Some(channel.state.subscribe());
            is_new
        });
        receiver.expect("set in the closure, which runs once")
    }

    /// Forgets the channels that no query listens on any more, and returns their names.
    pub(super) fn take_unwanted(&self) -> Vec<String> {
        let mut unwanted = Vec::new();
        self.wanted.send_if_modified(|wanted| {
            wanted.retain(|name, channel| {
                let is_wanted = channel.state.receiver_count() > 0;
                if !is_wanted {
                    unwanted.push(name.clone());
                }
                is_wanted
            });
            !unwanted.is_empty()
        });
        unwanted
    }

    pub(super) fn wanted(&self) -> watch::Receiver<ByName> {
        self.wanted.subscribe()
    }
}

impl Channel {
    /// The time that must lie between two invalidations.
    pub(super) fn interval(&self) -> Duration {
        let queries = u32::try_from(self.state.receiver_count()).unwrap_or(u32::MAX);
        INVALIDATION_INTERVAL.max(INVALIDATION_INTERVAL_PER_QUERY.saturating_mul(queries))
    }

    /// Invalidates because of a notification. Returns true if that must wait for [`Channel::invalidate_late`].
    pub(super) fn notified(&self) -> bool {
        let mut is_late = self.is_late.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if !*is_late && now.duration_since(self.state.borrow().invalidated_at) >= self.interval() {
            self.state.send_modify(|state| state.invalidated_at = now);
            return false;
        }
        !std::mem::replace(&mut *is_late, true)
    }

    /// Invalidates if a notification came too soon after the invalidation before it.
    pub(super) fn invalidate_late(&self) {
        if std::mem::take(&mut *self.is_late.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.state.send_modify(|state| state.invalidated_at = Instant::now());
        }
    }

    /// Sets whether notifications arrive. A change also invalidates; an attempt to listen that changes nothing must
    /// not.
    pub(super) fn set_health(&self, is_healthy: bool) {
        self.state.send_if_modified(|state| {
            let is_change = state.is_healthy != is_healthy;
            if is_change {
                *state = ChannelState { is_healthy, invalidated_at: Instant::now() };
            }
            is_change
        });
    }
}
