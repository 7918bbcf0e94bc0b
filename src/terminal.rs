//! Text that people read at a terminal, the same for both programs: colours, tables, widths, completions,
//! and output that survives a closed pipe.

pub mod completions;
pub mod style;
pub mod table;
pub mod text;
pub mod usage;

use std::io::{self, Write};

/// Bounds of [`reading_width`]. Below the first, breaking lines makes a text worse.
const NARROWEST: usize = 40;
const WIDEST: usize = 110;

/// Writes a text to standard output at once.
///
/// A reader that has closed the pipe (`| head`) is not an error. Anything else, such as a full
/// disk, ends the process with exit code 1: half of a script must not look like success.
pub fn print(text: &str) {
    let mut output = io::stdout().lock();
    if let Err(error) = output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        unless_unread(&error);
    }
}

/// Ends the process because standard output cannot be written, unless nobody reads it any more.
fn unless_unread(error: &io::Error) {
    if error.kind() != io::ErrorKind::BrokenPipe {
        complain(&format!("cannot write to standard output: {error}"));
        std::process::exit(1);
    }
}

/// Writes a line to standard error.
///
/// If nobody can read it, because its reader has closed the pipe or the disk is full, that is no error: the exit code
/// still says what happened.
pub fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The columns and the rows of the terminal that standard output is, if it is one. To unit tests it is none, so that
/// they compare the same text wherever they are started.
pub fn size() -> Option<(usize, usize)> {
    if cfg!(test) {
        return None;
    }
    terminal_size::terminal_size_of(io::stdout()).map(|(width, height)| (width.0.into(), height.0.into()))
}

/// The width of the terminal that standard output is, if it is one.
pub fn width() -> Option<usize> {
    size().map(|(columns, _)| columns)
}

/// The width for running text: the terminal's, within lengths that are pleasant to read.
pub fn reading_width() -> usize {
    width().unwrap_or(WIDEST).clamp(NARROWEST, WIDEST)
}
