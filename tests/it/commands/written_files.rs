//! Files that commands write: each is whole, or there is none.

use std::path::Path;

use super::SOON;
use crate::support::{
    executable::{Executable, Finished},
    tempdir,
};

const SEED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples/scaled-job-builtin-trigger.yaml");

/// Runs a command that no file of more than 1,024 bytes can be written by, as on a disk that is full.
async fn without_room(command: &str) -> Finished {
    let binary = env!("CARGO_BIN_EXE_clapometer");
    // A write beyond the limit fails instead of ending the process.
    let script = format!("trap '' XFSZ; ulimit -f 1; {binary} {command}");
    Executable::new(Path::new("/bin/bash"), ["-c", &script]).finish(SOON).await
}

#[tokio::test]
async fn no_half_file_stays_behind() {
    let directory = tempdir::new("written");
    let (page, out) = (directory.join("page.html"), directory.join("out"));
    let manifest = out.join("manifests/scaled-job-builtin-trigger.yaml");
    for (command, file) in [
        (format!("simulate {SEED} --arrivals 9/m --duration 40s --html {}", page.display()), &page),
        (format!("migrate {SEED} --out {}", out.display()), &manifest),
    ] {
        let failed = without_room(&command).await;
        assert_eq!((failed.code(), &*failed.output), (Some(1), ""), "{command}: {}", failed.errors);
        assert!(failed.errors.contains(&format!("cannot write {}: ", file.display())), "{}", failed.errors);
        assert!(!failed.errors.contains("Usage:"), "{}", failed.errors);
        assert!(!file.exists(), "{command}");
    }
}

#[tokio::test]
async fn a_place_where_nothing_can_be_written_is_a_failure_and_no_wrong_usage() {
    for arguments in [
        &["simulate", SEED, "--arrivals", "9/m", "--duration", "40s", "--html", "/dev/null/page.html"][..],
        &["migrate", SEED, "--out", "/dev/null/out"],
    ] {
        let failed = Executable::clapometer(arguments).finish(SOON).await;
        assert_eq!((failed.code(), &*failed.output), (Some(1), ""), "{arguments:?}: {}", failed.errors);
        assert!(failed.errors.contains("cannot write /dev/null/"), "{}", failed.errors);
    }
}
