//! `clapometer lint`: its output in each form, its inputs, its exit codes.

use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{SOON, run_alone};
use crate::support::{
    executable::{Executable, Finished},
    tempdir,
};

/// The article's own ScaledJob.
const SEED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples/scaled-job-builtin-trigger.yaml");

const BROKEN: &str = "\
apiVersion: keda.sh/v1alpha1
kind: ScaledJob
metadata: {name: invoices}
spec:
  pollingInterval: 5
  rollout: {strategy: gradual}
  triggers:
    - type: external
      metadata: {scalerAddress: scaler.billing.svc}
";

async fn lint_file(arguments: &[&str], manifest: &str) -> Finished {
    let executable = Executable::clapometer(["lint"]).file("a.yaml", manifest);
    arguments.iter().fold(executable, |executable, argument| executable.argument(argument)).finish(SOON).await
}

#[tokio::test]
async fn the_seeds_scaled_job_is_told_what_will_happen() {
    let finished = run_alone(&["lint", SEED]).await;
    assert_eq!((finished.code(), &*finished.errors), (Some(0), ""), "warnings are no errors");
    insta::assert_snapshot!("lint_seed", finished.output.replace(SEED, "scaled-job.yaml"));
}

#[tokio::test]
async fn an_error_is_exit_code_1_in_each_form() {
    let text = lint_file(&["a.yaml"], BROKEN).await;
    assert_eq!((text.code(), &*text.errors), (Some(1), ""));
    assert!(text.output.starts_with("a.yaml:9  error  port-missing  ScaledJob invoices\n"), "{}", text.output);

    let json = lint_file(&["a.yaml", "--format", "json"], BROKEN).await;
    assert_eq!(json.code(), Some(1));
    let document: serde_json::Value = serde_json::from_str(&json.output).expect("one JSON document");
    let error =
        document["findings"].as_array().expect("findings").iter().find(|finding| finding["severity"] == "error");
    let error = error.expect("an error");
    assert_eq!((error["rule"].as_str(), error["line"].as_u64()), (Some("port-missing"), Some(9)));
    assert_eq!((document["objects"].as_u64(), document["keda"].as_str()), (Some(1), Some("2.21.0")));

    let github = lint_file(&["a.yaml", "--format", "github"], BROKEN).await;
    assert_eq!(github.code(), Some(1));
    assert!(github.output.starts_with("::error file=a.yaml,line=9,title=port-missing::ScaledJob invoices: "));
}

#[tokio::test]
async fn it_reads_standard_input_and_directories() {
    let binary = env!("CARGO_BIN_EXE_clapometer");
    let script = format!("{binary} lint < {SEED}");
    let finished = Executable::new(Path::new("/bin/sh"), ["-c", &script]).finish(SOON).await;
    assert!(finished.output.contains("<stdin>:53  warning  strategy-starves"), "{}", finished.output);

    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kustomize");
    let finished = run_alone(&["lint", deploy]).await;
    assert_eq!((finished.code(), &*finished.errors), (Some(0), ""), "{}", finished.output);
}

#[tokio::test]
async fn a_file_of_a_directory_that_cannot_be_read_is_named() {
    let directory = tempdir::new("lint");
    std::fs::create_dir_all(directory.join("a/b")).unwrap();
    std::fs::write(directory.join("a/job.yaml"), BROKEN).unwrap();
    std::os::unix::fs::symlink("nowhere", directory.join("a/b/gone.yaml")).unwrap();
    let path = directory.display().to_string();
    let finished = run_alone(&["lint", &path]).await;
    assert_eq!((finished.code(), &*finished.output), (Some(2), ""));
    assert!(finished.errors.contains(&format!("cannot read {path}/a/b/gone.yaml: No such file")), "{finished:?}");
}

#[tokio::test]
async fn a_pipe_in_a_directory_is_no_manifest() {
    let directory = tempdir::new("lint");
    std::fs::write(directory.join("job.yaml"), BROKEN).unwrap();
    mknodat(CWD, directory.join("pipe.yaml"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let finished = run_alone(&["lint", &directory.display().to_string()]).await;
    assert_eq!(finished.code(), Some(1), "{finished:?}");
    assert!(finished.output.contains("1 object of KEDA"), "{finished:?}");
}

#[tokio::test]
async fn a_large_file_in_a_directory_that_does_not_name_keda_is_passed_over() {
    let directory = tempdir::new("lint");
    std::fs::write(directory.join("job.yaml"), BROKEN).unwrap();
    std::fs::File::create(directory.join("data.json")).unwrap().set_len(65 << 20).unwrap();
    let finished = run_alone(&["lint", &directory.display().to_string()]).await;
    assert!(finished.output.contains("1 object of KEDA"), "{finished:?}");
}

#[tokio::test]
async fn what_it_cannot_do_is_wrong_usage() {
    for (arguments, expected) in [
        (&["lint", "/nowhere.yaml"][..], "cannot read /nowhere.yaml: No such file"),
        (&["lint", SEED, "--keda", "2.9.0"], "KEDA before 2.17.0 is not supported"),
        (&["lint", SEED, "--counts", "all"], "[possible values: pending, outstanding]"),
    ] {
        let finished = run_alone(arguments).await;
        assert_eq!((finished.code(), &*finished.output), (Some(2), ""), "{arguments:?}");
        assert!(finished.errors.contains(expected), "{arguments:?}: {}", finished.errors);
    }
}
