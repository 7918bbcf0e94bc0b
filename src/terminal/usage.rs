//! Advice on a command line that clap refuses, for errors that clap does not explain.

use std::{
    ffi::OsString,
    io::{self, Write},
    process::exit,
};

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::unless_unread;

/// The commands whose only file is that of `--config`.
const CONFIGURED: [&str; 4] = ["serve", "check", "config", "init"];

/// Adds to the parser's error which argument is not UTF-8, or where a file belongs. `words` are the command line's.
pub fn advised(mut error: clap::Error, words: impl IntoIterator<Item = OsString>) -> clap::Error {
    let words: Vec<OsString> = words.into_iter().collect();
    let tip = match error.kind() {
        // Its text may be a secret.
        ErrorKind::InvalidUtf8 => words.iter().position(|word| word.to_str().is_none()).map(|place| {
            let before =
                words[..place].iter().rev().find_map(|word| word.to_str().filter(|word| word.starts_with("--")));
            let behind = before.map_or_else(String::new, |option| format!(", behind {option},"));
            format!("argument {place}{behind} is not UTF-8; write it in a shell whose locale is UTF-8")
        }),
        ErrorKind::UnknownArgument => {
            let command = words.get(1).and_then(|word| word.to_str()).filter(|word| CONFIGURED.contains(word));
            match (command, error.get(ContextKind::InvalidArg)) {
                // To the parser `-5s` is a row of short options.
                (_, Some(ContextValue::String(word))) if is_negative(word) => {
                    Some("no option takes a negative duration".to_owned())
                }
                (Some(command), Some(ContextValue::String(file))) if !file.starts_with('-') => {
                    Some(format!("a configuration is named by an option: clapometer {command} --config {file}"))
                }
                _ => None,
            }
        }
        _ => None,
    };
    if let Some(tip) = tip {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// Ends the process with the parser's own text: `--help` and `--version`, which go to standard output and must arrive
/// there, or wrong usage.
pub fn end(error: &clap::Error) -> ! {
    let printed = error.print().and_then(|()| io::stdout().flush());
    match printed {
        Err(failure) if !error.use_stderr() => unless_unread(&failure),
        Ok(()) | Err(_) => {}
    }
    exit(error.exit_code())
}

fn is_negative(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use clap::{Arg, Command};

    use super::*;

    fn told(words: &[&[u8]]) -> String {
        let words: Vec<OsString> = words.iter().map(|word| OsString::from_vec(word.to_vec())).collect();
        let check = Command::new("check").arg(Arg::new("config").long("config"));
        let add = Command::new("add").arg(Arg::new("key").long("key"));
        let program = Command::new("program").subcommands([check, add]);
        let error = program.try_get_matches_from(words.clone()).unwrap_err();
        advised(error, words).render().to_string()
    }

    #[test]
    fn an_argument_that_is_not_utf_8_is_told_by_its_place_and_never_shown() {
        let told = told(&[b"program", b"add", b"--key", b"canary\xff"]);
        assert!(told.contains("argument 3, behind --key, is not UTF-8"), "{told}");
        assert!(!told.contains("canary"), "{told}");
    }

    #[test]
    fn a_file_without_its_option_is_told_the_option() {
        let with_file = told(&[b"program", b"check", b"clapometer.yaml"]);
        assert!(with_file.contains("clapometer check --config clapometer.yaml"), "{with_file}");
        let other = told(&[b"program", b"add", b"clapometer.yaml"]);
        assert!(!other.contains("--config"), "{other}");
    }
}
