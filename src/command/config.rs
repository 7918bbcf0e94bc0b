//! `clapometer config`: prints the configuration in force.

use clap::Args;

use super::{ConfigFile, Exit, misconfigured};
use crate::{
    config::Config,
    terminal::{complain, print},
};

const EXAMPLES: &str = "\
In YAML a remark at each key names the line of the file or the variable that sets it; a key without
a remark has its default. Editors with a YAML language server complete and check a file that begins
with
  # yaml-language-server: $schema=clapometer.schema.json

Examples:
  clapometer config --config clapometer.yaml
  CLAPOMETER__SERVER__LISTEN=127.0.0.1:9000 clapometer config --config clapometer.yaml
  clapometer config --schema > clapometer.schema.json";

/// Print the configuration in force, with defaults, without secrets
///
/// Connects to nothing, but reads the files and variables that the configuration refers to, such as
/// password files: a missing one is exit code 78. The output is a valid configuration, except that
/// secrets are redacted. It includes the queries of query files; the faults of such a file go to
/// standard error.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PrintConfig {
    #[command(flatten)]
    config: ConfigFile,

    /// Print JSON instead of YAML; for a wrong configuration, its faults
    #[arg(long, conflicts_with = "schema")]
    json: bool,

    /// Print the JSON Schema that configurations follow; reads no configuration
    #[arg(long)]
    schema: bool,
}

impl PrintConfig {
    pub(super) fn run(self) -> Exit {
        if self.schema {
            print(&format!("{:#}\n", Config::schema()));
            return Exit::Success;
        }
        let loaded = self.config.load();
        for faults in loaded.iter().flat_map(|config| config.query_files.faults()) {
            complain(&faults.to_string());
        }
        match loaded {
            Ok(config) if self.json => print(&config.effective_json()),
            Ok(config) => print(&config.effective_yaml()),
            Err(faults) if self.json => {
                print(&format!("{:#}\n", faults.json()));
                return Exit::Configuration;
            }
            Err(faults) => return misconfigured(&faults),
        }
        Exit::Success
    }
}
