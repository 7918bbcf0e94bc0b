//! Text tables.

use std::fmt::Write as _;

use super::{
    style::{ColorChoice, Style},
    text::{printable, wrapped},
};

/// The alignment of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// For text.
    Left,
    /// For numbers.
    Right,
}

/// The least room for a column that is wrapped.
const LEAST_ROOM: usize = 16;

/// The indentation of what has less.
const INDENT: usize = 4;

/// The treatment of what the last column has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlong {
    /// It is left out, so that a row stays one line.
    Cut,
    /// It goes on below.
    Wrapped,
}

/// One cell of a table: a single line of text, in a style if it has one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    style: Option<Style>,
}

impl Cell {
    /// A cell in a style.
    pub fn styled(text: impl ToString, style: Style) -> Self {
        Self { style: Some(style), ..Self::from(text) }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        // The second line of an error would break the table, and escape sequences are not the table's.
        Self { text: printable(&text.to_string()).split_whitespace().collect::<Vec<_>>().join(" "), style: None }
    }
}

/// Renders a table with a heading; columns are as wide as their widest cell, two spaces apart.
///
/// The last column is cut or wrapped so that a line fits into the width, if one is given. What is wrapped and has
/// little room stands below its row.
pub fn render(
    heading: &[(&str, Align)],
    rows: &[Vec<Cell>],
    width: Option<(usize, Overlong)>,
    colors: ColorChoice,
) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|(name, _)| name.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.chars().count());
        }
    }
    let taken: usize = widths.iter().rev().skip(1).map(|width| width + 2).sum();
    if let (Some((width, _)), Some(last)) = (width, widths.last_mut()) {
        *last = (*last).min(width.saturating_sub(taken).max(10));
    }
    let is_wrapped = width.is_some_and(|(_, overlong)| overlong == Overlong::Wrapped);
    let room = width.map_or(usize::MAX, |(width, _)| width.saturating_sub(taken));
    let is_below = is_wrapped && room < LEAST_ROOM;
    let (indent, room) = match width {
        Some((width, _)) if is_below => (INDENT, width.saturating_sub(INDENT)),
        _ => (taken, widths.last().copied().unwrap_or_default()),
    };
    let heading_cells: Vec<Cell> = heading.iter().map(|(name, _)| Cell::from(name)).collect();
    let mut text = String::new();
    for row in std::iter::once(&heading_cells).chain(rows) {
        let mut line = String::new();
        let mut below = Vec::new();
        for ((index, (cell, width)), (_, align)) in row.iter().zip(&widths).enumerate().zip(heading) {
            let shown = if is_wrapped && index + 1 == heading.len() {
                let mut lines = wrapped(&cell.text, room).into_iter();
                let first = if is_below { String::new() } else { lines.next().unwrap_or_default() };
                below.extend(lines.filter(|line| !line.is_empty()));
                first
            } else {
                cut(&cell.text, *width)
            };
            let padding = " ".repeat(width.saturating_sub(shown.chars().count()));
            let painted = cell.style.map_or_else(|| shown.clone(), |style| colors.paint(style, &shown));
            let _ = match align {
                Align::Left => write!(line, "{painted}{padding}  "),
                Align::Right => write!(line, "{padding}{painted}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
        text.extend(below.into_iter().map(|line| format!("{}{line}\n", " ".repeat(indent))));
    }
    text
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_the_last_one_is_fitted_to_the_terminal() {
        let heading = [("ID", Align::Right), ("STATUS", Align::Left), ("ERROR", Align::Left)];
        let rows = [
            vec![Cell::from(7), Cell::styled("SUCCESS", Style::Good), Cell::default()],
            vec![Cell::from(12), Cell::styled("DEAD", Style::Bad), Cell::from("exit code 1:\n  out of memory")],
        ];
        insta::assert_snapshot!(render(&heading, &rows, Some((32, Overlong::Cut)), ColorChoice::Plain), @r"
        ID  STATUS   ERROR
         7  SUCCESS
        12  DEAD     exit code 1: out o…
        ");
        insta::assert_snapshot!(render(&heading, &rows, Some((32, Overlong::Wrapped)), ColorChoice::Plain), @r"
        ID  STATUS   ERROR
         7  SUCCESS
        12  DEAD     exit code 1: out of
                     memory
        ");
        insta::assert_snapshot!(render(&heading, &rows, Some((28, Overlong::Wrapped)), ColorChoice::Plain), @r"
        ID  STATUS
            ERROR
         7  SUCCESS
        12  DEAD
            exit code 1: out of
            memory
        ");
    }

    #[test]
    fn colours_do_not_shift_columns() {
        let heading = [("STATUS", Align::Left), ("N", Align::Right)];
        let rows = [vec![Cell::styled("DEAD", Style::Bad), Cell::from(1)]];
        let plain = render(&heading, &rows, None, ColorChoice::Plain);
        let painted = render(&heading, &rows, None, ColorChoice::Ansi);
        assert!(painted.contains("\x1b[1;31mDEAD\x1b[0m"));
        assert_eq!(painted.replace("\x1b[1;31m", "").replace("\x1b[0m", ""), plain);
    }
}
