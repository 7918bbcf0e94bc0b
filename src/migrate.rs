//! Turns triggers of KEDA's built-in type `postgresql` into clapometer's.
//!
//! Pure: from manifests to the text of a configuration, of the same manifests with other triggers, and of a report.
//! A trigger and what becomes of it give KEDA the same numbers; where that cannot be known from the manifest, the
//! report says what decides. Files are read and written in `command`; no cluster and no database is asked.

mod builtin;
mod configuration;
mod edit;
mod literals;
mod origin;
mod paths;
mod plan;
mod report;
mod statement;
#[cfg(test)]
mod tests;

use self::{builtin::Builtin, edit::Change, origin::Surroundings, plan::Candidate};
use crate::{
    lint::Source,
    manifest::{Kind, Manifest, Object},
};

/// The options for the new triggers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `scalerAddress` of each trigger.
    pub address: String,
}

/// The result of a migration.
#[derive(Debug)]
pub struct Migration {
    /// The files, by their paths below the output's directory. None if there is nothing to migrate.
    pub files: Vec<File>,
    /// The number of triggers that were changed.
    pub migrated: usize,
    /// The number of triggers that have their query in the configuration, and that a person has to change.
    pub by_hand: usize,
    /// The number of triggers that stay KEDA's own.
    pub left: usize,
    /// The documents that could not be read and name KEDA: the file, the line, and what is wrong.
    pub unreadable: Vec<String>,
    /// The number of documents of any kind.
    pub documents: usize,
}

/// A file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its path, with slashes.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// A place at which a manifest is no manifest yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrendered {
    /// The file.
    pub file: String,
    /// The line.
    pub line: usize,
}

/// One built-in trigger.
#[derive(Debug)]
struct Found {
    /// The index of its file.
    source: usize,
    /// The index of its object in the file.
    object: usize,
    /// Its index in the object.
    trigger: usize,
    /// Names it.
    label: String,
    /// The line of its type.
    line: usize,
    outcome: Outcome,
}

/// The outcome for a trigger.
#[derive(Debug)]
enum Outcome {
    /// The index of the candidate that it is.
    Migrated(usize),
    /// The reasons why it stays.
    Left(Vec<String>),
}

/// All that the parts of a migration look at.
struct Findings<'a> {
    sources: &'a [Source],
    manifests: &'a [Manifest],
    found: Vec<Found>,
    candidates: Vec<Candidate>,
}

impl Findings<'_> {
    fn object(&self, found: &Found) -> &Object {
        &self.manifests[found.source].objects[found.object]
    }
}

/// Makes clapometer's triggers of KEDA's.
///
/// # Errors
/// Returns the places of templates that nobody has rendered.
pub fn migrate(sources: &[Source], options: &Options) -> Result<Migration, Vec<Unrendered>> {
    let manifests: Vec<Manifest> = sources.iter().map(|source| Manifest::read(&source.text)).collect();
    let unrendered: Vec<Unrendered> = sources.iter().zip(&manifests).filter_map(unrendered).collect();
    if !unrendered.is_empty() {
        return Err(unrendered);
    }
    let findings = findings(sources, &manifests);
    let plan = plan::plan(&findings.candidates);
    let mut files = Vec::new();
    let mut undone: Vec<(usize, Change)> = Vec::new();
    let mut withheld: Vec<usize> = Vec::new();
    let paths = paths::below(&sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>());
    for (index, source) in sources.iter().enumerate() {
        let changes = changes(&findings, &plan, index, options);
        let edited = edit::apply(&source.text, &manifests[index], &changes);
        if edited.undone.len() == changes.len() {
            undone.extend(changes.into_iter().map(|change| (index, change)));
        } else if has_secret(&Manifest::read(&edited.text)) {
            withheld.push(index);
            undone.extend(changes.into_iter().map(|change| (index, change)));
        } else {
            files.push((index, File { path: format!("manifests/{}", paths[index]), text: edited.text }));
            undone.extend(edited.undone.into_iter().map(|change| (index, change)));
        }
    }
    let mut unreadable = Vec::new();
    for (source, manifest) in sources.iter().zip(&manifests) {
        // Beside triggers that were found, what does not name KEDA is somebody else's.
        let of_interest = manifest.unreadable.iter().filter(|one| one.names_keda || findings.found.is_empty());
        unreadable
            .extend(of_interest.map(|document| format!("{}:{}: {}", source.name, document.line, document.message)));
    }
    let left = findings.found.iter().filter(|found| matches!(found.outcome, Outcome::Left(_))).count();
    let by_hand = undone.len();
    let migrated = findings.candidates.len() - by_hand;
    let report = report::text(&findings, &plan, &files, &undone, &withheld);
    let mut files: Vec<File> = files.into_iter().map(|(_, file)| file).collect();
    if !findings.candidates.is_empty() {
        files.insert(0, File { path: "clapometer.yaml".to_owned(), text: configuration::text(&plan) });
    }
    if !findings.found.is_empty() {
        files.push(File { path: "report.md".to_owned(), text: report });
    }
    let documents = manifests.iter().map(|manifest| manifest.documents).sum();
    Ok(Migration { files, migrated, by_hand, left, unreadable, documents })
}

fn findings<'a>(sources: &'a [Source], manifests: &'a [Manifest]) -> Findings<'a> {
    let around = Surroundings {
        objects: manifests.iter().flat_map(|manifest| &manifest.objects).collect(),
        others: manifests.iter().flat_map(|manifest| &manifest.others).collect(),
    };
    let mut findings = Findings { sources, manifests, found: Vec::new(), candidates: Vec::new() };
    for (source, manifest) in manifests.iter().enumerate() {
        for (index, object) in manifest.objects.iter().enumerate() {
            if !matches!(object.kind, Kind::ScaledJob | Kind::ScaledObject) {
                continue;
            }
            let count = object.triggers().count();
            for (at, trigger) in object.triggers().enumerate().filter(|(_, trigger)| trigger.kind() == builtin::TYPE) {
                let name = trigger.node.text_at(&["name"]).map(str::to_owned);
                let label = match (&name, count) {
                    (_, 1) => one_line(&object.to_string()),
                    (Some(name), _) => one_line(&format!("{object}, trigger {name}")),
                    (None, _) => one_line(&format!("{object}, trigger {}", at + 1)),
                };
                let read = builtin::read(trigger, object, &around).and_then(|builtin| accepted(builtin, object));
                let outcome = match read {
                    Ok(builtin) => {
                        findings.candidates.push(Candidate {
                            object: object.name().to_owned(),
                            namespace: object.namespace().map(str::to_owned),
                            trigger: name,
                            builtin,
                        });
                        Outcome::Migrated(findings.candidates.len() - 1)
                    }
                    Err(reasons) => Outcome::Left(reasons),
                };
                let line = trigger.node.get("type").map_or(trigger.node.line, |node| node.line);
                findings.found.push(Found { source, object: index, trigger: at, label, line, outcome });
            }
        }
    }
    findings
}

/// Returns the trigger, if clapometer's configuration takes it.
fn accepted(builtin: Builtin, object: &Object) -> Result<Builtin, Vec<String>> {
    let faults = configuration::faults(&builtin, object.namespace());
    if faults.is_empty() { Ok(builtin) } else { Err(faults) }
}

fn changes(findings: &Findings<'_>, plan: &plan::Plan, source: usize, options: &Options) -> Vec<Change> {
    let of_source = findings.found.iter().filter(|found| found.source == source);
    of_source
        .filter_map(|found| {
            let Outcome::Migrated(candidate) = found.outcome else { return None };
            let asked = &plan.asked[candidate];
            let query = &plan.queries[asked.query];
            let names = query.parameters.iter().map(|(name, _)| name.clone());
            Some(Change {
                object: found.object,
                trigger: found.trigger,
                address: options.address.clone(),
                query: query.name.clone(),
                parameters: names.zip(asked.values.iter().cloned()).collect(),
            })
        })
        .collect()
}

/// Returns whether a trigger that stays KEDA's own has a secret in clear, which must not be copied.
fn has_secret(manifest: &Manifest) -> bool {
    let is_left = |object: &&Object| object.triggers().any(|trigger| trigger.kind() == builtin::TYPE);
    manifest.objects.iter().filter(is_left).any(|object| {
        let in_metadata = object
            .triggers()
            .filter(|trigger| trigger.kind() == builtin::TYPE)
            .any(|trigger| builtin::SECRET_KEYS.iter().any(|key| builtin::text(trigger, key).is_some()));
        let applied = object.annotation(edit::LAST_APPLIED).map(|(_, text)| text).unwrap_or_default();
        in_metadata || builtin::SECRET_KEYS.iter().any(|key| applied.contains(&format!("\"{key}\":\"")))
    })
}

/// Returns where a file is a template: one that is no YAML, or one whose triggers have its marks within quotes.
fn unrendered((source, manifest): (&Source, &Manifest)) -> Option<Unrendered> {
    let at = |line| Some(Unrendered { file: source.name.clone(), line });
    if let Some(document) = manifest.unreadable.iter().find(|document| document.names_keda && document.is_template) {
        return at(document.line);
    }
    let mut triggers = manifest.objects.iter().flat_map(Object::triggers).filter(|one| one.kind() == builtin::TYPE);
    let line = triggers.find_map(|trigger| {
        let mut texts = trigger.pairs();
        texts.find(|(_, text, _)| is_template(text)).map(|(_, _, node)| node.line)
    });
    line.and_then(at)
}

/// Returns whether a text has an action of a template. PostgreSQL's arrays have two braces, too: `'{{1,2},{3,4}}'`.
fn is_template(text: &str) -> bool {
    text.match_indices("{{").any(|(at, _)| {
        let inside = text[at + 2..].trim_start_matches('-');
        inside.starts_with(['.', '$', ' ']) && inside.contains("}}")
    })
}

/// Returns a text of a manifest for a sentence: in one line, and without what Markdown or YAML would read.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_alphanumeric() || " -_./,()".contains(c) { c } else { '?' }).take(400).collect()
}
