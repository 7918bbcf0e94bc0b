//! A limit of memory as a container has it: a control group of the kernel.

use std::{
    fmt::Display,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicUsize, Ordering},
};

use rustix::process::Pid;

/// The place of control groups, and the names of what a test needs of one.
struct Kind {
    groups: &'static str,
    limit: &'static str,
    /// Where what sockets hold has a limit of its own, which makes the kernel count it.
    of_sockets: Option<&'static str>,
    peak: &'static [&'static str],
    events: &'static str,
}

/// Version 2, and version 1.
const KINDS: [Kind; 2] = [
    Kind {
        groups: "/sys/fs/cgroup",
        limit: "memory.max",
        of_sockets: None,
        peak: &["memory.peak"],
        events: "memory.events",
    },
    Kind {
        groups: "/sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        of_sockets: Some("memory.kmem.tcp.limit_in_bytes"),
        peak: &["memory.max_usage_in_bytes", "memory.kmem.tcp.max_usage_in_bytes"],
        events: "memory.oom_control",
    },
];

/// A control group with a limit of memory. It is removed when it is dropped, which must be after its processes have
/// ended.
pub(crate) struct MemoryLimit {
    group: PathBuf,
    kind: &'static Kind,
}

impl MemoryLimit {
    /// Makes a group with this limit in bytes. None where this user or this machine cannot.
    pub(crate) fn new(bytes: u64) -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("clapometer-test-{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        KINDS.iter().find_map(|kind| {
            let group = Path::new(kind.groups).join(&name);
            fs::create_dir(&group).ok()?;
            let limit = Self { group, kind };
            let set = |name: &str| limit.write(name, bytes);
            let is_set = set(kind.limit).is_ok() && kind.of_sockets.is_none_or(|name| set(name).is_ok());
            // Version 2 has the peak since Linux 5.19.
            let is_told = kind.peak.iter().chain([&kind.events]).all(|name| limit.group.join(name).is_file());
            // Where there is swap, it must not stand in for memory.
            let _ = limit.write("memory.swap.max", 0);
            (is_set && is_told).then_some(limit)
        })
    }

    /// Puts a process into the group. What it holds already counts for the group that it was in.
    pub(crate) fn hold(&self, process: Pid) -> io::Result<()> {
        self.write("cgroup.procs", process.as_raw_nonzero())
    }

    /// Writes to a file that the kernel has made.
    fn write(&self, name: &str, number: impl Display) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.group.join(name))?.write_all(number.to_string().as_bytes())
    }

    /// Returns the most bytes that the group has held, those of sockets included.
    pub(crate) fn peak(&self) -> u64 {
        self.kind.peak.iter().map(|name| self.read(name).trim().parse::<u64>().expect("a number")).sum()
    }

    /// Counts the processes of the group that the kernel has killed because of the limit.
    pub(crate) fn kills(&self) -> u64 {
        let events = self.read(self.kind.events);
        let line = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.parse().ok()).expect("the kernel counts them")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.group.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.group);
    }
}
