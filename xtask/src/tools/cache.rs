//! The per-user cache, which all checkouts share. Its entries are always complete.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process;

use anyhow::Context;

/// Returns the path of `name` in the cache's folder `folder`, and makes it if it does not exist or
/// is damaged.
///
/// `is_whole` checks the path. `make` gets an empty path to work in and the path itself, where it
/// puts the result in one step. Of several runs at a time, only one makes it.
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
        // No other run is working on it. (The pip of a killed run may still write to its folder.)
        remove_leftovers(&folder, &partial);
        return Ok(path);
    }
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}: make it writable, or set XDG_CACHE_HOME", folder.display()))?;
    let _lock = lock(&folder.join(format!("{name}.lock")))?;
    // Another run may have finished while this one waited.
    if !is_whole(&path) {
        remove_leftovers(&folder, &partial);
        // The number of the process distinguishes this from the folder that a killed run's pip
        // still writes to.
        let partial = folder.join(format!("{partial}{}", process::id()));
        let outcome = make(&partial, &path);
        let _ = fs::remove_dir_all(&partial);
        outcome?;
    }
    Ok(path)
}

/// Locks a file until the value is dropped. The system unlocks it if the process dies.
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

/// Removes what interrupted runs left. A folder that cannot be removed now does no harm.
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

/// The XDG base directory, where a relative path counts as unset.
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
