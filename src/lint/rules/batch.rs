//! Rules about Jobs that run `postgres-batch`: its durations and those of Kubernetes must fit.

use crate::{
    config::duration,
    lint::{
        findings::Findings,
        rule::{Rule, Severity::Warning},
    },
    manifest::{Node, Object},
};

const LEASE_LONGER_THAN_GRACE: Rule = Rule::new("lease-longer-than-grace", Warning, "docs/batch.md");
const DEADLINE_TOO_SHORT: Rule = Rule::new("deadline-too-short", Warning, "docs/batch.md");

pub(super) const RULES: &[&Rule] = &[&LEASE_LONGER_THAN_GRACE, &DEADLINE_TOO_SHORT];

/// The defaults of `postgres-batch work`, in seconds, and that of Kubernetes for terminationGracePeriodSeconds.
const LEASE: u64 = 60;
const GRACE: u64 = 20;
const TERMINATION_GRACE: u64 = 30;

/// The longest time that giving a clap back takes after `--grace`, in seconds.
const RELEASE: u64 = 5;

/// Looks at a ScaledJob's pods.
pub(super) fn check(object: &Object, findings: &mut Findings<'_>) {
    let Some(worker) = object.containers().iter().find(|container| is_worker(container)) else { return };
    let Some(pod) = object.pod() else { return };
    let lease = seconds(worker, "--lease", "POSTGRES_BATCH_LEASE").unwrap_or(LEASE);
    let grace = seconds(worker, "--grace", "POSTGRES_BATCH_GRACE").unwrap_or(GRACE);
    let termination = pod.get("terminationGracePeriodSeconds");
    let killed_after = termination
        .and_then(Node::integer)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .unwrap_or(TERMINATION_GRACE);
    if killed_after < grace.saturating_add(RELEASE) && lease > killed_after {
        let why = format!(
            "Kubernetes kills the worker after {killed_after} s, before it has given its row back (--grace {grace} s and \
             {RELEASE} s more), so that the row waits until its lease of {lease} s ends."
        );
        let line = termination.map_or(pod.line, |node| node.line);
        let how = format!("Set terminationGracePeriodSeconds to {} or more.", grace.saturating_add(10));
        findings.add(&LEASE_LONGER_THAN_GRACE, line, why, how);
    }
    let deadline = object.spec(&["jobTargetRef", "activeDeadlineSeconds"]);
    let timeout = seconds(worker, "--timeout", "POSTGRES_BATCH_TIMEOUT");
    if let (Some(node), Some(timeout)) = (deadline, timeout)
        && let longest = lease.saturating_add(timeout).saturating_add(killed_after)
        && node.integer().and_then(|seconds| u64::try_from(seconds).ok()).is_some_and(|deadline| deadline < longest)
    {
        let why = format!(
            "The Job's deadline ends an attempt that --timeout would still allow: waiting for a lease, the work and the \
             end take up to {longest} s."
        );
        findings.add(&DEADLINE_TOO_SHORT, node.line, why, format!("Set activeDeadlineSeconds above {longest}."));
    }
}

/// Returns whether a container runs `postgres-batch work`.
fn is_worker(container: &Node) -> bool {
    let words = ["command", "args"].into_iter().filter_map(|key| container.get(key)).flat_map(Node::items);
    let works = words.filter_map(Node::text).any(|word| word == "work");
    works && container.text_at(&["image"]).is_some_and(|image| image.contains("postgres-batch"))
}

/// Returns an option of the worker in seconds: its argument, else its variable.
fn seconds(container: &Node, option: &str, variable: &str) -> Option<u64> {
    let words: Vec<&str> = ["command", "args"]
        .into_iter()
        .filter_map(|key| container.get(key))
        .flat_map(Node::items)
        .filter_map(Node::text)
        .collect();
    let joined = words.iter().find_map(|word| word.strip_prefix(option)?.strip_prefix('='));
    let apart = words.windows(2).find(|pair| pair[0] == option).map(|pair| pair[1]);
    let set = container.get("env").map_or(&[][..], Node::items).iter();
    let set =
        set.filter(|entry| entry.text_at(&["name"]) == Some(variable)).find_map(|entry| entry.text_at(&["value"]));
    duration::parse(joined.or(apart).or(set)?).map(|duration| duration.as_secs())
}
