//! Completions of the command line for shells.

use clap::ValueEnum;

/// A shell that completes words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash
    Bash,
    /// Zsh
    Zsh,
    /// Fish
    Fish,
}

/// Returns the script with which a shell completes a program's words.
pub fn script(mut program: clap::Command, shell: Shell) -> String {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    match shell {
        Shell::Bash => clap_complete::generate(clap_complete::Shell::Bash, &mut program, name, &mut script),
        Shell::Zsh => clap_complete::generate(clap_complete::Shell::Zsh, &mut program, name, &mut script),
        Shell::Fish => clap_complete::generate(clap_complete::Shell::Fish, &mut program, name, &mut script),
    }
    String::from_utf8_lossy(&script).into_owned()
}
