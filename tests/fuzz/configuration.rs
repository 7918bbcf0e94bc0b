//! The configuration: a refusal says where, an accepted one can be printed, and no secret is ever in the output.

use clapometer::{
    config::{Config, Environment},
    diagnostics::Location,
    query::sql,
};

/// A password that must not be in any message or output, wherever it stands in the file.
const CANARY: &str = "canary-7f3a";

fn environment() -> Environment {
    [("PGHOST", "localhost"), ("PGUSER", "tester")]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The text as a configuration, and as the password of one.
pub(super) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    check_config(text);
    let password = serde_json::Value::from(format!("{text}{CANARY}{text}"));
    let with_password = format!("databases: {{a: {{host: localhost, user: me, password: {password}}}}}");
    let url = serde_json::Value::from(format!("postgres://me:{CANARY}{text}"));
    for yaml in [with_password, format!("databases: {{a: {{url: {url}}}}}")] {
        let said = match Config::parse(&yaml, &environment()) {
            Ok(config) => config.effective_yaml() + &format!("{config:?}"),
            Err(faults) => format!("{faults} {faults:?}"),
        };
        assert!(!said.contains(CANARY), "{yaml}\n{said}");
    }
}

fn check_config(text: &str) {
    match Config::parse(text, &environment()) {
        Ok(config) => {
            let effective = config.effective_yaml();
            let again = Config::parse(&effective, &environment());
            let again = again.unwrap_or_else(|faults| panic!("{faults}\n{effective}\nfrom\n{text}"));
            assert_eq!((&again.server, &again.queries), (&config.server, &config.queries), "{effective}");
            assert_eq!(without_places(&again.effective_yaml()), without_places(&effective));
        }
        Err(faults) => {
            let last = u64::try_from(text.split('\n').count()).unwrap() + 1;
            assert!(faults.iter().count() > 0);
            for fault in faults.iter() {
                assert!(!fault.message.is_empty());
                assert!(
                    !matches!(fault.location, Location::Line(line) if line == 0 || line > last),
                    "{fault:?}\n{text}"
                );
            }
        }
    }
}

/// Text that is approved stays approved however often it is normalised, and one statement stays one.
pub(super) fn check_sql(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = (sql::highest_placeholder(text), sql::looks_like_sql(text));
    if sql::is_one_statement(text).is_ok() {
        let bare = sql::without_terminator(text);
        assert_eq!(sql::is_one_statement(&bare), Ok(()), "{bare:?}");
        assert_eq!(sql::without_terminator(&bare), bare, "{text:?}");
        let normalised = sql::normalised(text);
        assert_eq!(sql::normalised(&normalised), normalised, "{text:?}");
        assert_eq!(sql::highest_placeholder(&normalised), sql::highest_placeholder(text), "{text:?}");
    }
}

/// The effective configuration without the comments that say where each key was written.
fn without_places(effective: &str) -> Vec<&str> {
    effective.lines().map(|line| line.split_once("  # ").map_or(line, |(before, _)| before)).collect()
}
