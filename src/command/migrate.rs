//! `clapometer migrate`: turns triggers of KEDA's built-in type `postgresql` into clapometer's.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{Exit, input, is_scaler_address, misused};
use crate::{
    file,
    lint::Source,
    migrate::{File, Migration, Options, migrate},
    terminal::{complain, print},
};

const EXAMPLES: &str = "\
It reads ScaledJobs, ScaledObjects, the TriggerAuthentications that they name and the Deployments that they \
scale, as far as these are there, and writes into DIR:
  clapometer.yaml  the databases and queries of the triggers
  manifests/       the files with changed triggers; all else in them stays as it is, byte by byte
  report.md        what to do, what changes for KEDA, and what was not understood

It changes nothing in a cluster and asks no database. Passwords are not written anywhere: the \
configuration names files, and the report says what belongs in them. \
docs/migration-from-builtin-trigger.md goes through it.

Exit codes:
   0  every trigger was migrated, or there was none
   1  a trigger was left as it is, or needs a change by hand; the report says why
      (or a document could not be read, or a file not be written)
   2  wrong usage, no document at all, an unreadable file, or DIR has other files of these names

Examples:
  clapometer migrate deploy/ --out migrated
  helm template ./chart | clapometer migrate --out migrated
  kubectl get scaledjobs,scaledobjects,triggerauthentications,clustertriggerauthentications \\
    -A -o yaml | clapometer migrate --out migrated";

/// Turn triggers of KEDA's type postgresql into clapometer's
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Migrate {
    /// Manifests (YAML or JSON); `-` is standard input; of a directory, its .yaml, .yml and .json files
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,
    /// The directory for what is written
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace files in DIR that differ
    #[arg(long)]
    overwrite: bool,
    /// Where KEDA finds clapometer
    #[arg(long, value_name = "HOST:PORT", default_value = "clapometer.clapometer.svc.cluster.local:9090")]
    scaler_address: String,
}

impl Migrate {
    pub(super) fn run(self) -> Exit {
        let Self { files, out, overwrite, scaler_address } = self;
        if let Err(problem) = is_scaler_address(&scaler_address) {
            return misused("migrate", &format!("--scaler-address: {problem}"));
        }
        let sources = match input::read(&files, &mut io::stdin().lock()) {
            Ok(sources) => sources,
            Err(problem) => return misused("migrate", &problem),
        };
        let sources: Vec<Source> = sources.into_iter().filter(|source| !is_within(&source.name, &out)).collect();
        let migration = match migrate(&sources, &Options { address: scaler_address }) {
            Ok(migration) => migration,
            Err(unrendered) => {
                let places: Vec<String> =
                    unrendered.iter().map(|template| format!("{}:{}", template.file, template.line)).collect();
                let problem = format!(
                    "{}: a template that nobody has rendered; give the output of `helm template`: \
                     helm template ./chart | clapometer migrate --out DIR",
                    places.join(", ")
                );
                return misused("migrate", &problem);
            }
        };
        if migration.documents == 0 {
            return misused("migrate", &input::without_documents(&files, &sources));
        }
        let to_write = match to_write(&migration.files, &out, overwrite) {
            Ok(files) => files,
            Err(problem) => return misused("migrate", &problem),
        };
        let written = to_write.len();
        if let Err(problem) = write(to_write) {
            complain(&problem);
            return Exit::Failure;
        }
        print(&summary(&migration, &sources, &out, written));
        let is_whole = migration.left + migration.by_hand == 0 && migration.unreadable.is_empty();
        if is_whole { Exit::Success } else { Exit::Failure }
    }
}

/// Returns whether a file is of an earlier run.
fn is_within(name: &str, out: &Path) -> bool {
    let canonical = |path: &Path| fs::canonicalize(path).ok();
    canonical(Path::new(name)).zip(canonical(out)).is_some_and(|(file, out)| file.starts_with(out))
}

/// Returns the files that are not there yet with these bytes, each with its path.
///
/// # Errors
/// One of them would be replaced, or cannot be compared.
fn to_write<'a>(files: &'a [File], out: &Path, overwrite: bool) -> Result<Vec<(PathBuf, &'a File)>, String> {
    if out.exists() && !out.is_dir() {
        return Err(format!("--out: {} is no directory", out.display()));
    }
    let mut different = Vec::new();
    let mut missing = Vec::new();
    for file in files {
        let path = out.join(&file.path);
        match fs::read(&path) {
            Ok(bytes) if bytes == file.text.as_bytes() => {}
            Ok(_) => different.push((path, file)),
            Err(error) if is_absent(&error) => missing.push((path, file)),
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        }
    }
    if !different.is_empty() && !overwrite {
        let names: Vec<String> = different.iter().map(|(path, _)| path.display().to_string()).collect();
        let what = if names.len() == 1 { "is there already, and differs" } else { "are there already, and differ" };
        return Err(format!("{} {what}; give another directory, or --overwrite", names.join(", ")));
    }
    different.extend(missing);
    Ok(different)
}

/// Returns whether there is no file of a name. Why none can be there, its writing says.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn write(files: Vec<(PathBuf, &File)>) -> Result<(), String> {
    for (path, file) in files {
        let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
        file::replace(&path, file.text.as_bytes()).map_err(failed)?;
    }
    Ok(())
}

fn summary(migration: &Migration, sources: &[Source], out: &Path, written: usize) -> String {
    let Migration { files, migrated, by_hand, left, unreadable, documents: _ } = migration;
    if files.is_empty() {
        let names = sources.iter().map(|source| source.name.clone()).collect::<Vec<_>>();
        let of = if names.is_empty() { String::new() } else { format!(" in {}", first_of(&names).join(", ")) };
        let nothing = format!("There is no trigger of type postgresql{of}. Nothing is written.\n");
        return format!("{nothing}{}", not_read(unreadable));
    }
    let mut text = format!("{migrated} of {} triggers migrated", migrated + by_hand + left);
    for (number, what) in [(by_hand, "to be changed by hand"), (left, "left as before")] {
        if *number > 0 {
            text.push_str(&format!(", {number} {what}"));
        }
    }
    text.push_str(".\n");
    text.push_str(&not_read(unreadable));
    text.push('\n');
    for file in files {
        text.push_str(&format!("  {}\n", out.join(&file.path).display()));
    }
    if written == 0 {
        text.push_str("\nAll of them were there already, with the same bytes.\n");
    }
    text.push_str(&format!("\nNext: read {}.\n", out.join("report.md").display()));
    text
}

/// Names the documents that could not be read.
fn not_read(unreadable: &[String]) -> String {
    match unreadable {
        [] => String::new(),
        [one] => format!("1 document could not be read:\n  {one}\n"),
        several => format!("{} documents could not be read:\n  {}\n", several.len(), first_of(several).join("\n  ")),
    }
}

/// Returns the first of many names, and how many more there are.
fn first_of(names: &[String]) -> Vec<String> {
    const SHOWN: usize = 8;
    let mut shown: Vec<String> = names.iter().take(SHOWN).cloned().collect();
    if names.len() > SHOWN {
        shown.push(format!("{} more", names.len() - SHOWN));
    }
    shown
}
