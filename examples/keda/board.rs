//! What the audience sees: a live board on a terminal, plain lines elsewhere.

use std::{
    collections::VecDeque,
    env,
    fmt::Write as _,
    io::{IsTerminal, Write as _},
    time::{Duration, Instant},
};

use clapometer::terminal::style::{ColorChoice, Style};

use super::jobs::Census;

/// How many of the latest events the board shows.
const EVENTS: usize = 6;
/// How often a line tells of the progress where there is no terminal.
const PROGRESS: Duration = Duration::from_secs(5);
/// How wide a bar is.
const BAR: usize = 48;

/// One clap as the database has it.
#[derive(Debug, Clone)]
pub(crate) struct Clap {
    pub(crate) id: i64,
    pub(crate) status: String,
    pub(crate) iteration: i32,
    pub(crate) job_name: String,
    pub(crate) seconds: i32,
    pub(crate) elapsed: f64,
}

/// Everything that a frame shows.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    pub(crate) claps: Vec<Clap>,
    pub(crate) pending: usize,
    pub(crate) census: Census,
    /// KEDA's latest decision in words.
    pub(crate) decision: String,
}

impl Frame {
    /// How far the claps are, in words.
    fn progress(&self) -> String {
        let (done, running, failed) = (self.count("SUCCESS"), self.count("RUNNING"), self.count("FAILED"));
        format!("{done} done, {running} running, {failed} failed and due again, {} pending", self.pending)
    }

    fn count(&self, status: &str) -> usize {
        self.claps.iter().filter(|clap| clap.status == status).count()
    }
}

/// Where frames and events go.
pub(crate) struct Board {
    start: Instant,
    live: bool,
    colors: ColorChoice,
    /// Lines of the frame on the screen, to be overwritten.
    drawn: usize,
    /// When the next line tells of the progress.
    next_progress: Duration,
    events: VecDeque<String>,
}

impl Board {
    /// A board on standard output; live if that is a terminal.
    pub(crate) fn new() -> Self {
        let live = std::io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|terminal| terminal != "dumb");
        let colors = ColorChoice::for_stdout();
        Self { start: Instant::now(), live, colors, drawn: 0, next_progress: PROGRESS, events: VecDeque::new() }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Tells what happened.
    pub(crate) fn event(&mut self, text: &str) {
        let line = format!("{:5.1} s  {text}", self.elapsed().as_secs_f64());
        if self.live {
            self.events.push_back(line);
            if self.events.len() > EVENTS {
                self.events.pop_front();
            }
        } else {
            println!("{line}");
        }
    }

    /// Shows a frame; where there is no terminal, a line now and then.
    pub(crate) fn draw(&mut self, frame: &Frame) {
        if self.live {
            let text = self.render(frame);
            self.show(&text);
        } else if self.elapsed() >= self.next_progress {
            self.next_progress += PROGRESS;
            self.event(&frame.progress());
        }
    }

    /// Leaves the last frame where it is and goes on below it.
    pub(crate) fn end(&mut self) {
        self.drawn = 0;
    }

    fn show(&mut self, text: &str) {
        // Lines that are too long are cut and not wrapped, or the next frame would miss its place.
        let mut output = "\x1b[?7l".to_owned();
        if self.drawn > 0 {
            write!(output, "\x1b[{}A", self.drawn).expect("a string takes everything");
        }
        for line in text.lines() {
            // Each line clears what the frame before had there.
            writeln!(output, "{line}\x1b[K").expect("a string takes everything");
        }
        output.push_str("\x1b[J\x1b[?7h");
        self.drawn = text.lines().count();
        let mut stdout = std::io::stdout().lock();
        // Whoever closed the terminal does not want to see it.
        let _ = stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush());
    }

    fn render(&self, frame: &Frame) -> String {
        let Frame { claps, pending, census, decision } = frame;
        let Census { starting, running, complete, failed } = census;
        let (done, at_work) = (frame.count("SUCCESS"), frame.count("RUNNING") + frame.count("FAILED"));
        let all = claps.len() + pending;
        let mut text = String::new();
        let mut line = |content: String| {
            text.push_str(&content);
            text.push('\n');
        };
        let bar = |part: usize| (BAR * part).div_ceil(all.max(1));
        let (full, half) = (bar(done), bar(done + at_work));
        let bars = format!(
            "{}{}{}",
            self.colors.paint(Style::Good, &"█".repeat(full)),
            self.colors.paint(Style::Warning, &"▓".repeat(half - full)),
            self.colors.paint(Style::Quiet, &"░".repeat(BAR - half))
        );
        line(String::new());
        line(format!("  claps  {bars}  {:.0} s", self.elapsed().as_secs_f64()));
        line(format!("         {}", frame.progress()));
        line(format!("  Jobs   {starting} starting, {running} running, {complete} complete, {failed} failed"));
        line(format!("  KEDA   {decision}"));
        line(String::new());
        let mut working: Vec<&Clap> = claps.iter().filter(|clap| clap.status == "RUNNING").collect();
        working.sort_by_key(|clap| clap.id);
        for clap in working.iter().take(10) {
            line(format!("  {}", self.progress(clap)));
        }
        for _ in working.len()..10 {
            line(String::new());
        }
        line(String::new());
        for event in &self.events {
            line(format!("  {event}"));
        }
        text
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
