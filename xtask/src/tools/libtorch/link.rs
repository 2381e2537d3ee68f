//! The link `.libtorch` in a checkout.

use std::path::{Path, PathBuf};
use std::{fs, io, process};

use anyhow::{Context, bail};

/// Fails if there is something that this program must not replace.
pub fn check_free(link: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(link) {
        Ok(found) if !found.is_symlink() => bail!(
            "{} is not a link but holds no libtorch that will do: move it away and run this again",
            link.display()
        ),
        _ => Ok(()),
    }
}

/// Points the link at `home`. It is replaced in one step, so that a concurrent build sees the old
/// or the new one.
pub fn point(link: &Path, home: &Path) -> anyhow::Result<()> {
    let mut fresh = link.as_os_str().to_owned();
    fresh.push(format!(".{}", process::id()));
    let fresh = PathBuf::from(fresh);
    symlink(home, &fresh)
        .and_then(|()| fs::rename(&fresh, link))
        .inspect_err(|_| drop(fs::remove_file(&fresh)))
        .with_context(|| format!("cannot link {}: make the checkout writable", link.display()))
}

#[cfg(unix)]
fn symlink(original: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(original, link)
}

#[cfg(not(unix))]
fn symlink(_original: &Path, _link: &Path) -> io::Result<()> {
    let advice = "links are made on Linux and macOS only: set LIBTORCH instead";
    Err(io::Error::new(io::ErrorKind::Unsupported, advice))
}
