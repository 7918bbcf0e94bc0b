//! One fault as it is seen from outside, held against what the contract demands.

use std::{
    collections::BTreeSet,
    fmt,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tonic::Code;

use super::{
    faults::{Fault, Must},
    testbed::Testbed,
};

/// The observations of one fault.
pub(super) struct Observed {
    fault: Fault,
    codes: BTreeSet<&'static str>,
    noticed: Option<Duration>,
    recovered: Duration,
    wrong: Vec<String>,
}

/// Makes a fault and asks all the time, until it is over and there is a right answer.
pub(super) async fn observe(testbed: &Testbed, fault: Fault) -> Observed {
    let probe = fault.probe();
    let right = testbed.scaler.value(&probe).await.expect("the last fault is over");
    let mut observed =
        Observed { fault, codes: BTreeSet::new(), noticed: None, recovered: Duration::ZERO, wrong: Vec::new() };
    let (_, allowed, _) = fault.contract();
    let start = Instant::now();
    fault.strike(testbed).await;
    let mut healed: Option<Instant> = None;
    loop {
        if healed.is_none() && start.elapsed() >= fault.lasts() {
            fault.heal(testbed).await;
            healed = Some(Instant::now());
        }
        let answer = if fault == Fault::ScalerPaused && healed.is_none() {
            // The scaler itself stands still, and is not asked.
            sleep(fault.lasts().saturating_sub(start.elapsed())).await;
            continue;
        } else {
            testbed.scaler.value(&probe).await
        };
        match (answer, healed) {
            (Ok(value), _) if value != right => observed.wrong.push(format!("the lie {value}")),
            (Ok(_), Some(since)) => {
                observed.recovered = since.elapsed();
                return observed;
            }
            (Ok(_), None) => {}
            (Err(status), _) => {
                observed.codes.insert(name(status.code()));
                observed.noticed.get_or_insert(start.elapsed());
                if !allowed.contains(&status.code()) {
                    observed.wrong.push(format!("{status:?}"));
                }
                if healed.is_some_and(|since| since.elapsed() > Duration::from_secs(20)) {
                    observed.recovered = Duration::from_secs(20);
                    return observed;
                }
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

impl Observed {
    /// Returns the violations of the contract.
    pub(super) fn complaint(&self, recovery: Duration) -> Option<String> {
        let (fault, _, must) = self.fault.contract();
        let mut complaints = self.wrong.clone();
        if must == Must::Fail && self.codes.is_empty() {
            complaints.push("no error at all".to_owned());
        }
        if self.recovered >= recovery {
            complaints.push(format!("recovered after {:?}", self.recovered));
        }
        (!complaints.is_empty()).then(|| format!("{fault}: {}", complaints.join(", ")))
    }
}

impl fmt::Display for Observed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (fault, allowed, must) = self.fault.contract();
        let mut required: Vec<&str> = allowed.iter().map(|code| name(*code)).collect();
        if must == Must::MayFail {
            required.push("OK");
        }
        let mut seen: Vec<&str> = self.codes.iter().copied().collect();
        if seen.is_empty() {
            seen.push("OK");
        }
        let noticed = self.noticed.map_or("-".to_owned(), |after| format!("{after:.0?}"));
        let recovered = format!("{:.0?}", self.recovered);
        let (required, seen) = (required.join(" "), seen.join(" "));
        write!(formatter, "{fault:<26} {required:<32} {seen:<32} {noticed:>10} {recovered:>10}")
    }
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Unavailable => "UNAVAILABLE",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        _ => "another",
    }
}
