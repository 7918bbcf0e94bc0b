//! Findings as text.

use std::fmt::Write;

use crate::{
    keda::version::Version,
    lint::{Finding, Report, Severity},
    terminal::{
        reading_width,
        style::{ColorChoice, Style},
        text::{plural, printable, wrapped},
        width,
    },
};

/// Shows all findings, and their number.
pub(super) fn page(report: &Report, keda: Version, colors: ColorChoice) -> String {
    let mut page = String::new();
    for finding in &report.findings {
        let _ = writeln!(page, "{}", block(finding, colors));
    }
    page + &summary(report, keda, colors)
}

fn block(finding: &Finding, colors: ColorChoice) -> String {
    let Finding { file, line, object, severity, rule, why, how } = finding;
    let place = colors.paint(Style::Heading, &printable(&format!("{file}:{line}")));
    let severity = colors.paint(style(*severity), &severity.to_string());
    let object = object
        .as_ref()
        .map_or_else(String::new, |object| format!("  {}", colors.paint(Style::Quiet, &printable(object))));
    let room = reading_width().saturating_sub(5);
    let why = wrapped(&printable(&format!("{why} ({})", rule.source)), room).join("\n  ");
    let arrow = colors.paint(Style::Quiet, "->");
    let how = wrapped(&printable(how), room).join("\n     ");
    // Without a terminal it stays one line, which a search finds whole.
    let room_of_title = width().map_or(usize::MAX, |_| room);
    let title = wrapped(&format!("{place}  {severity}  {}{object}", rule.name), room_of_title).join("\n  ");
    format!("{title}\n  {why}\n  {arrow} {how}\n")
}

fn summary(report: &Report, keda: Version, colors: ColorChoice) -> String {
    let count = |severity| report.findings.iter().filter(|finding| finding.severity == severity).count();
    let [errors, warnings, notes] = [Severity::Error, Severity::Warning, Severity::Note].map(count);
    let looked_at = format!("{} of KEDA {keda}", plural(report.objects, "object", "objects"));
    let allowed = match report.allowed {
        0 => String::new(),
        allowed => format!("; {allowed} more allowed by comments"),
    };
    if report.findings.is_empty() {
        return format!("{looked_at}: {}{allowed}\n", colors.paint(Style::Good, "nothing to say"));
    }
    let parts = [
        (errors, plural(errors, "error", "errors"), Severity::Error),
        (warnings, plural(warnings, "warning", "warnings"), Severity::Warning),
        (notes, plural(notes, "note", "notes"), Severity::Note),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(count, _, _)| *count > 0)
        .map(|(_, text, severity)| colors.paint(style(severity), &text))
        .collect();
    format!("{looked_at}: {}{allowed}\n", parts.join(", "))
}

fn style(severity: Severity) -> Style {
    match severity {
        Severity::Error => Style::Bad,
        Severity::Warning => Style::Warning,
        Severity::Note => Style::Waiting,
    }
}
