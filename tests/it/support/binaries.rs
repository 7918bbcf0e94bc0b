//! Finds PostgreSQL's own programs on this machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The message of a test that finds none.
const MISSING: &str = "PostgreSQL's programs are missing: `make test` installs them (scripts/postgres), \
                       or point CLAPOMETER_TEST_PG_BIN at a directory with initdb and postgres";

/// Returns the directory with `initdb` and `postgres`.
///
/// # Panics
/// When no place has both, with what to do.
pub(crate) fn directory() -> PathBuf {
    let chosen = env::var_os("CLAPOMETER_TEST_PG_BIN").map(PathBuf::from);
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    find(chosen, Path::new("/usr/lib/postgresql"), project).unwrap_or_else(|| panic!("{MISSING}"))
}

/// A client program of PostgreSQL, such as `psql`: beside the server's programs, else that of the machine, since
/// clients talk to servers of other versions, too.
pub(crate) fn client(name: &str) -> Option<PathBuf> {
    let beside = directory().join(name);
    let of_packages = newest(Path::new("/usr/lib/postgresql")).map(|directory| directory.join(name));
    let in_path =
        env::split_paths(&env::var_os("PATH")?).map(|directory| directory.join(name)).find(|path| path.is_file());
    [Some(beside), of_packages, in_path].into_iter().flatten().find(|path| path.is_file())
}

/// Looks where the environment says, and nowhere else if it says anything; then in the packages
/// of Debian, the newest first; then asks `pg_config`; then where `scripts/postgres` puts the
/// programs when it is not root.
fn find(chosen: Option<PathBuf>, packages: &Path, project: &Path) -> Option<PathBuf> {
    if chosen.is_some() {
        return chosen.filter(|directory| is_complete(directory));
    }
    newest(packages)
        .or_else(from_pg_config)
        .or_else(|| Some(project.join("target/tools/postgresql/bin")))
        .filter(|directory| is_complete(directory))
}

fn newest(packages: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(packages).ok()?;
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    versions
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_complete(&path.join("bin")))
        .max_by_key(version)
        .map(|path| path.join("bin"))
}

fn from_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim())).filter(|directory| is_complete(directory))
}

fn is_complete(directory: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|program| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::find;

    fn install(directory: &std::path::Path) {
        fs::create_dir_all(directory).unwrap();
        for program in ["initdb", "postgres"] {
            fs::write(directory.join(program), "").unwrap();
        }
    }

    #[test]
    fn the_newest_complete_version_is_taken() {
        let packages = tempfile::tempdir().unwrap();
        install(&packages.path().join("9/bin"));
        install(&packages.path().join("15/bin"));
        fs::create_dir_all(packages.path().join("18/bin")).unwrap();

        assert_eq!(find(None, packages.path(), packages.path()), Some(packages.path().join("15/bin")));
    }

    #[test]
    fn a_wrong_choice_is_not_repaired() {
        let packages = tempfile::tempdir().unwrap();
        install(&packages.path().join("15/bin"));

        assert_eq!(find(Some(packages.path().join("nowhere")), packages.path(), packages.path()), None);
    }
}
