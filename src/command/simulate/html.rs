//! The simulation as one page with plots, which needs nothing beside itself.

use super::report::{Report, label, wait};
use crate::{
    keda::{
        comparison::{Candidate, seconds},
        model::{Scenario, SimulationOutcome, run},
    },
    plot::{Bars, Lines, Scale, escaped},
    terminal::text::{number, span},
};

/// More than these cannot be told apart in a plot.
const MOST_GROUPS: usize = 7;

const STYLE: &str = "\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.3rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #ddd } th:first-child, td:first-child { text-align: left }
tr.recommended { background: #e6f4ea } .bad { color: #b00020; font-weight: bold }
svg { width: 100%; height: auto; margin: .8rem 0 } .quiet { color: #5a6068 }
@media (prefers-color-scheme: dark) {
  body { color: #d6dae0; background: #14171c } th, td { border-color: #333a44 }
  tr.recommended { background: #17301f } .bad { color: #ff7b72 } .quiet { color: #9aa2ad }
}";

/// Returns the page.
pub(super) fn page(report: &Report<'_>) -> String {
    let notes: String = report.notes().iter().map(|note| format!("<p class=\"bad\">{}</p>\n", escaped(note))).collect();
    let mut plots = waits(report) + &idle(report) + &over_time(report, report.recommended);
    if !report.recommended.is_given {
        plots.push_str(&over_time(report, report.given()));
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{object}</title>\n<style>\n{STYLE}\n</style>\n</head>\n\
         <body>\n<h1>{recommendation}</h1>\n<p>{reason}</p>\n{notes}<p class=\"quiet\">{setting}</p>\n\
         <h2>The ScaledJob and its neighbours</h2>\n{table}\
         <p class=\"quiet\">* as given; +held: the query counts the rows that Jobs hold, too. {legend}</p>\n{plots}</body>\n</html>\n",
        object = escaped(&report.object),
        recommendation = escaped(&report.recommendation()),
        reason = escaped(&report.reason()),
        setting = escaped(&report.setting()),
        table = table(report),
        legend = escaped(&report.legend()),
    )
}

fn table(report: &Report<'_>) -> String {
    let rows: String = report.candidates.iter().map(|candidate| row(report, candidate)).collect();
    format!(
        "<table>\n<tr><th>strategy</th><th>target</th><th>poll</th><th>P50</th><th>P95</th><th>P99</th><th>longest wait</th>\
         <th>Jobs</th><th>idle</th><th>peak</th><th>pod hours</th></tr>\n{rows}</table>\n"
    )
}

fn row(report: &Report<'_>, candidate: &Candidate) -> String {
    let Candidate { variant, figures, .. } = candidate;
    let class = if std::ptr::eq(candidate, report.recommended) { " class=\"recommended\"" } else { "" };
    let bad = |is_bad: bool| if is_bad { " class=\"bad\"" } else { "" };
    let longest = if figures.unclaimed > 0.0 { "never".to_owned() } else { wait(figures.wait(100)) };
    format!(
        "<tr{class}><td>{}</td><td>{}</td><td>{} s</td><td>{}</td><td>{}</td><td>{}</td><td{}>{longest}</td>\
         <td>{:.0}</td><td>{:.0}</td><td{}>{}</td><td>{:.1}</td></tr>\n",
        name(candidate),
        number(variant.target),
        number(seconds(variant.polling_interval)),
        wait(figures.wait(50)),
        wait(figures.wait(95)),
        wait(figures.wait(99)),
        bad(figures.unclaimed > 0.0),
        figures.jobs,
        figures.idle_jobs,
        bad(figures.peak > report.most_jobs()),
        figures.peak,
        figures.pod_hours,
    )
}

fn name(candidate: &Candidate) -> String {
    format!("{}{}", label(&candidate.variant), if candidate.is_given { "*" } else { "" })
}

/// Returns the candidates with the recommended interval and target: only strategies and counts differ.
fn strategies<'a>(report: &'a Report<'_>) -> impl Iterator<Item = &'a Candidate> + 'a {
    let best = report.recommended.variant;
    let is_alike = move |candidate: &&Candidate| {
        candidate.variant.polling_interval == best.polling_interval && candidate.variant.target == best.target
    };
    report.candidates.iter().filter(is_alike).take(MOST_GROUPS)
}

fn waits(report: &Report<'_>) -> String {
    let groups = strategies(report).map(|candidate| {
        let wait = |percent| seconds(candidate.figures.wait(percent));
        (name(candidate), vec![wait(50), wait(95), wait(100)])
    });
    Bars {
        title: &format!("Wait of a row until its claim, {}", interval(report.recommended)),
        unit: "seconds",
        scale: Scale::Linear,
        series: vec!["half of them", "95 %", "the longest"],
        groups: groups.collect(),
        bar: None,
    }
    .svg()
}

fn idle(report: &Report<'_>) -> String {
    let groups = strategies(report).map(|candidate| {
        let figures = &candidate.figures;
        (name(candidate), vec![figures.jobs - figures.idle_jobs, figures.idle_jobs])
    });
    Bars {
        title: &format!("Jobs that worked a row or found none, {}", interval(report.recommended)),
        unit: "Jobs",
        scale: Scale::Linear,
        series: vec!["worked", "idle"],
        groups: groups.collect(),
        bar: None,
    }
    .svg()
}

fn interval(candidate: &Candidate) -> String {
    format!("pollingInterval {} s", number(seconds(candidate.variant.polling_interval)))
}

/// Shows the first run of a variant, poll by poll.
fn over_time(report: &Report<'_>, candidate: &Candidate) -> String {
    let scenario = candidate.variant.scenario(report.scenario);
    let scenario = Scenario { rows: report.workload.rows(report.seed), ..scenario };
    let SimulationOutcome { polls, .. } = run(&scenario, report.seed);
    let last = polls.last().map_or(0, |(time, ..)| *time);
    // A point for each pixel is enough.
    let step = polls.len().div_ceil(700).max(1);
    let points = |of: fn(&(u64, usize, usize, i64, i64)) -> f64| {
        polls.iter().step_by(step).map(|poll| (seconds(poll.0), of(poll))).collect::<Vec<_>>()
    };
    let most = format!("maxReplicaCount {}", report.most_jobs());
    let title = format!("One run of {}, {}", name(candidate), interval(candidate));
    let labels =
        (0u8..=6).map(|part| (seconds(last) * f64::from(part) / 6.0, span(seconds(last * u64::from(part) / 6))));
    Lines {
        title: &title,
        unit: "rows, Jobs",
        series: vec![
            ("unfinished Jobs", points(|poll| f64::from(i32::try_from(poll.3).unwrap_or(i32::MAX)))),
            ("rows that wait", points(|poll| f64::from(u32::try_from(poll.1).unwrap_or(u32::MAX)))),
        ],
        labels: labels.collect(),
        bar: Some((f64::from(i32::try_from(report.most_jobs()).unwrap_or(i32::MAX)), &most)),
    }
    .svg()
}
