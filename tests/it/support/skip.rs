//! Tests that this machine cannot run: each is reported and counted.

use std::{env, fs::OpenOptions, io::Write};

/// Reports that the calling test is skipped, and why; the caller then returns.
///
/// The line also goes to the file named by `CLAPOMETER_SKIPS`, from which `make test` makes its
/// summary: the test runner hides the output of tests that pass.
///
/// # Panics
/// When `CLAPOMETER_NO_SKIPS` is `1`, as it is in CI.
pub(crate) fn skip(reason: &str) {
    tell(reason, env::var("CLAPOMETER_NO_SKIPS").is_ok_and(|value| value == "1"));
}

/// Reports a part of a test that needs what no package brings, such as control groups: CI has to pass in a container,
/// too.
pub(crate) fn skip_everywhere(reason: &str) {
    tell(reason, false);
}

fn tell(reason: &str, forbidden: bool) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    report(&test, reason, forbidden);
    if let Some(path) = env::var_os("CLAPOMETER_SKIPS") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("CLAPOMETER_SKIPS is writable");
        writeln!(file, "{test}: {reason}").expect("CLAPOMETER_SKIPS is writable");
    }
}

fn report(test: &str, reason: &str, forbidden: bool) {
    assert!(!forbidden, "skipped although CLAPOMETER_NO_SKIPS is set: {reason}");
    eprintln!("skipped {test}: {reason}");
}

#[cfg(test)]
mod tests {
    use super::report;

    #[test]
    fn a_skip_passes_where_it_is_allowed() {
        report("some_test", "no such program", false);
    }

    #[test]
    #[should_panic(expected = "skipped although CLAPOMETER_NO_SKIPS is set: no such program")]
    fn a_skip_fails_where_none_is_allowed() {
        report("some_test", "no such program", true);
    }
}
