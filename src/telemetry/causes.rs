//! Decides which causes of one outage are logged: a cause is logged when it changes, and not each time it occurs.

use std::time::Duration;

use tokio::time::Instant;

/// The time for which a cause is not logged again after it was. Two that take turns must not fill the log.
const PAUSE: Duration = Duration::from_secs(600);

/// The time that a cause which comes back must last to be logged before that: the last line should name what holds.
const LASTS: Duration = Duration::from_secs(60);

/// The most causes that are remembered. Further ones are logged once the oldest is [`PAUSE`] old.
const MOST: usize = 16;

/// The causes of one outage.
#[derive(Debug, Default)]
pub struct Causes {
    /// Those that have been logged, with the time of each.
    logged: Vec<(String, Instant)>,
    /// The one that came back, and since when it is the only one.
    returned: Option<(String, Instant)>,
}

impl Causes {
    /// Returns whether to log this cause: it is not what was logged last, and it is new, has not been logged for a
    /// while, or came back and lasts.
    pub fn is_news(&mut self, reason: &str, detail: &str, now: Instant) -> bool {
        let cause = without_numbers(&format!("{reason}: {detail}"));
        let Self { logged, returned } = self;
        if logged.last().is_some_and(|(latest, _)| is_same(latest, &cause)) {
            *returned = None;
            return false;
        }
        let since = match returned.take() {
            Some((known, since)) if known == cause => since,
            _ => now,
        };
        *returned = Some((cause.clone(), since));
        let lasts = now.saturating_duration_since(since) >= LASTS;
        let is_old = |at: Instant| now.saturating_duration_since(at) >= PAUSE;
        match logged.iter().position(|(known, _)| *known == cause) {
            Some(place) if is_old(logged[place].1) || lasts => drop(logged.remove(place)),
            Some(_) => return false,
            None if logged.len() < MOST => {}
            None if is_old(logged[0].1) => drop(logged.remove(0)),
            None => return false,
        }
        *returned = None;
        logged.push((cause, now));
        true
    }

    /// Returns whether a cause of this outage has been logged.
    pub fn is_open(&self) -> bool {
        !self.logged.is_empty()
    }

    /// Forgets all causes, because the outage is over. Returns whether any had been logged.
    pub fn end(&mut self) -> bool {
        let was_open = self.is_open();
        *self = Self::default();
        was_open
    }
}

/// Returns whether two causes are the same, but that one names the server: an open session does not know which it is.
fn is_same(one: &str, other: &str) -> bool {
    let Some((reason, detail)) = one.split_once(": ") else { return one == other };
    let of_same_reason = other.split_once(": ").filter(|(other_reason, _)| *other_reason == reason);
    let names_server = |long: &str, short: &str| {
        let server = long.strip_suffix(short).and_then(|rest| rest.strip_suffix(": "));
        !short.is_empty() && server.is_some_and(|server| !server.contains(' '))
    };
    of_same_reason
        .is_some_and(|(_, other)| detail == other || names_server(detail, other) || names_server(other, detail))
}

/// Replaces each run of digits: the seconds since a certificate ended, or by which a standby is behind, differ each
/// time and are no other cause.
fn without_numbers(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            digit if digit.is_ascii_digit() && kept.ends_with('#') => {}
            digit if digit.is_ascii_digit() => kept.push('#'),
            other => kept.push(other),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_news_when_it_changes_and_not_when_it_stays() {
        let (mut causes, now) = (Causes::default(), Instant::now());
        assert!(causes.is_news("unreachable", "refused", now));
        assert!(!causes.is_news("unreachable", "refused", now + 10 * PAUSE));
        assert!(causes.is_news("unreachable", "wrong password", now));
        assert!(causes.is_news("deadline_exceeded", "", now));
        assert!(causes.end());
        assert!(causes.is_news("unreachable", "refused", now));
    }

    #[test]
    fn the_return_of_a_cause_is_news_once_it_lasts() {
        let (mut causes, now) = (Causes::default(), Instant::now());
        assert!(causes.is_news("a", "", now) && causes.is_news("b", "", now));
        assert!(!causes.is_news("a", "", now + PAUSE / 2));
        assert!(causes.is_news("a", "", now + PAUSE));
        assert!(!causes.is_news("a", "", now + 2 * PAUSE));
    }

    #[test]
    fn a_cause_that_comes_back_and_stays_is_the_last_line() {
        let (mut causes, now) = (Causes::default(), Instant::now());
        let second = |number: u32| now + number * Duration::from_secs(1);
        assert!(causes.is_news("password", "", now) && causes.is_news("late", "", second(20)));
        assert!((21..81).all(|number| !causes.is_news("password", "", second(number))));
        assert!(causes.is_news("password", "", second(81)));
        assert!(!causes.is_news("password", "", second(82)));
        // Two that take turns are told once each.
        for number in 100..600 {
            let cause = if number % 2 == 0 { "late" } else { "password" };
            assert!(!causes.is_news(cause, "", second(number)));
        }
    }

    #[test]
    fn a_cause_that_differs_in_numbers_alone_is_told_once() {
        let (mut causes, now) = (Causes::default(), Instant::now());
        assert!(causes.is_news("lagging", "10.0.0.7:5432: the replay is 6.9 s behind", now));
        assert!(!causes.is_news("lagging", "10.0.0.7:5432: the replay is 12.4 s behind", now));
        assert!(!causes.is_news("lagging", "the replay is 13.0 s behind", now), "the same without the server");
        assert!(causes.is_news("wrong_server", "the replay is 13.0 s behind", now));
        assert!(causes.is_news("lagging", "10.0.0.7:5432: the replay is paused", now));
    }

    #[test]
    fn ever_new_causes_for_a_day_are_two_pages() {
        let (mut causes, now) = (Causes::default(), Instant::now());
        let word = |second: u64| "x".repeat(usize::try_from(second % 1_000).unwrap_or_default());
        let of_a_day = (0..86_400)
            .filter(|second| causes.is_news("unreachable", &word(*second), now + Duration::from_secs(*second)));
        assert!(of_a_day.count() <= 145 * MOST);
        let (mut causes, turns) = (Causes::default(), ["a", "b"]);
        let of_a_day = (0..86_400u64).filter(|second| {
            let turn = if second % 2 == 0 { turns[0] } else { turns[1] };
            causes.is_news(turn, "", now + Duration::from_secs(*second))
        });
        let lines = of_a_day.count();
        assert!((100..300).contains(&lines), "{lines} lines");
    }
}
