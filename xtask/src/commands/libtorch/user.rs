//! A crate outside this checkout that uses this library.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::tools::cargo;
use crate::tools::checkout::Checkout;

/// Finds the workspace of the crate in `folder`, and makes a lock file if there is none.
pub fn workspace(folder: &Path) -> anyhow::Result<Checkout> {
    let manifest = env::current_dir().unwrap_or_default().join(folder).join("Cargo.toml");
    if !manifest.is_file() {
        bail!("there is no {}: name the folder of a crate", manifest.display());
    }
    let locate = ["locate-project", "--workspace", "--message-format", "plain"];
    let root = PathBuf::from(run(&manifest, &locate)?.trim());
    let root = root.parent().context("cargo does not say where the workspace is")?.to_path_buf();
    if !root.join("Cargo.lock").is_file() {
        run(&manifest, &["generate-lockfile"])?;
    }
    Ok(Checkout { root })
}

fn run(manifest: &Path, args: &[&str]) -> anyhow::Result<String> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).arg("--manifest-path").arg(manifest).stdin(std::process::Stdio::null());
    let output = cargo.output().context(cargo::CANNOT_START)?;
    if !output.status.success() {
        bail!("cargo fails on {}: {}", manifest.display(), String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Prints what the workspace still lacks.
pub fn advise(user: &Checkout) {
    let configuration = user.root.join(".cargo/config.toml");
    if !std::fs::read_to_string(&configuration).is_ok_and(|text| text.contains(".libtorch/torch")) {
        println!(
            "so that builds find it, write this to {}:\n\n[env]\nLIBTORCH = {{ value = \".libtorch/torch\", relative = true }}",
            configuration.display()
        );
    }
}
