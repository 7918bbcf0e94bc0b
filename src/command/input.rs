//! The files to look at.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::lint::Source;

/// What every manifest of KEDA's has in it.
const GROUP: &[u8] = b"keda.sh/";

/// Reads files, directories and standard input.
///
/// # Errors
/// Says which of them cannot be read.
pub(super) fn read(paths: &[PathBuf], stdin: &mut impl Read) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut bytes = Vec::new();
            stdin.read_to_end(&mut bytes).map_err(|error| format!("cannot read standard input: {error}"))?;
            sources.push(source("<stdin>", bytes)?);
        } else if path.is_dir() {
            for file in manifests_below(path)? {
                let bytes = fs::read(&file).map_err(|error| unreadable(&file, &error))?;
                // A directory has other YAML, too; what does not name KEDA is not ours to judge.
                if bytes.windows(GROUP.len()).any(|window| window == GROUP) {
                    sources.push(source(&file.display().to_string(), bytes)?);
                }
            }
        } else {
            let bytes = fs::read(path).map_err(|error| unreadable(path, &error))?;
            sources.push(source(&path.display().to_string(), bytes)?);
        }
    }
    Ok(sources)
}

fn source(name: &str, bytes: Vec<u8>) -> Result<Source, String> {
    String::from_utf8(bytes).map(|text| Source { name: name.to_owned(), text }).map_err(|error| {
        let is_utf_16 = [&b"\xff\xfe"[..], b"\xfe\xff"].iter().any(|mark| error.as_bytes().starts_with(mark));
        match is_utf_16 {
            true => {
                format!("{name} is UTF-16, as PowerShell's > writes it; write it as UTF-8 (Out-File -Encoding utf8)")
            }
            false => format!("{name} is not UTF-8: is it a manifest?"),
        }
    })
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

/// Says why files have no document at all.
pub(super) fn without_documents(paths: &[PathBuf], sources: &[Source]) -> String {
    if sources.is_empty() {
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let names = names.join(", ");
        return format!(
            "there is no manifest of KEDA's in {names}: a .yaml, .yml or .json file that has keda.sh/ in it"
        );
    }
    match sources.iter().find(|source| !source.text.trim().is_empty()) {
        Some(source) => format!("{} has nothing but comments: are its questions answered?", source.name),
        None => "no document was read: is the file empty, or did the command before the pipe fail?".to_owned(),
    }
}

/// Returns the manifests below a directory, in the order of their names. Links to directories are not followed, because
/// they may make a circle, and what is no file is passed over: a pipe would never end.
///
/// # Errors
/// Names what cannot be read, which may be deep below.
fn manifests_below(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: io::Error| unreadable(directory, &error);
    let mut entries: Vec<_> = fs::read_dir(directory).and_then(Iterator::collect).map_err(failed)?;
    entries.sort_unstable_by_key(fs::DirEntry::file_name);
    let mut manifests = Vec::new();
    for entry in entries {
        let path = entry.path();
        let kind = entry.file_type().map_err(|error| unreadable(&path, &error))?;
        if kind.is_dir() {
            manifests.append(&mut manifests_below(&path)?);
        } else if path
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
            && fs::metadata(&path).map_err(|error| unreadable(&path, &error))?.is_file()
        {
            manifests.push(path);
        }
    }
    Ok(manifests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_utf_8_is_named_with_what_to_do() {
        let problem = |mut bytes: &[u8]| read(&[PathBuf::from("-")], &mut bytes).map(|_| ()).unwrap_err();
        assert_eq!(problem(b"name: \xe4\n"), "<stdin> is not UTF-8: is it a manifest?");
        assert!(problem(b"\xff\xfea\0:\0").starts_with("<stdin> is UTF-16, as PowerShell's > writes it; "));
        assert!(read(&[PathBuf::from("-")], &mut "name: \u{fffd}".as_bytes()).is_ok());
    }
}
