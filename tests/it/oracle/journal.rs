//! The journal of the table's content over time, with which answers are compared.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Numbers older than this are forgotten: no answer may be as old.
const MEMORY: Duration = Duration::from_secs(60);

/// The numbers that were written, one after the other, each larger than those before.
#[derive(Debug)]
pub(super) struct Journal(Mutex<VecDeque<Entry>>);

/// One number. It may have been in the table from when its commit was sent until the next one was acknowledged.
#[derive(Debug, Clone, Copy)]
struct Entry {
    number: u32,
    from: Instant,
    until: Option<Instant>,
}

impl Entry {
    fn may_be_seen(&self, oldest: Instant, now: Instant) -> bool {
        self.from <= now && self.until.is_none_or(|until| until >= oldest)
    }
}

impl Journal {
    /// The table holds this number.
    pub(super) fn new(number: u32) -> Self {
        Self(Mutex::new(VecDeque::from([Entry { number, from: Instant::now(), until: None }])))
    }

    /// A number that is about to be committed.
    pub(super) fn begin(&self) -> u32 {
        let mut entries = self.entries();
        let number = entries.back().map_or(1, |entry| entry.number + 1);
        entries.push_back(Entry { number, from: Instant::now(), until: None });
        while entries.front().is_some_and(|entry| entry.until.is_some_and(|until| until.elapsed() > MEMORY)) {
            entries.pop_front();
        }
        number
    }

    /// The latest number is committed: all before it are gone, those too whose commit was never answered.
    pub(super) fn committed(&self) {
        let now = Instant::now();
        let mut entries = self.entries();
        let before = entries.len() - 1;
        for entry in entries.iter_mut().take(before).filter(|entry| entry.until.is_none()) {
            entry.until = Some(now);
        }
    }

    /// Checks an answer that has just come to a question of `since`.
    ///
    /// # Panics
    /// When the table held no such number since `age` before the question.
    pub(super) fn bears_out(&self, value: f64, since: Instant, age: Duration, asked: &str) {
        let seen = self.seen(since, age);
        assert!(
            seen.iter().any(|number| f64::from(*number) == value),
            "{asked}: {value} is a lie; since {age:?} before the question of {:?} ago the table held {:?} to {:?}",
            since.elapsed(),
            seen.first(),
            seen.last()
        );
    }

    /// Checks whether the table held an odd number, or an even one, since `age` before the question.
    ///
    /// # Panics
    /// When it did not.
    pub(super) fn bears_out_parity(&self, is_odd: bool, since: Instant, age: Duration, asked: &str) {
        let seen = self.seen(since, age);
        assert!(
            seen.iter().any(|number| (number % 2 == 1) == is_odd),
            "{asked}: {is_odd} is a lie; since {age:?} before the question of {:?} ago there was {seen:?}",
            since.elapsed(),
        );
    }

    /// Returns the smallest and the largest number that the table may have held since `age` before `since`.
    pub(super) fn range(&self, since: Instant, age: Duration) -> (u32, u32) {
        let seen = self.seen(since, age);
        let (least, most) = (seen.iter().min(), seen.iter().max());
        (*least.expect("the latest is always there"), *most.expect("the latest is always there"))
    }

    /// Counts from the question and not from when its answer is looked at: what lies between them is time that this
    /// process waits for a CPU, and says nothing about the answer.
    fn seen(&self, since: Instant, age: Duration) -> Vec<u32> {
        let now = Instant::now();
        let oldest = since.checked_sub(age).expect("the machine is older than the test");
        self.entries().iter().filter(|entry| entry.may_be_seen(oldest, now)).map(|entry| entry.number).collect()
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, VecDeque<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_millis(20);

    fn with_two_commits() -> Journal {
        let journal = Journal::new(1);
        for _ in 0..2 {
            journal.begin();
            journal.committed();
        }
        journal
    }

    #[test]
    fn what_is_there_and_what_may_be_there_is_true() {
        let journal = with_two_commits();
        journal.bears_out(3.0, Instant::now(), AGE, "q");
        // A commit that was sent and not answered may be either.
        assert_eq!(journal.begin(), 4);
        journal.bears_out(4.0, Instant::now(), AGE, "q");
        journal.bears_out(3.0, Instant::now(), AGE, "q");
        journal.begin();
        journal.bears_out(3.0, Instant::now(), AGE, "q");
        journal.bears_out_parity(true, Instant::now(), AGE, "q");
    }

    #[test]
    #[should_panic(expected = "0 is a lie")]
    fn a_silent_zero_is_a_lie() {
        with_two_commits().bears_out(0.0, Instant::now(), AGE, "q");
    }

    #[tokio::test]
    #[should_panic(expected = "2 is a lie")]
    async fn a_number_from_before_is_a_lie() {
        let journal = with_two_commits();
        tokio::time::sleep(2 * AGE).await;
        journal.bears_out(2.0, Instant::now(), AGE, "q");
    }

    #[tokio::test]
    async fn a_true_answer_that_is_looked_at_late_is_no_lie() {
        let journal = Journal::new(1);
        let asked_at = Instant::now();
        journal.begin();
        journal.committed();
        tokio::time::sleep(2 * AGE).await;
        journal.bears_out(1.0, asked_at, AGE, "q");
    }

    #[test]
    #[should_panic(expected = "4 is a lie")]
    fn a_number_that_is_not_yet_there_is_a_lie() {
        with_two_commits().bears_out(4.0, Instant::now(), AGE, "q");
    }

    #[tokio::test]
    #[should_panic(expected = "false is a lie")]
    async fn activity_that_nothing_bears_out_is_a_lie() {
        let journal = with_two_commits();
        tokio::time::sleep(2 * AGE).await;
        journal.bears_out_parity(false, Instant::now(), AGE, "q");
    }
}
