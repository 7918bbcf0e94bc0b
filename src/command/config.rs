//! `clapometer config`.

use clap::Args;

use super::{ConfigFile, Exit, misconfigured};
use crate::terminal::print;

const EXAMPLES: &str = "\
Each key says where it was set: a line of the file or a variable; without a remark it is a default.

Examples:
  clapometer config --config clapometer.yaml
  CLAPOMETER__SERVER__LISTEN=127.0.0.1:9000 clapometer config --config clapometer.yaml";

/// Print the configuration in force, with defaults, without secrets
///
/// Nothing is connected. What is printed loads as a configuration, but for the passwords, which
/// are redacted.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PrintConfig {
    #[command(flatten)]
    config: ConfigFile,
}

impl PrintConfig {
    pub(super) fn run(self) -> Exit {
        match self.config.load() {
            Ok(config) => {
                print(&config.effective_yaml());
                Exit::Success
            }
            Err(faults) => misconfigured(&faults),
        }
    }
}
