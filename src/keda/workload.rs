//! The rows of a simulation: when they arrive, and how long the work on each takes.

use std::ops::RangeInclusive;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::model::Milliseconds;

/// The rows that arrive, and how long the work on each takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// The times of arrival.
    pub arrivals: Arrivals,
    /// The least and the greatest time of the work on a row, for rows that do not bring their own.
    pub duration: RangeInclusive<Milliseconds>,
}

/// The times of arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrivals {
    /// This many rows, all of them at the beginning.
    AtOnce(usize),
    /// This many rows, at random times within a period.
    Random(usize, Milliseconds),
    /// These rows, in order of arrival, some with the time of their work.
    Known(Vec<(Milliseconds, Option<Milliseconds>)>),
}

impl Arrivals {
    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::AtOnce(count) | Self::Random(count, _) => *count,
            Self::Known(rows) => rows.len(),
        }
    }

    /// Returns whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether each row brings the time of its work.
    pub fn have_durations(&self) -> bool {
        matches!(self, Self::Known(rows) if rows.iter().all(|(_, work)| work.is_some()))
    }

    /// Returns the time by which all rows have arrived.
    pub fn period(&self) -> Milliseconds {
        match self {
            Self::AtOnce(_) => 0,
            Self::Random(_, period) => *period,
            Self::Known(rows) => rows.iter().map(|(arrival, _)| *arrival).max().unwrap_or(0),
        }
    }
}

impl Workload {
    /// Returns the rows, in order of arrival, each with the time of its work. The same seed gives the same rows.
    pub fn rows(&self, seed: u64) -> Vec<(Milliseconds, Milliseconds)> {
        // The model draws from the seed itself; these rows must not follow its numbers.
        let mut random = StdRng::seed_from_u64(!seed);
        let times: Vec<(Milliseconds, Option<Milliseconds>)> = match &self.arrivals {
            Arrivals::AtOnce(count) => vec![(0, None); *count],
            Arrivals::Random(count, period) => {
                let arrivals = (0..*count).map(|_| random.random_range(0..=*period));
                let mut arrivals: Vec<Milliseconds> = arrivals.collect();
                arrivals.sort_unstable();
                arrivals.into_iter().map(|arrival| (arrival, None)).collect()
            }
            Arrivals::Known(rows) => rows.clone(),
        };
        times
            .into_iter()
            .map(|(arrival, work)| (arrival, work.unwrap_or_else(|| random.random_range(self.duration.clone()))))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_on_every_row() {
        let workload = Workload { arrivals: Arrivals::Random(100, 60_000), duration: 1_000..=9_000 };
        let rows = workload.rows(7);
        assert_eq!(rows, workload.rows(7));
        assert_ne!(rows, workload.rows(8));
        assert!(rows.is_sorted_by_key(|(arrival, _)| *arrival) && rows.iter().all(|(arrival, _)| *arrival <= 60_000));
        assert!(rows.iter().all(|(_, work)| (1_000..=9_000).contains(work)));
    }

    #[test]
    fn known_rows_keep_the_time_of_their_work_and_take_the_other_where_they_have_none() {
        let workload = Workload { arrivals: Arrivals::Known(vec![(0, Some(5)), (9, None)]), duration: 70..=70 };
        assert_eq!(workload.rows(1), [(0, 5), (9, 70)]);
        assert_eq!((workload.arrivals.len(), workload.arrivals.period()), (2, 9));
        assert!(!workload.arrivals.have_durations());
    }
}
