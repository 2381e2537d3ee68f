//! Checks a folder that should hold libtorch. The text of an error follows the folder's name.

use std::fs;
use std::path::Path;

use pipe_libtorch::Version;

use super::Flavour;

type Checked = Result<(), String>;

/// Checks that `folder` is a libtorch of the needed version: unpacked from pytorch.org, or a
/// wheel's `torch` folder.
pub fn check(folder: &Path, needed: Version) -> Checked {
    if !has_library(folder, "libtorch_cpu") {
        return Err("has no lib/libtorch_cpu in it".to_owned());
    }
    if !folder.join("include").is_dir() {
        return Err("has no headers in include/".to_owned());
    }
    match Version::of_libtorch(folder) {
        None => Err("does not say its version in include/torch/headeronly/version.h".to_owned()),
        Some(version) if version == needed => Ok(()),
        Some(version) => Err(format!("holds libtorch {version}")),
    }
}

pub fn check_cuda(folder: &Path) -> Checked {
    if has_library(folder, "libtorch_cuda") { Ok(()) } else { Err("is built without CUDA".to_owned()) }
}

/// Checks that the libraries of other wheels are where the `torch` folder in `home` looks for them.
pub fn check_companions(home: &Path, flavour: Flavour) -> Checked {
    match flavour.companions().iter().find(|start| !exists(&home.join(start))) {
        None => Ok(()),
        Some(missing) => Err(format!("has no {missing}")),
    }
}

fn has_library(folder: &Path, name: &str) -> bool {
    ["so", "dylib"].iter().any(|suffix| folder.join(format!("lib/{name}.{suffix}")).is_file())
}

/// Whether a file's path starts like this.
fn exists(start: &Path) -> bool {
    let (Some(folder), Some(name)) = (start.parent(), start.file_name()) else {
        return false;
    };
    let name = name.as_encoded_bytes();
    fs::read_dir(folder)
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().as_encoded_bytes().starts_with(name)))
}
