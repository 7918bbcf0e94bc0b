//! `clapometer init`: looks into a database for queue libraries that are known, and prints what scales their workers.

mod answers;
mod configuration;
mod draft;
mod example;
mod files;
mod found;
mod grants;
mod manifest;
mod own_table;
mod page;
mod parts;
mod steps;
mod template;

use std::{env, io, path::PathBuf, sync::Arc};

use clap::{Args, ValueEnum};

use self::{
    answers::{Answer, Answers},
    draft::{Draft, Place},
    found::Findings,
    own_table::Instead,
    steps::{Steps, word},
};
use super::{ConfigFile, Exit, build, check::advice_on_database, misconfigured, misused, runtime};
use crate::{
    config::{self, Config},
    metrics::Metrics,
    notify_sql::NotifyTable,
    postgres::{Database, Inspector, QueryError, Table},
    shutdown::Supervisor,
    terminal::{complain, print, text::printable},
};

/// The role of the shipped manifests and of deploy/postgres/roles.sql.
const ROLE: &str = "clapometer";

/// The most bytes of a role's name.
const LONGEST_NAME: usize = 63;

const EXAMPLES: &str = "\
At a terminal it asks what no database says. Elsewhere, as in a script, it answers its own questions and marks each \
such line `# assumed`. For a table of your own (--table) the open questions are comments.

Exit codes:
   0  all is well
   1  there is no library and no --table, the server refused a question, or a file could not be written
   2  wrong usage, or a file of --out is there already
  69  the database is unavailable
  78  the configuration is wrong

Examples:
  DATABASE_URL=postgres://me@db/app clapometer init
  clapometer init --out scaling  # then the commands that it prints
  clapometer init --print config > clapometer.yaml
  clapometer init --table app.jobs";

/// Find the queue libraries in a database, and print what scales their workers
///
/// Connects as the configuration or libpq's environment says, looks for the tables of each library
/// that `clapometer presets` lists, and prints the configuration, the GRANT statements for the
/// scaler's role, and a ScaledObject or ScaledJob. It only reads, and changes nothing.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Init {
    #[command(flatten)]
    config: ConfigFile,
    /// The entry of `databases` to look into, where the configuration has several
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Print a template for this table of your own: `table` in the schema public, or `schema.table`
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// The role as which the scaler will connect [default: clapometer]
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// Write the parts into this directory: clapometer.yaml, grants.sql and manifest.yaml. A file
    /// that is there is never overwritten
    #[arg(long, value_name = "DIR", conflicts_with = "print")]
    out: Option<PathBuf>,
    /// Print one part as it is
    #[arg(long, value_name = "PART", value_enum)]
    print: Option<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The configuration of clapometer
    Config,
    /// The GRANT statements
    Sql,
    /// The ScaledObject or ScaledJob
    Manifest,
}

/// The parts, and the words around them.
struct Parts {
    /// The things that were found, a paragraph each.
    found: Vec<String>,
    config: String,
    sql: String,
    manifest: String,
    steps: Steps,
}

/// The subject of the parts.
enum Subject {
    /// At least one.
    Libraries(Findings),
    Table(Table),
}

impl Init {
    pub(super) fn run(self) -> Exit {
        let config = match self.config.load() {
            Ok(config) => config,
            Err(faults) => return misconfigured(&faults),
        };
        let settings = match self.settings(&config) {
            Ok(settings) => Arc::clone(settings),
            Err(problem) => return misused("init", &problem),
        };
        let table = match self.table.as_deref().map(NotifyTable::parse).transpose() {
            Ok(table) => table,
            Err(fault) => return misused("init", &format!("--table: {fault}")),
        };
        if let Err(problem) = self.role.as_deref().map_or(Ok(()), is_role) {
            return misused("init", &format!("--role: {problem}"));
        }
        if let Some(problem) = self.out.as_deref().and_then(files::in_the_way) {
            return misused("init", &format!("--out: {problem}"));
        }
        let looked = inspected(&settings, async |inspector| subject(inspector, table.as_ref()).await);
        let subject = match looked {
            Ok(subject) => subject,
            Err(failure) => return failure.report(&settings, &config),
        };
        // The questions come only now: first the database must be reachable.
        let answers = Answers::of_process();
        let role = match &self.role {
            Some(role) => Answer::given(role.clone()),
            None => answers.text("The role as which the scaler will connect", ROLE, is_role),
        };
        let known = inspected(&settings, async |inspector| inspector.role(&role.value).await.map_err(Failure::Refused));
        let known = match known {
            Ok(known) => known,
            Err(failure) => return failure.report(&settings, &config),
        };
        let place = match Place::of(&settings, role, known, self.psql()) {
            Ok(place) => place,
            Err(problem) => {
                complain(&problem);
                return Exit::Configuration;
            }
        };
        let parts = match subject {
            Subject::Libraries(findings) => parts::of(&Draft::new(place, findings, &answers)),
            Subject::Table(table) => template::of(&place, &table),
        };
        self.show(&parts)
    }

    /// Returns the database to look into.
    fn settings<'c>(&self, config: &'c Config) -> Result<&'c Arc<config::Database>, String> {
        let names = || config.databases.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        match (&self.database, config.databases.len()) {
            (Some(name), _) => config
                .databases
                .get(name)
                .ok_or_else(|| format!("--database: there is no {}; there are: {}", printable(name), names())),
            (None, 1) => Ok(config.databases.values().next().expect("there is one")),
            (None, 0) => Err("there is no database to look into; set PGHOST or DATABASE_URL".to_owned()),
            (None, _) => Err(format!("there are several databases; name one with --database: {}", names())),
        }
    }

    /// Returns the command that connects as this one does. psql does not know `DATABASE_URL`.
    fn psql(&self) -> &'static str {
        let is_url = self.config.path().is_none() && env::var_os("DATABASE_URL").is_some();
        if is_url { "psql \"$DATABASE_URL\"" } else { "psql" }
    }

    /// Returns the command that asks the same and writes the files.
    fn again(&self) -> String {
        let path = self.config.path().map(|path| path.display().to_string());
        let options = [
            ("config", path.as_deref()),
            ("database", self.database.as_deref()),
            ("table", self.table.as_deref()),
            ("role", self.role.as_deref()),
        ];
        let given = options.into_iter().filter_map(|(name, value)| Some(format!(" --{name} {}", word(value?))));
        format!("clapometer init{} --out .", given.collect::<String>())
    }

    fn show(&self, parts: &Parts) -> Exit {
        let Some(directory) = &self.out else {
            print(&match self.print {
                Some(Part::Config) => parts.config.clone(),
                Some(Part::Sql) => parts.sql.clone(),
                Some(Part::Manifest) => parts.manifest.clone(),
                None => page::document(parts, &self.again()),
            });
            return Exit::Success;
        };
        match files::write(directory, parts) {
            Ok(()) => {
                print(&page::written(parts, directory));
                Exit::Success
            }
            Err(problem) => {
                complain(&problem);
                Exit::Failure
            }
        }
    }
}

/// The reason why there is nothing to show.
enum Failure {
    /// Nothing asynchronous can run.
    NoRuntime(io::Error),
    /// There is no session.
    Unavailable(QueryError),
    /// The server refused a question.
    Refused(QueryError),
    /// There is no such table.
    NoTable { name: String, instead: Instead },
    /// There is no library that is known. The remarks are about things that look like one.
    NoLibrary { remarks: Vec<String> },
}

impl Failure {
    fn report(self, settings: &config::Database, config: &Config) -> Exit {
        let (name, at) = settings.connection.resolve().map_or_else(
            |_| Default::default(),
            |to| {
                let addresses: Vec<String> = to.addresses.iter().map(ToString::to_string).collect();
                (format!(" {}", to.dbname), format!(" {} at {}", to.dbname, addresses.join(", ")))
            },
        );
        let (name, at) = (printable(&name), printable(&at));
        match self {
            Self::NoRuntime(error) => {
                complain(&format!("cannot start the runtime: {error}"));
                Exit::Failure
            }
            Self::Unavailable(error) => {
                let message = printable(&error.message);
                complain(&format!("cannot look into the database{name}: {message}"));
                complain(&format!("-> {}", printable(&advice_on_database(settings, config, &error))));
                Exit::Unavailable
            }
            Self::Refused(error) => {
                complain(&format!("the database{at} refused a question: {}", printable(&error.message)));
                Exit::Failure
            }
            Self::NoTable { name, instead } => {
                complain(&format!("there is no table or view {} in the database{at}", printable(&name)));
                let advice = match instead {
                    Instead::Elsewhere(names) => {
                        format!("there is {}: give the schema, too, as --table SCHEMA.TABLE", names.join(", "))
                    }
                    Instead::Near(name) => format!("did you mean {name}?"),
                    Instead::Nothing => format!(
                        "is it the right database? {} names it, and it has no table of yours",
                        settings.connection.name_of("dbname")
                    ),
                    Instead::Others => return Exit::Failure,
                };
                complain(&format!("-> {}", printable(&advice)));
                Exit::Failure
            }
            Self::NoLibrary { remarks } => {
                complain(&format!(
                    "there is no queue library that is known in the database{at}; `clapometer presets` lists them"
                ));
                for remark in remarks {
                    complain(&printable(&remark));
                }
                complain(&format!(
                    "-> is it the right database? {} names it. For a table of your own: clapometer init --table SCHEMA.TABLE",
                    settings.connection.name_of("dbname")
                ));
                Exit::Failure
            }
        }
    }
}

/// Asks the database something, in a session of its own: between two questions a person may take any time.
fn inspected<T>(
    settings: &Arc<config::Database>,
    ask: impl AsyncFnOnce(&mut Inspector) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let runtime = runtime().map_err(Failure::NoRuntime)?;
    runtime.block_on(async {
        let metrics = Arc::new(Metrics::new(build()));
        let (supervisor, _failures) = Supervisor::new();
        let database = Database::new(Arc::clone(settings), metrics, &supervisor);
        let (mut inspector, _server) = database.inspector().await.map_err(Failure::Unavailable)?;
        ask(&mut inspector).await
    })
}

async fn subject(inspector: &mut Inspector, table: Option<&NotifyTable>) -> Result<Subject, Failure> {
    Ok(match table {
        Some(table) => Subject::Table(own_table::find(inspector, table).await?),
        None => {
            let findings = found::look(inspector).await.map_err(Failure::Refused)?;
            if findings.libraries.is_empty() {
                return Err(Failure::NoLibrary { remarks: findings.remarks });
            }
            Subject::Libraries(findings)
        }
    })
}

/// Returns what is wrong with a role's name, if anything is.
fn is_role(name: &str) -> Result<(), String> {
    if name.trim().is_empty() || name.contains('\0') {
        return Err("must be a role's name".to_owned());
    }
    if name.len() > LONGEST_NAME {
        return Err(format!("has {} bytes, a role's name has at most {LONGEST_NAME}", name.len()));
    }
    Ok(())
}
