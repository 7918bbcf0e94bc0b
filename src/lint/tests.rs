//! The rules, each on a bad and a good manifest of `tests/lint`, and on what this repository ships.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use super::{Counted, Options, Report, Rule, Severity, Source, all, lint};
use crate::keda::version::Version;

fn options(keda: Version) -> Options {
    Options { keda, counts: None }
}

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn report(text: &str, options: Options) -> Report {
    lint(&[Source { name: "a.yaml".to_owned(), text: text.to_owned() }], options)
}

fn rules_in(text: &str, options: Options) -> BTreeSet<&'static str> {
    report(text, options).findings.iter().map(|finding| finding.rule.name).collect()
}

/// The newest version that was run, or the first that the rule holds for.
fn version_for(rule: &Rule) -> Version {
    if rule.holds_for(Version::NEWEST) { Version::NEWEST } else { rule.since.unwrap_or(Version::OLDEST) }
}

#[test]
fn each_rule_has_a_manifest_that_breaks_it_alone_and_one_that_is_clean() {
    let mut wrong = Vec::new();
    for rule in all() {
        let found = |which| {
            let text = read(format!("tests/lint/{}/{which}.yaml", rule.name));
            rules_in(&text, options(version_for(rule)))
        };
        let (bad, good) = (found("bad"), found("good"));
        if bad != BTreeSet::from([rule.name]) || !good.is_empty() {
            wrong.push(format!("{}: bad has {bad:?}, good has {good:?}", rule.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_rule_has_a_section_that_says_the_same_and_no_section_is_without_a_rule() {
    let page = read("docs/lint.md");
    let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let names: BTreeSet<&str> = all().map(|rule| rule.name).collect();
    assert_eq!(headings.len(), names.len(), "two rules or sections of one name");
    assert_eq!(headings.iter().copied().collect::<BTreeSet<_>>(), names);
    for rule in all() {
        let facts =
            format!("## {}\n\n**{}**, {}. Source: {}.\n", rule.name, rule.severity, rule.versions(), rule.source);
        assert!(page.contains(&facts), "docs/lint.md lacks:\n{facts}");
    }
}

#[test]
fn findings_say_a_sentence_each_and_are_never_worse_than_their_rule() {
    for rule in all() {
        for finding in report(&read(format!("tests/lint/{}/bad.yaml", rule.name)), options(version_for(rule))).findings
        {
            assert!(finding.severity >= finding.rule.severity, "{finding:?}");
            for sentence in [&finding.why, &finding.how] {
                assert!(sentence.ends_with(['.', '?']) && !sentence.contains("  "), "{sentence}");
            }
        }
    }
}

#[test]
fn a_rule_holds_only_for_its_versions_and_a_comment_allows_it() {
    let bad = read("tests/lint/strategy-word-rejected/bad.yaml");
    assert_eq!(rules_in(&bad, options(Version::new(2, 20, 1))), BTreeSet::from(["strategy-word-rejected"]));
    for other in ["2.19.0", "2.20.2", "2.21.0"] {
        assert_eq!(rules_in(&bad, options(other.parse().expect("a version"))), BTreeSet::new(), "{other}");
    }
    let bad = read("tests/lint/idle-floor/bad.yaml");
    let allowed = format!("# clapometer-lint: allow double-division, idle-floor - they wait for work\n{bad}");
    let report = report(&allowed, options(Version::NEWEST));
    assert_eq!((report.findings.len(), report.allowed), (0, 1));
    let elsewhere = format!("# clapometer-lint: allow idle-floor\n---\n{bad}");
    assert_eq!(rules_in(&elsewhere, options(Version::NEWEST)).len(), 1, "a comment is for its own document");
}

#[test]
fn a_number_that_only_newer_versions_refuse_is_a_warning_to_older_ones() {
    let severity = |maximum: &str, keda: &str| {
        let bad = read("tests/lint/number-rejected/bad.yaml").replace("Count: 0\n  rollout", maximum);
        let findings = report(&bad, options(keda.parse().expect("a version"))).findings;
        findings.iter().map(|finding| finding.severity).collect::<Vec<_>>()
    };
    assert_eq!(severity("Count: 0\n  rollout", "2.19.0"), [Severity::Warning]);
    assert_eq!(severity("Count: 0\n  rollout", "2.20.0"), [Severity::Error]);
    assert_eq!(severity("Count: \"10\"\n  rollout", "2.19.0"), [Severity::Error], "text is refused by every version");
}

#[test]
fn the_caller_knows_best_what_sql_counts() {
    let bad = read("tests/lint/strategy-starves/bad.yaml");
    let counts = |counted| Options { counts: Some(counted), ..options(Version::NEWEST) };
    assert_eq!(rules_in(&bad, counts(Counted::Outstanding)), BTreeSet::new());
    assert_eq!(rules_in(&bad, counts(Counted::Pending)), BTreeSet::from(["strategy-starves"]));
    let accurate = read("tests/lint/strategy-starves/good.yaml");
    assert_eq!(rules_in(&accurate, counts(Counted::Outstanding)), BTreeSet::from(["strategy-idles"]));
}

/// A clean manifest whose trigger asks clapometer for this query.
fn asking(query: &str) -> String {
    let text = read("tests/lint/push-on-scaledjob/good.yaml");
    let text = text.replace("query: outstanding-invoices", &format!("query: {query}"));
    assert!(text.contains(query), "{text}");
    text
}

#[test]
fn a_query_with_the_name_of_a_preset_counts_what_workers_hold() {
    let told = |text: &str, counts| rules_in(text, Options { counts, ..options(Version::NEWEST) });
    for counts in [None, Some(Counted::Pending), Some(Counted::Outstanding)] {
        for query in ["river", "pg-boss", "good_job", "good-job", "outstanding-claps"] {
            let plain = asking(query);
            assert_eq!(told(&plain, counts), BTreeSet::new(), "{query} {counts:?}");
            let accurate =
                plain.replace("  jobTargetRef:", "  scalingStrategy:\n    strategy: accurate\n  jobTargetRef:");
            assert_eq!(told(&accurate, counts), BTreeSet::from(["strategy-idles"]), "{query} {counts:?}");
        }
        let keeper = asking("keeper").replace("        targetQueryValue: \"1\"\n", "");
        assert_eq!(told(&keeper, counts), BTreeSet::new(), "{counts:?}");
    }
    let accurate = asking("good-job-mail")
        .replace("  jobTargetRef:", "  scalingStrategy:\n    strategy: accurate\n  jobTargetRef:");
    assert_eq!(told(&accurate, None), BTreeSet::from(["strategy-idles"]), "a queue of a preset's");
    assert_eq!(told(&accurate, Some(Counted::Pending)), BTreeSet::new(), "a name that begins so by chance");
    // Another scaler's queries may be called anything.
    let another = asking("river").replace("clapometer", "acme");
    assert_eq!(told(&another, Some(Counted::Pending)), BTreeSet::from(["strategy-starves"]));
    let workers = read("tests/lint/push-without-keeper/bad.yaml").replace("invoice-workers", "river");
    assert_eq!(told(&workers, None), BTreeSet::from(["push-without-keeper"]));
}

/// A clean ScaledJob with this strategy and this trigger, which is YAML in one line.
fn scaled_job(strategy: &str, trigger: &str) -> String {
    let text = read("tests/lint/push-on-scaledjob/good.yaml");
    let (head, _) = text.split_once("  triggers:").expect("triggers");
    format!("{head}  scalingStrategy: {{strategy: {strategy}}}\n  triggers:\n    - {trigger}\n")
}

/// RabbitMQ tells over AMQP how many messages are ready, and over HTTP how many there are.
#[test]
fn what_rabbitmq_counts_depends_on_the_protocol() {
    let found = |strategy, metadata: &str| {
        let trigger = format!("{{type: rabbitmq, metadata: {{queueName: mail, {metadata}}}}}");
        rules_in(&scaled_job(strategy, &trigger), options(Version::NEWEST))
    };
    let (starves, idles) = (BTreeSet::from(["strategy-starves"]), BTreeSet::from(["strategy-idles"]));
    for ready_only in [
        "mode: QueueLength, value: '1', protocol: amqp",
        "queueLength: '5', host: 'amqp://rabbit.mail.svc:5672/'",
        "mode: QueueLength, value: '1', protocol: auto, host: 'amqps://rabbit.mail.svc:5671/'",
        "mode: QueueLength, value: '1', hostFromEnv: RABBIT, excludeUnacknowledged: 'true'",
    ] {
        assert_eq!(found("default", ready_only), starves, "{ready_only}");
        assert_eq!(found("accurate", ready_only), BTreeSet::new(), "{ready_only}");
    }
    for all in ["mode: QueueLength, value: '1', protocol: http", "queueLength: '5', host: 'https://rabbit.mail.svc/'"] {
        assert_eq!(found("default", all), BTreeSet::new(), "{all}");
        assert_eq!(found("accurate", all), idles, "{all}");
    }
    for unknown in
        ["mode: QueueLength, value: '1', hostFromEnv: RABBIT", "mode: MessageRate, value: '1', protocol: http"]
    {
        for strategy in ["default", "accurate"] {
            assert_eq!(found(strategy, unknown), BTreeSet::new(), "{unknown}");
        }
    }
}

#[test]
fn a_number_that_counts_no_rows_or_is_divided_once_is_left_alone() {
    let found = |sql: &str, target: &str| {
        let metadata = format!("connectionFromEnv: URL, query: \"{sql}\", targetQueryValue: '{target}'");
        rules_in(
            &scaled_job("default", &format!("{{type: postgresql, metadata: {{{metadata}}}}}")),
            options(Version::NEWEST),
        )
    };
    assert_eq!(found("SELECT pg_wal_lsn_diff(a, b) FROM c", "1000"), BTreeSet::new());
    let running = "SELECT ceil(count(*)::decimal / 16) FROM a WHERE state IN ('queued', 'running')";
    assert_eq!(found(running, "1.1"), BTreeSet::new());
    assert_eq!(found(running, "2"), BTreeSet::from(["double-division"]));
}

/// The article's own ScaledJob: what its author found out the hard way.
#[test]
fn the_seeds_scaled_job_is_told_what_its_author_found_out() {
    let text = read("deploy/examples/scaled-job-builtin-trigger.yaml");
    let expected = [
        "failed-rows-uncounted",
        "polling-interval-long",
        "rollout-deletes-jobs",
        "service-links",
        "strategy-starves",
        "superuser-trigger",
    ];
    assert_eq!(rules_in(&text, options(Version::NEWEST)), BTreeSet::from(expected));
}

fn yaml_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            files.append(&mut yaml_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    files
}

#[test]
fn what_we_ship_and_print_is_clean() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources: Vec<Source> = yaml_below(&root.join("deploy"))
        .into_iter()
        // Templates are YAML once they are rendered, as deploy/kustomize is.
        .filter(|path| {
            !path.ends_with("scaled-job-builtin-trigger.yaml") && !path.to_string_lossy().contains("/templates/")
        })
        .map(|path| Source { text: read(&path), name: path.display().to_string() })
        .filter(|source| source.text.contains("keda.sh/"))
        .collect();
    for page in fs::read_dir(root.join("docs")).expect("the documents").map(|entry| entry.expect("an entry").path()) {
        if page.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        for (number, rest) in read(&page).split("```yaml\n").skip(1).enumerate() {
            let text = rest.split("```").next().unwrap_or_default().to_owned();
            if text.contains("apiVersion: keda.sh/") {
                sources.push(Source { name: format!("{} block {number}", page.display()), text });
            }
        }
    }
    let report = lint(&sources, options(Version::NEWEST));
    assert!(report.objects >= 8, "{} objects only", report.objects);
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
}

/// Lints a broken manifest with a text in place of a part of it, and returns the findings whose line the file has not.
fn outside_the_file(text: &str, at: usize, cut: usize) -> Vec<String> {
    let mut outside = Vec::new();
    for rule in ["strategy-starves", "push-without-keeper", "lease-longer-than-grace", "half-a-key-pair"] {
        let bad = read(format!("tests/lint/{rule}/bad.yaml"));
        let at = bad.char_indices().map(|(index, _)| index).nth(at).unwrap_or(bad.len());
        let end = (at + cut).min(bad.len());
        let mixed = format!("{}{text}{}", &bad[..at], bad.get(end..).unwrap_or_default());
        let lines = mixed.split('\n').count();
        let findings = report(&mixed, options(Version::NEWEST)).findings.into_iter();
        let findings = findings.filter(|finding| !(1..=lines).contains(&finding.line));
        outside.extend(findings.map(|finding| format!("{finding:?} of {lines} lines")));
    }
    outside
}

#[test]
fn a_carriage_return_alone_moves_no_finding_off_the_file() {
    assert_eq!(outside_the_file("\r\r", 143, 6), [""; 0]);
}

proptest! {
    #[test]
    fn no_text_ends_in_a_panic_and_lines_are_those_of_the_file(text in "(?s).{0,200}", at in 0usize..900, cut in 0usize..40) {
        prop_assert_eq!(outside_the_file(&text, at, cut), [""; 0]);
    }
}

#[test]
fn what_has_another_structure_is_told_and_what_a_patch_leaves_out_is_not() {
    let structure = |text: &str| {
        let findings = report(text, options(Version::NEWEST)).findings;
        let of_rule = findings.into_iter().filter(|finding| finding.rule.name == "structure-rejected");
        of_rule.map(|finding| (finding.line, finding.how)).collect::<Vec<_>>()
    };
    let object = |kind: &str, version: &str, rest: &str| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n{rest}\n")
    };
    for (kind, version, rest, line, how) in [
        ("scaledjob", "keda.sh/v1alpha1", "", 2, "Did you mean ScaledJob?"),
        ("ScaleObject", "keda.sh/v1alpha1", "", 2, "Did you mean ScaledObject?"),
        ("Deployment", "keda.sh/v1alpha1", "", 2, "Write one of ScaledJob, "),
        ("", "keda.sh/v1alpha1", "", 2, "Write one of ScaledJob, "),
        ("TriggerAuthentication", "keda.sh/v1", "", 1, "Write `apiVersion: keda.sh/v1alpha1`."),
        ("ScaledJob", "keda.sh/v1alpha1", "spec: [1]", 4, "Write a mapping of keys"),
        ("ScaledJob", "keda.sh/v1alpha1", "spec: {triggers: {type: cron}}", 4, "Write a list"),
        ("ScaledObject", "keda.sh/v1alpha1", "spec: {triggers: [external]}", 4, "Write a mapping of keys"),
        ("ScaledObject", "keda.sh/v1alpha1", "spec: {triggers: [{metadata: {a: b}}]}", 4, "Write a type"),
        ("ScaledObject", "keda.sh/v1alpha1", "spec: {triggers: [{type: 5}]}", 4, "Write a type"),
        ("ScaledJob", "keda.sh/v1alpha1", "spec: {triggers: [{type: External}]}", 4, "Write `type: external`."),
        ("ScaledJob", "keda.sh/v1alpha1", "spec: {triggers: [{type: cron, metadata: [a]}]}", 4, "Write a mapping"),
    ] {
        let found = structure(&object(kind, version, rest));
        let [(seen, told)] = &found[..] else { panic!("{kind} {version} {rest}: {found:?}") };
        assert!(*seen == line && told.starts_with(how), "{kind} {version} {rest}: {seen}: {told}");
    }
    for patch in ["", "spec: {maxReplicaCount: 5}", "spec: {triggers: [{type: cron}]}"] {
        assert_eq!(structure(&object("ScaledJob", "keda.sh/v1alpha1", patch)), [], "{patch}");
    }
    assert_eq!(structure(&object("HTTPScaledObject", "http.keda.sh/v1alpha1", "")), []);
}

/// What the API server says of each is from a kube-apiserver of Kubernetes 1.36.4 with the CRDs of KEDA 2.21.0.
#[test]
fn a_key_without_a_value_is_told_where_its_value_matters() {
    let good = read("tests/lint/key-without-value/good.yaml");
    let scaled_object = read("tests/lint/fallback-never-fires/good.yaml");
    let authentication = "apiVersion: keda.sh/v1alpha1\nkind: TriggerAuthentication\nmetadata: {name: a}\nspec:\n  \
                          secretTargetRef:\n    - parameter: ca\n      name: b\n      key: c\n"
        .to_owned();
    for (text, key, severity, why) in [
        (&good, "  name: invoices", Severity::Error, "metadata.name has no value, and the API server refuses"),
        (&good, "  namespace: billing", Severity::Warning, "the object goes to the namespace of whoever applies it"),
        (&good, "  pollingInterval: 5", Severity::Warning, "KEDA polls every 30 s"),
        (&good, "  maxReplicaCount: 10", Severity::Warning, "KEDA takes its default, 100"),
        (
            &good,
            "          - name: worker",
            Severity::Error,
            "containers.name has no value, and the API server refuses",
        ),
        (&good, "            image: registry.example.com/invoices:1", Severity::Error, "refuses every Job that KEDA"),
        (&good, "      host: db.billing.svc.cluster.local", Severity::Error, "the trigger goes without it"),
        (&scaled_object, "    name: invoices", Severity::Error, "scaleTargetRef.name has no value, and the API server"),
        (&authentication, "    - parameter: ca", Severity::Error, "secretTargetRef.parameter has no value, and"),
    ] {
        let at = text.find(key).unwrap_or_else(|| panic!("{key} in {text}"));
        let begin = at + key.find(':').expect("a key") + 1;
        for nothing in ["", " null", " ~"] {
            let empty = format!("{}{nothing}{}", &text[..begin], &text[at + key.len()..]);
            let line = empty[..begin].lines().count();
            let findings = report(&empty, options(Version::NEWEST)).findings;
            let found: Vec<_> = findings.iter().filter(|finding| finding.rule.name == "key-without-value").collect();
            let [finding] = found[..] else { panic!("{key}: {findings:#?}") };
            assert_eq!((finding.line, finding.severity), (line, severity), "{finding:?}");
            assert!(finding.why.contains(why), "{finding:?}");
        }
    }
}

#[test]
fn a_key_that_is_often_left_empty_or_is_missing_is_no_finding() {
    let good = read("tests/lint/key-without-value/good.yaml");
    let empty = good
        .replace("  namespace: billing", "  namespace: billing\n  creationTimestamp: null\n  labels:\n  annotations:")
        .replace("          - name: worker", "          - name: worker\n            command:\n            resources:");
    assert_eq!(rules_in(&format!("{empty}status: null\n"), options(Version::NEWEST)), BTreeSet::new());
    let template = "apiVersion: keda.sh/v1alpha1\nkind: ScaledJob\nmetadata: {name: a}\n\
                    spec: {rollout: {strategy: gradual}, jobTargetRef: {template: {}}}\n";
    assert_eq!(rules_in(template, options(Version::NEWEST)), BTreeSet::new());
}
