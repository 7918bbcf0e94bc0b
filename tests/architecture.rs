//! Holds ARCHITECTURE.md to the sources: what it names is there, and no way leads through more files than a reader
//! opens.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{collections::BTreeSet, fs, path::Path};

/// The most files that a way may lead through.
const MOST_FILES: usize = 6;

/// The beginnings of paths that must be there.
const ROOTS: [&str; 8] = ["src/", "tests/", "docs/", "proto/", "migrations/", "deploy/", "benches/", "examples/"];

/// Returns the words of a text between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Returns every fault of the ways of a document, a sentence each.
fn faults_of_ways(document: &str, root: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    let sections = document.split("\n## ").filter(|section| section.starts_with("The way of "));
    for (title, text) in sections.filter_map(|section| section.split_once('\n')) {
        let steps = text.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit()));
        let files: BTreeSet<_> = steps.map(|step| quoted(step).next().unwrap_or_default()).collect();
        if files.is_empty() || files.len() > MOST_FILES {
            faults.push(format!("{title}: {} files", files.len()));
        }
        let mut file = None;
        for word in quoted(text) {
            if word.contains('/') {
                // A folder has nothing beside it.
                file = fs::read_to_string(root.join(word)).ok().map(|source| (word, source));
            } else if let Some((path, source)) = &file
                && !has(path, source, word)
            {
                faults.push(format!("{title}: {word} is not in {path}"));
            }
        }
        faults.extend(files.iter().filter(|file| !root.join(file).is_file()).map(|file| format!("{title}: no {file}")));
    }
    faults
}

/// Returns whether a source has a symbol: a function where it is defined, a type or a column wherever it is used.
fn has(path: &str, source: &str, symbol: &str) -> bool {
    let is_in_a_name = |character: char| character.is_alphanumeric() || character == '_';
    if !symbol.chars().all(|character| is_in_a_name(character) || character == ':') {
        return true;
    }
    let words: Vec<&str> = source.split(|character| !is_in_a_name(character)).filter(|word| !word.is_empty()).collect();
    symbol.split("::").all(|name| {
        let is_function = symbol.ends_with(name) && path.ends_with(".rs") && name.starts_with(char::is_lowercase);
        let is_defined = words.windows(2).any(|pair| ["fn", "let"].contains(&pair[0]) && pair[1] == name);
        let is_field = source.contains(&format!(".{name} = "));
        if is_function { is_defined || is_field } else { words.contains(&name) }
    })
}

#[test]
fn the_ways_lead_through_six_files_at_most_which_have_what_is_named() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    assert_eq!(document.matches("\n## The way of ").count(), 3);
    let faults = faults_of_ways(&document, root);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_path_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let is_path = |word: &&str| ROOTS.iter().any(|root| word.starts_with(root)) && !word.contains("NAME");
    let missing: Vec<&str> = quoted(&document).filter(is_path).filter(|path| !root.join(path).exists()).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names what is not there: {missing:?}");
}

#[test]
fn a_way_that_has_changed_is_seen() {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("src")).unwrap();
    let write = |file: &str, text: &str| fs::write(tree.path().join(file), text).unwrap();
    write("src/a.rs", "impl One { pub fn go(&self) { self.state.sent_at = now; next.run() } }");
    write("src/b.sql", "SELECT run()");
    let good =
        "1. `src/a.rs`: `One::go` sets `sent_at`.\n2. `src/b.sql`: `run`, of `clapometer get`, in `src/`: `Three`.\n";
    let faults = |steps: &str| {
        faults_of_ways(&format!("# A\n\n## The way of one\n\n{steps}\n## B\n\n`src/c.rs`\n"), tree.path())
    };
    assert!(faults(good).is_empty(), "{:?}", faults(good));
    assert_eq!(faults(&good.replace("One::", "Two::")), ["The way of one: Two::go is not in src/a.rs"]);
    // A function that is only called here is elsewhere.
    assert_eq!(faults(&good.replace("One::go", "run")), ["The way of one: run is not in src/a.rs"]);
    assert_eq!(faults(&good.replace("b.sql", "c.sql")), ["The way of one: no src/c.sql"]);
    assert_eq!(faults(""), ["The way of one: 0 files"]);
    let long: String = (1..=7).map(|step| format!("{step}. `src/{step}.rs`\n")).collect();
    assert_eq!(faults(&long)[0], "The way of one: 7 files");
}
