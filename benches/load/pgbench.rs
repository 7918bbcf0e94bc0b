//! Runs pgbench, PostgreSQL's own load generator, as a baseline and for plain writers.

use tokio::process::Command;

use crate::support::{binaries, database::Access};

/// Returns the transactions a second of these clients, each of which runs the script repeatedly on a connection of its
/// own.
///
/// # Panics
/// When pgbench is not there, or prints no rate.
pub(crate) async fn rate(access: &Access, script: &str, clients: u64, seconds: u32) -> f64 {
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    let file = directory.path().join("script.sql");
    std::fs::write(&file, script).expect("the directory is ours");
    let mut command = Command::new(binaries::directory().join("pgbench"));
    command.arg("--no-vacuum").arg("-f").arg(&file);
    command.args(["-c", &clients.to_string(), "-j", "2", "-T", &seconds.to_string()]);
    let output = command.envs(access.environment()).output().await.expect("pgbench is there");
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.unwrap_or_else(|| panic!("pgbench says no rate: {text}{}", String::from_utf8_lossy(&output.stderr)))
}
