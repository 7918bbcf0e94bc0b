//! The board of `make demo`, on terminals of several sizes.

#[path = "../../examples/keda/board.rs"]
#[allow(dead_code, reason = "the demo itself writes what is drawn")]
mod board;

use board::{Board, Clap, Frame};

/// A frame in the middle of the demo, when there is most to show.
fn frame() -> Frame {
    let clap = |id| Clap {
        id,
        status: "RUNNING".to_owned(),
        iteration: 2,
        job_name: format!("postgres-batch-{id:05}"),
        seconds: 4,
        elapsed: 1.5,
    };
    Frame {
        claps: (1..=10).map(clap).collect(),
        pending: 50,
        decision: "value 60: creates 10 (wants 60, at most 10, has 0)".to_owned(),
        polls: vec![(60.0, 10.0); 200],
        status_page: "http://127.0.0.1:9091/".to_owned(),
        ..Frame::default()
    }
}

/// Returns the lines of the second frame on a terminal of this size, without colours.
fn drawn(size: (usize, usize)) -> Vec<String> {
    let mut board = Board::new();
    for event in 1..=9 {
        board.event_on_board(format!("event {event} {}", "x".repeat(100)));
    }
    let first = board.redrawn(&frame(), size);
    let second = board.redrawn(&frame(), size);
    let (up, rest) = second.strip_prefix("\x1b[").unwrap().split_once('A').unwrap();
    assert_eq!(up.parse(), Ok(rest.matches('\n').count()), "it begins where the first one did");
    assert_eq!(first.matches('\n').count(), rest.matches('\n').count() + 1, "an empty line comes first, once");
    assert!(!second.contains("\x1b[?"), "an interrupt must not leave the terminal in another mode: {second:?}");
    rest.lines().map(plain).collect()
}

/// Returns a line as a reader sees it.
fn plain(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let first = parts.next().unwrap_or_default();
    let after = |part: &str| {
        part.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).get(1..).unwrap_or_default().to_owned()
    };
    parts.fold(first.to_owned(), |text, part| text + &after(part))
}

#[test]
fn a_frame_fits_the_terminal() {
    for (columns, rows) in [(80, 24), (80, 25), (120, 40), (200, 50), (40, 10), (80, 2)] {
        let mut lines = drawn((columns, rows));
        assert_eq!(lines.pop().as_deref(), Some(""), "what clears the rest");
        assert!(lines.len() < rows, "{columns} x {rows}: {lines:#?}");
        assert!(lines.iter().all(|line| line.chars().count() < columns), "{columns} x {rows}: {lines:#?}");
        assert!(lines[0].starts_with("  claps  "), "{lines:#?}");
    }
}

#[test]
fn a_standard_terminal_shows_every_worker_and_the_latest_events() {
    let count = |lines: &[String], start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
    let lines = drawn((80, 24));
    assert_eq!((count(&lines, "  clap "), count(&lines, "  event ")), (10, 4), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("  event 9 ")), "{lines:#?}");
    let lines = drawn((120, 40));
    assert_eq!((count(&lines, "  clap "), count(&lines, "  event ")), (10, 6), "{lines:#?}");
}
