//! The metrics `process_*`, which every program that Prometheus watches has, from Linux' `/proc`.

use std::{fmt, fs};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType};
use rustix::param::{clock_ticks_per_second, page_size};

/// Reads the metrics of this process at each scrape. What cannot be read is left out.
#[derive(Debug)]
pub(super) struct Process {
    /// The start, in seconds since 1970.
    pub(super) started_at: f64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(seconds) = cpu_seconds() {
            let help = "Time that the process has used of processors, in seconds.";
            encoder
                .encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?
                .encode_counter::<[(&str, &str); 0], f64, u64>(&seconds, None)?;
        }
        let (size, used) = memory().unzip();
        let gauges = [
            ("process_open_fds", "Open file descriptors, network connections among them.", open_files()),
            ("process_max_fds", "File descriptors that the process may open.", most_files()),
            ("process_virtual_memory_bytes", "Address space of the process, in bytes.", size),
            ("process_resident_memory_bytes", "Memory that the process uses, in bytes.", used),
            ("process_start_time_seconds", "When the process started, in seconds since 1970.", Some(self.started_at)),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}

/// Returns the time in user and in kernel mode: the 14th and the 15th field of `stat`, of which the second, the name,
/// may hold anything.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut times = after_name.split_whitespace().skip(11).map(str::parse::<f64>);
    let ticks = times.next()?.ok()? + times.next()?.ok()?;
    Some(ticks / f64::from(u32::try_from(clock_ticks_per_second()).ok()?))
}

/// Returns the size of the address space and of its part that is in memory.
fn memory() -> Option<(f64, f64)> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = statm.split_whitespace().map(str::parse::<f64>);
    let page = f64::from(u32::try_from(page_size()).ok()?);
    Some((pages.next()?.ok()? * page, pages.next()?.ok()? * page))
}

fn open_files() -> Option<f64> {
    let files = fs::read_dir("/proc/self/fd").ok()?.count();
    u32::try_from(files).ok().map(f64::from)
}

fn most_files() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_says_something_plausible_of_itself() {
        let (size, used) = memory().expect("Linux has /proc");
        assert!(size >= used && used > 1e6, "{size} {used}");
        let (open, most) = (open_files().expect("/proc"), most_files().expect("a limit"));
        assert!(open >= 3.0 && most >= open, "{open} {most}");
        let before = cpu_seconds().expect("/proc");
        assert!((0.0..1e6).contains(&before), "{before}");
    }
}
