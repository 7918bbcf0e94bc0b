//! `clapometer presets`: lists the queue libraries that are known, and shows what one of them counts.

use clap::Args;

use super::{Exit, misused};
use crate::{
    diagnostics::nearest,
    presets::{self, Options, Preset, Queue, Workers},
    terminal::{
        print, reading_width,
        style::{ColorChoice, Style},
        table::{self, Align, Cell, Overlong},
        text::wrapped,
        width,
    },
};

const EXAMPLES: &str = "\
Examples:
  clapometer presets
  clapometer presets river

and in clapometer's configuration:
  queries:
    mail-jobs: {preset: river, queue: mail}";

/// The words for an index that the library does not have.
const INDEX: &str = "The library has none for this query. clapometer never makes it; its owner may. An attempt that fails \
                     leaves an invalid index, which no query uses and IF NOT EXISTS keeps: before another one, DROP INDEX \
                     CONCURRENTLY it (`clapometer check` names it).";

/// List the queue libraries that clapometer knows, or show one of them
///
/// A preset is a query that counts the rows of a queue library as the library hands them out. With
/// a name it prints what each state counts as, the traps, the options, what the role has to
/// read, and the SQL. Connects to nothing.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ShowPresets {
    /// The preset to show
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

impl ShowPresets {
    pub(super) fn run(self) -> Exit {
        let colors = ColorChoice::for_stdout();
        match self.name.as_deref() {
            None => print(&list(colors)),
            Some(name) => match presets::find(name) {
                Some(preset) => print(&page(preset, colors)),
                None => return misused("presets", &unknown(name)),
            },
        }
        Exit::Success
    }
}

fn unknown(name: &str) -> String {
    let names = presets::ALL.map(|preset| preset.name);
    match nearest(name, names) {
        Some(meant) => format!("there is no preset of that name; did you mean {meant}?"),
        None => format!("there is no preset of that name; known here: {}", names.join(", ")),
    }
}

fn list(colors: ColorChoice) -> String {
    let heading =
        [("preset", Align::Left), ("library", Align::Left), ("workers", Align::Left), ("tested with", Align::Left)];
    let row = |preset: &Preset| {
        let name = Cell::styled(preset.name, Style::Heading);
        vec![name, Cell::from(preset.library), Cell::from(preset.workers.word()), Cell::from(preset.tested)]
    };
    let rows: Vec<Vec<Cell>> = presets::ALL.into_iter().map(row).collect();
    format!(
        "{}\n`clapometer presets NAME` shows one.\n",
        table::render(&heading, &rows, width().map(|width| (width, Overlong::Wrapped)), colors)
    )
}

fn page(preset: &Preset, colors: ColorChoice) -> String {
    let mut text =
        format!("{}  {}, tested with {}\n", colors.paint(Style::Heading, preset.name), preset.library, preset.tested);
    let mut part = |title: &str, items: Vec<(String, String)>| {
        text += &format!("\n{}\n", colors.paint(Style::Heading, title));
        let widest = items.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
        for (left, right) in items {
            let gap = if widest == 0 { 0 } else { widest + 2 };
            // In a narrow terminal the text stands below what it is about.
            let is_below = gap > reading_width() / 2;
            if is_below {
                text += &format!("  {left}\n");
            }
            let gap = if is_below { 2 } else { gap };
            for (index, line) in wrapped(&right, reading_width().saturating_sub(2 + gap)).into_iter().enumerate() {
                let left = if index == 0 && !is_below { left.as_str() } else { "" };
                text += format!("  {left:gap$}{line}").trim_end();
                text += "\n";
            }
        }
    };
    part("States", preset.states.iter().map(|state| (state.counts.word().to_owned(), state.rows.to_owned())).collect());
    part(
        "Stalled",
        vec![(
            String::new(),
            match preset.stalled.strip_prefix("they never occur") {
                Some(reason) => format!("They never occur{reason}."),
                None => format!("Nobody gets these rows, and they are in neither number: {}.", preset.stalled),
            },
        )],
    );
    part("Good to know", preset.traps.iter().map(|trap| ("-".to_owned(), (*trap).to_owned())).collect());
    part("Workers", workers(preset));
    part("Options", options(preset));
    part("The role needs", vec![(String::new(), grants(preset))]);
    if let Some(index) = preset.index {
        text += &format!(
            "\n{}\n  {}\n\n  {}\n",
            colors.paint(Style::Heading, "An index that helps"),
            wrapped(INDEX, reading_width().saturating_sub(2)).join("\n  "),
            index.replace('\n', "\n  ")
        );
    }
    text + &format!(
        "\n{}\n{}\n",
        colors.paint(Style::Heading, "SQL, with the defaults"),
        preset.sql(&Options::default())
    )
}

fn workers(preset: &Preset) -> Vec<(String, String)> {
    let kind = match preset.workers {
        Workers::LongLived => "long-lived, for a ScaledObject: active while anything is outstanding",
        Workers::OneRow => "one-row, for a ScaledJob: active while anything is claimable",
    };
    let hint = preset.channel.map(|channel| {
        let channel = channel.replace("{schema}", preset.schema.unwrap_or("public"));
        ("notify".to_owned(), format!("the library tells of inserts on {channel}, which is listened to"))
    });
    let mut items = vec![("workers".to_owned(), kind.to_owned()), ("one job".to_owned(), preset.run_once.to_owned())];
    items.extend(hint);
    items
}

fn options(preset: &Preset) -> Vec<(String, String)> {
    let queue = match preset.queue {
        Queue::Optional(_) => {
            "the queue; without it there is a row for each, and a trigger picks its own by param.queue"
        }
        Queue::Required => "the queue; it must be set, because each has a table of its own",
        Queue::Absent => "",
    };
    let schema = preset.schema.map_or_else(
        || "the schema of the library's tables; without it search_path finds them".to_owned(),
        |schema| format!("the schema of the library's tables; {schema} unless it is set"),
    );
    let mut items = vec![("queue", queue.to_owned()), ("schema", schema)];
    items.retain(|(key, _)| preset.keys().any(|known| known == *key));
    items.push(("workers", format!("long-lived or one-row; {} unless it is set", preset.workers.word())));
    items.extend(preset.options.iter().map(|option| (option.key(), option.meaning())));
    items.into_iter().map(|(key, meaning)| (key.to_owned(), meaning)).collect()
}

fn grants(preset: &Preset) -> String {
    let usage = preset.schema.map_or_else(String::new, |schema| format!("USAGE on the schema {schema}, "));
    format!("{usage}SELECT on {}", preset.tables.join(", "))
}
