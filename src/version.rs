//! Which build this is, in the words of both executables' `--version`.

/// Version, commit and compiler.
pub const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("CLAPOMETER_COMMIT"), ", ", env!("CLAPOMETER_RUSTC"), ")");
