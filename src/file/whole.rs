//! Writes files as a whole or not at all: half of one, as a full disk leaves it, must not look like one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// Writes a file that is not there yet. After an error there is none.
///
/// # Errors
/// There is something of this name already, or the file cannot be written.
pub(crate) fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    written(OpenOptions::new().write(true).create_new(true).open(path)?, path, content)
}

/// Writes a file in place of the one that is there, if there is one. After an error in the middle there is none.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    written(File::create(path)?, path, content)
}

fn written(mut file: File, path: &Path, content: &[u8]) -> io::Result<()> {
    // A device such as /dev/stdout stays.
    let is_plain = file.metadata().is_ok_and(|metadata| metadata.is_file());
    file.write_all(content).inspect_err(|_| {
        if is_plain {
            let _ = fs::remove_file(path);
        }
    })
}
