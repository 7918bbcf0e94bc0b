//! The layout of a report: indented lines with a word or a key before each, wrapped to the terminal.

use std::fmt::Write;

use super::{excerpt::Excerpt, report::Problem, warning::Warning};
use crate::terminal::{
    reading_width,
    style::{ColorChoice, Style},
    text::{printable, wrapped},
    width,
};

/// The indentation of everything under a heading.
pub(super) const INDENT: usize = 2;

/// The width of the words that say how it went: `skipped`, `warning`.
pub(super) const WORD: usize = 9;

/// The width of the keys of facts.
const KEY: usize = 13;

/// The width of the names of the configuration's parts.
const PART: usize = 11;

/// The longest part of a line of SQL that is shown.
const EXCERPT: usize = 100;

/// A text under construction.
pub(super) struct Page {
    pub(super) text: String,
    pub(super) colors: ColorChoice,
    /// The width in which facts and answers are wrapped. Without a terminal they are not: a search finds them whole.
    width: usize,
}

impl Page {
    pub(super) fn new(colors: ColorChoice) -> Self {
        Self { text: String::new(), colors, width: width().map_or(usize::MAX, |_| reading_width()) }
    }

    /// Adds a line whose further lines are indented.
    pub(super) fn heading(&mut self, line: &str) {
        self.put(0, "", INDENT, line);
    }

    /// Adds a line as it is.
    pub(super) fn push(&mut self, line: &str) {
        writeln!(self.text, "{}", line.trim_end()).expect("writing to a String cannot fail");
    }

    /// Adds a key with its value.
    pub(super) fn fact(&mut self, key: &str, value: &str) {
        let key = self.colors.padded(Style::Quiet, key, KEY);
        self.put(INDENT, &key, KEY, &printable(value));
    }

    /// Adds a line about a part of the configuration.
    pub(super) fn entry(&mut self, part: &str, text: &str) {
        self.put(INDENT, &format!("{part:PART$}"), PART, text);
    }

    /// Adds a line that begins with a word.
    pub(super) fn line(&mut self, style: Style, word: &str, text: &str) {
        let word = self.colors.padded(style, word, WORD);
        self.put(INDENT, &word, WORD, text);
    }

    /// Adds a line under the words.
    pub(super) fn below(&mut self, text: &str) {
        self.put(INDENT + WORD, "", 0, text);
    }

    pub(super) fn warning(&mut self, indent: usize, warning: &Warning) {
        let word = self.colors.padded(Style::Warning, "warning", WORD);
        self.wrapped(indent, &word, WORD, &warning.text);
        if let Some(advice) = &warning.advice {
            self.advice(indent + WORD, advice);
        }
    }

    pub(super) fn advice(&mut self, indent: usize, advice: &str) {
        let arrow = self.colors.paint(Style::Quiet, "-> ");
        self.wrapped(indent, &arrow, 3, advice);
    }

    /// Adds a text after its mark (of `width` on the screen), with its further lines under its first.
    pub(super) fn wrapped(&mut self, indent: usize, mark: &str, width: usize, text: &str) {
        let room = reading_width().saturating_sub(indent + width);
        self.lines(indent, mark, width, wrapped(&printable(text), room));
    }

    /// Adds a text that may be painted after its mark, with its further lines `hang` columns behind the mark's
    /// beginning.
    fn put(&mut self, indent: usize, mark: &str, hang: usize, text: &str) {
        self.lines(indent, mark, hang, wrapped(text, self.width.saturating_sub(indent + hang)));
    }

    fn lines(&mut self, indent: usize, mark: &str, hang: usize, lines: Vec<String>) {
        for (index, line) in lines.into_iter().enumerate() {
            let mark = if index == 0 { mark.to_owned() } else { " ".repeat(hang) };
            self.push(&format!("{}{mark}{line}", " ".repeat(indent)));
        }
    }

    /// Adds what is known of a problem beyond its message: details, the place in the SQL, advice.
    pub(super) fn explain(&mut self, problem: &Problem) {
        for further in &problem.further {
            for line in further.lines() {
                self.below(&printable(line));
            }
        }
        if let Some(Excerpt::Sql { line, text, column }) = &problem.excerpt {
            let margin = format!("line {line}: ");
            let room = reading_width().saturating_sub(INDENT + WORD + margin.chars().count());
            let (text, column) = window(text, *column, room.min(EXCERPT));
            let caret = " ".repeat(margin.chars().count() + column);
            let below = " ".repeat(INDENT + WORD);
            self.push(&format!("{below}{}{text}", self.colors.paint(Style::Quiet, &margin)));
            self.push(&format!("{below}{caret}{}", self.colors.paint(Style::Bad, "^")));
        }
        self.advice(INDENT + WORD, &problem.advice);
    }
}

/// Returns the part of a long line around a column that fits into `room`, without control characters, and the column
/// in it. A line that the terminal breaks would put the caret under another word.
fn window(text: &str, column: usize, room: usize) -> (String, usize) {
    let characters: Vec<char> = printable(text).chars().collect();
    let start = column.saturating_sub(room / 2).min(characters.len().saturating_sub(room));
    (characters.iter().skip(start).take(room).collect(), column - start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_than_a_line_goes_on_under_its_beginning() {
        let mut page = Page { width: 30, ..Page::new(ColorChoice::Plain) };
        page.heading("claps  db.example.com:5432, database app, role scaler");
        page.fact("role", "scaler, not privileged, but for one");
        page.line(Style::Bad, "failed", "a_name_that_is_longer_than_its_line  it is not there");
        insta::assert_snapshot!(page.text, @r"
        claps  db.example.com:5432,
          database app, role scaler
          role         scaler, not
                       privileged, but
                       for one
          failed   a_name_that_is_longer_than_its_line
                   it is not there
        ");
    }

    #[test]
    fn the_caret_stays_under_its_word_in_a_narrow_terminal() {
        let line = format!("{}oops{}", "x, ".repeat(30), ", y".repeat(30));
        let at = line.find("oops").expect("it is there");
        for room in [20, 61, 100, 500] {
            let (shown, column) = window(&line, at, room);
            assert!(shown.chars().count() <= room, "{room}: {shown}");
            assert_eq!(shown.chars().skip(column).take(4).collect::<String>(), "oops", "{room}: {shown}");
        }
        assert_eq!(window("SELECT oops", 11, 61), ("SELECT oops".to_owned(), 11), "the end of the line is a place");
    }
}
