//! `clapometer simulate`: its output in each form, and its wrong usage.

use super::{SOON, run_alone};
use crate::support::executable::{Executable, Finished};

/// The article's own ScaledJob.
const SEED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples/scaled-job-builtin-trigger.yaml");
/// One that counts what is outstanding.
const OURS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples/scaled-job.yaml");

async fn page(arguments: &[&str]) -> String {
    let finished = run_alone(&[&["simulate"], arguments].concat()).await;
    assert_eq!((finished.code(), &*finished.errors), (Some(0), ""), "{arguments:?}");
    finished.output
}

async fn with_file(manifest: &str, arguments: &[&str]) -> Finished {
    let simulate = Executable::clapometer(["simulate", "a.yaml"]).file("a.yaml", manifest);
    arguments.iter().fold(simulate, Executable::argument).finish(SOON).await
}

#[tokio::test]
async fn the_seeds_scaled_job_is_told_what_would_be_better_in_80_columns() {
    let arguments = [SEED, "--arrivals", "9/m", "--duration", "40s"];
    let text = page(&arguments).await;
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert_eq!(text, page(&arguments).await, "a second run gives the same");
    assert_ne!(text, page(&[&arguments[..], &["--seed", "2"]].concat()).await);
    insta::assert_snapshot!("seed", text);
}

#[tokio::test]
async fn the_widest_figures_fit_80_columns() {
    // Nothing ever starts a Job: a day of waiting, in every row of the table.
    let never = "\
apiVersion: keda.sh/v1alpha1
kind: ScaledJob
metadata: {name: a}
spec: {minReplicaCount: 1, maxReplicaCount: 1, scalingStrategy: {strategy: accurate}, triggers: [{type: external, metadata: {query: outstanding-claps, divideBy: '100'}}]}
";
    let finished = with_file(never, &["--arrivals", "20000/h", "--duration", "1h", "--runs", "1"]).await;
    assert_eq!((finished.code(), &*finished.errors), (Some(0), ""));
    assert!(finished.output.lines().all(|line| line.chars().count() <= 80), "{}", finished.output);
    assert!(finished.output.contains("are never worked within 12 hours"), "{}", finished.output);
}

#[tokio::test]
async fn a_document_marks_what_is_given_and_what_is_recommended() {
    let output = page(&[SEED, "--arrivals", "9/m", "--duration", "40s", "--json"]).await;
    let document: serde_json::Value = serde_json::from_str(&output).unwrap();
    let one = |mark: &str| {
        let marked: Vec<_> =
            document["candidates"].as_array().unwrap().iter().filter(|one| one[mark] == true).collect();
        assert_eq!(marked.len(), 1, "{mark}");
        marked[0].clone()
    };
    let (given, recommended) = (one("given"), one("recommended"));
    assert_eq!((&given["counts"], &recommended["counts"]), (&"pending".into(), &"outstanding".into()));
    assert_eq!((&recommended["idle_jobs"], &recommended["jobs"]), (&0.into(), &540.into()));
}

#[tokio::test]
async fn a_page_needs_nothing_beside_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("page.html");
    let arrivals = directory.path().join("arrivals.csv");
    std::fs::write(&arrivals, "at,seconds\n2026-11-29 10:00:00+00,40\n2026-11-29 10:00:30+00,20\n").unwrap();
    let [path, arrivals] = [&path, &arrivals].map(|path| path.to_str().unwrap());
    let text = page(&[OURS, "--arrivals", arrivals, "--html", path]).await;
    assert!(text.starts_with("Recommended: leave it as it is\n"), "{text}");
    let html = std::fs::read_to_string(path).unwrap();
    assert_eq!(html.matches("<svg").count(), 3);
    let outside = html.replace("http://www.w3.org/2000/svg", "");
    assert!(["http", "src=", "href=", "@import", "url("].iter().all(|word| !outside.contains(word)), "{html}");
    assert!(html.contains("prefers-color-scheme: dark"));
}

#[tokio::test]
async fn wrong_usage_says_what_is_missing() {
    let trigger = |kind: &str| {
        format!(
            "apiVersion: keda.sh/v1alpha1\nkind: ScaledJob\nmetadata: {{name: a}}\nspec: {{triggers: [{{type: {kind}}}]}}\n"
        )
    };
    let arrive: &[&str] = &["--arrivals", "9/m", "--duration", "40s"];
    let cases: [(String, &[&str], &str); 16] = [
        (trigger("kafka"), &["--arrivals", "9/m"], "--duration: how long does the work on a row take?"),
        (trigger("kafka"), arrive, "--counts: does the trigger count only rows that wait"),
        (
            trigger("rabbitmq, metadata: {protocol: http}"),
            arrive,
            "--target: which target has this trigger of type rabbitmq?",
        ),
        (trigger("kafka}, {type: kafka"), arrive, "has 2 triggers, so one must be taken with --trigger"),
        (
            trigger("kafka"),
            &["--arrivals", "nowhere.csv", "--duration", "40s"],
            "neither a rate (9/s, 9/m, 9/h or 9/d), nor a number",
        ),
        ("kind: Pod\n".to_owned(), arrive, "there is no ScaledJob"),
        (
            trigger("kafka").replace("ScaledJob", "ScaledObject"),
            arrive,
            "takes ScaledJobs only; what KEDA would do with a ScaledObject now, `clapometer get --manifest FILE` says",
        ),
        (
            format!(
                "{}  maxReplicaCount: ten\n",
                trigger("kafka").replace("spec: {triggers: [{type: kafka}]}", "spec:")
            ),
            arrive,
            "a.yaml:5: maxReplicaCount must be a whole number from 1 to 2147483647: with KEDA 2.21.0, Kubernetes refuses",
        ),
        (
            trigger("external, metadata: {query: outstanding-claps, targetQueryValue: one}"),
            arrive,
            "line 4: targetQueryValue must be a number from 0.001 up",
        ),
        (
            trigger("external, metadata: {query: outstanding-claps, activationTargetQueryValue: '1,5'}"),
            arrive,
            "line 4: activationTargetQueryValue must be a number from 0 up",
        ),
        (
            trigger("external, metadata: {query: outstanding-claps, divideBy: '0'}"),
            arrive,
            "line 4: divideBy must be a number above 0",
        ),
        (
            trigger("external, metadata: {query: outstanding-claps, divideBy: ''}"),
            arrive,
            "line 4: divideBy must be a number above 0",
        ),
        (
            trigger("postgresql, metadata: {query: SELECT count(*) FROM job, targetQueryValue: '0'}"),
            arrive,
            "line 4: targetQueryValue must be a number above 0",
        ),
        // Two of them would make a positive target.
        (
            trigger("external, metadata: {query: outstanding-claps, divideBy: '-2', targetQueryValue: '-3'}"),
            arrive,
            "line 4: targetQueryValue must be a number from 0.001 up",
        ),
        (
            trigger("external, metadata: {query: outstanding-claps, activationTargetQueryValue: '-1'}"),
            arrive,
            "line 4: activationTargetQueryValue must be a number from 0 up",
        ),
        (
            format!(
                "{}  maxReplicaCount: -5\n",
                trigger("kafka").replace("spec: {triggers: [{type: kafka}]}", "spec:")
            ),
            arrive,
            "a.yaml:5: maxReplicaCount must be a whole number from 1 to 2147483647",
        ),
    ];
    for (manifest, arguments, expected) in cases {
        let finished = with_file(&manifest, arguments).await;
        assert_eq!((finished.code(), &*finished.output), (Some(2), ""), "{arguments:?}");
        assert!(finished.errors.contains(expected), "{arguments:?}: {}", finished.errors);
    }
}
