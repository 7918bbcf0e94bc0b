//! Decides when readings have to wait for a connection for so long, and so often, that somebody should know.

use std::time::Duration;

use tokio::time::Instant;

/// The wait that is long: a call that asks meanwhile gets an error after 2.5 s.
const LONG: Duration = Duration::from_secs(1);

/// The time within which a second long wait makes it news, and after which it is over without another one. Many
/// triggers that are asked at the start make one that says nothing.
const LASTING: Duration = Duration::from_secs(60);

/// The state of one pool.
#[derive(Debug, Default)]
pub(super) struct Crowding {
    /// The latest look that found a long wait.
    latest: Option<Instant>,
    is_told: bool,
}

/// A change of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    Begun,
    Over,
}

impl Crowding {
    /// Takes the longest wait since the look before, and returns what has changed.
    pub(super) fn look(&mut self, longest_wait: Duration, now: Instant) -> Option<News> {
        let was_crowded = self.latest.is_some_and(|latest| now < latest + LASTING);
        let is_crowded = longest_wait >= LONG;
        if is_crowded {
            self.latest = Some(now);
        }
        let news = match (is_crowded, self.is_told) {
            (true, false) if was_crowded => News::Begun,
            (false, true) if !was_crowded => News::Over,
            _ => return None,
        };
        self.is_told = news == News::Begun;
        Some(news)
    }

    /// Returns whether no reading has had to wait for long within a minute.
    pub(super) fn is_calm(&self, now: Instant) -> bool {
        !self.is_told && self.latest.is_none_or(|latest| now >= latest + LASTING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_long_wait_within_a_minute_is_news_and_so_is_a_minute_without_one() {
        let start = Instant::now();
        let mut crowding = Crowding::default();
        let mut look =
            |seconds: u64, wait: u64| crowding.look(Duration::from_secs(wait), start + Duration::from_secs(seconds));
        assert_eq!((look(0, 9), look(15, 0), look(60, 9)), (None, None, None), "each is the first within a minute");
        assert_eq!((look(75, 1), look(90, 9), look(105, 9)), (Some(News::Begun), None, None));
        assert_eq!((look(120, 0), look(150, 0), look(160, 2)), (None, None, None), "now and again is not over");
        assert_eq!((look(175, 0), look(220, 0), look(235, 0)), (None, Some(News::Over), None));
        assert_eq!((look(250, 9), look(265, 9)), (None, Some(News::Begun)));
        let is_calm = |crowding: &Crowding, seconds: u64| crowding.is_calm(start + Duration::from_secs(seconds));
        assert!(!is_calm(&crowding, 265) && !is_calm(&crowding, 400), "its end is not told");
        crowding.look(Duration::ZERO, start + Duration::from_secs(400));
        assert!(is_calm(&crowding, 400) && is_calm(&Crowding::default(), 0));
        crowding.look(Duration::from_secs(9), start + Duration::from_secs(415));
        assert!(!is_calm(&crowding, 430) && is_calm(&crowding, 475));
    }
}
