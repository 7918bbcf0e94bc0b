//! `budget` of a query: the Jobs that the keys of a grouped query share.

use super::{
    key::{DefaultValue, Key, Kind},
    section::Section,
};
use crate::{
    query::Budget,
    scaling::{Activation, Divisor, Rounding, Target},
};

/// More Jobs than any cluster runs under one budget. The bound exists because shares are given slot by slot.
const LARGEST_TOTAL: u64 = 100_000;

pub(super) const BUDGET: Key = Key::new(
    "budget",
    Kind::Mapping(KEYS),
    DefaultValue::Derived("none"),
    "With `group_by`: a number of Jobs that all keys share, each with a ScaledJob of its own. A key is told no more than \
     its share, which is never below what it holds. Needs an `activity_column` that counts what can be claimed, and \
     target 1 without a divisor. See [scale.md](scale.md#one-budget-for-many-queues).",
);

const KEYS: &[Key] = &[
    Key::new(
        "total",
        Kind::Whole(1..=LARGEST_TOTAL),
        DefaultValue::Required("the number of Jobs that all keys share"),
        "The most that all keys together are told in one reading, unless they hold more.",
    )
    .instead_of(&["max", "limit", "jobs"]),
    Key::new(
        "weight_column",
        Kind::Column,
        DefaultValue::Derived("all weigh the same"),
        "The column, a number above 0, with the weight of a key: what is left is shared so that each has as much for its \
         weight as the others.",
    )
    .instead_of(&["weight"]),
    Key::new(
        "since_column",
        Kind::Column,
        DefaultValue::Derived("none"),
        "The column, a `timestamptz`, with the time since which a key has had no new slot: that of its latest claim, NULL \
         if there was none. Of keys that have equally little the earliest comes first. Without it more keys than `total` \
         are FAILED_PRECONDITION.",
    )
    .instead_of(&["since", "waiting_since"]),
];

/// The other keys of the query that a budget restricts.
pub(super) struct Beside<'a> {
    pub(super) group_by: Option<&'a str>,
    pub(super) value_column: Option<&'a str>,
    pub(super) activity_column: Option<&'a str>,
    pub(super) divide_by: Option<Divisor>,
    pub(super) rounding: Option<Rounding>,
    pub(super) target: Option<Target>,
    pub(super) activation: Option<Activation>,
}

/// Reads the budget of a query, if it has one.
pub(super) fn read(query: &Section<'_>, beside: &Beside<'_>) -> Option<Budget> {
    let section = query.section("budget");
    if !section.is_present() {
        return None;
    }
    let total = section.whole("total");
    let weight_column = section.text("weight_column");
    let since_column = section.text("since_column");
    section.finish();
    if query.has("databases") {
        query.fault("databases", "must not stand beside budget: the shares are those of one snapshot");
    }
    if beside.group_by.is_none() {
        section.own_fault("needs group_by: the budget is shared by the keys of a grouped query");
    } else if beside.activity_column.is_none() || beside.activity_column == beside.value_column {
        section.own_fault("needs an activity_column that counts what can be claimed, beside the value_column");
    }
    let is_other = [
        ("divide_by", beside.divide_by.is_some_and(|divisor| divisor != Divisor::default())),
        ("rounding", beside.rounding.is_some_and(|rounding| rounding != Rounding::None)),
        ("target", beside.target.is_some_and(|target| target != Target::default())),
        ("activation", beside.activation.is_some_and(|activation| activation != Activation::default())),
    ];
    for (key, _) in is_other.into_iter().filter(|(_, is_other)| *is_other) {
        query.fault(key, "must be left out beside budget, which tells each key a number of Jobs");
    }
    Some(Budget { total: total?, weight_column, since_column })
}
