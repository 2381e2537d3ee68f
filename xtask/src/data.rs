//! `cargo xtask data`: the digits, at `data/digits.csv.gz`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use anyhow::{Context, bail};

use crate::checkout::Checkout;
use crate::{cache, digits};

pub fn run(checkout: &Checkout) -> anyhow::Result<ExitCode> {
    let path = set_up(checkout)?;
    println!("the digits are ready: {}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Returns the path of the digits. Does nothing when they are in place.
pub fn set_up(checkout: &Checkout) -> anyhow::Result<PathBuf> {
    let path = checkout.digits();
    match fs::read(&path) {
        Ok(bytes) => {
            if let Err(difference) = digits::check(&bytes) {
                bail!("{} has {difference}: delete it and run `cargo xtask data`", path.display());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => digits::write(&path, &cached()?)?,
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}: make it readable", path.display()));
        }
    }
    Ok(path)
}

/// The digits from the per-user cache, fetched into it if it lacks them or has them wrong.
fn cached() -> anyhow::Result<Vec<u8>> {
    let is_whole = |path: &Path| fs::read(path).is_ok_and(|bytes| digits::check(&bytes).is_ok());
    let path = cache::get("pipe-data", "digits.csv.gz", is_whole, |partial, path| {
        digits::write(path, &digits::download(partial)?)
    })?;
    fs::read(&path).with_context(|| format!("cannot read {}: run this again", path.display()))
}
