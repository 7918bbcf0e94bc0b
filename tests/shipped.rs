//! The configurations that we ship and print, read by the loader that `clapometer serve` uses: plain YAML rendered from
//! the chart, examples, and every whole configuration in the documents.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clapometer::config::{Config, Environment};

/// The directories at which the shipped manifests mount Secrets and certificates.
const MOUNTS: [&str; 3] = ["/secrets/", "/certs", "/var/run/"];

/// The file that the documents put into the directory from which they start the program.
const PASSWORD: &str = "clapometer.password";

/// Lays out the mounted files under `root`, with something of the right form in each.
fn mount(root: &Path, yaml: &str) -> String {
    let mounted = MOUNTS.iter().fold(yaml.to_owned(), |text, mount| {
        text.replace(&format!(" {mount}"), &format!(" {}{mount}", root.display()))
    });
    let mounted = mounted.replace(&format!(" {PASSWORD}"), &format!(" {}/{PASSWORD}", root.display()));
    let is_end = |character: char| ",}] \n".contains(character);
    for path in mounted.split(is_end).filter(|word| word.starts_with(&*root.to_string_lossy())) {
        let content = match Path::new(path).extension().and_then(|extension| extension.to_str()) {
            Some("crt" | "pem") => read("tests/config/files/ca.crt"),
            Some("key") => read("tests/config/files/tls.key"),
            _ => "a password\n".to_owned(),
        };
        fs::create_dir_all(Path::new(path).parent().expect("a directory")).expect("directories");
        fs::write(path, content).expect("a mounted file");
    }
    mounted
}

/// Fails with the loader's own message.
fn loads(origin: &str, yaml: &str) -> Config {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("clapometer.yaml");
    let yaml = mount(directory.path(), yaml);
    fs::write(&path, &yaml).expect("a configuration file");
    Config::load(Some(&path), &Environment::default()).unwrap_or_else(|faults| panic!("{origin}: {faults}\n{yaml}"))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The text of the `clapometer.yaml` of a ConfigMap: the block after its key, less its indentation.
fn config_map(manifest: &str) -> String {
    let indentation = "    ";
    manifest
        .lines()
        .skip_while(|line| *line != "  clapometer.yaml: |")
        .skip(1)
        .take_while(|line| line.starts_with(indentation) || line.is_empty())
        .fold(String::new(), |text, line| text + line.strip_prefix(indentation).unwrap_or("") + "\n")
}

/// The fenced YAML blocks of a document that are whole configurations of clapometer.
fn whole_configurations(document: &str) -> Vec<String> {
    document
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```"))
        .map(|(block, _)| block.to_owned())
        .filter(|block| block.lines().any(|line| line == "databases:"))
        .collect()
}

fn markdown(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .expect("the documents")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect()
}

#[test]
fn rendered_manifests_carry_a_configuration_that_loads() {
    for file in ["base/clapometer", "components/mtls/configuration.patch", "demo/clapometer"] {
        let path = format!("deploy/kustomize/{file}.yaml");
        let config = loads(&path, &config_map(&read(&path)));
        assert!(config.queries.contains_key("dead-claps"), "{path}");
        assert!(config.queries.contains_key("outstanding-claps"), "{path}");
        assert_eq!(config.server.listen.port(), 9090, "{path}");
        assert_eq!(config.admin.listen.port(), 9091, "{path}");
        for (name, database) in &config.databases {
            assert!(database.require_unprivileged_role, "{path}: {name}");
        }
    }
}

#[test]
fn the_example_of_an_own_table_loads() {
    let path = "deploy/examples/own-table/clapometer.yaml";
    let config = loads(path, &read(path));
    for name in ["invoice-jobs", "invoice-jobs-of-a-tenant"] {
        assert!(config.queries.contains_key(name), "{name}");
    }
}

#[test]
fn whole_configurations_in_the_documents_load() {
    let documents = [markdown(Path::new(".")), markdown(Path::new("docs"))].concat();
    let mut found = 0;
    for path in documents {
        let name = path.display().to_string();
        for block in whole_configurations(&read(&name)) {
            loads(&name, &block);
            found += 1;
        }
    }
    assert!(found >= 2, "only {found} whole configurations found");
}

/// The names of tests in a document: between backquotes, with `::` and without anything that is no name.
fn tests_named_in(document: &str) -> Vec<String> {
    let is_name = |text: &&str| text.contains("::") && text.chars().all(|c| c.is_alphanumeric() || "_:".contains(c));
    document.split('`').skip(1).step_by(2).filter(is_name).map(str::to_owned).collect()
}

/// Returns whether there is this test: a function in the file that its path names, in `src` if it is in a module
/// `tests`, which may be a part of the file that it tests.
fn is_a_test(name: &str) -> bool {
    let Some((module, function)) = name.rsplit_once("::") else { return false };
    let file = |root: &str, module: &str| format!("{root}/{}.rs", module.replace("::", "/"));
    let files = match module.strip_suffix("::tests") {
        Some(tested) => vec![file("src", module), file("src", tested)],
        None => vec![file("tests/it", module)],
    };
    let test = format!("fn {function}(");
    files.iter().any(|path| fs::read_to_string(path).is_ok_and(|code| code.contains(&test)))
}

#[test]
fn the_runbook_begins_with_a_list_that_leads_from_each_alert_to_its_entry() {
    let rules = read("deploy/prometheus/alerts.yaml");
    let runbook = read("docs/runbook.md");
    let (list, _) = runbook.split_once("\n## ").expect("the runbook has entries");
    let anchors: Vec<String> =
        runbook.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_lowercase).collect();
    let of_key = |key: &str| rules.lines().filter_map(|line| line.trim().strip_prefix(key)).collect::<Vec<&str>>();
    let (alerts, pages) = (of_key("- alert: "), of_key("runbook_url: docs/runbook.md#"));
    assert!(!alerts.is_empty() && alerts.len() == pages.len(), "{} alerts, {} pages", alerts.len(), pages.len());
    for (alert, anchor) in alerts.into_iter().zip(pages) {
        assert!(list.contains(&format!("[{alert}](#{anchor})")), "the list lacks {alert}");
        assert!(anchors.iter().any(|known| known == anchor), "there is no entry {anchor}");
    }
}

#[test]
fn each_test_that_is_named_as_a_proof_exists() {
    let document = read("docs/silent-zeros.md");
    let missing: Vec<String> = tests_named_in(&document).into_iter().filter(|name| !is_a_test(name)).collect();
    assert!(missing.is_empty(), "docs/silent-zeros.md names tests that are not there: {missing:?}");
    let (rows, named) = document
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---") && !line.starts_with("| what happens"))
        .fold((0, 0), |(rows, named), line| (rows + 1, named + usize::from(!tests_named_in(line).is_empty())));
    assert!(rows >= 15, "only {rows} silent zeros");
    assert_eq!(rows, named, "a silent zero without a test");
    assert!(!is_a_test("silent_zero::no_such_test"));
}

#[test]
#[should_panic(expected = "sevrer")]
fn a_misspelt_key_fails_the_check() {
    loads("a test", "sevrer: {}\ndatabases: {claps: {host: localhost}}\n");
}
