//! One temporary directory for the whole test process, removed at its end.
//!
//! A static is never dropped and a killed process drops nothing, so cleaning up is left to a
//! watcher: a shell that reads a pipe of ours. However we end, the pipe closes; the watcher then
//! kills every process that works under the directory and removes it.

use std::{
    fs,
    io::Read,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

static ROOT: OnceLock<Root> = OnceLock::new();

struct Root {
    path: PathBuf,
    next: AtomicU32,
    /// Its standard input is the pipe, which is open for as long as this value exists.
    _watcher: Child,
}

impl Root {
    fn open() -> Self {
        let path = tempfile::Builder::new()
            .prefix("clapometer-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .expect("the temporary directory is writable")
            .keep();
        let watcher = watch(&path);
        Self { path, next: AtomicU32::new(0), _watcher: watcher }
    }
}

/// Makes a new, empty directory named after what it is for.
///
/// Every process started with it as working directory dies with the test process.
pub(crate) fn new(name: &str) -> PathBuf {
    let root = ROOT.get_or_init(Root::open);
    let number = root.next.fetch_add(1, Ordering::Relaxed);
    let directory = root.path.join(format!("{name}-{number}"));
    fs::create_dir(&directory).expect("the name is new");
    directory
}

/// Starts the watcher of `root`, in a process group of its own: Ctrl-C must not reach it first.
fn watch(root: &Path) -> Child {
    let mut watcher = Command::new("/bin/sh")
        .args(["-c", include_str!("watcher.sh"), "watcher"])
        .arg(root)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("/bin/sh starts");
    // It answers once its traps are set; before that an early Ctrl-C could end it.
    let mut ready = [0; 1];
    watcher.stdout.take().expect("stdout is piped").read_exact(&mut ready).expect("the watcher answers");
    watcher
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use super::{super::wait::eventually, watch};

    #[tokio::test]
    async fn what_works_under_the_directory_ends_with_the_pipe_and_nothing_else_does() {
        let root = tempfile::tempdir().unwrap().keep();
        let elsewhere = tempfile::tempdir().unwrap();
        let mut inside = Command::new("sleep").arg("600").current_dir(&root).spawn().unwrap();
        let mut outside = Command::new("sleep").arg("600").current_dir(elsewhere.path()).spawn().unwrap();
        let mut watcher = watch(&root);
        assert!(inside.try_wait().unwrap().is_none());

        drop(watcher.stdin.take());

        eventually("the watcher has ended", Duration::from_secs(10), || watcher.try_wait().unwrap().is_some()).await;
        assert!(inside.try_wait().unwrap().is_some(), "a process of the directory outlived it");
        assert!(!root.exists(), "the directory outlived its owner");
        assert!(outside.try_wait().unwrap().is_none(), "a process of somebody else was killed");
        outside.kill().unwrap();
        outside.wait().unwrap();
    }
}
