//! Converts times of the monotonic clock into times that people read.
//!
//! That clock leaves suspensions of the machine out, so that a moment before one seems to be as much later. The
//! recorder's episodes do not.

use std::time::Duration;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::recorder::Recorder;

/// The age from which a time of day does not say which day it was.
pub(super) const DAY: Duration = Duration::from_secs(24 * 3_600);

/// One moment on the monotonic and on the wall clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    now: Instant,
    wall: OffsetDateTime,
}

/// A moment in the past.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Moment {
    wall: OffsetDateTime,
    /// The time that has passed since the moment.
    pub(super) age: Duration,
}

impl Clock {
    /// Returns the present, on the wall clock by which the recorder tells times.
    pub(super) fn now(recorder: &Recorder) -> Self {
        Self { now: Instant::now(), wall: recorder.now() }
    }

    /// Returns the present on the monotonic clock.
    pub(super) fn instant(&self) -> Instant {
        self.now
    }

    /// Returns the whole days until a time in seconds since 1970; negative if it is past.
    pub(super) fn days_until(&self, since_1970: f64) -> i64 {
        let ends_at = OffsetDateTime::UNIX_EPOCH.saturating_add(time::Duration::saturating_seconds_f64(since_1970));
        (ends_at - self.wall).whole_seconds().div_euclid(86_400)
    }

    /// Returns the moment of `at`, with its age. A moment later than the clock counts as the present.
    pub(super) fn moment(&self, at: Instant) -> Moment {
        let age = self.now.saturating_duration_since(at);
        Moment { wall: self.wall - age, age }
    }
}

impl Moment {
    /// Returns the date and the time in UTC, as RFC 3339 writes them.
    pub(super) fn rfc3339(&self) -> String {
        format!("{}T{}Z", self.date(), self.time_of_day())
    }

    /// Returns the date in UTC.
    pub(super) fn date(&self) -> String {
        self.wall.date().to_string()
    }

    /// Returns the time in UTC, without the seconds.
    pub(super) fn hour_and_minute(&self) -> String {
        format!("{:02}:{:02}", self.wall.hour(), self.wall.minute())
    }

    /// Returns the time in UTC.
    pub(super) fn time_of_day(&self) -> String {
        time_of_day(self.wall)
    }
}

/// Returns the time in UTC of a moment on the wall clock, with its day if that is a day ago.
pub(super) fn day_and_time(wall: OffsetDateTime, now: &Moment) -> String {
    let time = time_of_day(wall);
    if now.wall - wall < DAY { time } else { format!("{} {time}", wall.date()) }
}

fn time_of_day(wall: OffsetDateTime) -> String {
    format!("{:02}:{:02}:{:02}", wall.hour(), wall.minute(), wall.second())
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.rfc3339())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_moment_is_as_long_ago_by_the_wall_as_by_the_clock() {
        let before = Instant::now();
        tokio::time::advance(Duration::from_secs(3_661)).await;
        let wall = OffsetDateTime::from_unix_timestamp(1_796_000_000).expect("a time");
        let clock = Clock { now: Instant::now(), wall };
        let moment = clock.moment(before);
        assert_eq!(moment.age, Duration::from_secs(3_661));
        assert_eq!(moment.rfc3339(), "2026-11-29T23:52:19Z");
        assert_eq!(clock.moment(Instant::now() + Duration::from_secs(5)).age, Duration::ZERO);
        let days = [0.0, 86_400.0, -1.0, f64::INFINITY, f64::NAN].map(|left| clock.days_until(1_796_000_000.0 + left));
        assert_eq!(days[..3], [0, 1, -1]);
        assert!(days[3] > 1_000);
    }
}
