//! The report: what a person has to do, what changes, and what was not understood.

mod databases;
mod triggers;

use std::fmt::Write;

use super::{
    File, Findings, Outcome,
    configuration::{Needed, needed},
    edit::Change,
    plan::{Database, Plan},
};
use crate::{
    config::variable_name,
    keda::version::Version,
    lint::{Finding, Options, Source, lint},
    manifest::{Manifest, Node},
};

/// The text that holds for every trigger, so that it is said once.
const EVERY_TRIGGER: &str = "\
## For every trigger

The number is the same: reported with its fraction as the query returned it, and compared with the activation strictly
greater. What is different:

| the query returns | KEDA's own trigger | clapometer |
| --- | --- | --- |
| NULL, or no row | an error | an error; zero with `on_null: zero` or `on_no_row: zero` |
| several rows | the first | an error (FAILED_PRECONDITION) |
| a number below 0, or NaN | 0 | an error (FAILED_PRECONDITION) |
| infinity | 0, and active | an error (FAILED_PRECONDITION) |
| between 0 and 0.001 | 0, or 0.001 from 0.0005 on | 0.001: something waits |
| more than 500,000 with a fraction of at most 0.001 | the fraction | the whole number |

- A statement that takes more than 1.5 s is cancelled, and its poll is an error: `timeout` of the query. KEDA's own trigger waits.
- It runs in a read-only transaction: a function that writes is an error (25006).
- Readings are shared for one second: `max_age` of the query.
- The metric is called `s0-NAME` after its query, not `s0-postgresql`: look for the old name in dashboards and alerts.
- KEDA resolves a host without dots in its own namespace, clapometer in its own.
";

const BACK: &str = "\
## The way back

Apply the manifests as they were. KEDA's own trigger needs nothing that clapometer has, so both ways are one apply each; the Secrets
that the old triggers name must still be there. For a ScaledJob `rollout.strategy: gradual` holds in this direction, too.
";

/// Writes the report.
pub(super) fn text(
    findings: &Findings<'_>,
    plan: &Plan,
    files: &[(usize, File)],
    undone: &[(usize, Change)],
    withheld: &[usize],
) -> String {
    let mut text = String::from("# From KEDA's postgresql triggers to clapometer\n\n");
    let migrated = findings.candidates.len();
    let left = findings.found.len() - migrated;
    line(
        &mut text,
        &format!(
            "{}: {migrated} migrated, {left} left as {}. {} on {}.\n",
            counted(findings.found.len(), "trigger of type `postgresql`", "triggers of type `postgresql`"),
            if left == 1 { "it is" } else { "they are" },
            counted(plan.queries.len(), "query", "queries"),
            counted(plan.databases.len(), "database", "databases"),
        ),
    );
    text.push_str(&overview(findings, plan));
    if migrated > 0 {
        text.push_str(&steps(plan));
        text.push_str("\n## Databases\n");
        for index in 0..plan.databases.len() {
            text.push_str(&databases::section(plan, index));
        }
        text.push_str("\n## Triggers\n");
        let now = lint_lines(findings, files);
        for found in &findings.found {
            text.push_str(&triggers::section(findings, plan, undone, &now, found));
        }
        text.push_str(&databases::alike(plan));
        for source in withheld {
            line(
                &mut text,
                &format!(
                    "\n**{} is not written**: a trigger that stays KEDA's own has a password or a connection string in its metadata, or \
                 in the annotation of the last apply. KEDA never takes it from there. Remove it, and migrate again.",
                    file(findings, *source)
                ),
            );
        }
    }
    text.push_str(&left_as_they_are(findings));
    text.push_str(&unreadable(findings));
    if migrated > 0 {
        text.push('\n');
        text.push_str(EVERY_TRIGGER);
        text.push('\n');
        text.push_str(BACK);
    }
    text
}

fn overview(findings: &Findings<'_>, plan: &Plan) -> String {
    let mut text = String::from("| trigger | at | query |\n| --- | --- | --- |\n");
    for found in &findings.found {
        let query = match &found.outcome {
            Outcome::Migrated(candidate) => format!("`{}`", plan.queries[plan.asked[*candidate].query].name),
            Outcome::Left(_) => "left as it is".to_owned(),
        };
        line(&mut text, &format!("| {} | {} | {query} |", found.label, place(findings, found.source, found.line)));
    }
    text
}

fn steps(plan: &Plan) -> String {
    let mut text = String::from("\n## What to do, in this order\n\n");
    let variables = variables(plan);
    let check = "Read *Triggers*: what changes there, and what is to do. Then, in this directory and where the databases can be \
                 reached, `clapometer check --config clapometer.yaml`: it runs every query once, and shows value, relations, \
                 plan cost and what is wrong with the role.";
    let check_elsewhere = format!(
        "{check} Where the Secrets are not mounted, as on a laptop, put the values into files of your own, and name them by \
         variables:\n\n   ```console\n{variables}   clapometer check --config clapometer.yaml\n   ```\n"
    );
    let mut steps = Vec::new();
    if variables.is_empty() {
        steps.push(check);
    } else {
        steps.push("Make the Secrets that *Databases* names, in clapometer's namespace. With the chart, list them under `secrets`.");
        steps.push(&check_elsewhere);
    }
    steps.push("Give clapometer the file `clapometer.yaml`: with the chart, under `config`.");
    steps.push("Compare, while the old triggers still run: `clapometer get QUERY --namespace NAMESPACE` shows what KEDA would get, and \
         `clapometer get --manifest FILE` what it would do with an object below `manifests/`.");
    steps.push(
        "Apply the files below `manifests/`. A ScaledJob loses its running Jobs by any change of its spec unless it has \
         `rollout.strategy: gradual`: set that in an apply of its own, before.",
    );
    for (number, step) in (1..).zip(steps) {
        line(&mut text, &format!("{number}. {step}"));
    }
    text
}

/// Returns the variables that name other files than the mounted ones, each in a line of its own before a command.
fn variables(plan: &Plan) -> String {
    let of_database = |database: &Database| -> String {
        let variable = |need: Needed| {
            let name = variable_name(&["databases", &database.name, need.key, "file"]);
            format!("   {name}={}.{} \\\n", database.name, need.key)
        };
        needed(database).into_iter().map(variable).collect()
    };
    plan.databases.iter().map(of_database).collect()
}

fn left_as_they_are(findings: &Findings<'_>) -> String {
    let mut text = String::new();
    for found in &findings.found {
        let Outcome::Left(reasons) = &found.outcome else { continue };
        if text.is_empty() {
            text.push_str("\n## Left as they are\n");
        }
        line(&mut text, &format!("\n**{}** ({}):\n", found.label, place(findings, found.source, found.line)));
        for reason in reasons {
            line(&mut text, &format!("- {reason}."));
        }
    }
    text
}

fn unreadable(findings: &Findings<'_>) -> String {
    let mut text = String::new();
    for (source, manifest) in findings.manifests.iter().enumerate() {
        for document in manifest.unreadable.iter().filter(|document| document.names_keda) {
            if text.is_empty() {
                text.push_str("\n## Not read\n\n");
            }
            line(&mut text, &format!("- {}: {}.", place(findings, source, document.line), document.message));
        }
    }
    text
}

/// A line about an object, or one of its triggers.
struct LintLine {
    source: usize,
    /// The index of the object in its source. Its name would not do: two documents may have the same.
    object: usize,
    /// The index of the trigger, if it is about one.
    trigger: Option<usize>,
    text: String,
}

/// Rules about what the numbers make KEDA do. They look at the SQL, which the new triggers no longer have.
const ABOUT_NUMBERS: [&str; 4] = ["strategy-starves", "strategy-idles", "double-division", "workers-scaled-away"];

/// Returns what `clapometer lint` says of the new manifests that it did not say of the old ones, and what it said of
/// the old ones' numbers.
fn lint_lines(findings: &Findings<'_>, files: &[(usize, File)]) -> Vec<LintLine> {
    let options = Options { keda: Version::NEWEST, counts: None };
    let numbered = |text_of: &dyn Fn(usize) -> String| -> Vec<Source> {
        (0..findings.sources.len()).map(|index| Source { name: index.to_string(), text: text_of(index) }).collect()
    };
    let old = numbered(&|index| findings.sources[index].text.clone());
    let new = numbered(&|index| {
        let changed = files.iter().find(|(changed, _)| *changed == index).map(|(_, file)| &file.text);
        changed.unwrap_or(&findings.sources[index].text).clone()
    });
    let manifests: Vec<Manifest> = new.iter().map(|source| Manifest::read(&source.text)).collect();
    let before = lint(&old, options).findings;
    let mut lines = Vec::new();
    for finding in lint(&new, options).findings {
        let is_new = before.iter().all(|other| {
            (&other.file, &other.object, other.rule.name) != (&finding.file, &finding.object, finding.rule.name)
        });
        if is_new {
            let text = format!("`{}`: {} {}", finding.rule.name, finding.why, finding.how);
            lines.extend(LintLine::of(&finding, &manifests, text));
        }
    }
    for finding in before.iter().filter(|finding| ABOUT_NUMBERS.contains(&finding.rule.name)) {
        let text = format!("`{}`, as before: {} {}", finding.rule.name, finding.why, finding.how);
        lines.extend(LintLine::of(finding, findings.manifests, text));
    }
    lines
}

impl LintLine {
    fn of(finding: &Finding, manifests: &[Manifest], text: String) -> Option<Self> {
        let source: usize = finding.file.parse().ok()?;
        let is_within = |node: &Node| (node.line..=last_line(node)).contains(&finding.line);
        let objects = &manifests.get(source)?.objects;
        let object = objects.iter().position(|object| is_within(&object.root))?;
        let trigger = objects[object].triggers().position(|trigger| is_within(trigger.node));
        Some(Self { source, object, trigger, text })
    }
}

/// Returns the line of the last key or item.
fn last_line(node: &Node) -> usize {
    let below = node.items().iter().chain(node.entries().iter().map(|(_, node)| node)).map(last_line);
    below.max().unwrap_or_default().max(node.line)
}

fn place(findings: &Findings<'_>, source: usize, at: usize) -> String {
    format!("`{}:{at}`", file(findings, source))
}

fn file(findings: &Findings<'_>, source: usize) -> String {
    findings.sources[source].name.replace(['`', '\n', '|'], "?")
}

fn counted(number: usize, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes everything");
}

/// Returns a text as a block of code that it cannot leave.
fn fenced(language: &str, code: &str) -> String {
    let longest = code.split(|c| c != '`').map(str::len).max().unwrap_or_default();
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}{language}\n{}\n{fence}\n", code.trim_end_matches('\n'))
}
