//! The simulation as text, at most 80 columns wide.

use super::report::{Report, label, wait};
use crate::{
    keda::comparison::{Candidate, seconds},
    terminal::{
        reading_width,
        style::{ColorChoice, Style},
        table::{Align, Cell, render},
        text::{number, printable, wrapped},
    },
};

/// The width of all of it, on wider terminals, too.
const WIDTH: usize = 80;

/// Shows the recommendation, its reason, and all figures.
pub(super) fn page(report: &Report<'_>, colors: ColorChoice) -> String {
    let width = reading_width().min(WIDTH);
    let paragraph = |text: &str| wrapped(&printable(text), width).join("\n") + "\n";
    let recommendation = wrapped(&colors.paint(Style::Heading, &report.recommendation()), width);
    let mut page = recommendation.join("\n") + "\n";
    page.push_str(&paragraph(&report.reason()));
    for note in report.notes() {
        page.push_str(&format!("note: {}\n", wrapped(&note, width - 6).join("\n      ")));
    }
    page.push('\n');
    page.push_str(&paragraph(&report.setting()));
    page.push('\n');
    page.push_str(&table(report, colors));
    page.push('\n');
    page.push_str(&paragraph(
        "* as given; +held: the query counts the rows that Jobs hold, too (--counts outstanding)",
    ));
    page.push_str(&paragraph(&report.legend()));
    page
}

fn table(report: &Report<'_>, colors: ColorChoice) -> String {
    let heading = [
        ("STRATEGY", Align::Left),
        ("TARGET", Align::Right),
        ("POLL", Align::Right),
        ("P50", Align::Right),
        ("P95", Align::Right),
        ("P99", Align::Right),
        ("MAX", Align::Right),
        ("JOBS", Align::Right),
        ("IDLE", Align::Right),
        ("PEAK", Align::Right),
        ("POD H", Align::Right),
    ];
    let rows: Vec<Vec<Cell>> = report.candidates.iter().map(|candidate| row(report, candidate)).collect();
    render(&heading, &rows, None, colors)
}

fn row(report: &Report<'_>, candidate: &Candidate) -> Vec<Cell> {
    let Candidate { variant, figures, is_given } = candidate;
    let mark = if *is_given { "*" } else { "" };
    let name = format!("{}{mark}", label(variant));
    let is_recommended = std::ptr::eq(candidate, report.recommended);
    let bad = |text: String, is_bad: bool| if is_bad { Cell::styled(text, Style::Bad) } else { Cell::from(text) };
    let longest = if figures.unclaimed > 0.0 { "never".to_owned() } else { wait(figures.wait(100)) };
    vec![
        if is_recommended { Cell::styled(name, Style::Good) } else { Cell::from(name) },
        Cell::from(number(variant.target)),
        Cell::from(format!("{}s", number(seconds(variant.polling_interval)))),
        Cell::from(wait(figures.wait(50))),
        Cell::from(wait(figures.wait(95))),
        Cell::from(wait(figures.wait(99))),
        bad(longest, figures.unclaimed > 0.0),
        Cell::from(format!("{:.0}", figures.jobs)),
        Cell::from(format!("{:.0}", figures.idle_jobs)),
        bad(figures.peak.to_string(), figures.peak > report.most_jobs()),
        Cell::from(if figures.pod_hours < 99.95 {
            format!("{:.1}", figures.pod_hours)
        } else {
            format!("{:.0}", figures.pod_hours)
        }),
    ]
}
