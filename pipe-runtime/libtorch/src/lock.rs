//! The lock file, which says which tch a build uses.

use std::fs;
use std::path::{Path, PathBuf};

/// A `Cargo.lock` with torch-sys in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    pub path: PathBuf,
    /// The version of torch-sys, and so of tch.
    pub tch: String,
}

impl Lock {
    /// Reads the lock file in `folder`. Returns `None` if there is none, or if there is no tch in
    /// it.
    pub fn in_folder(folder: &Path) -> Option<Self> {
        let path = folder.join("Cargo.lock");
        let tch = version_of("torch-sys", &fs::read_to_string(&path).ok()?)?;
        Some(Self { path, tch })
    }

    /// Finds the lock file of the build that writes to `folder`, which is all that a build script
    /// knows of it. Returns `None` if the target folder lies elsewhere.
    pub fn above(folder: &Path) -> Option<Self> {
        folder.ancestors().find_map(Self::in_folder)
    }

    /// Returns the folder of the lock file.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }
}

/// Finds the version of a package in the text of a lock file.
fn version_of(package: &str, lock: &str) -> Option<String> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    lines.next()?;
    Some(lines.next()?.strip_prefix("version = \"")?.trim_end_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_package_of_this_name() {
        let lock = "version = 4\n\n[[package]]\nname = \"tch\"\nversion = \"0.24.1\"\n\n\
                    [[package]]\nname = \"torch-sys\"\nversion = \"0.24.0\"\nsource = \"registry\"\n";
        assert_eq!(version_of("torch-sys", lock).as_deref(), Some("0.24.0"));
        assert_eq!(version_of("torch", lock), None);
    }

    #[test]
    fn the_lock_file_is_looked_for_above_the_target_folder() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let lock = Lock::above(&checkout.join("target/debug/build/x/out")).unwrap();
        assert_eq!(lock.folder(), checkout);
        assert!(crate::Pair::of_tch(&lock.tch).is_some(), "{lock:?}");
    }
}
