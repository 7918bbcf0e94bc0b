//! The parts as one document, and the pieces of text that they share.

use std::path::Path;

use super::{
    Parts,
    files::{CONFIG, MANIFEST, SQL},
    steps::shown,
};
use crate::terminal::{
    reading_width,
    text::{printable, wrapped},
};

/// The width of running text and of comments.
const WIDTH: usize = 80;

/// Returns a text as the lines of a comment.
pub(super) fn comment(mark: &str, text: &str) -> String {
    let lines = wrapped(&printable(text), WIDTH - mark.len() - 1);
    lines.into_iter().map(|line| format!("{mark} {line}\n")).collect()
}

/// The document: what was found, each part under its heading, and what comes next, first the command that writes it
/// all.
pub(super) fn document(parts: &Parts, command: &str) -> String {
    let mut text = format!("# clapometer init\n\n{}", paragraphs(parts));
    for (heading, file, language, part) in [
        ("Configuration", CONFIG, "yaml", &parts.config),
        ("Grants", SQL, "sql", &parts.sql),
        ("Manifest", MANIFEST, "yaml", &parts.manifest),
    ] {
        text += &format!("## {heading}: {file}\n\n```{language}\n{}\n```\n\n", part.trim_end());
    }
    text + &next(Some(command), parts, Path::new("."))
}

/// The words for parts that are files now.
pub(super) fn written(parts: &Parts, directory: &Path) -> String {
    let names: Vec<String> = [CONFIG, SQL, MANIFEST].map(|name| shown(directory, name)).into();
    format!("{}Written: {}\n\n{}", paragraphs(parts), names.join(", "), next(None, parts, directory))
}

fn paragraphs(parts: &Parts) -> String {
    let width = reading_width().min(WIDTH);
    parts.found.iter().map(|paragraph| format!("{}\n\n", wrapped(&printable(paragraph), width).join("\n"))).collect()
}

fn next(first: Option<&str>, parts: &Parts, directory: &Path) -> String {
    let mut commands: Vec<String> = first.map(str::to_owned).into_iter().collect();
    commands.extend(parts.steps.commands(directory));
    format!("## Next\n\n```console\n{}\n```\n", commands.join("\n"))
}
