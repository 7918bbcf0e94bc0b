//! Pieces of text: wrapped lines, numbers, durations, and text from elsewhere made safe to print.

use std::time::Duration;

/// Breaks a text at spaces into lines of at most `width` characters, of which colours are none; a longer word has a
/// line of its own, so that it can be copied.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let words = text.trim_start_matches(' ');
    let (indent, words) = text.split_at(text.len() - words.len());
    let mut lines = vec![indent.to_owned()];
    let mut taken = indent.len();
    for word in words.split(' ') {
        let line = lines.last_mut().expect("there is at least one");
        let length = shown_length(word);
        if line.trim_start_matches(' ').is_empty() {
            line.push_str(word);
            taken += length;
        } else if taken + 1 + length > width {
            lines.push(word.to_owned());
            taken = length;
        } else {
            line.extend([" ", word]);
            taken += 1 + length;
        }
    }
    lines
}

/// Returns the number of characters that a terminal shows of a text: not the sequences of [`super::style`].
fn shown_length(text: &str) -> usize {
    let mut parts = text.split('\x1b');
    let first = parts.next().map_or(0, |part| part.chars().count());
    first + parts.map(|part| part.split_once('m').map_or(0, |(_, shown)| shown.chars().count())).sum::<usize>()
}

/// Replaces control characters and line separators by spaces, so that text from elsewhere cannot move the cursor.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if moves_cursor(c) { ' ' } else { c }).collect()
}

/// Returns whether a character is none that a line shows: a control character, or a separator of lines.
pub fn moves_cursor(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Writes a number as people do: `60`, `0.001`, `1e300`.
pub fn number(number: f64) -> String {
    if number == 0.0 || (0.001..1e15).contains(&number.abs()) { number.to_string() } else { format!("{number:e}") }
}

/// Writes a short duration with the digits that matter: `3.2 ms`, `1.5 s`.
pub fn elapsed(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1000.0;
    if milliseconds < 10.0 {
        format!("{milliseconds:.1} ms")
    } else if milliseconds < 1000.0 {
        format!("{milliseconds:.0} ms")
    } else {
        format!("{:.1} s", milliseconds / 1000.0)
    }
}

/// Writes a span of time in at most two units: `9.9s`, `1h02m`.
pub fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 9.95 {
        return format!("{seconds:.1}s");
    }
    // Beyond what a Duration can hold there is nothing sensible to show.
    let whole = Duration::try_from_secs_f64(seconds.round()).map_or(0, |duration| duration.as_secs());
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// Writes a count with its noun: `1 query`, `2 queries`.
pub fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces_and_long_words_stand_alone() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("a verylongword b", 5), ["a", "verylongword", "b"]);
        assert_eq!(wrapped("", 5), [""]);
        assert_eq!(wrapped("  one two three", 9), ["  one two", "three"]);
        assert_eq!(wrapped("\x1b[1mone\x1b[0m two three", 7), ["\x1b[1mone\x1b[0m two", "three"]);
    }

    #[test]
    fn control_characters_are_taken_out() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{2028}d"), "a [2Jb c d");
    }

    #[test]
    fn numbers_keep_their_digits() {
        assert_eq!([60.0, 0.001, 1e300, 0.0].map(number), ["60", "0.001", "1e300", "0"]);
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
