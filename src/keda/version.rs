//! Versions of KEDA.

use std::{fmt, str::FromStr};

/// A version of KEDA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u16,
    minor: u16,
    patch: u16,
}

impl Version {
    /// The oldest one that is supported.
    pub const OLDEST: Self = Self::new(2, 17, 0);
    /// The newest one that was run.
    pub const NEWEST: Self = Self::new(2, 21, 0);

    /// Returns a warning about a version that is newer than any that was run.
    pub fn warning(self) -> Option<String> {
        (self > Self::NEWEST).then(|| {
            format!(
                "warning: KEDA {self} is not known: known are {} to {}, and it is taken to do as {} does",
                Self::OLDEST,
                Self::NEWEST,
                Self::NEWEST
            )
        })
    }

    /// A version of three numbers.
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Reads `2.21.0`, `2.21` and `v2.21.0`.
impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<u16>> =
            text.strip_prefix('v').unwrap_or(text).split('.').map(|number| number.parse().ok()).collect();
        let version = match numbers.as_deref() {
            Some(&[major, minor]) => Self::new(major, minor, 0),
            Some(&[major, minor, patch]) => Self::new(major, minor, patch),
            _ => return Err("must be a version such as 2.21.0".to_owned()),
        };
        if version < Self::OLDEST {
            return Err(format!(
                "KEDA before {} is not supported; the newest that is known is {}",
                Self::OLDEST,
                Self::NEWEST
            ));
        }
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_people_write_them() {
        for (text, version) in [("2.21.0", "2.21.0"), ("v2.20.2", "2.20.2"), ("2.19", "2.19.0")] {
            assert_eq!(text.parse::<Version>().map(|version| version.to_string()), Ok(version.to_owned()));
        }
        for bad in ["", "2", "2.x", "2.21.0.1", "2.21.0-rc1", "2.16.1", "-2.21"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
        assert!(Version::new(2, 9, 0) < Version::new(2, 17, 0));
    }

    #[test]
    fn only_a_version_newer_than_those_that_were_run_deserves_a_warning() {
        let warned = |text: &str| text.parse::<Version>().expect("a version").warning().is_some();
        let unknown =
            [Version::OLDEST.to_string(), Version::NEWEST.to_string(), "2.19.9".to_owned()].map(|text| warned(&text));
        assert_eq!(unknown, [false; 3]);
        assert!(warned("9.9") && warned(&format!("{}1", Version::NEWEST)));
    }
}
