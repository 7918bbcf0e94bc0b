//! A clock that the test sets, in the place of the machine's own.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
};

use super::{executable::Executable, preloaded, tempdir};

/// The time of day as programs see it.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// Makes one that goes right.
    pub(crate) fn new() -> Self {
        let directory = tempdir::new("clock");
        let library = preloaded::compile(&directory, "clock", include_str!("clock.c"));
        let offset = directory.join("offset");
        fs::write(&offset, 0_i64.to_ne_bytes()).expect("the directory is ours");
        Self { library, offset }
    }

    /// Makes a program use it.
    pub(crate) fn used_by(&self, program: Executable) -> Executable {
        program.preloads(&self.library).variable("CLOCK", self.offset.display().to_string())
    }

    /// Returns the environment of a program that uses it and no other library.
    pub(crate) fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", self.library.clone()), ("CLOCK", self.offset.clone())]
    }

    /// Sets it off the right time by so many seconds, from now on.
    pub(crate) fn is_off_by(&self, seconds: i64) {
        let file = File::options().write(true).open(&self.offset).expect("the directory is ours");
        file.write_all_at(&seconds.to_ne_bytes(), 0).expect("the file is ours");
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::{Clock, Executable};

    #[tokio::test]
    async fn a_clock_is_off_by_as_much_as_the_test_says() {
        let clock = Clock::new();
        let mut seen = Vec::new();
        for offset in [0, 86_400 * 400, -86_400 * 400] {
            clock.is_off_by(offset);
            let date = clock.used_by(Executable::new(Path::new("/bin/date"), ["+%Y"]));
            seen.push(date.finish(Duration::from_secs(10)).await.output.trim().parse::<i32>().expect("a year"));
        }
        assert!(seen[1] > seen[0] && seen[0] > seen[2], "{seen:?}");
    }
}
