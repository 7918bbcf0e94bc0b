//! The time of the recorder: tenths of a second since it was made, and what they are on the wall clock.
//!
//! Suspensions of the machine count. An [`Instant`] leaves them out, so that a change before a suspension would move to
//! a time after it, while the standstill that was noted has its whole duration.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, Timespec, clock_gettime};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{Tenths, tenths_of};

/// The difference from which on the wall clock was set. Less is what it and the other clock drift apart.
const SET: time::Duration = time::Duration::SECOND;

/// The shortest suspension that counts. Less may pass between the readings of two clocks.
const SUSPENDED: Duration = Duration::from_secs(1);

/// The clock of a recorder.
#[derive(Debug)]
pub(super) struct Clock {
    began_at: Instant,
    /// The beginning on the wall clock.
    wall: Mutex<OffsetDateTime>,
    /// The time for which the machine had been suspended before.
    suspended_before: Duration,
    /// The milliseconds for which it was suspended since.
    suspended: AtomicU64,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            began_at: Instant::now(),
            wall: Mutex::new(OffsetDateTime::now_utc()),
            // An interruption may have made one of them too small.
            suspended_before: suspended().max(suspended()),
            suspended: AtomicU64::new(0),
        }
    }
}

impl Clock {
    /// Returns the present on the wall clock. It goes on as the recorder's time does, until somebody sets the clock.
    pub(super) fn now(&self) -> OffsetDateTime {
        let age = self.age(Instant::now());
        self.began_at(OffsetDateTime::now_utc(), age) + age
    }

    /// Returns the beginning on the wall clock. It is the same for each question, so that two answers tell one time of
    /// one change, until somebody sets the clock.
    pub(super) fn beginning(&self) -> OffsetDateTime {
        self.began_at(OffsetDateTime::now_utc(), self.age(Instant::now()))
    }

    /// Returns the recorder's time of a moment that has just been.
    pub(super) fn tenths(&self, now: Instant) -> Tenths {
        tenths_of(self.age(now))
    }

    /// Returns the moment that is as long before `now` as a time of the recorder. After a suspension it may be before
    /// the beginning.
    pub(super) fn instant(&self, at: Tenths, now: Instant) -> Instant {
        let ago = self.age(now).saturating_sub(Duration::from_millis(100) * at);
        now.checked_sub(ago).unwrap_or(self.began_at)
    }

    /// Has the machine seem suspended.
    #[cfg(test)]
    pub(super) fn suspend(&self, duration: Duration) {
        self.suspended.fetch_add(milliseconds(duration), Ordering::Relaxed);
    }

    fn began_at(&self, now: OffsetDateTime, age: Duration) -> OffsetDateTime {
        let began_at = now - age;
        let mut known = self.wall.lock().unwrap_or_else(PoisonError::into_inner);
        if (began_at - *known).abs() >= SET {
            *known = began_at;
        }
        *known
    }

    fn age(&self, now: Instant) -> Duration {
        let (shortest, seen) =
            (milliseconds(SUSPENDED), milliseconds(suspended().saturating_sub(self.suspended_before)));
        let known = self.suspended.load(Ordering::Relaxed);
        let suspended = if seen >= known.saturating_add(shortest) {
            self.suspended.fetch_max(seen, Ordering::Relaxed).max(seen)
        } else {
            known
        };
        now.saturating_duration_since(self.began_at) + Duration::from_millis(suspended)
    }
}

/// Returns the time for which the machine has been suspended since it was started. It is less, and never more, if the
/// process is interrupted between the two clocks.
fn suspended() -> Duration {
    since_boot().saturating_sub(duration(clock_gettime(ClockId::Monotonic)))
}

/// Returns the time since the machine was started, that of its suspensions included, which an [`Instant`] leaves out.
pub fn since_boot() -> Duration {
    duration(clock_gettime(ClockId::Boottime))
}

fn duration(time: Timespec) -> Duration {
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanoseconds)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_beginning_has_one_time_however_often_it_is_told_and_another_one_once_the_clock_is_set() {
        let clock = Clock::default();
        let start = *clock.wall.lock().unwrap();
        let mut passed = Duration::ZERO;
        for step in 1..=50 {
            advance(Duration::from_millis(7)).await;
            passed += Duration::from_millis(7);
            let drift = Duration::from_millis(step * 19);
            assert_eq!(clock.began_at(start + passed + drift, clock.age(Instant::now())), start);
        }
        advance(Duration::from_secs(60)).await;
        let set_back = start + passed;
        assert_eq!(clock.began_at(set_back, clock.age(Instant::now())), start - Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspension_moves_no_earlier_time_and_counts_for_later_ones() {
        const NIGHT: Duration = Duration::from_secs(8 * 3_600);
        let clock = Clock::default();
        let start = *clock.wall.lock().unwrap();
        advance(Duration::from_secs(60)).await;
        let before = clock.tenths(Instant::now());
        clock.suspend(NIGHT);
        advance(Duration::from_secs(10)).await;
        let age = clock.age(Instant::now());
        assert_eq!(age, NIGHT + Duration::from_secs(70));
        assert_eq!(clock.began_at(start + age, age), start);
        assert_eq!((before, clock.tenths(Instant::now())), (600, 600 + tenths_of(NIGHT) + 100));
        let ago = |at: Tenths| clock.instant(at, Instant::now()).elapsed();
        assert_eq!(ago(before), NIGHT + Duration::from_secs(10), "it is as long ago");
        assert_eq!(ago(clock.tenths(Instant::now())), Duration::ZERO);
    }

    #[test]
    fn a_machine_that_is_not_suspended_counts_none() {
        let clock = Clock::default();
        let (began_at, now) = (clock.began_at, Instant::now());
        assert_eq!(clock.age(now), now - began_at);
    }
}
