//! Findings as annotations of GitHub Actions.
//!
//! *Source:* GitHub's documentation, "Workflow commands"; its escapes are those of actions/toolkit.

use crate::lint::{Finding, Report, Severity};

/// Returns a line for each finding.
pub(super) fn annotations(report: &Report) -> String {
    report.findings.iter().map(annotation).collect()
}

fn annotation(finding: &Finding) -> String {
    let Finding { file, line, object, severity, rule, why, how } = finding;
    let command = match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "notice",
    };
    let about = object.as_ref().map_or_else(String::new, |object| format!("{object}: "));
    let message = escaped(&format!("{about}{why} ({})\n{how}", rule.source));
    let file = escaped(file).replace(':', "%3A").replace(',', "%2C");
    format!("::{command} file={file},line={line},title={}::{message}\n", rule.name)
}

fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        keda::version::Version,
        lint::{Options, Source, lint},
    };

    #[test]
    fn what_a_manifest_says_cannot_become_a_command() {
        let text =
            "apiVersion: keda.sh/v1alpha1\nkind: ScaledJob\nmetadata: {name: \"a\\n::error::b\"}\nspec: {typo%: 1}\n";
        let source = Source { name: "a,b:c.yaml".to_owned(), text: text.to_owned() };
        let report = lint(&[source], Options { keda: Version::NEWEST, counts: None });
        let lines = annotations(&report);
        assert_eq!(lines.lines().count(), report.findings.len());
        assert!(
            lines.lines().any(|line| {
                line.starts_with("::error file=a%2Cb%3Ac.yaml,line=4,title=unknown-field::ScaledJob a%0A::error::b: ")
                    && line.contains("typo%25")
            }),
            "{lines}"
        );
    }
}
