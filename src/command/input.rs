//! The files to look at.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{STANDARD_INPUT, STANDARD_INPUT_NAME};
use crate::{lint::Source, manifest::GROUP, terminal::text::plural};

/// The most bytes of all manifests together. The objects of a cluster in one list are fewer: `yaml::manifest` reads a
/// million values of a document, which take about 40 MB as `kubectl get` writes them.
const LARGEST: u64 = 64 << 20;

/// Reads files, directories and standard input, of which [`LARGEST`] bytes are taken at most.
///
/// # Errors
/// Says which of them cannot be read, or that they are too large.
pub(super) fn read(paths: &[PathBuf], stdin: &mut impl Read) -> Result<Vec<Source>, String> {
    let mut sources = Sources { read: Vec::new(), room: LARGEST };
    for path in paths {
        if path.as_os_str() == STANDARD_INPUT {
            sources.add(STANDARD_INPUT_NAME, &mut *stdin)?;
        } else if path.is_dir() {
            for file in manifests_below(path)? {
                // A directory has other YAML, too; what does not name KEDA is not ours to judge, and may be large.
                if File::open(&file).and_then(names_keda).map_err(|error| unreadable(&file, &error))? {
                    sources.add_file(&file)?;
                }
            }
        } else {
            sources.add_file(path)?;
        }
    }
    Ok(sources.read)
}

/// What was read, and how many bytes may still be.
struct Sources {
    read: Vec<Source>,
    room: u64,
}

impl Sources {
    fn add_file(&mut self, path: &Path) -> Result<(), String> {
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        self.add(&path.display().to_string(), file)
    }

    fn add(&mut self, name: &str, reader: impl Read) -> Result<(), String> {
        let mut bytes = Vec::new();
        let read = reader.take(self.room + 1).read_to_end(&mut bytes);
        read.map_err(|error| unreadable(Path::new(name), &error))?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.room = self.room.checked_sub(length).ok_or_else(|| {
            let before = if self.read.is_empty() { "" } else { ", with the files before it," };
            format!(
                "{name}{before} is larger than {} MiB: if these are manifests, give them in parts, such as one namespace each",
                LARGEST >> 20
            )
        })?;
        self.read.push(Source { name: name.to_owned(), text: utf_8(name, bytes, "a manifest")? });
        Ok(())
    }
}

/// Returns whether something of any size has KEDA's group in it.
fn names_keda(mut reader: impl Read) -> io::Result<bool> {
    let mut chunk = vec![0; 1 << 16];
    // The group may begin at the end of one chunk and end in the next.
    let mut kept = 0;
    loop {
        let read = match reader.read(&mut chunk[kept..]) {
            Ok(0) => return Ok(false),
            Ok(read) => kept + read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if chunk[..read].windows(GROUP.len()).any(|window| window == GROUP.as_bytes()) {
            return Ok(true);
        }
        kept = read.min(GROUP.len() - 1);
        chunk.copy_within(read - kept..read, 0);
    }
}

/// Returns the text of a file that should be `a manifest`, or something else.
///
/// # Errors
/// Says that it is in another encoding.
pub(super) fn utf_8(name: &str, bytes: Vec<u8>, what: &str) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| {
        let is_utf_16 = [&b"\xff\xfe"[..], b"\xfe\xff"].iter().any(|mark| error.as_bytes().starts_with(mark));
        match is_utf_16 {
            true => {
                format!("{name} is UTF-16, as PowerShell's > writes it; write it as UTF-8 (Out-File -Encoding utf8)")
            }
            false => format!("{name} is not UTF-8: is it {what}?"),
        }
    })
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

/// Says why files have no document at all.
pub(super) fn without_documents(paths: &[PathBuf], sources: &[Source]) -> String {
    if sources.is_empty() {
        return format!(
            "there is no manifest of KEDA's in {}: a .yaml, .yml or .json file that has {GROUP} in it",
            names(paths)
        );
    }
    match sources.iter().find(|source| !source.text.trim().is_empty()) {
        Some(source) => format!("{} has nothing but comments: are its questions answered?", source.name),
        None => "no document was read: is the file empty, or did the command before the pipe fail?".to_owned(),
    }
}

/// Says that files have documents, none of which is an object of KEDA.
pub(super) fn without_objects(paths: &[PathBuf], documents: usize) -> String {
    let documents = plural(documents, "document", "documents");
    format!("{}: {documents}, none of which is an object of KEDA: nothing was checked", names(paths))
}

fn names(paths: &[PathBuf]) -> String {
    let name = |path: &PathBuf| match path.as_os_str() == STANDARD_INPUT {
        true => STANDARD_INPUT_NAME.to_owned(),
        false => path.display().to_string(),
    };
    paths.iter().map(name).collect::<Vec<_>>().join(", ")
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

    #[test]
    fn what_is_too_large_is_refused_before_all_of_it_is_read() {
        let problem = |paths: &[&str]| {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            read(&paths, &mut io::repeat(b'a')).map(|_| ()).unwrap_err()
        };
        assert!(problem(&["-"]).starts_with("<stdin> is larger than 64 MiB: "), "{}", problem(&["-"]));
        let both = problem(&["Cargo.toml", "/dev/zero"]);
        assert!(both.starts_with("/dev/zero, with the files before it, is larger than 64 MiB: "), "{both}");
    }

    #[test]
    fn the_group_is_found_wherever_chunks_end() {
        for before in [0, 1, 65_529, 65_530, 65_535, 65_536, 200_000] {
            let text = [&b"a".repeat(before)[..], GROUP.as_bytes(), b"v1alpha1"].concat();
            assert!(names_keda(&text[..]).unwrap(), "{before}");
            assert!(!names_keda(&text[..before + GROUP.len() - 1]).unwrap(), "{before}");
        }
    }
}
