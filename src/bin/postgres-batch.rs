//! The Job that KEDA starts; all of it is in [`clapometer::batch`].

use std::process::ExitCode;

fn main() -> ExitCode {
    clapometer::batch::main()
}
