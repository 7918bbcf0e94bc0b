//! The source of a parameter's text: the text itself, a file or a variable.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::secret::Secret;
use crate::{diagnostics::shown_path, file};

/// The largest file that a scalar is read from: a certificate's key fits, a wrong path may not.
const LARGEST_FILE: u64 = 64 * 1024;

/// Some editors begin a file with it. Nobody sees it, and a password with it is wrong.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// A scalar, or a reference to one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ValueSource {
    /// The text itself.
    Plain(Secret),
    /// `{file: ...}`: the file's text, less one newline at its end, read at each use.
    File(PathBuf),
    /// `{env: ...}`: a variable, which cannot change while the process lives.
    Variable { name: String, value: Option<Secret> },
}

impl ValueSource {
    /// Makes a scalar of a text.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self::Plain(Secret::new(text.into()))
    }

    /// Returns whether there is something to read, right or wrong.
    pub(crate) fn is_there(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::File(path) => file::exists(path),
            Self::Variable { name: _, value } => value.is_some(),
        }
    }

    /// Reads the text as of now.
    ///
    /// # Errors
    /// Says why there is none; names the file or the variable, and never its content.
    pub(crate) fn read(&self) -> Result<String, String> {
        let (origin, text) = match self {
            Self::Plain(text) => return Ok(text.expose().to_owned()),
            Self::File(path) => (format!("the file {}", shown_path(path)), small_file(path)?),
            Self::Variable { name, value } => {
                let value = value.as_ref().ok_or_else(|| format!("the variable {name} is not set"))?;
                if value.expose().contains(char::REPLACEMENT_CHARACTER) {
                    return Err(format!("the variable {name} is not UTF-8"));
                }
                (format!("the variable {name}"), value.expose().to_owned())
            }
        };
        let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
        if text.is_empty() {
            return Err(format!("{origin} is empty"));
        }
        if text.starts_with(BYTE_ORDER_MARK) {
            return Err(format!("{origin} begins with a byte order mark; save it as UTF-8 without one"));
        }
        Ok(text.to_owned())
    }
}

/// Reads a file of text that must be small.
pub(crate) fn small_file(path: &Path) -> Result<String, String> {
    let cannot = |why: &dyn std::fmt::Display| format!("cannot read the file {}: {why}", shown_path(path));
    let content = file::read(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound if path.is_relative() => {
            cannot(&format_args!("{error}; a relative path begins at the directory in which the program runs"))
        }
        _ => cannot(&error),
    })?;
    if u64::try_from(content.len()).is_ok_and(|length| length > LARGEST_FILE) {
        return Err(cannot(&"it is larger than 64 KiB"));
    }
    let text = String::from_utf8(content).map_err(|_| cannot(&"it is not UTF-8"))?;
    if text.contains('\0') {
        return Err(cannot(&"it has a NUL character"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_line_is_no_part_of_a_text_and_a_byte_order_mark_is_a_mistake() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        for (content, text) in
            [("secret\r\n", Ok("secret")), ("\u{feff}secret\n", Err("begins with a byte order mark"))]
        {
            std::fs::write(&path, content).unwrap();
            match (ValueSource::File(path.clone()).read(), text) {
                (Ok(read), Ok(text)) => assert_eq!(read, text),
                (Err(why), Err(part)) => assert!(why.contains(part) && !why.contains("secret"), "{why}"),
                (read, text) => panic!("{read:?}, not {text:?}"),
            }
        }
    }
}
