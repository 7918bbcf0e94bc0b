//! Shares a number of Jobs among the keys of a grouped query. Pure: all replicas compute the same shares from the same
//! rows.
//!
//! Free slots are given one at a time, each to the key that has the fewest slots for its weight (weighted max-min
//! fairness). So neither a larger total nor more rows of its own ever reduce the share of a key.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use crate::scaling;

/// The demand of one key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand<'a> {
    /// The key. It decides if all else is equal.
    pub key: &'a str,
    /// The rows that are claimable or held.
    pub outstanding: u64,
    /// The rows that are held; at most `outstanding`.
    pub held: u64,
    /// The key's weight among the others: finite, above zero.
    pub weight: f64,
    /// The time of the key's latest claim, in seconds on any clock that all keys share; `None` if it has never had a
    /// slot. The earliest comes first.
    pub since: Option<f64>,
}

/// A key that would take one more slot. The smallest gets it.
#[derive(Debug, Clone, Copy)]
struct Claimant<'a> {
    demand: Demand<'a>,
    /// The index of the key's share in the result.
    place: usize,
    has: u64,
}

/// Returns the number of Jobs for each demand, in the order of `demands`.
///
/// Each key gets at least what it holds and at most what is outstanding. All keys together get at most `total`, or what
/// they hold if that is more.
pub fn shares(total: u64, demands: &[Demand<'_>]) -> Vec<u64> {
    let mut shares: Vec<u64> = demands.iter().map(|demand| demand.held).collect();
    let mut free = total.saturating_sub(shares.iter().fold(0, |sum, held| sum.saturating_add(*held)));
    let claimants = demands.iter().enumerate().filter(|(_, demand)| demand.held < demand.outstanding);
    let mut claimants: BinaryHeap<_> =
        claimants.map(|(place, demand)| Reverse(Claimant { demand: *demand, place, has: demand.held })).collect();
    while free > 0
        && let Some(Reverse(mut claimant)) = claimants.pop()
    {
        claimant.has += 1;
        free -= 1;
        shares[claimant.place] = claimant.has;
        if claimant.has < claimant.demand.outstanding {
            claimants.push(Reverse(claimant));
        }
    }
    shares
}

impl Claimant<'_> {
    /// Returns the slots for the weight. A key without slots comes before every other one, however small its weight, so
    /// that no key starves.
    fn level(&self) -> f64 {
        scaling::float(self.has) / self.demand.weight
    }
}

impl Ord for Claimant<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let since = |claimant: &Self| claimant.demand.since.unwrap_or(f64::NEG_INFINITY);
        self.level()
            .total_cmp(&other.level())
            .then_with(|| since(self).total_cmp(&since(other)))
            .then_with(|| self.demand.key.cmp(other.demand.key))
    }
}

impl PartialOrd for Claimant<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Claimant<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Claimant<'_> {}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
