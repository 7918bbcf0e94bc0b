//! The text of an object's answers, and of what KEDA does with it.

use super::{
    asked::{Asked, Outcome},
    failure::Failure,
    page::Page,
    text::{calls, failed, line, notes},
    verdict::{JobVerdict, ObjectVerdict, Verdict},
};
use crate::{
    keda::scaled_job::{Calculation, DEFAULT_MAX_REPLICA_COUNT},
    manifest::Kind,
    terminal::{
        reading_width,
        style::{ColorChoice, Style},
        text::{plural, printable, wrapped},
    },
};

/// Shows the answers, and what KEDA does with them.
pub(super) fn page(page: &Page<'_>, colors: ColorChoice) -> String {
    let name = colors.paint(Style::Heading, &printable(&page.object.to_string()));
    let mut lines = vec![name, line("in", &format!("{}, for KEDA {}", page.file, page.keda), colors), String::new()];
    for asked in &page.asked {
        lines.push(trigger(asked, colors));
        match &asked.outcome {
            Outcome::Answered(answers) => {
                lines.extend(calls(&answers.calls, colors));
                lines.extend(notes(answers).into_iter().map(|note| line("note", note, colors)));
            }
            Outcome::Failed(failure) => lines.push(failed(failure, colors)),
            Outcome::NotAsked(reason) => lines.push(line("not asked", reason, colors)),
        }
        lines.push(String::new());
    }
    match &page.verdict {
        Some(Verdict::Paused) => lines.push(line(
            "KEDA now",
            "does nothing: an annotation pauses the object, and nothing is asked for it",
            colors,
        )),
        Some(Verdict::Jobs(verdict)) => lines.extend(for_job(verdict, colors)),
        Some(Verdict::Replicas(verdict)) => lines.extend(for_object(verdict, colors)),
        None => lines.push(line("KEDA now", "no trigger of this object can be asked from here", colors)),
    }
    if page.verdict.is_some() {
        lines.extend(left_out(page).map(|note| line("note", &note, colors)));
    }
    lines.extend(page.remarks.iter().map(|remark| line("note", remark, colors)));
    lines.join("\n") + "\n"
}

/// `trigger 0  external, claps, query outstanding-claps, at clapometer.clapometer.svc:9090`
fn trigger(asked: &Asked<'_>, colors: ColorChoice) -> String {
    let mut parts = vec![asked.trigger.kind().to_owned()];
    parts.extend(asked.trigger.name().map(str::to_owned));
    if let Some(address) = &asked.address {
        parts.extend(asked.trigger.text("query").map(|query| format!("query {query}")));
        parts.push(format!("at {address}"));
    }
    parts.retain(|part| !part.is_empty());
    let index = format!("trigger {}", asked.index);
    let indent = index.len() + 2;
    let text = wrapped(&printable(&parts.join(", ")), reading_width().saturating_sub(indent));
    format!("{}  {}", colors.paint(Style::Heading, &index), text.join(&format!("\n{}", " ".repeat(indent))))
}

fn for_job(verdict: &JobVerdict, colors: ColorChoice) -> Vec<String> {
    let JobVerdict { scaled_job, current, decision } = verdict;
    let jobs = current.jobs;
    let starts = match decision.created {
        1 => "starts 1 Job".to_owned(),
        0 => "starts no Job".to_owned(),
        created => format!("starts {created} Jobs"),
    };
    let why = match decision.active {
        true if decision.scale_to > decision.max_scale => {
            format!("{} asked for, at most {}", decision.scale_to, decision.max_scale)
        }
        true => format!("{} asked for", decision.scale_to),
        false => "no trigger is active".to_owned(),
    };
    let max = scaled_job.max_replica_count.unwrap_or(DEFAULT_MAX_REPLICA_COUNT);
    let least = match scaled_job.min_replica_count {
        0 => String::new(),
        least => format!(", minReplicaCount {least}"),
    };
    let assumed = if current.is_assumed { " (assumed; --running and --pending say otherwise)" } else { "" };
    vec![
        line("KEDA now", &format!("{starts}: {why}, {} unfinished", jobs.unfinished), colors),
        line("strategy", &format!("{}, maxReplicaCount {max}{least}", scaled_job.strategy.word()), colors),
        line("Jobs", &format!("{} running, {} pending{assumed}", jobs.unfinished - jobs.pending, jobs.pending), colors),
    ]
}

fn for_object(verdict: &ObjectVerdict, colors: ColorChoice) -> Vec<String> {
    let ObjectVerdict { current, is_active, min, max, rest, cooldown_seconds, has_formula, polled, wanted } = verdict;
    let now = i64::from(current.replicas);
    if *has_formula {
        return vec![line("KEDA now", "scales by the formula of scalingModifiers, which is not computed here", colors)];
    }
    let poll = match (*is_active, now) {
        _ if *polled != now => format!("scales from {now} to {}", replicas(*polled)),
        (true, _) => format!("leaves {} to the autoscaler", replicas(now)),
        (false, 0) => "keeps 0 replicas: no trigger is active".to_owned(),
        (false, _) if *rest < now && *min == 0 => {
            format!("keeps {} for cooldownPeriod ({cooldown_seconds} s), then scales to {rest}", replicas(now))
        }
        (false, _) => format!("keeps {}", replicas(now)),
    };
    let mut lines = vec![line("KEDA now", &poll, colors)];
    if let Some(wanted) = wanted {
        // KEDA gives its HPA a minReplicas of 1 then (GetHPAMinReplicas).
        let least = match *min {
            0 => "1 (the HPA's least; KEDA scales between 0 and 1)".to_owned(),
            min => format!("{min} (minReplicaCount)"),
        };
        let wants = format!("wants {}; at least {least}, at most {max}", replicas(*wanted));
        lines.push(line("autoscaler", &wants, colors));
    }
    let assumed = if current.is_assumed { " (assumed; --replicas says otherwise)" } else { "" };
    lines.push(line("replicas", &format!("{now}{assumed}"), colors));
    lines
}

fn replicas(count: i64) -> String {
    plural(usize::try_from(count).unwrap_or(0), "replica", "replicas")
}

/// Says what is not in the verdict.
fn left_out<'a>(page: &'a Page<'_>) -> impl Iterator<Item = String> + 'a {
    let all = match &page.verdict {
        Some(Verdict::Jobs(verdict)) => match verdict.scaled_job.calculation {
            Calculation::Max => "KEDA goes by the active trigger with the greatest value",
            Calculation::Min => "KEDA goes by the active trigger with the least value",
            Calculation::Average => "KEDA goes by the mean of the active triggers",
            Calculation::Sum => "KEDA goes by the sum of the active triggers",
        },
        _ => "the autoscaler goes by the trigger that wants the most",
    };
    let is_job = page.object.kind == Kind::ScaledJob;
    page.asked.iter().filter_map(move |asked| {
        let consequence = match &asked.outcome {
            Outcome::Answered(_) => return None,
            Outcome::NotAsked(_) => return Some(format!("trigger {} is not part of this, and {all}", asked.index)),
            Outcome::Failed(_) if !is_job => "and the autoscaler does not scale in",
            // KEDA swallows an error of GetMetricSpec.
            Outcome::Failed(Failure { rpc: None | Some("GetMetricSpec"), .. }) => {
                "and says so in its own log only: no event, and Ready stays True"
            }
            Outcome::Failed(_) => "with an event, and Ready is not True",
        };
        Some(format!("KEDA leaves trigger {} out while it fails, {consequence}", asked.index))
    })
}
