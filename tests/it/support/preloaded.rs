//! Libraries that stand in for a part of the machine in programs that are started with them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Compiles a library from this C source with `cc`, which Rust links with, too. The directory is the caller's.
pub(crate) fn compile(directory: &Path, name: &str, source: &str) -> PathBuf {
    let (file, library) = (directory.join(format!("{name}.c")), directory.join(format!("{name}.so")));
    fs::write(&file, source).expect("the directory is ours");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(file).arg("-ldl");
    let compiled = compiler.output().expect("cc is there, which Rust needs");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    library
}
