//! What people see: colour on a terminal only, and output that survives a closed pipe.

use std::io::{self, IsTerminal, Write};

/// Bounds of [`width`]; below the first, breaking lines makes it worse.
const NARROWEST: usize = 60;
const WIDEST: usize = 110;

/// Whether colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    /// On a terminal that wants them.
    Coloured,
    /// Everywhere else.
    Plain,
}

/// What a piece of text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// A heading.
    Heading,
    /// As it should be.
    Good,
    /// To be looked at.
    Warning,
    /// Wrong.
    Bad,
    /// Less important than the rest.
    Quiet,
}

impl Ink {
    /// Colours for a terminal, unless `NO_COLOR` (no-color.org) or a dumb terminal forbids them.
    pub(super) fn of_standard_output() -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        if io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb { Self::Coloured } else { Self::Plain }
    }

    /// The text in its tone.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match (self, tone) {
            (Self::Plain, _) => return text.to_owned(),
            (Self::Coloured, Tone::Heading) => "1",
            (Self::Coloured, Tone::Good) => "32",
            (Self::Coloured, Tone::Warning) => "33",
            (Self::Coloured, Tone::Bad) => "1;31",
            (Self::Coloured, Tone::Quiet) => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// The text in its tone, followed by what it lacks to `width`.
    pub(super) fn padded(self, tone: Tone, text: &str, width: usize) -> String {
        let missing = width.saturating_sub(text.chars().count());
        format!("{}{}", self.paint(tone, text), " ".repeat(missing))
    }
}

/// Writes to standard output at once. A reader that has gone away is no fault of ours; a full disk ends the process with 1:
/// half a trigger must not look like success.
pub(super) fn print(text: &str) {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("cannot write to standard output: {error}");
            std::process::exit(1);
        }
        Ok(()) | Err(_) => {}
    }
}

/// The width of what is read: the terminal's up to a length that is still pleasant to read.
pub(super) fn width() -> usize {
    let of_terminal = terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
    of_terminal.unwrap_or(WIDEST).clamp(NARROWEST, WIDEST)
}

/// The lines of a text that is broken at spaces to fit a width; a longer word stands alone.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is at least one");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// Text from elsewhere, fit for a terminal: without control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A number as people write it.
pub(super) fn number(number: f64) -> String {
    if number == 0.0 || (0.001..1e15).contains(&number.abs()) { number.to_string() } else { format!("{number:e}") }
}

/// A duration with the digits that matter.
pub(super) fn took(duration: std::time::Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1000.0;
    if milliseconds < 10.0 {
        format!("{milliseconds:.1} ms")
    } else if milliseconds < 1000.0 {
        format!("{milliseconds:.0} ms")
    } else {
        format!("{:.1} s", milliseconds / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces_and_long_words_stand_alone() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("a verylongword b", 5), ["a", "verylongword", "b"]);
        assert_eq!(wrapped("", 5), [""]);
    }

    #[test]
    fn plain_ink_leaves_no_trace_and_padding_ignores_colour() {
        assert_eq!(Ink::Plain.padded(Tone::Good, "ok", 4), "ok  ");
        assert_eq!(Ink::Coloured.padded(Tone::Good, "ok", 4), "\x1b[32mok\x1b[0m  ");
    }

    #[test]
    fn what_would_move_the_cursor_is_taken_out() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a [2Jb c");
    }

    #[test]
    fn numbers_keep_their_digits() {
        assert_eq!([60.0, 0.001, 1e300, 0.0].map(number), ["60", "0.001", "1e300", "0"]);
    }
}
