//! The password file.
//!
//! *Source:* PostgreSQL's documentation, "The Password File"; fe-connect.c, `passwordFromFile`.

use std::{os::unix::fs::PermissionsExt, path::Path};

use super::{
    address::{Address, SOCKET_DIRECTORY},
    secret::Secret,
    value::small_file,
};
use crate::file;

/// Returns the password of the file's first line that fits a server, for the first of the servers that has such a line.
///
/// # Errors
/// The file cannot be read, or others may read it: libpq passes such a file over, and the
/// server's "no password supplied" would not say why.
pub(crate) fn password(file: &Path, addresses: &[Address], dbname: &str, user: &str) -> Result<Option<Secret>, String> {
    let entries = small_file(file)?;
    if let Some(password) = addresses.iter().find_map(|address| matching(&entries, address, dbname, user)) {
        let mode = file::metadata(file).map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o077 != 0 {
            return Err(format!("others may read the file {}; its permissions must be 0600 or less", file.display()));
        }
        return Ok(Some(Secret::new(password)));
    }
    Ok(None)
}

fn matching(entries: &str, address: &Address, dbname: &str, user: &str) -> Option<String> {
    let (host, port) = match address {
        Address::Tcp { host, port, .. } => (host.clone(), port),
        Address::Unix { directory, port } if directory == Path::new(SOCKET_DIRECTORY) => ("localhost".into(), port),
        Address::Unix { directory, port } => (directory.display().to_string(), port),
    };
    let wanted = [host.as_str(), &port.to_string(), dbname, user];
    entries.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let (password, patterns) = fields.split_last()?;
        let fits = patterns.len() == wanted.len()
            && patterns.iter().zip(wanted).all(|(pattern, wanted)| pattern == "*" || pattern == wanted);
        fits.then(|| password.clone())
    })
}

/// The first five fields, separated by colons; a backslash takes the next character as it is.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            ':' if fields.len() < 5 => fields.push(String::new()),
            // An unescaped colon ends the password too, in libpq.
            ':' => break,
            '\\' => fields.last_mut().expect("never empty").extend(characters.next()),
            other => fields.last_mut().expect("never empty").push(other),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_socket_directory_is_localhost_to_the_password_file() {
        let address = Address::Unix { directory: PathBuf::from(SOCKET_DIRECTORY), port: 5432 };
        assert_eq!(matching("localhost:5432:*:*:yes", &address, "d", "u").as_deref(), Some("yes"));
        let address = Address::Unix { directory: PathBuf::from("/elsewhere"), port: 5432 };
        assert_eq!(matching("localhost:5432:*:*:no\n/elsewhere:*:d:u:yes", &address, "d", "u").as_deref(), Some("yes"));
    }
}
