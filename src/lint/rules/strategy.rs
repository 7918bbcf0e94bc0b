//! Rules about what is counted, and what the strategy of a ScaledJob makes of it.

use super::Subject;
use crate::{
    keda::{scaled_job::Strategy, version::Version},
    lint::{
        counting::{self, Counted, SQL_TRIGGERS},
        findings::Findings,
        rule::{
            Rule,
            Severity::{Error, Note, Warning},
        },
    },
    manifest::{Node, Object, Trigger, Value},
};

const STRATEGY_STARVES: Rule = Rule::new("strategy-starves", Error, "pkg/scaling/executor/scale_jobs.go");
const STRATEGY_IDLES: Rule = Rule::new("strategy-idles", Error, "pkg/scaling/executor/scale_jobs.go");
const CUSTOM_TAKES_DEFAULT: Rule = Rule::new("custom-takes-default", Warning, "pkg/scaling/executor/scale_jobs.go");
const CUSTOM_PANICS: Rule =
    Rule::new("custom-panics", Error, "pkg/scaling/executor/scale_jobs.go, kedacore/keda issue 7798")
        .until(Version::new(2, 20, 2));
const CUSTOM_EXCEEDS_MAXIMUM: Rule = Rule::new("custom-exceeds-maximum", Warning, "pkg/scaling/executor/scale_jobs.go");
const CONDITIONS_UNUSED: Rule = Rule::new("pod-conditions-unused", Warning, "pkg/scaling/executor/scale_jobs.go");
const DOUBLE_DIVISION: Rule = Rule::new("double-division", Warning, "pkg/scaling/scaledjob/metrics.go");
const FAILED_ROWS_UNCOUNTED: Rule =
    Rule::new("failed-rows-uncounted", Note, "docs/the-seeds-story.md, \"v2: the Job fails\"");

pub(super) const RULES: &[&Rule] = &[
    &STRATEGY_STARVES,
    &STRATEGY_IDLES,
    &CUSTOM_TAKES_DEFAULT,
    &CUSTOM_PANICS,
    &CUSTOM_EXCEEDS_MAXIMUM,
    &CONDITIONS_UNUSED,
    &DOUBLE_DIVISION,
    &FAILED_ROWS_UNCOUNTED,
];

/// Looks at the strategy of a ScaledJob, and what its triggers count.
pub(super) fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    let object = subject.object;
    let scaled_job = object.scaled_job(subject.options.keda);
    for trigger in object.triggers() {
        check_count(subject, trigger, scaled_job.strategy, findings);
        check_failed_rows(object, trigger, findings);
    }
    check_division(object, findings);
    check_custom(object, scaled_job.strategy, findings);
    let conditions = object.spec(&["scalingStrategy", "pendingPodConditions"]);
    if let Some(node) = conditions
        && !matches!(scaled_job.strategy, Strategy::Accurate | Strategy::Eager)
        && !node.items().is_empty()
    {
        findings.add(
            &CONDITIONS_UNUSED,
            node.line,
            "pendingPodConditions decides which Jobs are pending, and this strategy does not ask for that.",
            "Remove it, or take the strategy accurate.",
        );
    }
}

fn check_count(subject: &Subject<'_>, trigger: Trigger<'_>, strategy: Strategy, findings: &mut Findings<'_>) {
    let object = subject.object;
    let Some(count) = counting::of(trigger, subject.options.counts) else { return };
    let severity = if count.is_known { Error } else { Warning };
    let line = object.spec(&["scalingStrategy", "strategy"]).map_or(trigger.line("query"), |node| node.line);
    let max = object.scaled_job(subject.options.keda).max_replica_count;
    match (strategy, count.counted) {
        (Strategy::Default | Strategy::Custom { running_job_percentage: None, .. }, Counted::Pending)
            if max.is_none_or(|max| max > 1) =>
        {
            let how = match trigger.kind() {
                kind if SQL_TRIGGERS.contains(&kind) => {
                    "Count the rows that workers hold, too, or take `strategy: accurate`; if the SQL does that already, \
                     say so: `clapometer lint --counts outstanding`."
                }
                "external" | "external-push" if count.is_known => {
                    "Take the query outstanding-claps, or `strategy: accurate`."
                }
                _ => "Count what workers hold, too, or take `strategy: accurate`.",
            };
            let why = format!(
                "The default strategy subtracts all unfinished Jobs from a number without their rows, so rows wait \
                 while there is room: with 3 Jobs at work, 3 new rows start none ({}).",
                count.because
            );
            findings.add_as(severity, &STRATEGY_STARVES, line, why, how);
        }
        (Strategy::Accurate | Strategy::Eager, Counted::Outstanding) => {
            let why = format!(
                "This strategy does not subtract running Jobs, but their rows are in the number, so that each poll \
                 starts Jobs that find nothing to do ({}).",
                count.because
            );
            let how = "Leave `strategy` out, which means default, or count only what waits.";
            findings.add_as(severity, &STRATEGY_IDLES, line, why, how);
        }
        (Strategy::Eager, Counted::Pending) => {
            let why = "The strategy eager fills all free places while a row is unclaimed, also for rows whose Jobs are \
                       about to claim them, so that some Jobs find nothing to do.";
            let how = "Take `strategy: accurate`, or count what workers hold, too, and leave `strategy` out.";
            findings.add_as(Note, &STRATEGY_IDLES, line, why, how);
        }
        _ => {}
    }
}

fn check_custom(object: &Object, strategy: Strategy, findings: &mut Findings<'_>) {
    let share = object.spec(&["scalingStrategy", "customScalingRunningJobPercentage"]);
    let deduction = object.spec(&["scalingStrategy", "customScalingQueueLengthDeduction"]);
    let line = |node: Option<&Node>| {
        let strategy = object.spec(&["scalingStrategy", "strategy"]);
        node.or(strategy).map_or(object.line(), |node| node.line)
    };
    if matches!(strategy, Strategy::Custom { running_job_percentage: Some(_), .. })
        && deduction.is_none_or(|node| node.value == Value::Null)
    {
        findings.add(
            &CUSTOM_PANICS,
            line(share),
            "Without customScalingQueueLengthDeduction, KEDA's operator ends in a panic at the first poll, and after each \
             restart: no object is scaled any more.",
            "Write `customScalingQueueLengthDeduction: 0`.",
        );
    }
    match strategy {
        Strategy::Custom { running_job_percentage: None, .. } => findings.add(
            &CUSTOM_TAKES_DEFAULT,
            line(share),
            "Without customScalingRunningJobPercentage as a number in quotes, KEDA takes the strategy default.",
            "Write it as a fraction in quotes, such as \"0.5\", or take another strategy.",
        ),
        Strategy::Custom { running_job_percentage: Some(share_of_jobs), .. } if share_of_jobs < 1.0 => findings.add(
            &CUSTOM_EXCEEDS_MAXIMUM,
            line(share),
            "The strategy custom subtracts only this share of the unfinished Jobs, and nothing else holds the number \
             to maxReplicaCount: more Jobs than that may run.",
            "Take `strategy: accurate`, or 1.0, or a maxReplicaCount that leaves room.",
        ),
        Strategy::Custom { .. } => {}
        Strategy::Default | Strategy::Accurate | Strategy::Eager => {
            if let Some(node) = share.or(deduction) {
                findings.add(
                    &CUSTOM_TAKES_DEFAULT,
                    node.line,
                    "Only the strategy custom reads the customScaling fields.",
                    "Remove them, or write `strategy: custom`.",
                );
            }
        }
    }
}

/// Looks for a number that is divided by what scales it, and again by its target.
pub(super) fn check_division(object: &Object, findings: &mut Findings<'_>) {
    for trigger in object.triggers() {
        // A target a little above 1 lets the number grow so much before there is one more, and divides nothing.
        let Some(target) = trigger.number("targetQueryValue").filter(|target| *target >= 2.0) else { continue };
        let is_sql = SQL_TRIGGERS.contains(&trigger.kind()) && trigger.text("query").is_some_and(counting::divides);
        let is_divided = trigger.is_external() && trigger.number("divideBy").is_some_and(|divisor| divisor != 1.0);
        if !is_sql && !is_divided {
            continue;
        }
        let (by, line) =
            if is_sql { ("its SQL", trigger.line("query")) } else { ("divideBy", trigger.line("divideBy")) };
        findings.add(
            &DOUBLE_DIVISION,
            line,
            format!("The number is divided by {by}, and then by targetQueryValue {target}."),
            "Divide once: leave targetQueryValue at \"1\", or report the whole number.",
        );
    }
}

fn check_failed_rows(object: &Object, trigger: Trigger<'_>, findings: &mut Findings<'_>) {
    let Some(sql) = trigger.text("query").filter(|_| SQL_TRIGGERS.contains(&trigger.kind())) else { return };
    let words: Vec<String> = sql.split_whitespace().map(str::to_ascii_lowercase).collect();
    let has_join = words.windows(2).any(|pair| pair[0] == "left" && (pair[1] == "join" || pair[1] == "outer"));
    let has_null = words.windows(2).any(|pair| pair[0] == "is" && pair[1].starts_with("null"));
    let retries = object.spec(&["jobTargetRef", "backoffLimit"]).and_then(Node::integer);
    if has_join && has_null && retries != Some(0) {
        findings.add(
            &FAILED_ROWS_UNCOUNTED,
            trigger.line("query"),
            "A row counts here until a worker has left a record of it, so one whose Job failed is never counted again, \
             and the next pod of that Job looks for a new row.",
            "Let a retry find its own row, by the Job's uid, or count failed rows with attempts left.",
        );
    }
}
