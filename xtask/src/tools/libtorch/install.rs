//! Installs PyPI's wheels into the per-user cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use super::{Flavour, Wheel, found};
use crate::tools::pip::Pip;
use crate::tools::{cache, disk, python};

const FOLDER: &str = "pipe-libtorch";

/// The file with the version in the archives of pytorch.org, which wheels do not have. torch-sys
/// reads nothing else.
const BUILD_VERSION: &str = "torch/build-version";

/// The path of the installation of this wheel, if it exists.
pub fn cached(wheel: &Wheel, flavour: Flavour) -> Option<PathBuf> {
    let home = cache::home().ok()?.join(FOLDER).join(name(wheel, flavour));
    check(&home, wheel, flavour).is_ok().then_some(home)
}

fn name(wheel: &Wheel, flavour: Flavour) -> String {
    format!("{}-{flavour}", wheel.version)
}

/// Returns the cached installation, and makes it if there is none.
pub fn installed(wheel: &Wheel, flavour: Flavour) -> anyhow::Result<PathBuf> {
    if flavour == Flavour::Cuda && !cfg!(target_os = "linux") {
        bail!("libtorch with CUDA exists for Linux only: leave `--cuda` out");
    }
    let is_whole = |home: &Path| check(home, wheel, flavour).is_ok();
    let install = |partial: &Path, home: &Path| install(wheel, flavour, partial, home);
    let home = cache::get(FOLDER, &name(wheel, flavour), is_whole, install)?;
    // This is not in `install`, because an earlier version of this program did not write the file.
    let stamp = home.join(BUILD_VERSION);
    if !stamp.is_file() {
        fs::write(&stamp, format!("{}\n", wheel.version))
            .with_context(|| format!("cannot write {}", stamp.display()))?;
    }
    Ok(home)
}

fn install(wheel: &Wheel, flavour: Flavour, partial: &Path, home: &Path) -> anyhow::Result<()> {
    python::check()?;
    disk::check(home.parent().unwrap_or(home), flavour.space_needed())?;
    eprintln!("installing libtorch {} ({flavour}) into {}", wheel.version, home.display());

    let target = partial.join("home");
    let mut pip = Pip::new("install", partial)?;
    pip.arg("--no-compile").arg("--target").arg(&target);
    if !flavour.with_dependencies() {
        pip.arg("--no-deps");
    }
    pip.args(flavour.requirements(wheel)).run("libtorch")?;

    check(&target, wheel, flavour).map_err(|fault| {
        anyhow!("pip's installation of libtorch {fault}: check that pip's index is PyPI, and run this again")
    })?;
    if home.exists() {
        // It is damaged: a complete one would have been used.
        fs::remove_dir_all(home)
            .with_context(|| format!("cannot replace {}: remove it and run this again", home.display()))?;
    }
    fs::rename(&target, home).with_context(|| format!("cannot create {}: make its folder writable", home.display()))
}

fn check(home: &Path, wheel: &Wheel, flavour: Flavour) -> Result<(), String> {
    found::check(&home.join("torch"), wheel.minor())?;
    found::check_companions(home, flavour)
}
