//! The report of a simulation: what was simulated and what is to be said about it, whatever the form.

use crate::{
    keda::{
        comparison::{Candidate, Variant, seconds},
        model::{CountedRows, Milliseconds, Scenario},
        scaled_job::DEFAULT_MAX_REPLICA_COUNT,
        workload::Workload,
    },
    terminal::text::{number, plural},
};

/// Everything that the output is made of.
pub(super) struct Report<'a> {
    /// The ScaledJob, such as `ScaledJob billing/invoices`.
    pub(super) object: String,
    /// The arrivals in words.
    pub(super) arrivals: String,
    pub(super) scenario: &'a Scenario,
    pub(super) workload: &'a Workload,
    /// The best first.
    pub(super) candidates: &'a [Candidate],
    pub(super) recommended: &'a Candidate,
    pub(super) seed: u64,
    pub(super) runs: u64,
}

impl Report<'_> {
    pub(super) fn given(&self) -> &Candidate {
        self.candidates.iter().find(|candidate| candidate.is_given).unwrap_or(self.recommended)
    }

    /// Returns `maxReplicaCount`.
    pub(super) fn most_jobs(&self) -> i64 {
        self.scenario.scaled_job.max_replica_count.unwrap_or(DEFAULT_MAX_REPLICA_COUNT)
    }

    /// Says what to change, in one line.
    pub(super) fn recommendation(&self) -> String {
        let (from, to) = (self.given().variant, self.recommended.variant);
        let mut changes = Vec::new();
        if from.strategy != to.strategy {
            changes.push(format!("strategy {}", to.strategy.word()));
        }
        if from.count != to.count {
            changes.push(format!("count {} rows", counts(to.count)));
        }
        if from.polling_interval != to.polling_interval {
            changes.push(format!("pollingInterval {}", number(seconds(to.polling_interval))));
        }
        if from.target != to.target {
            changes.push(format!("target {}", number(to.target)));
        }
        match changes.is_empty() {
            true => "Recommended: leave it as it is".to_owned(),
            false => format!("Recommended: {}", changes.join(", ")),
        }
    }

    /// Says what the recommendation brings.
    pub(super) fn reason(&self) -> String {
        let (given, best) = (&self.given().figures, &self.recommended.figures);
        let idle = |jobs: f64| format!("{jobs:.0}");
        let compared = |now: String, before: String| match now == before {
            true => format!("{now} as before"),
            false => format!("{now} instead of {before}"),
        };
        if self.recommended.is_given {
            return format!(
                "95 % of the rows wait at most {}, {} of {:.0} Jobs idle; nothing near it is notably better",
                wait(best.wait(95)),
                idle(best.idle_jobs),
                best.jobs
            );
        }
        // Where rows are never worked, the waits of the others say nothing.
        let waits = |percent| match given.unclaimed > 0.0 {
            true => wait(best.wait(percent)),
            false => compared(wait(best.wait(percent)), wait(given.wait(percent))),
        };
        format!(
            "95 % of the rows wait at most {}, the longest {}; idle Jobs: {}",
            waits(95),
            waits(100),
            compared(idle(best.idle_jobs), idle(given.idle_jobs))
        )
    }

    /// Returns what should be known beside the figures.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let given = &self.given().figures;
        let most = self.most_jobs();
        if given.unclaimed > 0.0 {
            notes.push(format!(
                "as given, {:.0} of {} are never worked within 12 hours after the last arrival",
                given.unclaimed,
                plural(given.rows, "row", "rows")
            ));
        }
        if given.peak > most {
            notes.push(format!("as given, up to {} Jobs at once, although maxReplicaCount is {most}", given.peak));
        }
        let best = &self.recommended.figures;
        let period = self.workload.arrivals.period();
        if let Some(end) =
            best.end.filter(|end| period > 0 && best.peak >= most && *end > period + period / 10 + 60_000)
        {
            notes.push(format!(
                "{most} Jobs at once do not keep up: the last row is done {} after the last arrival; raise maxReplicaCount",
                wait(end - period)
            ));
        }
        notes
    }

    /// Says what is simulated.
    pub(super) fn setting(&self) -> String {
        let least = self.scenario.scaled_job.min_replica_count;
        let least = if least > 0 { format!(", minReplicaCount {least}") } else { String::new() };
        let work = range(self.workload.duration.clone());
        let work = if self.workload.arrivals.have_durations() { "as the file says".to_owned() } else { work };
        format!(
            "{}: {}; work {work}, pods start in {}; maxReplicaCount {}{least}; KEDA {}",
            self.object,
            self.arrivals,
            range(self.scenario.pod_start.clone()),
            self.most_jobs(),
            self.scenario.scaled_job.keda,
        )
    }

    /// Says what the figures are.
    pub(super) fn legend(&self) -> String {
        format!(
            "Waits are from a row's arrival to its claim. {} of {}, seed {}: Jobs, idle Jobs and pod hours are means, waits are those of all \
             rows, the peak is the highest. Best first: by P95, with a minute for an idle Job per row.",
            plural(usize::try_from(self.runs).unwrap_or(usize::MAX), "run", "runs"),
            plural(self.workload.arrivals.len(), "row", "rows"),
            self.seed
        )
    }
}

/// Names a variant by its strategy and what it counts: `default+held`.
pub(super) fn label(variant: &Variant) -> String {
    let held = if variant.count == CountedRows::Outstanding { "+held" } else { "" };
    format!("{}{held}", variant.strategy.word())
}

/// Returns the word of `--counts`.
pub(super) fn counts(count: CountedRows) -> &'static str {
    match count {
        CountedRows::Pending => "pending",
        CountedRows::Outstanding => "outstanding",
    }
}

/// Writes a wait in at most four characters.
pub(super) fn wait(milliseconds: Milliseconds) -> String {
    let seconds = seconds(milliseconds);
    match seconds {
        s if s < 9.95 => format!("{s:.1}s"),
        s if s < 999.5 => format!("{s:.0}s"),
        s if s < 59_970.0 => format!("{:.0}m", s / 60.0),
        s if s < 3_598_200.0 => format!("{:.0}h", s / 3_600.0),
        s => format!("{:.0}d", s / 86_400.0),
    }
}

fn range(range: std::ops::RangeInclusive<Milliseconds>) -> String {
    let (least, most) = range.into_inner();
    let text = |milliseconds| format!("{} s", number(seconds(milliseconds)));
    if least == most { text(least) } else { format!("{} to {}", number(seconds(least)), text(most)) }
}
