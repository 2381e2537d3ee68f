//! The per-user cache, which all checkouts share: what it holds is whole.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process;

use anyhow::Context;

/// The path of `name` in the cache's folder `folder`, made now if it is not there as it should be.
///
/// `is_whole` looks at that path. `make` is given an empty path to work in and the path itself, on
/// which it puts the outcome in one step. Of several runs at a time only one makes it.
pub fn get(
    folder: &str,
    name: &str,
    is_whole: impl Fn(&Path) -> bool,
    make: impl FnOnce(&Path, &Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let folder = home()?.join(folder);
    let path = folder.join(name);
    let partial = format!("{name}.partial-");
    if is_whole(&path) {
        // No other run is at it: a killed run's pip may have outlived its successor's clean-up.
        remove_leftovers(&folder, &partial);
        return Ok(path);
    }
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}: make it writable, or set XDG_CACHE_HOME", folder.display()))?;
    let _lock = lock(&folder.join(format!("{name}.lock")))?;
    // Another run may have finished while this one waited.
    if !is_whole(&path) {
        remove_leftovers(&folder, &partial);
        // The process's number keeps this apart from what a killed run's pip still writes to.
        let partial = folder.join(format!("{partial}{}", process::id()));
        let outcome = make(&partial, &path);
        let _ = fs::remove_dir_all(&partial);
        outcome?;
    }
    Ok(path)
}

/// Locks a file, until it is dropped; the system lets go of it if the process dies.
pub fn lock(path: &Path) -> anyhow::Result<File> {
    let cannot = || format!("cannot lock {}: put it into a writable folder on a local disk", path.display());
    let file = File::create(path).with_context(cannot)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("waiting for another `cargo xtask` to finish");
            file.lock().with_context(cannot)?;
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
    }
    Ok(file)
}

/// Removes what interrupted runs left. One that cannot be removed now does no harm.
fn remove_leftovers(folder: &Path, start: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(start) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

pub fn home() -> anyhow::Result<PathBuf> {
    home_of(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"))
        .context("there is no place for a cache: set HOME or XDG_CACHE_HOME to an absolute path")
}

/// The XDG base directory rule, by which a relative path counts as unset.
fn home_of(xdg: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    xdg.map(PathBuf::from).filter(absolute).or_else(|| {
        let home = home.map(PathBuf::from).filter(absolute)?;
        Some(home.join(".cache"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(xdg: Option<&str>, home: Option<&str>) -> Option<PathBuf> {
        home_of(xdg.map(Into::into), home.map(Into::into))
    }

    #[test]
    fn xdg_cache_home_wins_over_home() {
        assert_eq!(cache(Some("/c"), Some("/h")), Some("/c".into()));
        assert_eq!(cache(None, Some("/h")), Some("/h/.cache".into()));
    }

    #[test]
    fn an_empty_or_relative_path_counts_as_unset() {
        assert_eq!(cache(Some(""), Some("/h")), Some("/h/.cache".into()));
        assert_eq!(cache(Some("c"), Some("/h")), Some("/h/.cache".into()));
        assert_eq!(cache(None, Some("h")), None);
        assert_eq!(cache(None, None), None);
    }
}
