//! Text tables and colours, for people at a terminal.

use std::fmt::Write as _;

use super::status::Status;

/// How a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Whether colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// ANSI escapes.
    On,
    /// None.
    Off,
}

/// A cell: what it says, and its ANSI colour if it has one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    colour: Option<u8>,
}

impl Cell {
    /// A cell in the colour of a status.
    pub fn status(status: Status) -> Self {
        Self { text: status.to_string(), colour: Some(colour(status)) }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        // One line: an error's second line would break the table.
        Self { text: text.to_string().split_whitespace().collect::<Vec<_>>().join(" "), colour: None }
    }
}

/// A text in the colour of a status.
pub fn paint(text: &str, status: Status, colours: Colour) -> String {
    match colours {
        Colour::On => format!("\x1b[{}m{text}\x1b[0m", colour(status)),
        Colour::Off => text.to_owned(),
    }
}

/// A table with a heading; columns as wide as their widest cell, two spaces apart.
///
/// The last column is cut so that a line fits into `width`, where one is given.
pub fn render(heading: &[(&str, Align)], rows: &[Vec<Cell>], width: Option<usize>, colours: Colour) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|(name, _)| name.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.chars().count());
        }
    }
    if let (Some(width), Some((last, others))) = (width, widths.split_last_mut()) {
        let taken: usize = others.iter().map(|width| width + 2).sum();
        *last = (*last).min(width.saturating_sub(taken).max(10));
    }
    let heading_cells: Vec<Cell> = heading.iter().map(|(name, _)| Cell::from(name)).collect();
    let mut text = String::new();
    for row in std::iter::once(&heading_cells).chain(rows) {
        let mut line = String::new();
        for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(heading) {
            let shown = cut(&cell.text, *width);
            let padding = " ".repeat(width.saturating_sub(shown.chars().count()));
            let painted = match (cell.colour, colours) {
                (Some(colour), Colour::On) => format!("\x1b[{colour}m{shown}\x1b[0m"),
                _ => shown,
            };
            let _ = match align {
                Align::Left => write!(line, "{painted}{padding}  "),
                Align::Right => write!(line, "{padding}{painted}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A span of time as people say it: two units at most.
pub fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 9.95 {
        return format!("{seconds:.1}s");
    }
    // Bounded: beyond 2^53 seconds there is nothing to show.
    let whole = std::time::Duration::try_from_secs_f64(seconds.round()).map_or(0, |duration| duration.as_secs());
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

fn colour(status: Status) -> u8 {
    match status {
        Status::Pending => 36,
        Status::Running => 34,
        Status::Failed => 33,
        Status::Success => 32,
        Status::Dead => 31,
        Status::Cancelled => 90,
    }
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
    fn columns_line_up_and_the_last_one_is_cut_to_the_terminal() {
        let heading = [("ID", Align::Right), ("STATUS", Align::Left), ("ERROR", Align::Left)];
        let rows = [
            vec![Cell::from(7), Cell::status(Status::Success), Cell::default()],
            vec![Cell::from(12), Cell::status(Status::Dead), Cell::from("exit code 1:\n  out of memory")],
        ];
        insta::assert_snapshot!(render(&heading, &rows, Some(32), Colour::Off), @r"
        ID  STATUS   ERROR
         7  SUCCESS
        12  DEAD     exit code 1: out o…
        ");
    }

    #[test]
    fn colours_do_not_shift_columns() {
        let heading = [("STATUS", Align::Left), ("N", Align::Right)];
        let rows = [vec![Cell::status(Status::Dead), Cell::from(1)]];
        let plain = render(&heading, &rows, None, Colour::Off);
        let painted = render(&heading, &rows, None, Colour::On);
        assert!(painted.contains("\x1b[31mDEAD\x1b[0m"));
        assert_eq!(painted.replace("\x1b[31m", "").replace("\x1b[0m", ""), plain);
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, text) in
            [(-1.0, "0.0s"), (0.04, "0.0s"), (9.9, "9.9s"), (59.9, "1m00s"), (3725.0, "1h02m"), (90_000.0, "1d01h")]
        {
            assert_eq!(span(seconds), text);
        }
    }
}
