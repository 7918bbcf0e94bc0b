//! Other processes: their owners, and signals to them.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, getuid, kill_process};

/// Returns the processes whose working directory is `directory` or below it.
///
/// All of PostgreSQL's processes work in the data directory, and no others do.
pub(crate) fn working_under(directory: &Path) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .filter_map(|process| {
            let process = process.ok()?;
            let pid = process.file_name().to_str()?.parse().ok()?;
            let works_in = fs::read_link(process.path().join("cwd")).ok()?;
            works_in.starts_with(directory).then(|| Pid::from_raw(pid))?
        })
        .collect()
}

/// Sends a signal. It is not an error if the process has ended already.
pub(crate) fn signal(pid: Pid, signal: Signal) {
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("cannot send {signal:?} to {pid:?}: {error}"),
    }
}

/// Returns the process id of a child.
pub(crate) fn pid(child: &std::process::Child) -> Pid {
    Pid::from_raw(child.id().cast_signed()).expect("a child has a process id above zero")
}

/// Removes the segment of System V shared memory that a killed postmaster leaves behind: a machine has room for 4,096
/// of them, and keeps them until it restarts. The seventh line of `postmaster.pid` has its key and its number.
pub(crate) fn remove_shared_memory(data: &Path) {
    let state = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    if let Some(number) = state.lines().nth(6).and_then(|line| line.split_whitespace().last()) {
        // It is not there if a child still holds it, or where the file is of a postmaster that was stopped.
        let _ = Command::new("ipcrm").args(["-m", number]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Makes the command run as a user other than root, as PostgreSQL demands.
pub(crate) fn unprivileged(command: &mut Command) -> &mut Command {
    if let Some((user, group)) = unprivileged_ids() {
        command.uid(user).gid(group);
    }
    command
}

/// Gives a directory to the user of [`unprivileged`].
pub(crate) fn give_away(path: &Path) -> PathBuf {
    if let Some((user, group)) = unprivileged_ids() {
        std::os::unix::fs::chown(path, Some(user), Some(group)).expect("root may give files away");
    }
    path.to_owned()
}

/// Reads or lowers limits of a process that runs as the user of [`unprivileged`], who alone may do so; returns what is
/// said.
pub(crate) fn prlimit(pid: Pid, arguments: &[&str]) -> String {
    let mut command = Command::new("prlimit");
    command.arg(format!("--pid={}", pid.as_raw_nonzero())).args(arguments);
    let output = unprivileged(&mut command).output().expect("prlimit is there");
    assert!(output.status.success(), "prlimit {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns the user and group that stand in for root: `nobody`, which every system has.
fn unprivileged_ids() -> Option<(u32, u32)> {
    if !getuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let nobody = users.lines().find_map(|line| {
        let mut fields = line.strip_prefix("nobody:")?.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    Some(nobody.unwrap_or((65_534, 65_534)))
}
