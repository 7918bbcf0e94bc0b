//! `clapometer completions`: prints what a shell needs to complete the command line.

use clap::{Args, CommandFactory};

use super::{Cli, Exit};
use crate::terminal::{
    completions::{Shell, script},
    print,
};

const EXAMPLES: &str = "\
Examples:
  clapometer completions bash > ~/.local/share/bash-completion/completions/clapometer
  clapometer completions zsh > \"${fpath[1]}/_clapometer\"
  clapometer completions fish > ~/.config/fish/completions/clapometer.fish";

/// Print the completions for a shell
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Exit {
        print(&script(Cli::command(), self.shell));
        Exit::Success
    }
}
