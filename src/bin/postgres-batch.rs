//! The executable of the Job that KEDA starts; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    clapometer::batch::main()
}
