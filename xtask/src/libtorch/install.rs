//! Installs PyPI's wheels into the per-user cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use super::{Flavour, VERSION, found};
use crate::pip::Pip;
use crate::{cache, disk, python};

/// The cached installation, made now if there is none.
pub fn installed(flavour: Flavour) -> anyhow::Result<PathBuf> {
    if flavour == Flavour::Cuda && !cfg!(target_os = "linux") {
        bail!("libtorch with CUDA exists for Linux only: leave `--cuda` out");
    }
    let name = format!("{VERSION}-{flavour}");
    let is_whole = |home: &Path| check(home, flavour).is_ok();
    cache::get("pipe-libtorch", &name, is_whole, |partial, home| install(flavour, partial, home))
}

fn install(flavour: Flavour, partial: &Path, home: &Path) -> anyhow::Result<()> {
    python::check()?;
    disk::check(home.parent().unwrap_or(home), flavour.space_needed())?;
    eprintln!("installing libtorch {VERSION} ({flavour}) into {}", home.display());

    let target = partial.join("home");
    let mut pip = Pip::new("install", partial)?;
    pip.arg("--no-compile").arg("--target").arg(&target);
    if !flavour.with_dependencies() {
        pip.arg("--no-deps");
    }
    pip.args(flavour.requirements()).run("libtorch")?;

    check(&target, flavour).map_err(|fault| {
        anyhow!("pip's installation of libtorch {fault}: check that pip's index is PyPI, and run this again")
    })?;
    if home.exists() {
        // A damaged one: a whole one would have been used.
        fs::remove_dir_all(home)
            .with_context(|| format!("cannot replace {}: remove it and run this again", home.display()))?;
    }
    fs::rename(&target, home).with_context(|| format!("cannot create {}: make its folder writable", home.display()))
}

fn check(home: &Path, flavour: Flavour) -> Result<(), String> {
    found::check(&home.join("torch"))?;
    found::check_companions(home, flavour)
}
