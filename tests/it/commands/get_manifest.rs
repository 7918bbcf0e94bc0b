//! `clapometer get --manifest`: what KEDA does with one object, by the answers of a running scaler.

use serde_json::json;

use super::{SOON, configuration, redacted, run_alone};
use crate::support::{
    admin,
    cluster::Cluster,
    database::Database,
    executable::{Executable, Finished, Serving},
};

/// Two triggers for clapometer and one of KEDA's own, under a strategy of their own.
const JOBS: &str = "\
apiVersion: keda.sh/v1alpha1
kind: ScaledJob
metadata: {name: invoices, namespace: billing}
spec:
  maxReplicaCount: 10
  rollout: {strategy: gradual}
  scalingStrategy: {strategy: accurate, multipleScalersCalculation: sum}
  jobTargetRef: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: a}]}}}
  triggers:
    - type: external
      name: letters
      metadata: {scalerAddress: 'scaler.billing.svc:9090', query: jobs, param.n: '7'}
    - type: postgresql
      metadata: {query: SELECT 1, targetQueryValue: '1'}
    - type: external
      metadata: {scalerAddress: 'scaler.billing.svc:9090', query: jobs, param.n: '30', targetQueryValue: '10', keyFromEnv: KEY}
";

const WORKERS: &str = "\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: workers}
spec:
  scaleTargetRef: {name: workers}
  maxReplicaCount: 6
  cooldownPeriod: 60
  triggers:
    - type: external-push
      metadata: {scalerAddress: 'scaler.billing.svc:9090', query: jobs, param.n: '61', targetQueryValue: '10'}
";

async fn scaler() -> Serving {
    let database = Database::empty(Cluster::shared().await).await;
    let queries = "  jobs: {sql: SELECT $1::float8, parameters: {n: double}}\n  broken: {sql: SELECT 1/0}\n";
    Executable::serve(&configuration(&database.scaler(), queries)).serving().await
}

async fn get(serving: &Serving, manifest: &str, arguments: &[&str]) -> Finished {
    let address = serving.grpc.to_string();
    let get = Executable::clapometer(["get", "--manifest", "a.yaml", "--address", &address]).file("a.yaml", manifest);
    arguments.iter().fold(get, Executable::argument).finish(SOON).await
}

async fn page(serving: &Serving, manifest: &str, arguments: &[&str]) -> String {
    let finished = get(serving, manifest, arguments).await;
    assert_eq!((finished.code(), &*finished.errors), (Some(0), ""), "{arguments:?}: {}", finished.output);
    redacted(&finished.output, &[(&serving.grpc.to_string(), "<address>")])
}

#[tokio::test]
async fn a_scaled_job_starts_jobs_by_its_own_strategy_and_limits() {
    let serving = scaler().await;
    insta::assert_snapshot!("scaled_job", page(&serving, JOBS, &[]).await);
    insta::assert_snapshot!("scaled_job_with_jobs", page(&serving, JOBS, &["--running", "3", "--pending", "2"]).await);
}

#[tokio::test]
async fn a_scaled_object_goes_from_zero_to_one_and_its_autoscaler_on() {
    let serving = scaler().await;
    insta::assert_snapshot!("scaled_object", page(&serving, WORKERS, &[]).await);
    let idle = WORKERS.replace("'61'", "'0'");
    insta::assert_snapshot!("scaled_object_idle", page(&serving, &idle, &["--replicas", "4"]).await);
}

#[tokio::test]
async fn whoever_looks_at_an_object_is_not_taken_for_keda_unless_they_give_its_name() {
    let serving = scaler().await;
    let refused = JOBS.replace("param.n: '7'", "param.n: seven");
    get(&serving, &refused, &[]).await;
    page(&serving, WORKERS, &[]).await;
    let status = async || serde_json::from_str::<serde_json::Value>(&admin::get(serving.admin, "/api/status").await);
    assert_eq!(status().await.unwrap()["triggers"], json!([]));
    page(&serving, WORKERS, &["--name", "workers"]).await;
    assert_eq!(status().await.unwrap()["triggers"][0]["name"], "workers");
}

#[tokio::test]
async fn a_document_has_every_trigger_and_the_verdict() {
    let serving = scaler().await;
    let document = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let jobs = document(&get(&serving, JOBS, &["--json", "--running", "3"]).await.output);
    assert_eq!(jobs["object"], json!({"kind": "ScaledJob", "namespace": "billing", "name": "invoices"}));
    assert_eq!((&jobs["triggers"][0]["value"], &jobs["triggers"][0]["target"]), (&json!(7), &json!(1)));
    assert_eq!((&jobs["triggers"][2]["value"], &jobs["triggers"][2]["target"]), (&json!(30), &json!(10)));
    assert!(jobs["triggers"][1]["not_asked"].is_string(), "{jobs}");
    // 7 / 1 and 30 / 10 make ten, of which three more fit beside three.
    assert_eq!(jobs["scaled_job"]["starts"], 7);
    let workers = document(&get(&serving, WORKERS, &["--json"]).await.output);
    assert_eq!(
        (&workers["scaled_object"]["after_poll"], &workers["scaled_object"]["replicas"]),
        (&json!(1), &json!(6))
    );
    // One trigger alone.
    let one = document(&get(&serving, JOBS, &["--json", "--trigger", "2"]).await.output);
    assert_eq!((&one["scaled_job"]["starts"], &one["triggers"][0]["value"]), (&json!(3), &json!(null)));
}

#[tokio::test]
async fn the_version_of_keda_decides_about_accurate() {
    let serving = scaler().await;
    let jobs = JOBS.replace("'30'", "'0'");
    for (version, expected) in [("2.18.3", "starts 5 Jobs"), ("2.21.0", "starts 2 Jobs")] {
        let page = page(&serving, &jobs, &["--keda", version, "--pending", "5"]).await;
        assert!(page.contains(expected), "{version}: {page}");
    }
}

#[tokio::test]
async fn failures_are_shown_with_what_keda_makes_of_them() {
    let serving = scaler().await;
    let broken = JOBS.replacen("query: jobs", "query: broken", 1);
    let finished = get(&serving, &broken, &[]).await;
    assert_eq!((finished.code(), &*finished.errors), (Some(1), ""));
    insta::assert_snapshot!("failure", redacted(&finished.output, &[(&serving.grpc.to_string(), "<address>")]));
    let away =
        Executable::clapometer(["get", "--manifest", "a.yaml", "--address", "127.0.0.1:1"]).file("a.yaml", WORKERS);
    assert_eq!(away.finish(SOON).await.code(), Some(69));
}

#[tokio::test]
async fn what_cannot_be_asked_is_said_plainly() {
    let serving = scaler().await;
    let builtin = "\
apiVersion: keda.sh/v1alpha1
kind: ScaledJob
metadata: {name: a}
spec: {triggers: [{type: postgresql, metadata: {query: SELECT 1}}]}
";
    let finished = get(&serving, builtin, &[]).await;
    assert_eq!((finished.code(), &*finished.errors), (Some(1), ""));
    assert!(finished.output.contains("no trigger of this object can be asked from here"), "{}", finished.output);
    let paused = WORKERS
        .replace("{name: workers}\nspec", "{name: workers, annotations: {autoscaling.keda.sh/paused: 'yes'}}\nspec");
    assert!(page(&serving, &paused, &[]).await.contains("an annotation pauses the object"));
}

#[tokio::test]
async fn options_that_do_not_fit_the_object_are_wrong_usage() {
    let serving = scaler().await;
    let both = format!("{JOBS}---\n{WORKERS}");
    let cases: [(&str, &[&str], &str); 6] = [
        (&both, &[], "ScaledJob/invoices, ScaledObject/workers"),
        (WORKERS, &["--running", "1"], "--running and --pending are for a ScaledJob"),
        (JOBS, &["--replicas", "1"], "--replicas is for a ScaledObject"),
        (JOBS, &["--trigger", "3"], "counted from 0, ScaledJob billing/invoices has only 3"),
        (JOBS, &["--namespace", "mail"], "--namespace mail: the manifest has the namespace billing"),
        ("kind: Pod\n", &[], "there is no ScaledJob and no ScaledObject"),
    ];
    for (manifest, arguments, expected) in cases {
        let finished = get(&serving, manifest, arguments).await;
        assert_eq!((finished.code(), &*finished.output), (Some(2), ""), "{arguments:?}");
        assert!(finished.errors.contains(expected), "{arguments:?}: {}", finished.errors);
    }
    let finished = run_alone(&["get", "jobs", "--manifest", "a.yaml"]).await;
    assert_eq!(finished.code(), Some(2));
}
