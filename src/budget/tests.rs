//! The guarantees of a budget, over random demands.

use proptest::prelude::*;

use super::*;

/// Keys that sort otherwise than they are numbered.
const KEYS: [&str; 8] = ["m", "c", "x", "a", "k", "z", "b", "q"];

prop_compose! {
    fn demand(place: usize)(
        held in 0..20_u64,
        claimable in 0..40_u64,
        weight in prop_oneof![Just(1.0), Just(2.0), 0.001..1_000.0],
        since in prop_oneof![Just(None), (0..5_u8).prop_map(|second| Some(f64::from(second)))],
    ) -> Demand<'static> {
        Demand { key: KEYS[place], outstanding: held + claimable, held, weight, since }
    }
}

fn demands() -> impl Strategy<Value = Vec<Demand<'static>>> {
    (1..=KEYS.len()).prop_flat_map(|count| (0..count).map(demand).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn all_of_it_is_shared_and_no_more(total in 0..200_u64, demands in demands()) {
        let held: u64 = demands.iter().map(|demand| demand.held).sum();
        let outstanding: u64 = demands.iter().map(|demand| demand.outstanding).sum();
        let shares = shares(total, &demands);
        prop_assert_eq!(shares.iter().sum::<u64>(), total.max(held).min(outstanding));
        for (share, demand) in shares.iter().zip(&demands) {
            prop_assert!((demand.held..=demand.outstanding).contains(share));
        }
    }

    #[test]
    fn a_larger_total_takes_nothing_from_anybody(total in 0..200_u64, more in 0..50_u64, demands in demands()) {
        let (before, after) = (shares(total, &demands), shares(total + more, &demands));
        prop_assert!(before.iter().zip(&after).all(|(before, after)| before <= after), "{:?} {:?}", before, after);
    }

    #[test]
    fn more_rows_of_a_key_never_lower_its_own(total in 0..200_u64, more in 0..50_u64, demands in demands()) {
        for place in 0..demands.len() {
            let mut grown = demands.clone();
            grown[place].outstanding += more;
            prop_assert!(shares(total, &demands)[place] <= shares(total, &grown)[place]);
        }
    }

    #[test]
    fn the_order_of_the_rows_does_not_matter(total in 0..200_u64, (before, after) in demands().prop_flat_map(|demands| {
        (Just(demands.clone()), Just(demands).prop_shuffle())
    })) {
        let by_key = |demands: &[Demand<'static>]| {
            let mut shares: Vec<_> = demands.iter().map(|demand| demand.key).zip(shares(total, demands)).collect();
            shares.sort_unstable();
            shares
        };
        prop_assert_eq!(by_key(&before), by_key(&after));
    }

    /// `since_column` is the time of the latest claim, as the documents say.
    #[test]
    fn each_key_that_waits_gets_a_slot_after_as_many_freed_ones_as_there_are_keys(
        total in 1..10_u64,
        mut demands in demands(),
        freed in prop::collection::vec(any::<prop::sample::Index>(), 100),
    ) {
        let mut waited = [0; KEYS.len()];
        for (index, demand) in demands.iter_mut().enumerate() {
            // Each has rows without end.
            demand.outstanding = demand.held + 1_000;
            demand.since = demand.since.map(|_| f64::from(u8::try_from(index).expect("few")));
        }
        for (now, which) in (100..).zip(freed) {
            let now = f64::from(now);
            let holding: Vec<usize> = (0..demands.len()).filter(|place| demands[*place].held > 0).collect();
            let used: u64 = demands.iter().map(|demand| demand.held).sum();
            if used >= total {
                demands[holding[which.index(holding.len())]].held -= 1;
            }
            if used > total {
                continue;
            }
            let shares = shares(total, &demands);
            for (place, share) in shares.into_iter().enumerate() {
                if share > demands[place].held {
                    demands[place].held = share;
                    demands[place].since = Some(now);
                }
                waited[place] = if demands[place].held > 0 { 0 } else { waited[place] + 1 };
                prop_assert!(waited[place] <= demands.len(), "{:?} at {now}", demands[place]);
            }
        }
    }
}

#[test]
fn what_is_left_goes_to_those_that_have_the_least_for_their_weight() {
    let demand = |key, held, outstanding, weight| Demand { key, outstanding, held, weight, since: None };
    let three = [demand("a", 0, 100, 1.0), demand("b", 0, 100, 1.0), demand("c", 0, 100, 2.0)];
    assert_eq!(shares(40, &three), [10, 10, 20]);
    let one_holds_most = [demand("a", 30, 100, 1.0), demand("b", 0, 100, 1.0)];
    assert_eq!(shares(40, &one_holds_most), [30, 10]);
    let one_wants_little = [demand("a", 0, 3, 1.0), demand("b", 0, 100, 1.0), demand("c", 0, 100, 1.0)];
    assert_eq!(shares(11, &one_wants_little), [3, 4, 4]);
    let all_hold_too_much = [demand("a", 30, 31, 1.0), demand("b", 20, 25, 1.0)];
    assert_eq!(shares(40, &all_hold_too_much), [30, 20]);
}

#[test]
fn of_equals_the_one_that_has_waited_longest_comes_first_and_then_the_key() {
    let demand = |key, since| Demand { key, outstanding: 9, held: 0, weight: 1.0, since };
    assert_eq!(shares(1, &[demand("a", Some(2.0)), demand("b", Some(1.0))]), [0, 1]);
    assert_eq!(shares(1, &[demand("a", Some(1.0)), demand("b", None)]), [0, 1]);
    assert_eq!(shares(1, &[demand("b", None), demand("a", None)]), [0, 1]);
}
