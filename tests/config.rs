//! Configurations as data files: `tests/config/good` must load, and each of `tests/config/bad`
//! must be refused with exactly the message in the `.expected` file beside it.
//!
//! A line `# env: NAME=value` at the top of a file sets a variable for it. Paths in the files
//! count from the package's directory, where cargo runs tests.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clapometer::{
    config::{Config, Environment},
    query::Namespaces,
};
use proptest::prelude::*;

/// The variables of every case: a host and a user, so that files without databases do not
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

/// Returns the difference from the expectation beside the case, if there is one.
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
    assert!(cases.len() >= 40, "only {} cases", cases.len());
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

/// Every way of getting a secret wrong that we could think of; none of them may repeat it.
#[test]
fn no_message_repeats_a_secret() {
    let places = [
        "password: [hunter2]",
        "password: {hunter2: x}",
        "password: {file: x, hunter2: y}",
        "password: {env: NOT_SET}\n    pasword: hunter2",
        "password: \"hunter2\\0\"",
        "password: *hunter2",
        "password: !hunter2 x",
        "password: \"hunter2",
        "password: 'hunter2' x",
        "password: @hunter2",
        "password: hunter2: x",
        "password: |hunter2",
        "url: hunter2",
        "url: postgres://u:hunter2@x@h/",
        "url: postgres://u:hunter2@h/?nonsense=1",
        "url: [postgres://u:hunter2@h/]",
        "url: {file: tests/config/files/url-with-a-wrong-parameter}",
        "host: postgres://u:hunter2@h/",
        "host: u:hunter2@h",
        "dbname: postgres://u:hunter2@h/",
        "port: {env: SECRET}",
        "pool_size: {env: SECRET}",
        "enabled: {env: SECRET}",
        "sslmode: {env: SECRET}",
        "search_path: {env: SECRET}\n    lock_timeout: {env: SECRET}",
    ];
    for place in places {
        let yaml =
            format!("# env: SECRET=hunter2\ndatabases:\n  claps:\n    user: me\n    {place}\n    idle_timeout: 0s\n");
        let faults = Config::parse(&yaml, &environment(&yaml)).expect_err(place);
        let message = faults.to_string();
        assert!(!message.contains("hunter2"), "{place}: {message}");
        assert!(!format!("{faults:?}").contains("hunter2"), "{place}");
    }
}

#[test]
fn no_secret_shows_in_debug_or_in_the_effective_configuration() {
    let yaml = "# env: SECRET=hunter2\n# env: OTHER=hunter2\ndatabases:\n  \
                a: {host: localhost, user: me, password: hunter2}\n  \
                b: {url: 'postgres://me:hunter2@localhost/'}\n  \
                c: {host: localhost, user: me, password: {env: SECRET}, search_path: {env: OTHER}}\n  \
                d: {url: 'postgres://me@localhost/?password=hunter2'}\n";
    let config = Config::parse(yaml, &environment(yaml)).expect("a configuration");
    assert!(!format!("{config:?}").replace("search_path: Some(\"hunter2\")", "").contains("hunter2"), "{config:?}");
    let effective = config.effective_yaml();
    assert!(!effective.contains("hunter2"), "{effective}");
    assert!(
        effective.contains("password: {env: SECRET}") && effective.contains("search_path: {env: OTHER}"),
        "{effective}"
    );
    let again = Config::parse(&effective, &environment(yaml)).expect("the effective configuration loads");
    assert_eq!(again.databases["c"], config.databases["c"]);
    assert_eq!(again.queries, config.queries);
}

#[test]
fn a_rotated_credential_is_used_by_the_next_connection() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("password");
    fs::write(&file, "first\n").expect("a file");
    let yaml = format!("databases: {{a: {{host: localhost, user: me, password: {{file: {}}}}}}}", file.display());
    let config = Config::parse(&yaml, &environment("")).expect("a configuration");
    let password = || config.databases["a"].connection.resolve().map(|connection| connection.password);
    assert_eq!(config.files(), std::slice::from_ref(&file));
    assert_eq!(password().expect("a connection").expect("a password").expose(), "first");
    fs::write(&file, "second").expect("a file");
    assert_eq!(password().expect("a connection").expect("a password").expose(), "second");
    fs::remove_file(&file).expect("no file");
    let message = password().expect_err("a missing file");
    assert!(message.starts_with("databases.a.password: cannot read the file"), "{message}");
}

#[test]
fn without_a_file_libpqs_environment_is_the_database_claps() {
    let variables = [
        ("DATABASE_URL", "postgres://me@db.example.org/app?sslmode=require"),
        ("PGCONNECT_TIMEOUT", "3"),
        ("CLAPOMETER__DATABASES__CLAPS__POOL_SIZE", "8"),
        ("CLAPOMETER__QUERIES__OUTSTANDING_CLAPS__TARGET", "2.5"),
    ];
    let environment: Environment =
        variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let config = Config::load(None, &environment).expect("a configuration");
    let claps = &config.databases["claps"];
    assert_eq!(claps.connection.resolve().expect("a connection").dbname, "app");
    assert_eq!((claps.pool_size.get(), claps.connect_timeout.as_secs()), (8, 2), "more than 2 s is not waited");
    assert_eq!(config.queries.keys().collect::<Vec<_>>(), ["clap-workers", "outstanding-claps", "pending-claps"]);
    assert_eq!(config.queries["outstanding-claps"].target.get(), 2.5);
    let again = Config::parse(&config.effective_yaml(), &Environment::default()).expect("it loads again");
    assert_eq!(again, config);
}

#[test]
fn built_in_queries_ask_claps_or_the_only_database_or_are_absent() {
    let databases = |names: &[&str]| {
        let entries: Vec<String> = names.iter().map(|name| format!("{name}: {{host: localhost, user: me}}")).collect();
        Config::parse(&format!("databases: {{{}}}", entries.join(", ")), &environment("")).expect("a configuration")
    };
    assert_eq!(databases(&["claps", "other"]).queries["pending-claps"].databases, ["claps"]);
    assert_eq!(databases(&["other"]).queries["pending-claps"].databases, ["other"]);
    assert!(databases(&["one", "two"]).queries.is_empty());
    let yaml = "databases: {d: {host: localhost, user: me}}\nqueries: {pending-claps: {sql: SELECT 1}}";
    let config = Config::parse(yaml, &environment("")).expect("a configuration");
    assert_eq!(config.queries["pending-claps"].sql, "SELECT 1");
    assert_eq!(config.queries.len(), 3);
}

#[test]
fn the_seeds_query_is_built_in_word_for_word() {
    let config = Config::load(None, &environment("")).expect("a configuration");
    assert_eq!(
        config.queries["pending-claps"].sql,
        "SELECT COUNT(1) FROM make_it_clap LEFT JOIN clap ON make_it_clap.id = clap.id WHERE clap.status IS NULL;"
    );
}

#[test]
fn the_effective_configuration_of_every_good_case_loads_as_the_same() {
    for path in files("good") {
        let config = load(&path).expect("a good configuration");
        let effective = config.effective_yaml();
        let yaml = fs::read_to_string(&path).expect("a case");
        match Config::parse(&effective, &environment(&yaml)) {
            Ok(again) => assert_eq!(again, config, "{}\n{effective}", path.display()),
            Err(faults) => panic!("{}: {faults}\n{effective}", path.display()),
        }
    }
}

#[test]
fn the_documents_sample_loads() {
    let document = fs::read_to_string("docs/configuration.md").expect("the document");
    let blocks: Vec<&str> = document.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 2);
    for yaml in blocks {
        let yaml = yaml.replace("/secrets/", "tests/config/files/");
        if let Err(faults) = Config::parse(&yaml, &environment("")) {
            panic!("{faults}\n{yaml}");
        }
    }
}

/// The configurations under `deploy`: whole files, and those inside of a ConfigMap.
fn shipped() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("deploy")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if ["clapometer.yaml", "configuration.patch.yaml"].iter().any(|name| path.ends_with(name)) {
                let text = fs::read_to_string(&path).expect("a file");
                let block = text.split("\n  clapometer.yaml: |\n").nth(1);
                let is_manifest = text.contains("kind: ConfigMap");
                let lines = block
                    .into_iter()
                    .flat_map(str::lines)
                    .take_while(|line| line.is_empty() || line.starts_with("    "));
                let dedented: Vec<&str> = lines.map(|line| line.get(4..).unwrap_or("")).collect();
                found.push((path, if is_manifest { dedented.join("\n") } else { text }));
            }
        }
    }
    found
}

#[test]
fn every_shipped_configuration_loads() {
    let shipped = shipped();
    assert!(shipped.len() >= 4, "{shipped:?}");
    assert!(shipped.iter().any(|(_, yaml)| yaml.contains("client_names:")), "the one with TLS");
    for (path, yaml) in shipped {
        let directory = tempfile::tempdir().expect("a directory");
        let is_mounted = |word: &&str| word.starts_with("/secrets/") || word.starts_with("/certs");
        let mounted: Vec<&str> = yaml.split([' ', '\n', '{', '}', ',']).filter(is_mounted).collect();
        let mut here = yaml.clone();
        for file in mounted {
            let local = directory.path().join(&file[1..]);
            fs::create_dir_all(local.parent().expect("a parent")).expect("a directory");
            fs::write(&local, "a secret").expect("a file");
            here = here.replace(&format!(" {file}"), &format!(" {}", local.display()));
        }
        assert!(here.contains("databases:"), "{}: {here}", path.display());
        let faults = Config::parse(&here, &environment("")).err();
        let wrong: Vec<String> = faults
            .iter()
            .flat_map(|faults| faults.iter())
            .map(|fault| format!("{}: {}", fault.path, fault.message))
            .collect();
        assert!(wrong.is_empty(), "{}: {}", path.display(), wrong.join("; "));
    }
}

/// A name of a query: what KEDA may call a metric.
fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9]([-_.A-Za-z0-9]{0,10}[A-Za-z0-9])?"
}

/// A duration, and what it must be written as.
fn duration(milliseconds: std::ops::Range<u64>) -> impl Strategy<Value = String> {
    milliseconds.prop_map(|milliseconds| format!("{milliseconds}ms"))
}

/// Statements with every kind of awkward text in a string, over one line or several.
fn statement() -> impl Strategy<Value = String> {
    ("[^\0']{0,30}", "[\n\t ]{1,4}", prop::bool::ANY).prop_map(|(text, space, ends)| {
        format!("SELECT{space}'{text}' AS a{space}FROM t{}", if ends { ";\n" } else { "" })
    })
}

/// JSON without the characters that YAML takes only as escapes.
fn ascii(json: &serde_json::Value) -> String {
    let escaped = |c: char| match c {
        ' '..='~' => c.to_string(),
        _ => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    };
    json.to_string().chars().map(escaped).collect()
}

fn query() -> impl Strategy<Value = serde_json::Value> {
    let numbers = (1e-12f64..1e300, 0.001f64..1e300, 0.0f64..1e300);
    (statement(), "a[^\0]{0,10}", numbers, duration(10..60_000), duration(1..3_600_000), prop::bool::ANY).prop_map(
        |(sql, column, (divide_by, target, activation), timeout, max_age, is_zero)| {
            serde_json::json!({
                "database": "d",
                "sql": sql,
                "value_column": column,
                "activity_column": column,
                "divide_by": divide_by,
                "target": target,
                "activation": activation,
                "rounding": if is_zero { "none" } else { "floor" },
                "on_null": if is_zero { "zero" } else { "error" },
                "timeout": timeout,
                "max_age": if is_zero { "0s".to_owned() } else { max_age },
                "namespaces": if is_zero { vec!["*"] } else { vec!["a", "no", "1e3"] },
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// JSON is YAML, so that the cases need no writer of ours.
    #[test]
    fn the_effective_configuration_loads_as_the_same(queries in prop::collection::btree_map(name(), query(), 0..3), user in "[^\0 :@/]{1,10}") {
        let json = serde_json::json!({
            "databases": {"d": {"host": "localhost", "user": user, "pool_size": 7}},
            "queries": queries,
        });
        let json = ascii(&json);
        let config = match Config::parse(&json, &environment("")) {
            Ok(config) => config,
            Err(faults) => return Err(TestCaseError::fail(format!("{faults}\n{json}"))),
        };
        let effective = config.effective_yaml();
        match Config::parse(&effective, &environment("")) {
            Ok(again) => prop_assert_eq!(again, config, "{}", effective),
            Err(faults) => return Err(TestCaseError::fail(format!("{faults}\n{effective}"))),
        }
    }
}

/// A main file with a query file for each kind of fault: all are told with file and line, and what is left is served.
#[test]
fn a_fault_of_a_query_file_is_told_like_any_other_and_is_that_files_alone() {
    let directory = Path::new("tests/config/teams");
    let config = Config::load_directory(directory, &environment("")).expect("the main file is good");
    let told: Vec<String> = config.query_files.faults().iter().map(ToString::to_string).collect();
    let told = told.join("\n").replace("tests/config/teams/queries.d/", "") + "\n";
    let expectation = directory.join("expected");
    if std::env::var_os("UPDATE_EXPECTATIONS").is_some() {
        fs::write(&expectation, &told).expect("the expectation is writable");
    }
    assert_eq!(told, fs::read_to_string(expectation).unwrap_or_default());

    let served = |file: &str| -> Vec<&str> {
        let names = config.queries.keys().map(String::as_str);
        names.filter(|name| config.origin(name) == Some(file)).collect()
    };
    assert_eq!(served("accounting.yaml"), ["invoices", "ledger"]);
    assert_eq!(served("billing.yaml"), ["disputes", "refunds"]);
    for refused in ["empty.yaml", "mail.yaml", "typo.yaml", "unlisted.yaml", "yaml.yaml"] {
        assert!(served(refused).is_empty(), "{refused}");
    }
    let open_to = |query: &str| config.queries[query].namespaces.clone();
    assert_eq!(open_to("invoices"), Namespaces::Only(vec!["accounting".into()]), "the file's own");
    assert_eq!(open_to("ledger"), Namespaces::All);
    assert_eq!(open_to("refunds"), Namespaces::Only(vec!["billing".into(), "billing-test".into()]), "what it may use");
    assert_eq!(open_to("disputes"), Namespaces::Only(vec!["billing".into()]));
    assert_eq!(config.queries["refunds"].databases, ["orders"], "the only one that it may use");

    let effective = config.effective_yaml();
    assert!(effective.contains("refunds:  # billing.yaml line 9"), "{effective}");
    let again = Config::parse(&effective, &environment("")).expect("the effective configuration loads");
    assert_eq!(again, config);
}

/// Of several queries with the same text the main file's is found first, and then those of each file by its name.
#[test]
fn a_query_file_takes_no_text_from_the_main_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).expect("ours");
    let query = |name: &str| format!("queries: {{{name}: {{sql: SELECT 1}}}}\n");
    write("clapometer.yaml", &("queries_from: {path: flat}\n".to_owned() + &query("m")));
    write("b.yaml", &query("a"));
    write("a.yaml", &query("z"));
    let config = Config::load_directory(directory.path(), &environment("")).expect("a configuration");
    let names = config.queries_in_order().into_iter().map(|query| query.name.as_str());
    assert_eq!(names.filter(|name| name.len() == 1).collect::<Vec<_>>(), ["m", "z", "a"]);
}
