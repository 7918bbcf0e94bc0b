//! Manifests: whatever the text, `lint` ends, and each finding has a line of the text; `migrate` ends, leaves as many
//! objects as there were.

use clapometer::{
    keda::version::Version,
    lint::{Counted, Options, Source, lint},
    manifest::Manifest,
    migrate::{self, migrate},
};

/// The text as a file of manifests.
pub(super) fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input).into_owned();
    let lines = text.split('\n').count();
    let source = Source { name: "fuzz.yaml".to_owned(), text };
    for counts in [None, Some(Counted::Pending), Some(Counted::Outstanding)] {
        let sources = std::slice::from_ref(&source);
        let report = lint(sources, Options { keda: Version::NEWEST, counts });
        for finding in &report.findings {
            assert!((1..=lines).contains(&finding.line), "{finding:?} is not in {lines} lines");
            assert!(!finding.why.is_empty() && !finding.how.is_empty(), "{finding:?}");
        }
    }
    let options = migrate::Options { address: "clapometer.c.svc:9090".to_owned() };
    let Ok(migration) = migrate(std::slice::from_ref(&source), &options) else { return };
    let objects = |text: &str| Manifest::read(text).objects.len();
    for file in migration.files.iter().filter(|file| file.path.starts_with("manifests/")) {
        assert_eq!(objects(&file.text), objects(&source.text), "{}", file.text);
    }
}
