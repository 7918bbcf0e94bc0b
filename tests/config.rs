//! Configurations as data files: `tests/config/good` must load, and each of `tests/config/bad`
//! must be refused with exactly the message in the `.expected` file beside it.
//!
//! A line `# env: NAME=value` at the top of a file sets a variable for it. Paths in the files
//! count from the package's directory, where cargo runs tests.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clapometer::config::{Config, Environment};

/// What every case's environment has: a host and a user, so that files without databases do not
/// depend on who runs the test.
const BASE: [(&str, &str); 2] = [("PGHOST", "localhost"), ("PGUSER", "tester")];

fn files(directory: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(Path::new("tests/config").join(directory))
        .expect("the directory of cases")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

fn environment(yaml: &str) -> Environment {
    let set = yaml.lines().filter_map(|line| line.strip_prefix("# env: ")?.split_once('='));
    BASE.into_iter().chain(set).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Loads a case as `clapometer serve --config` would.
fn load(path: &Path) -> Result<Config, String> {
    let yaml = String::from_utf8_lossy(&fs::read(path).expect("a case")).into_owned();
    Config::load(Some(path), &environment(&yaml)).map_err(|faults| faults.to_string())
}

/// A message as the expectations have it: without the directory, with a last newline.
fn expected_form(message: &str) -> String {
    message.replace("tests/config/bad/", "") + "\n"
}

/// What differs from the expectation beside the case, if anything.
fn complaint(path: &Path) -> Option<String> {
    let expectation = path.with_extension("expected");
    let found = match load(path) {
        Ok(_) => return Some(format!("{}: loads, but must be refused", path.display())),
        Err(message) => expected_form(&message),
    };
    match fs::read_to_string(&expectation) {
        Err(_) => Some(format!("{}: no expectation beside it; found:\n{found}", path.display())),
        Ok(expected) if expected == found => None,
        Ok(expected) => Some(format!("{}: expected:\n{expected}found:\n{found}", path.display())),
    }
}

#[test]
fn every_bad_configuration_says_what_is_wrong_and_what_would_be_right() {
    let cases = files("bad");
    if std::env::var_os("UPDATE_EXPECTATIONS").is_some() {
        for path in &cases {
            let message = load(path).expect_err("a bad configuration");
            fs::write(path.with_extension("expected"), expected_form(&message)).expect("the expectation is writable");
        }
    }
    let complaints: Vec<String> = cases.iter().filter_map(|path| complaint(path)).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(cases.len() >= 9, "only {} cases", cases.len());
}

#[test]
fn a_case_without_its_expectation_fails() {
    let directory = tempfile::tempdir().expect("a directory");
    let case = directory.path().join("case.yaml");
    fs::write(&case, "sever: {}\n").expect("a case");
    assert!(complaint(&case).is_some_and(|complaint| complaint.contains("no expectation")));
    fs::write(&case, "admin: {}\n").expect("a case");
    assert!(complaint(&case).is_some_and(|complaint| complaint.contains("must be refused")));
}

#[test]
fn every_good_configuration_loads() {
    let cases = files("good");
    assert!(!cases.is_empty());
    for path in cases {
        if let Err(message) = load(&path) {
            panic!("{}: {message}", path.display());
        }
    }
}
