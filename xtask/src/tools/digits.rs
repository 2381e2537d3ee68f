//! The UCI handwritten digits, from scikit-learn's wheels.

use std::path::{Path, PathBuf};
use std::{fs, io, process};

use anyhow::{Context, bail};

use crate::tools::checkout::Checkout;
use crate::tools::wheel::Member;
use crate::tools::{cache, wheel};

const WHEEL: &str = "scikit-learn==1.5.2";
const DIGITS: Member = Member {
    path: "sklearn/datasets/data/digits.csv.gz",
    bytes: 57_523,
    sha256: "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
};

/// Returns the path of the digits. Does nothing when they are in place.
pub fn set_up(checkout: &Checkout) -> anyhow::Result<PathBuf> {
    let path = checkout.digits();
    match fs::read(&path) {
        Ok(bytes) => {
            if let Err(difference) = DIGITS.check(&bytes) {
                bail!("{} has {difference}: delete it and run `cargo xtask data`", path.display());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => write(&path, &cached()?)?,
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}: make it readable", path.display()));
        }
    }
    Ok(path)
}

/// Returns the digits in the per-user cache, and fetches them if they are missing or damaged.
fn cached() -> anyhow::Result<Vec<u8>> {
    let is_whole = |path: &Path| fs::read(path).is_ok_and(|bytes| DIGITS.check(&bytes).is_ok());
    let path = cache::get("pipe-data", "digits.csv.gz", is_whole, |partial, path| write(path, &download(partial)?))?;
    fs::read(&path).with_context(|| format!("cannot read {}: run this again", path.display()))
}

/// Fetches the wheel into `folder`, and extracts the digits.
fn download(folder: &Path) -> anyhow::Result<Vec<u8>> {
    wheel::fetch("the digits", WHEEL, &[DIGITS], folder)?;
    let file = folder.join(DIGITS.name());
    fs::read(&file).with_context(|| format!("cannot read {}: run this again", file.display()))
}

/// Writes the file completely or not at all.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let partial = path.with_extension(format!("partial-{}", process::id()));
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&partial, bytes))
        .and_then(|()| fs::rename(&partial, path))
        .inspect_err(|_| drop(fs::remove_file(&partial)))
        .with_context(|| format!("cannot write {}: make its folder writable", path.display()))
}
