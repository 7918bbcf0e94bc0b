//! The display: a live board on a terminal, plain lines elsewhere.

use std::{
    collections::VecDeque,
    env,
    fmt::Write as _,
    io::{IsTerminal, Write as _},
    time::{Duration, Instant},
};

use clapometer::terminal::{
    self,
    style::{ColorChoice, Style},
};

/// The rows for what is the same in each frame, with the two empty ones around the claps.
const HEAD: usize = 9;
/// The most and the least rows for events: a low terminal shows fewer of them, then fewer claps.
const EVENTS: usize = 6;
const LEAST_EVENTS: usize = 3;
/// The most rows for claps.
const WORKING: usize = 10;
/// The time between two progress lines where there is no terminal.
const PROGRESS: Duration = Duration::from_secs(5);
/// The columns and rows of a terminal that does not tell its own.
const SIZE: (usize, usize) = (80, 24);
/// The columns of a line beside its bar.
const BESIDE_BAR: usize = 17;
/// The steps of a sparkline.
const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One clap in the database.
#[derive(Debug, Clone)]
pub(crate) struct Clap {
    pub(crate) id: i64,
    pub(crate) status: String,
    pub(crate) iteration: i32,
    pub(crate) job_name: String,
    pub(crate) seconds: i32,
    pub(crate) elapsed: f64,
}

/// The number of Jobs of each kind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) starting: usize,
    pub(crate) running: usize,
    pub(crate) complete: usize,
    pub(crate) failed: usize,
}

/// The contents of a frame.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    pub(crate) claps: Vec<Clap>,
    pub(crate) pending: usize,
    pub(crate) census: Census,
    /// The text of KEDA's latest decision.
    pub(crate) decision: String,
    /// The value that KEDA was told at each poll, and the number of Jobs that were unfinished then.
    pub(crate) polls: Vec<(f64, f64)>,
    /// The address of clapometer's status page.
    pub(crate) status_page: String,
}

impl Frame {
    /// Describes the progress of the claps.
    pub(crate) fn progress(&self) -> String {
        let (done, running, failed) = (self.count("SUCCESS"), self.count("RUNNING"), self.count("FAILED"));
        format!("{done} done, {running} running, {failed} failed and due again, {} pending", self.pending)
    }

    fn count(&self, status: &str) -> usize {
        self.claps.iter().filter(|clap| clap.status == status).count()
    }
}

/// The board on standard output.
pub(crate) struct Board {
    start: Instant,
    live: bool,
    colors: ColorChoice,
    /// The number of lines on the screen that the next frame overwrites.
    drawn: usize,
    /// The time of the next progress line.
    next_progress: Duration,
    events: VecDeque<String>,
}

impl Board {
    /// A new board, which is live if standard output is a terminal.
    pub(crate) fn new() -> Self {
        let live = std::io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|terminal| terminal != "dumb");
        let colors = ColorChoice::for_stdout();
        Self { start: Instant::now(), live, colors, drawn: 0, next_progress: PROGRESS, events: VecDeque::new() }
    }

    /// Returns the time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Shows an event.
    pub(crate) fn event(&mut self, text: &str) {
        self.styled_event(None, text);
    }

    /// Shows an event that is out of the ordinary: a kill, a failure, a retry.
    pub(crate) fn striking_event(&mut self, style: Style, text: &str) {
        self.styled_event(Some(style), text);
    }

    fn styled_event(&mut self, style: Option<Style>, text: &str) {
        let text = style.map_or_else(|| text.to_owned(), |style| self.colors.paint(style, text));
        let line = format!("{:5.1} s  {text}", self.elapsed().as_secs_f64());
        if self.live {
            self.event_on_board(line);
        } else {
            println!("{line}");
        }
    }

    /// Keeps an event's line for the next frames.
    pub(crate) fn event_on_board(&mut self, line: String) {
        self.events.push_back(line);
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }

    /// Shows a frame; where there is no terminal, a progress line now and then.
    pub(crate) fn draw(&mut self, frame: &Frame) {
        if self.live {
            let output = self.redrawn(frame, terminal::size().unwrap_or(SIZE));
            let mut stdout = std::io::stdout().lock();
            // An error means that the terminal is closed.
            let _ = stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush());
        } else if self.elapsed() >= self.next_progress {
            // From now: a machine that was slow to start is not owed the lines that it missed.
            self.next_progress = self.elapsed() + PROGRESS;
            self.event(&frame.progress());
        }
    }

    /// Leaves the last frame where it is and goes on below it.
    pub(crate) fn end(&mut self) {
        self.drawn = 0;
    }

    /// Returns what draws a frame over the last one, on a terminal of this many columns and rows.
    pub(crate) fn redrawn(&mut self, frame: &Frame, (columns, rows): (usize, usize)) -> String {
        // A line that is wrapped would make the next frame begin on the wrong line, and what clears the rest of a line
        // that fills its row clears the last column.
        let width = columns.saturating_sub(1);
        // The cursor stays below the frame. A frame that is too high would scroll a part of itself away.
        let lines = self.render(frame, width, rows.saturating_sub(1));
        let mut output = match self.drawn {
            0 => "\n".to_owned(),
            drawn => format!("\x1b[{drawn}A"),
        };
        for line in &lines {
            // Each line clears the rest of the previous frame's line.
            writeln!(output, "{}\x1b[K", cut(line, width)).expect("a string takes everything");
        }
        output.push_str("\x1b[J");
        self.drawn = lines.len();
        output
    }

    /// Returns a frame's lines, not more than these.
    fn render(&self, frame: &Frame, width: usize, most: usize) -> Vec<String> {
        let Frame { claps, pending, census, decision, polls, status_page } = frame;
        let bar_width = width.saturating_sub(BESIDE_BAR).max(10);
        let Census { starting, running, complete, failed } = census;
        let (done, at_work) = (frame.count("SUCCESS"), frame.count("RUNNING") + frame.count("FAILED"));
        let all = claps.len() + pending;
        let mut lines = Vec::new();
        let bar = |part: usize| (bar_width * part).div_ceil(all.max(1));
        let (full, half) = (bar(done), bar(done + at_work));
        let bars = format!(
            "{}{}{}",
            self.colors.paint(Style::Good, &"█".repeat(full)),
            self.colors.paint(Style::Warning, &"▓".repeat(half - full)),
            self.colors.paint(Style::Quiet, &"░".repeat(bar_width - half))
        );
        lines.push(format!("  claps  {bars}  {:.0} s", self.elapsed().as_secs_f64()));
        lines.push(format!("         {}", frame.progress()));
        lines.push(format!("  Jobs   {starting} starting, {running} running, {complete} complete, {failed} failed"));
        lines.push(format!("  KEDA   {decision}"));
        let latest = &polls[polls.len().saturating_sub(bar_width)..];
        for (name, style, numbers) in [
            ("value", Style::Heading, latest.iter().map(|(value, _)| *value).collect::<Vec<f64>>()),
            ("open ", Style::Active, latest.iter().map(|(_, jobs)| *jobs).collect()),
        ] {
            let now = numbers.last().copied().unwrap_or_default();
            lines.push(format!("  {name}  {}  {now:.0}", self.colors.paint(style, &sparkline(&numbers))));
        }
        lines.push(format!("  page   {status_page}"));
        lines.push(String::new());
        let mut working: Vec<&Clap> = claps.iter().filter(|clap| clap.status == "RUNNING").collect();
        working.sort_by_key(|clap| clap.id);
        let free = most.saturating_sub(HEAD);
        let events = free.saturating_sub(WORKING).clamp(LEAST_EVENTS, EVENTS);
        let places = free.saturating_sub(events).min(WORKING);
        lines.extend(working.iter().take(places).map(|clap| format!("  {}", self.progress(clap))));
        lines.resize(lines.len() + places.saturating_sub(working.len()), String::new());
        lines.push(String::new());
        lines.extend(
            self.events.iter().skip(self.events.len().saturating_sub(events)).map(|event| format!("  {event}")),
        );
        lines.truncate(most);
        lines
    }

    fn progress(&self, clap: &Clap) -> String {
        let Clap { id, status: _, iteration, job_name, seconds, elapsed } = clap;
        let share = if *seconds > 0 { (elapsed / f64::from(*seconds)).clamp(0.0, 1.0) } else { 1.0 };
        let full = (1..=20).filter(|step| f64::from(*step) <= share * 20.0).count();
        let bar = format!(
            "{}{}",
            self.colors.paint(Style::Warning, &"█".repeat(full)),
            self.colors.paint(Style::Quiet, &"░".repeat(20 - full))
        );
        let again = if *iteration > 1 { format!("  attempt {iteration}") } else { String::new() };
        format!("clap {id:2}  {bar}  {:3.1} of {seconds} s  {job_name}{again}", elapsed.min(f64::from(*seconds)))
    }
}

/// Draws one character for each number, the highest as a full one.
fn sparkline(numbers: &[f64]) -> String {
    let highest = numbers.iter().copied().fold(1.0, f64::max);
    let step = |number: f64| {
        let share = number / highest;
        (1..8_u8).rev().find(|step| f64::from(*step) <= 7.0 * share).unwrap_or(0)
    };
    numbers.iter().map(|number| STEPS[usize::from(step(*number))]).collect()
}

/// Cuts a line with an ellipsis where it is longer than this, colours aside.
fn cut(line: &str, width: usize) -> String {
    let (mut shown, mut is_escape, mut text) = (0, false, String::new());
    for letter in line.chars() {
        if letter == '\x1b' {
            is_escape = true;
        }
        if !is_escape {
            shown += 1;
            if shown == width {
                text.push_str("…\x1b[0m");
                return text;
            }
        }
        text.push(letter);
        if is_escape && letter == 'm' {
            is_escape = false;
        }
    }
    text
}
