//! A resolver that the test controls, in the place of the machine's own.

use std::{fs, net::IpAddr, path::PathBuf};

use super::{executable::Executable, preloaded, tempdir};

/// The names of a program: all of them have one address, which may change, or are not answered at all.
pub(crate) struct Resolver {
    directory: PathBuf,
    library: PathBuf,
}

impl Resolver {
    /// Makes one that answers every name with this address.
    pub(crate) fn new(address: IpAddr) -> Self {
        let directory = tempdir::new("resolver");
        let library = preloaded::compile(&directory, "resolver", include_str!("resolver.c"));
        let resolver = Self { directory, library };
        resolver.answer(address);
        resolver
    }

    /// Makes a program use it.
    pub(crate) fn used_by(&self, program: Executable) -> Executable {
        program.preloads(&self.library).variable("RESOLVER", self.directory.join("answer").display().to_string())
    }

    /// Answers every name with this address from now on.
    pub(crate) fn answer(&self, address: IpAddr) {
        self.hold(&address.to_string());
    }

    /// Answers no name from now on.
    pub(crate) fn fall_silent(&self) {
        self.hold("silent");
    }

    /// Replaces the answer at once: a program must not read half of it.
    fn hold(&self, answer: &str) {
        let new = self.directory.join("new");
        fs::write(&new, answer).expect("the directory is ours");
        fs::rename(new, self.directory.join("answer")).expect("the directory is ours");
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, path::Path, time::Duration};

    use super::{Executable, Resolver};

    const SOON: Duration = Duration::from_secs(10);

    async fn resolve(resolver: &Resolver) -> String {
        let getent = Executable::new(Path::new("/usr/bin/getent"), ["ahosts", "database.test"]);
        resolver.used_by(getent).finish(SOON).await.output
    }

    #[tokio::test]
    async fn a_name_has_the_address_that_the_test_says() {
        let resolver = Resolver::new(IpAddr::from([127, 0, 0, 3]));
        assert!(resolve(&resolver).await.starts_with("127.0.0.3 "));
        resolver.answer(IpAddr::from([127, 0, 0, 4]));
        assert!(resolve(&resolver).await.starts_with("127.0.0.4 "));
    }
}
