//! Writes the man pages of both programs into a directory: `cargo run --example man -- DIRECTORY`.

use std::{env, fs, path::PathBuf};

use clap::CommandFactory;
use clapometer::{batch::cli::Arguments, command};

fn main() -> anyhow::Result<()> {
    let directory = env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.ok_or_else(|| anyhow::anyhow!("usage: man DIRECTORY"))?;
    fs::create_dir_all(&directory)?;
    for program in [command::command_line(), Arguments::command()] {
        clap_mangen::generate_to(program, &directory)?;
    }
    Ok(())
}
