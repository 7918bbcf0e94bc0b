//! The version text that both executables print for `--version`.

/// Version, commit and compiler.
pub const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("CLAPOMETER_COMMIT"), ", ", env!("CLAPOMETER_RUSTC"), ")");
