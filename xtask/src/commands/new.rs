//! `cargo xtask new`: makes a user's crate that builds and trains.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use pipe_libtorch::{PAIRS, Pair};

use crate::tools::checkout::Checkout;
use crate::tools::libtorch::{self, Flavour, Wheel};

/// The files of the crate. The README shows the first three, and a test compares them.
const FILES: [(&str, &str); 6] = [
    ("Cargo.toml", include_str!("../../new/manifest.toml")),
    (".cargo/config.toml", include_str!("../../new/config.toml")),
    ("build.rs", include_str!("../../new/build.rs")),
    ("rust-toolchain.toml", include_str!("../../../rust-toolchain.toml")),
    (".gitignore", "/target\n/.libtorch\n"),
    ("src/main.rs", include_str!("../../../examples/src/bin/first_pipeline.rs")),
];

/// Writes the crate and sets libtorch up for it.
pub fn run(checkout: &Checkout, folder: &Path, tch: Option<&str>) -> anyhow::Result<ExitCode> {
    let pair = pair(tch)?;
    let folder = std::path::absolute(folder).with_context(|| format!("{} names no folder", folder.display()))?;
    check_is_free(checkout, &folder)?;
    let name = package_name(&folder)?;
    let here = path_from(&folder, &checkout.root).display().to_string();
    for (file, text) in FILES {
        let text = text
            .replace("../pipe/", &format!("{here}/"))
            .replace("my-model", name)
            .replace("tch = \"0.26\"", &format!("tch = \"{}\"", minor(pair.tch)))
            .replace("//!\n//! `cargo run -p pipe-examples --bin first_pipeline`\n", "");
        let file = folder.join(file);
        let write = |file: &Path| {
            fs::create_dir_all(file.parent().unwrap_or(&folder))?;
            fs::write(file, text)
        };
        write(&file).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let shown = folder.display();
    let wheel = Wheel::of(pair.libtorch)
        .with_context(|| format!("libtorch {} is not among the known wheels", pair.libtorch))?;
    libtorch::set_up_wheel(&Checkout { root: folder.clone() }, wheel, Flavour::Cpu).with_context(|| {
        format!("{shown} is written, but has no libtorch yet: run `cargo xtask libtorch --for {shown}`")
    })?;
    println!("{shown} is a crate with tch {} and libtorch {}; build and train with", minor(pair.tch), wheel.minor());
    println!("\n    cd {shown}\n    cargo run --release");
    Ok(ExitCode::SUCCESS)
}

/// The tested pair with this tch, or the one with the latest.
fn pair(tch: Option<&str>) -> anyhow::Result<Pair> {
    let Some(tch) = tch else { return Ok(PAIRS[PAIRS.len() - 1]) };
    Pair::of_tch(tch).with_context(|| {
        let known: Vec<_> = PAIRS.iter().map(|pair| minor(pair.tch)).collect();
        format!("tch {tch} has not been tried: {} have", known.join(" and "))
    })
}

/// `0.26` of `0.26.0`
fn minor(version: &str) -> &str {
    version.rsplit_once('.').map_or(version, |(minor, _)| minor)
}

fn check_is_free(checkout: &Checkout, folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    if folder.starts_with(&checkout.root) {
        bail!("{shown} lies in this checkout, which is a workspace of its own: name a folder outside of it");
    }
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => bail!("{shown} is not empty: name a new folder, or write the files that the README shows"),
        Err(_) if folder.exists() => bail!("{shown} is not a folder"),
        _ => Ok(()),
    }
}

/// The name of the folder, if it is a valid crate name.
fn package_name(folder: &Path) -> anyhow::Result<&str> {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    if name.is_empty() || !name.chars().all(is_letter) || name.starts_with(|first: char| !first.is_ascii_alphabetic()) {
        bail!("`{name}` cannot be the name of a crate: take letters, digits, `-` and `_`, and a letter first");
    }
    Ok(name)
}

/// The path from `folder` to the checkout: relative if they are neighbours, so that both can move
/// together; otherwise absolute.
fn path_from(folder: &Path, checkout: &Path) -> PathBuf {
    match (folder.parent(), checkout.parent(), checkout.file_name()) {
        (Some(one), Some(other), Some(name)) if one == other => Path::new("..").join(name),
        _ => checkout.to_path_buf(),
    }
}
