//! `clapometer check`: shows whether the configuration, the databases and the queries work.

mod advice;
mod excerpt;
mod inspect;
mod offline;
mod page;
mod parameters;
mod report;
mod text;
mod tls;
mod warning;

use std::sync::Arc;

use clap::Args;

pub(super) use self::advice::for_database as advice_on_database;
use self::{
    parameters::Parameters,
    report::{ConnectionState, DatabaseReport, Report},
    tls::TlsReport,
};
use super::{ConfigFile, Exit, build, misconfigured, misused, start_runtime};
use crate::{
    config::Config,
    file,
    metrics::Metrics,
    postgres::Database,
    shutdown::Supervisor,
    terminal::{complain, print, style::ColorChoice},
};

const EXAMPLES: &str = "\
For each query it shows the value that KEDA would get, whether the trigger would be active, the time \
it took, the tables that it reads (except inside functions), the cost of its plan and the expected \
number of rows. Messages of the server may quote SQL and data; the scaler's log never does.

Exit codes:
   0  all is well, or there are only warnings
   1  a query failed
   2  wrong usage
  69  a database is unavailable
  78  the configuration or a query file is wrong; all faults are listed

Examples:
  clapometer check --config clapometer.yaml
  clapometer check --config deploy/clapometer --offline
  clapometer check --config clapometer.yaml --param depth.queue=mail
  clapometer check --config clapometer.yaml --offline --json
  PGHOST=localhost PGUSER=clapometer PGPASSFILE=~/.pgpass clapometer check";

/// Check the configuration, the databases and every query
///
/// Validates the configuration, connects to each database as `serve` does, and runs each query
/// once, in the same read-only transaction as for KEDA. --config may be a directory with the main
/// file, `clapometer.yaml`, and with query files, in the subdirectory that `queries_from` names or
/// beside the main file. So a team can check its file against the rules of the main one.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigFile,
    /// Only validate the configuration; connect to nothing. Files and variables that it refers to may be missing
    #[arg(long)]
    offline: bool,
    /// The value of a query's parameter; may be repeated. A query without all its values is skipped
    #[arg(long = "param", value_name = "QUERY.NAME=VALUE", conflicts_with = "offline")]
    parameters: Vec<String>,
    /// Print one JSON document instead of text; for a wrong configuration, its faults
    #[arg(long)]
    json: bool,
}

/// The form in which a report is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OutputFormat {
    Text(ColorChoice),
    Json,
}

impl Check {
    pub(super) fn run(self) -> Exit {
        let Self { config: file, offline, parameters, json } = self;
        let config = match if offline { file.load_elsewhere() } else { file.load() } {
            Ok(config) => config,
            Err(faults) if json => return unusable(&faults.json()),
            Err(faults) => return misconfigured(&faults),
        };
        if !json {
            config.query_files.faults().iter().for_each(|faults| complain(&faults.to_string()));
        }
        let tls = config.server.tls.as_ref().filter(|tls| !offline || tls.files().all(|path| file::exists(path)));
        let serving = match tls.map(|tls| TlsReport::read(&config, tls)).transpose() {
            Ok(serving) => serving,
            Err(faults) if json => return unusable(&faults.json()),
            Err(faults) => return misconfigured(&faults),
        };
        let colors = ColorChoice::for_stdout();
        if offline && json {
            let database = |settings| DatabaseReport::not_asked(settings, &config, ConnectionState::NotConnected);
            let unknown = config.unknown_databases.iter().map(|name| DatabaseReport::unknown(name, &config));
            let databases: Vec<_> =
                config.databases.values().map(|settings| database(settings)).chain(unknown).collect();
            let sums = inspect::sums(&config, &databases);
            print_document(&Report { sums, ..Report::new(&config, serving, databases) });
            return valid(&config);
        }
        if offline {
            print(&offline::text(&file.title(), &config, colors));
            print(&serving.map_or_else(String::new, |serving| format!("\n{}", text::serving(&serving, colors))));
            return valid(&config);
        }
        let parameters = match Parameters::parse(&parameters, &config) {
            Ok(parameters) => parameters,
            Err(problem) => return misused("check", &problem),
        };
        if config.databases.is_empty() {
            let message = "there is no database to check; add one under databases, or set PGHOST or DATABASE_URL";
            return refuse(message, json);
        }
        let format = if json { OutputFormat::Json } else { OutputFormat::Text(colors) };
        start_runtime().map_or_else(
            |exit| exit,
            |runtime| runtime.block_on(check_databases(&config, serving, &parameters, format)),
        )
    }
}

/// Reports a configuration that `serve` could not use.
fn refuse(message: &str, json: bool) -> Exit {
    if json {
        return unusable(&serde_json::json!({"faults": [{"message": message}]}));
    }
    complain(message);
    Exit::Configuration
}

/// Returns the exit code of a configuration whose only faults, if any, are in query files.
fn valid(config: &Config) -> Exit {
    if config.query_files.has_faults() { Exit::Configuration } else { Exit::Success }
}

fn unusable(faults: &serde_json::Value) -> Exit {
    print(&format!("{faults:#}\n"));
    Exit::Configuration
}

fn print_document(report: &Report) {
    let document = serde_json::to_string_pretty(report).expect("a report has no keys that are not text");
    print(&format!("{document}\n"));
}

/// Inspects one database after another, and shows each as soon as it is known.
async fn check_databases(
    config: &Config,
    serving: Option<TlsReport>,
    parameters: &Parameters,
    format: OutputFormat,
) -> Exit {
    let metrics = Arc::new(Metrics::new(build()));
    let (supervisor, _failures) = Supervisor::new();
    if let (OutputFormat::Text(colors), Some(serving)) = (format, &serving) {
        print(&format!("{}\n", text::serving(serving, colors)));
    }
    let mut report = Report::new(config, serving, Vec::new());
    for settings in config.databases.values() {
        let database = Database::new(Arc::clone(settings), Arc::clone(&metrics), &supervisor);
        let found = inspect::database(&database, config, parameters).await;
        if let OutputFormat::Text(colors) = format {
            print(&text::block(&found, colors));
        }
        report.databases.push(found);
    }
    report.sums = inspect::sums(config, &report.databases);
    match format {
        OutputFormat::Text(colors) => {
            print(&text::sums(&report.sums, colors));
            print(&text::summary(&report, colors));
        }
        OutputFormat::Json => print_document(&report),
    }
    if config.query_files.has_faults() {
        Exit::Configuration
    } else if report.has_unavailable() {
        Exit::Unavailable
    } else if report.has_failed() {
        Exit::Failure
    } else {
        Exit::Success
    }
}
