//! A directory as Kubernetes mounts a Secret: links to `..data`, which is a link to a version.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::support::tempdir;

pub(crate) struct Mount {
    path: PathBuf,
    version: AtomicU32,
}

impl Mount {
    /// Makes an empty one.
    pub(crate) fn new() -> Self {
        Self { path: tempdir::new("mount"), version: AtomicU32::new(0) }
    }

    /// Returns the path of the mount.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces all files at once, as kubelet's AtomicWriter does.
    pub(crate) fn swap<T: AsRef<str>>(&self, files: &[(&str, T)]) {
        let version = format!("..{}", self.version.fetch_add(1, Ordering::Relaxed));
        let directory = self.path.join(&version);
        fs::create_dir(&directory).unwrap();
        for (name, content) in files {
            fs::write(directory.join(name), content.as_ref()).unwrap();
            let link = self.path.join(name);
            if link.symlink_metadata().is_err() {
                symlink(format!("..data/{name}"), link).unwrap();
            }
        }
        let old = fs::read_link(self.path.join("..data")).ok();
        symlink(&version, self.path.join("..data_tmp")).unwrap();
        fs::rename(self.path.join("..data_tmp"), self.path.join("..data")).unwrap();
        if let Some(old) = old {
            fs::remove_dir_all(self.path.join(old)).unwrap();
        }
    }
}
