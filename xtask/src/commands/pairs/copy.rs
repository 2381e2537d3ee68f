//! Copies the checkout as it is, with changes that are not committed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::tools::checkout::Checkout;

/// The file with the names of the copied files, one per line: files that are removed from the
/// checkout are removed from the copy.
const COPIED: &str = ".copied";

/// Updates the copy in `root`. Files that have not changed keep their times, so that cargo builds
/// only what it must. The lock file is not copied.
pub fn update(checkout: &Checkout, root: &Path) -> anyhow::Result<Checkout> {
    fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
    let before = fs::read_to_string(root.join(COPIED)).unwrap_or_default();
    let files = files(checkout)?;
    for gone in before.lines().map(PathBuf::from).filter(|file| !files.contains(file)) {
        // It may already be removed.
        let _ = fs::remove_file(root.join(gone));
    }
    let names: String = files.iter().map(|file| format!("{}\n", file.display())).collect();
    fs::write(root.join(COPIED), names).with_context(|| format!("cannot write to {}", root.display()))?;
    for name in files {
        if !is_same(&checkout.root.join(&name), &root.join(&name)) {
            file(&checkout.root, root, &name)?;
        }
    }
    Ok(Checkout { root: root.to_path_buf() })
}

/// Copies one file, whose path is `name` in both folders.
pub fn file(from: &Path, to: &Path, name: &Path) -> anyhow::Result<()> {
    let target = to.join(name);
    let folder = target.parent().unwrap_or(to);
    fs::create_dir_all(folder)
        .and_then(|()| fs::copy(from.join(name), &target))
        .with_context(|| format!("cannot copy {} to {}", name.display(), to.display()))?;
    Ok(())
}

/// Whether both files have the same contents.
pub fn is_same(one: &Path, other: &Path) -> bool {
    matches!((fs::read(one), fs::read(other)), (Ok(one), Ok(other)) if one == other)
}

/// The files that git tracks or would add, without removed ones and the lock file.
fn files(checkout: &Checkout) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut git = Command::new("git");
    git.current_dir(&checkout.root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output = git.output().context("cannot start git, which lists the checkout's files")?;
    if !output.status.success() {
        bail!("git cannot list the checkout's files: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    let names = output.stdout.split(|byte| *byte == 0).map(|name| PathBuf::from(OsStr::from_bytes(name)));
    Ok(names.filter(|name| *name != *"Cargo.lock" && checkout.root.join(name).is_file()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_follows_the_checkout_and_keeps_what_is_its_own() {
        let folder = std::env::temp_dir().join(format!("pipe-copy-{}", std::process::id()));
        let checkout = Checkout { root: folder.join("checkout") };
        let write = |name: &str, text: &str| {
            let path = checkout.root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(".gitignore", "/target\n");
        write("src/a.rs", "a");
        write("src/b.rs", "b");
        write("Cargo.lock", "pinned");
        write("target/built", "x");
        let git = Command::new("git").args(["init", "--quiet"]).current_dir(&checkout.root).status().unwrap();
        assert!(git.success());

        let root = checkout.root.join("target/pairs/one");
        let copy = update(&checkout, &root).unwrap();
        assert_eq!(fs::read_to_string(copy.root.join("src/a.rs")).unwrap(), "a");
        assert!(!copy.root.join("Cargo.lock").exists() && !copy.root.join("target").exists());

        fs::write(copy.root.join("Cargo.lock"), "its own").unwrap();
        let time = |name: &str| fs::metadata(root.join(name)).unwrap().modified().unwrap();
        let before = time("src/b.rs");
        fs::remove_file(checkout.root.join("src/a.rs")).unwrap();
        write("src/c.rs", "c");
        update(&checkout, &root).unwrap();
        assert!(!root.join("src/a.rs").exists() && root.join("src/c.rs").exists());
        assert_eq!(time("src/b.rs"), before);
        assert_eq!(fs::read_to_string(root.join("Cargo.lock")).unwrap(), "its own");
        fs::remove_dir_all(folder).unwrap();
    }
}
