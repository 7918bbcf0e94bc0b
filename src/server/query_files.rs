//! Tells of the query files in the log and in the metrics.

use crate::{
    admin::{ReloadLog, Reloaded},
    config::{QueryFile, QueryFileState, QueryFiles},
    diagnostics::Misconfiguration,
    metrics::Metrics,
    recorder::{Incident, RejectedFile, Served},
};

/// The most faults of a file that one line of the log tells; `clapometer check` tells them all.
const MOST_FAULTS: usize = 10;

/// The most lines that one look at the files writes.
const MOST_LINES: usize = 50;

/// The result of a look at the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing that the log was told.
    Nothing,
    /// Something that only the log was told: a file is good again, or the directory cannot be listed.
    Told,
    /// A file is faulty, which is noted as a rejected reload, too.
    Rejected,
}

/// Logs and notes what has changed since `before`, and publishes which files are valid.
pub(super) fn report(now: &QueryFiles, before: &QueryFiles, metrics: &Metrics, reloads: &ReloadLog) -> News {
    publish(now, metrics);
    let mut shown = Vec::new();
    let mut is_news = now.unlisted != before.unlisted;
    if is_news {
        report_directory(now);
    }
    let told = |file: &QueryFile| (file.state, file.faults.clone());
    let changed = now.files.iter().filter(|(name, file)| before.files.get(*name).map(told) != Some(told(file)));
    let changed: Vec<_> = changed.collect();
    let (mut lines, mut untold) = (0, 0);
    for (name, file) in changed {
        let was_faulty = before.files.get(name).is_some_and(|file| file.faults.is_some());
        if file.faults.is_none() && !was_faulty {
            continue;
        }
        is_news = true;
        let faults: Vec<String> = file.faults.iter().flat_map(Misconfiguration::without_values).collect();
        lines += 1;
        match lines <= MOST_LINES {
            true => {
                report_file(&now.path(name).display().to_string(), file);
                let rejected = faults.first().map(|fault| rejected(name, file.state, fault));
                rejected.into_iter().for_each(|incident| metrics.recorder.happened(incident));
            }
            false => untold += 1,
        }
        shown.extend(faults.into_iter().map(|fault| format!("{name}: {fault}")));
    }
    let news = match (shown.is_empty(), is_news) {
        (false, _) => News::Rejected,
        (true, true) => News::Told,
        (true, false) => News::Nothing,
    };
    if !shown.is_empty() {
        reloads.note(Reloaded::Rejected(shown));
    }
    if untold > 0 {
        tracing::error!(untold, "more query files have changed than are logged; clapometer check tells all");
    }
    news
}

/// Returns what the recorder keeps of a faulty file.
fn rejected(name: &str, state: QueryFileState, fault: &str) -> Incident {
    let served = match state {
        QueryFileState::InForce => Served::OtherQueries,
        QueryFileState::LastGood => Served::LastGood,
        QueryFileState::NotServed => Served::Nothing,
    };
    Incident::ReloadRejected { fault: fault.to_owned(), file: Some(RejectedFile { name: name.to_owned(), served }) }
}

fn report_directory(files: &QueryFiles) {
    let directory = files.directory.as_ref().map(|path| path.display().to_string());
    match &files.unlisted {
        Some(problem) => {
            tracing::error!(file = directory, problem, "query files not read; what was read before stays in force");
        }
        None => tracing::info!(file = directory, "query files are read again"),
    }
}

fn report_file(path: &str, file: &QueryFile) {
    let Some(faults) = &file.faults else {
        tracing::info!(file = path, "query file is good again");
        return;
    };
    let problem = faults.summary(MOST_FAULTS);
    match file.state {
        QueryFileState::InForce => {
            tracing::error!(file = path, %problem, "query file has names that are taken; its other queries are served");
        }
        QueryFileState::LastGood => {
            tracing::error!(file = path, %problem, "query file refused; its last good version stays in force");
        }
        QueryFileState::NotServed => {
            tracing::error!(file = path, %problem, "query file refused; none of its queries is served");
        }
    }
}

fn publish(files: &QueryFiles, metrics: &Metrics) {
    let directory = files.directory.as_ref().map(|path| (path.display().to_string(), files.unlisted.is_none()));
    let each = files.files.iter().map(|(name, file)| (name.clone(), file.faults.is_none()));
    metrics.config_valid.set_query_files(directory.into_iter().chain(each).collect());
}
