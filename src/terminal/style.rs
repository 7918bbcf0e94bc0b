//! Colours: on a terminal only, and only if they are wanted.

use std::io::{self, IsTerminal};

/// The choice whether text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColorChoice {
    /// With ANSI escape sequences.
    Ansi,
    /// Without any.
    Plain,
}

/// The meaning of a piece of text, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A heading, or the one thing to read in a line.
    Heading,
    /// As it should be.
    Good,
    /// Waits for its turn.
    Waiting,
    /// In progress.
    Active,
    /// To be looked at.
    Warning,
    /// Wrong.
    Bad,
    /// Less important than the rest.
    Quiet,
}

impl ColorChoice {
    /// Returns the choice for standard output: colours on a terminal, unless `NO_COLOR`
    /// (no-color.org) is set and not empty, or the terminal is a dumb one.
    pub fn for_stdout() -> Self {
        Self::choose(io::stdout().is_terminal(), |name| {
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })
    }

    fn choose(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Self {
        let is_unwanted = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = variable("TERM").is_some_and(|value| value == "dumb");
        if is_terminal && !is_unwanted && !is_dumb { Self::Ansi } else { Self::Plain }
    }

    /// Returns the text in a style.
    pub fn paint(self, style: Style, text: &str) -> String {
        match self {
            Self::Ansi => format!("\x1b[{}m{text}\x1b[0m", style.code()),
            Self::Plain => text.to_owned(),
        }
    }

    /// Returns the text in a style, filled up with spaces to `width` characters.
    pub fn padded(self, style: Style, text: &str, width: usize) -> String {
        let missing = width.saturating_sub(text.chars().count());
        format!("{}{}", self.paint(style, text), " ".repeat(missing))
    }
}

impl Style {
    /// The parameters of the ANSI sequence "select graphic rendition".
    const fn code(self) -> &'static str {
        match self {
            Self::Heading => "1",
            Self::Good => "32",
            Self::Waiting => "36",
            Self::Active => "34",
            Self::Warning => "33",
            Self::Bad => "1;31",
            Self::Quiet => "2",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_has_no_escapes_and_padding_ignores_colour() {
        assert_eq!(ColorChoice::Plain.padded(Style::Good, "ok", 4), "ok  ");
        assert_eq!(ColorChoice::Ansi.padded(Style::Good, "ok", 4), "\x1b[32mok\x1b[0m  ");
    }

    #[test]
    fn colours_need_a_terminal_that_wants_them() {
        let choose = |is_terminal, variables: &[(&str, &str)]| {
            ColorChoice::choose(is_terminal, |name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(choose(true, &[("TERM", "xterm")]), ColorChoice::Ansi);
        assert_eq!(choose(true, &[("NO_COLOR", "")]), ColorChoice::Ansi, "an empty value counts as absent");
        assert_eq!(choose(true, &[("NO_COLOR", "1")]), ColorChoice::Plain);
        assert_eq!(choose(true, &[("TERM", "dumb")]), ColorChoice::Plain);
        assert_eq!(choose(false, &[]), ColorChoice::Plain);
    }
}
