use proptest::prelude::*;

use super::*;
use crate::manifest::{Node, Value};

fn migrated(text: &str) -> Migration {
    let source = Source { name: "a.yaml".to_owned(), text: text.to_owned() };
    let options = Options { address: "clapometer.clapometer.svc.cluster.local:9090".to_owned() };
    migrate(&[source], &options).expect("no template")
}

fn file<'a>(migration: &'a Migration, path: &str) -> &'a str {
    migration.files.iter().find(|file| file.path == path).map_or("", |file| &file.text)
}

/// A ScaledObject with this metadata, and this behind its triggers.
fn manifest(metadata: &str) -> String {
    format!(
        "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata:\n  name: a\n  namespace: b\nspec:\n  triggers:\n    \
         - type: postgresql\n      metadata:\n{metadata}"
    )
}

const SERVER: &str = "        host: db.b.svc\n        port: \"5432\"\n        userName: u\n        dbName: d\n        sslmode: require\n";

/// Every way in which a manifest can be written leaves all but the trigger byte by byte.
#[test]
fn what_is_not_the_trigger_keeps_its_bytes() {
    let tail = "        targetQueryValue: '5'   # five\n# end\n";
    for query in [
        "        query: SELECT count(*) FROM a   # all\n",
        "        query: \"SELECT count(*) FROM a\"   # all\n",
        "        query: |   # all\n          SELECT count(*)\n\n          FROM a\n",
        "        query: >-   # all\n          SELECT count(*)\n          FROM a\n",
    ] {
        let text = manifest(&format!("{SERVER}{query}{tail}"));
        let migration = migrated(&text);
        let name = if query.contains('"') { "\"a\"" } else { "a" };
        let head = &text[..text.find("        host").expect("the server")];
        let expected = format!(
            "{}        scalerAddress: clapometer.clapometer.svc.cluster.local:9090\n        query: {name}{}# all\n{tail}",
            head.replace("postgresql", "external"),
            if query.contains(['|', '>']) { " " } else { "   " },
        );
        assert_eq!(file(&migration, "manifests/a.yaml"), expected, "{query}");
        let carriage = migrated(&text.replace('\n', "\r\n"));
        assert_eq!(file(&carriage, "manifests/a.yaml"), expected.replace('\n', "\r\n"), "{query}");
    }
}

#[test]
fn documents_of_the_same_name_are_told_apart() {
    let metadata = format!("{SERVER}        query: SELECT count(*) FROM a\n        targetQueryValue: '5'\n");
    let job = manifest(&metadata).replace("ScaledObject", "ScaledJob");
    let found = |copies: usize| {
        let report = file(&migrated(&vec![job.as_str(); copies].join("---\n")), "report.md").to_owned();
        report.matches("`strategy-starves`, as before").count()
    };
    assert_eq!((found(1), found(3)), (1, 3));
}

#[test]
fn numbers_that_keda_refuses_are_no_triggers() {
    for (target, part) in [
        ("targetQueryValue: \"0\"", "is 0"),
        ("targetQueryValue: \"05\"", "is no number"),
        ("targetQueryValue: \"\"", "has no targetQueryValue"),
        ("targetQueryValue: \"-1\"", "is below 0.001"),
        (
            "targetQueryValue: \"1\"\n        activationTargetQueryValue: \"+1\"",
            "activationTargetQueryValue is no number",
        ),
        ("targetQueryValue: \"1\"\n        activationTargetQueryValue: \"-1\"", "always active"),
    ] {
        let migration = migrated(&manifest(&format!("{SERVER}        query: SELECT 1\n        {target}\n")));
        assert_eq!((migration.migrated, migration.left), (0, 1), "{target}");
        assert!(file(&migration, "report.md").contains(part), "{target}: {}", file(&migration, "report.md"));
    }
}

#[test]
fn a_password_of_a_trigger_that_stays_is_copied_nowhere() {
    let good = manifest(&format!("{SERVER}        query: SELECT 1\n        targetQueryValue: \"1\"\n"));
    let left = manifest(&format!("{SERVER}        password: hunter2\n        query: DELETE FROM a\n"));
    let migration = migrated(&format!("{good}---\n{left}"));
    assert_eq!((migration.migrated, migration.by_hand, migration.left), (0, 1, 1));
    assert!(migration.files.iter().all(|file| !file.text.contains("hunter2")), "{migration:?}");
    assert!(file(&migration, "report.md").contains("is not written"), "{}", file(&migration, "report.md"));
}

#[test]
fn one_role_on_one_server_is_one_database() {
    let object = |name: &str, dbname: &str| {
        manifest(&format!("{SERVER}        query: SELECT count(*) FROM {name}\n        targetQueryValue: \"1\"\n"))
            .replace("name: a", &format!("name: {name}"))
            .replace("dbName: d", &format!("dbName: {dbname}"))
    };
    let migration = migrated(&[object("x", "D_1"), object("z", "D_1"), object("x", "d-1")].join("---\n"));
    let text = file(&migration, "clapometer.yaml");
    let names: Vec<&str> =
        text.lines().filter(|line| line.starts_with("  ") && line.ends_with(':') && !line.starts_with("   ")).collect();
    assert_eq!(names, ["  d-1:", "  d-1-2:", "  x:", "  z:", "  x-2:"], "{text}");
}

fn says_the_same_but_for_triggers(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::Sequence(a), Value::Sequence(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| says_the_same_but_for_triggers(a, b))
        }
        (Value::Mapping(a), Value::Mapping(b)) => {
            let other = |key: &String| !matches!(key.as_str(), "triggers" | "annotations");
            let keys = |entries: &[(String, Node)]| {
                entries.iter().map(|(key, _)| key.clone()).filter(other).collect::<Vec<_>>()
            };
            keys(a) == keys(b)
                && a.iter()
                    .filter(|(key, _)| other(key))
                    .zip(b.iter().filter(|(key, _)| other(key)))
                    .all(|((_, a), (_, b))| says_the_same_but_for_triggers(a, b))
        }
        (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    }
}

/// Checks what must hold whatever the text is.
fn check(text: &str) {
    let source = Source { name: "a.yaml".to_owned(), text: text.to_owned() };
    let options = Options { address: "c:9090".to_owned() };
    let Ok(migration) = migrate(std::slice::from_ref(&source), &options) else { return };
    assert_eq!(migrate(&[source], &options).expect("as before").files, migration.files, "a second run");
    let written = file(&migration, "manifests/a.yaml");
    if written.is_empty() {
        return;
    }
    let (before, after) = (Manifest::read(text), Manifest::read(written));
    assert_eq!(before.objects.len(), after.objects.len(), "{written}");
    for (before, after) in before.objects.iter().zip(&after.objects) {
        assert!(says_the_same_but_for_triggers(&before.root, &after.root), "{written}");
        for (old, new) in before.triggers().zip(after.triggers()) {
            let is_changed = old.kind() == "postgresql" && new.kind() == "external";
            assert!(is_changed || says_the_same_but_for_triggers(old.node, new.node), "{written}");
        }
    }
}

/// Parts that manifests are made of, and parts that break them.
const PARTS: [&str; 40] = [
    "apiVersion: keda.sh/v1alpha1\n",
    "kind: ScaledObject\n",
    "kind: ScaledJob\n",
    "metadata: {name: a, namespace: b}\n",
    "metadata:\n  name: a\n",
    "spec:\n",
    "  triggers:\n",
    "  triggers: [",
    "    - type: postgresql\n",
    "    -   type: 'postgresql'\n",
    "      metadata:\n",
    "      metadata: {",
    "        host: a.b\n",
    "        port: \"1\"\n",
    "        userName: u\n",
    "        dbName: d\n",
    "        sslmode: disable\n",
    "        query: SELECT 1\n",
    "        query: |\n          SELECT 1\n",
    "        targetQueryValue: \"1\"\n",
    "host: a.b, port: \"1\", userName: u, dbName: d, sslmode: disable, ",
    "query: SELECT 1, targetQueryValue: \"1\"",
    "}",
    "]",
    "{",
    "# c\n",
    "---\n",
    "...\n",
    "\r\n",
    "\t",
    "&a ",
    "*a",
    "<<: *a\n",
    "? ",
    "'",
    "\"",
    "        ",
    "      authenticationRef:\n        name: x\n",
    "    - ",
    "\u{feff}",
];

proptest! {
    #[test]
    fn hostile_manifests_never_panic_and_say_the_same(parts in prop::collection::vec(0..PARTS.len(), 0..40)) {
        check(&parts.into_iter().map(|part| PARTS[part]).collect::<String>());
    }

    #[test]
    fn whole_manifests_survive_a_foreign_part(part in 0..PARTS.len(), at in 0usize..700, length in 0usize..12) {
        let whole = manifest(&format!("{SERVER}        query: SELECT count(*) FROM a\n        targetQueryValue: '5'\n      authenticationRef:\n        name: x\n"));
        let text = format!("{whole}---\n{whole}");
        let floor = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        let (begin, end) = (floor(at), floor(at + length));
        check(&format!("{}{}{}", &text[..begin], PARTS[part], &text[end..]));
    }
}
