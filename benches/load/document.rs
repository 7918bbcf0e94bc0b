//! Makes docs/benchmarks.md and its plots of what the measurements have written.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clapometer::plot::{Bars, Scale};
use serde_json::Value;

use crate::{
    report::{self, Row},
    support::binaries,
};

/// The page, with places for the table, the machine and the numbers of single measurements.
const TEMPLATE: &str = include_str!("benchmarks.md");

/// The measurements, in the order of the table's rows.
const RESULTS: [&str; 10] =
    ["rate", "builtin-trigger", "many-triggers", "idle", "shards", "history", "push", "inserts", "claims", "footprint"];

/// Writes the page and the plots; what has not been measured is left out, and said.
///
/// # Panics
/// When the project's directory is not writable.
pub(crate) fn write() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut table = String::from("| | what | baseline | asked for | measured |\n| --- | --- | --- | --- | --- |\n");
    let mut missing = Vec::new();
    for name in RESULTS {
        let Some(result) = read(name) else {
            missing.push(name);
            continue;
        };
        let rows: Vec<Row> = serde_json::from_value(result["rows"].clone()).expect("a result has rows");
        for Row { what, baseline, bar, measured, holds } in rows {
            let mark = if holds { "holds" } else { "**misses**" };
            writeln!(table, "| {mark} | {what} | {baseline} | {bar} | {measured} |").expect("a string takes all");
        }
    }
    let missing = if missing.is_empty() { String::new() } else { format!("\nNot measured: {}.\n", missing.join(", ")) };
    let page = TEMPLATE.replace("{{table}}\n", &(table + &missing)).replace("{{machine}}", &machine());
    fs::write(project.join("docs/benchmarks.md"), page).expect("docs/ is writable");
    let plots = project.join("docs/benchmarks");
    fs::create_dir_all(&plots).expect("docs/ is writable");
    let draw = |name: &str, bars: Option<Bars<'_>>| {
        if let Some(bars) = bars {
            fs::write(plots.join(name), bars.svg()).expect("docs/ is writable");
        }
    };
    draw("rate.svg", read("rate").map(|result| rate(&result)));
    draw(
        "builtin-trigger.svg",
        read("builtin-trigger").map(|result| builtin_trigger(&result, "connections", "connections")),
    );
    draw(
        "builtin-trigger-cpu.svg",
        read("builtin-trigger")
            .map(|result| builtin_trigger(&result, "cpu_milliseconds_per_poll", "ms of PostgreSQL's CPU")),
    );
    draw("history.svg", read("history").map(|result| history(&result)));
    draw("claims.svg", read("claims").map(|result| claims(&result)));
}

fn read(name: &str) -> Option<Value> {
    let text = fs::read_to_string(report::path(&format!("{name}.json"))).ok()?;
    Some(serde_json::from_str(&text).expect("it was written by ourselves"))
}

fn rate(result: &Value) -> Bars<'static> {
    let side = |comparison: &Value, side: &str| number(comparison, &format!("/{side}/calls_per_second"));
    Bars {
        title: "GetMetrics a second: 64 in flight, one connection",
        unit: "calls/s",
        scale: Scale::Linear,
        series: vec!["clapometer", "bare tonic server, a constant", "Python's grpc.aio, a constant"],
        groups: each(result, "comparisons", |comparison| {
            let what = comparison["what"].as_str().unwrap_or_default().to_owned();
            (what, ["clapometer", "bare", "peer"].map(|name| side(comparison, name)).to_vec())
        }),
        bar: None,
    }
}

fn builtin_trigger(result: &Value, key: &str, unit: &'static str) -> Bars<'static> {
    let title = match key {
        "connections" => "Connections to PostgreSQL",
        _ => "PostgreSQL's CPU for one poll of all triggers",
    };
    Bars {
        title,
        unit,
        scale: Scale::Logarithmic,
        series: vec!["clapometer", "KEDA's built-in trigger", "clapometer, one grouped query"],
        groups: each(result, "sizes", |size| {
            let sides = ["clapometer", "keda", "grouped"].map(|side| number(size, &format!("/{side}/{key}")));
            (format!("{} triggers", number(size, "/triggers")), sides.to_vec())
        }),
        bar: None,
    }
}

fn history(result: &Value) -> Bars<'static> {
    Bars {
        title: "One poll as history grows, 1,000 rows pending (logarithmic)",
        unit: "ms in the executor",
        scale: Scale::Logarithmic,
        series: vec!["the view clap_backlog", "the seed's query"],
        groups: each(result, "sizes", |size| {
            let label = match number(size, "/finished") {
                rows if rows >= 1e6 => format!("{} M finished", rows / 1e6),
                rows => format!("{} k finished", rows / 1e3),
            };
            (label, vec![number(size, "/view/milliseconds"), number(size, "/seed/milliseconds")])
        }),
        bar: None,
    }
}

fn claims(result: &Value) -> Bars<'static> {
    Bars {
        title: "Claims against pgbench's UPDATE by primary key, real flush",
        unit: "a second",
        scale: Scale::Linear,
        series: vec!["claims", "updates"],
        groups: each(result, "sizes", |size| {
            let label = format!("{} workers", number(size, "/workers"));
            (label, vec![number(size, "/claims_per_second"), number(size, "/updates_per_second")])
        }),
        bar: None,
    }
}

fn each(result: &Value, list: &str, group: impl Fn(&Value) -> (String, Vec<f64>)) -> Vec<(String, Vec<f64>)> {
    result[list].as_array().into_iter().flatten().map(group).collect()
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_default()
}

/// Returns a description of the machine and the programs, in one line.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let said = |program: PathBuf| {
        let output = Command::new(program).arg("--version").output();
        output.map_or_else(|_| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let (clapometer, postgres) = (said(report_executable()), said(binaries::directory().join("postgres")));
    format!("{cores} cores of {model}, Linux {}; {postgres}; {clapometer}", kernel.trim())
}

fn report_executable() -> PathBuf {
    crate::support::executable::path("clapometer")
}
