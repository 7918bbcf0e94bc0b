//! The effects of the programs, as they wrote them into a file that only grows: the world's side of the books.

use std::collections::{BTreeMap, BTreeSet};

/// The meaning of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The work begins.
    Start,
    /// It goes on.
    Tick,
    /// It is done.
    End,
}

/// The steps of all attempts in the order in which they were taken.
#[derive(Debug, Default)]
pub(super) struct Effects(Vec<(Step, i64, i64)>);

impl Effects {
    /// Reads lines of the form `S|T|E clap session`.
    pub(super) fn read(text: &str) -> Self {
        let steps = text.lines().map(|line| {
            let parts: Vec<&str> = line.split(' ').collect();
            let [step, clap, session] = parts[..] else { panic!("a garbled effect: {line:?}") };
            let step = match step {
                "S" => Step::Start,
                "T" => Step::Tick,
                "E" => Step::End,
                other => panic!("an unknown step: {other:?}"),
            };
            (step, clap.parse().expect("a clap's number"), session.parse().expect("a session"))
        });
        Self(steps.collect())
    }

    /// Sessions that reached their end, by clap.
    pub(super) fn ended(&self) -> BTreeMap<i64, BTreeSet<i64>> {
        let mut ended: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
        for (step, clap, session) in &self.0 {
            if *step == Step::End {
                ended.entry(*clap).or_default().insert(*session);
            }
        }
        ended
    }

    /// Claps on which some work was started.
    pub(super) fn started(&self) -> BTreeSet<i64> {
        self.0.iter().filter(|(step, ..)| *step == Step::Start).map(|(_, clap, _)| *clap).collect()
    }

    /// Sessions that started more than once.
    pub(super) fn started_twice(&self) -> Vec<i64> {
        let mut seen = BTreeSet::new();
        let starts = self.0.iter().filter(|(step, ..)| *step == Step::Start);
        starts.filter(|(_, _, session)| !seen.insert(*session)).map(|(_, _, session)| *session).collect()
    }

    /// Sessions that went on after another session had started on the same clap.
    pub(super) fn overlapping(&self) -> BTreeSet<i64> {
        let mut newest = BTreeMap::new();
        let mut overlapping = BTreeSet::new();
        for (step, clap, session) in &self.0 {
            match step {
                Step::Start => {
                    newest.insert(clap, session);
                }
                Step::Tick | Step::End if newest.get(clap) != Some(&session) => {
                    overlapping.insert(*session);
                }
                Step::Tick | Step::End => {}
            }
        }
        overlapping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_goes_on_after_its_successor_has_begun_overlaps() {
        let effects = Effects::read("S 1 10\nT 1 10\nS 2 30\nS 1 20\nT 1 10\nE 1 20\nE 2 30\n");
        assert_eq!(effects.overlapping(), BTreeSet::from([10]));
        assert_eq!(effects.ended(), BTreeMap::from([(1, BTreeSet::from([20])), (2, BTreeSet::from([30]))]));
    }

    #[test]
    fn work_that_was_killed_before_its_successor_began_does_not_overlap() {
        assert!(Effects::read("S 1 10\nT 1 10\nS 1 20\nT 1 20\nE 1 20\n").overlapping().is_empty());
    }

    #[test]
    fn a_session_that_starts_again_is_seen() {
        assert_eq!(Effects::read("S 1 10\nS 1 20\nS 1 10\n").started_twice(), [10]);
    }
}
