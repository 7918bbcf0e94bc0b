//! The parts as files of a directory. None is ever overwritten.

use std::{fs, path::Path};

use super::Parts;
use crate::file;

/// The names of the files, in the order in which they are used.
pub(super) const CONFIG: &str = "clapometer.yaml";
pub(super) const SQL: &str = "grants.sql";
pub(super) const MANIFEST: &str = "manifest.yaml";

/// The file with the role's password, which the configuration names and its owner makes.
pub(super) const PASSWORD: &str = "clapometer.password";

/// Says what is there already, if something is.
pub(super) fn in_the_way(directory: &Path) -> Option<String> {
    if directory.exists() && !directory.is_dir() {
        return Some(format!("{} is no directory", directory.display()));
    }
    let names = [CONFIG, SQL, MANIFEST].map(|name| directory.join(name));
    // A dangling link would be written through, too.
    let there = names.into_iter().find(|path| path.symlink_metadata().is_ok())?;
    Some(format!("{} is there already and would be lost; take it away, or name another directory", there.display()))
}

/// Writes all parts, or none. Each file is created; one that has come meanwhile is left alone.
pub(super) fn write(directory: &Path, parts: &Parts) -> Result<(), String> {
    fs::create_dir_all(directory).map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    let mut written = Vec::new();
    for (name, text) in [(CONFIG, &parts.config), (SQL, &parts.sql), (MANIFEST, &parts.manifest)] {
        let path = directory.join(name);
        if let Err(error) = file::create(&path, text.as_bytes()) {
            // Otherwise the next attempt would find them in its way.
            for path in written {
                let _ = fs::remove_file(path);
            }
            return Err(format!("cannot write {}: {error}", path.display()));
        }
        written.push(path);
    }
    Ok(())
}
