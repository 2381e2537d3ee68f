//! What a folder holds that is said to be libtorch. A fault is worded to follow the folder's name.

use std::fs;
use std::path::Path;

use super::{Flavour, MAJOR_MINOR};

type Checked = Result<(), String>;

/// Whether `folder` is a libtorch of the version needed, either unpacked from pytorch.org or a
/// wheel's `torch` folder.
pub fn check(folder: &Path) -> Checked {
    if !has_library(folder, "libtorch_cpu") {
        return Err("has no lib/libtorch_cpu in it".to_owned());
    }
    if !folder.join("include").is_dir() {
        return Err("has no headers in include/".to_owned());
    }
    match version_at(folder) {
        None => Err("does not say its version in build-version or version.py".to_owned()),
        Some(version) if is_needed(&version) => Ok(()),
        Some(version) => Err(format!("holds libtorch {version}")),
    }
}

pub fn check_cuda(folder: &Path) -> Checked {
    if has_library(folder, "libtorch_cuda") { Ok(()) } else { Err("is built without CUDA".to_owned()) }
}

/// Whether the libraries of other wheels lie where the `torch` folder in `home` looks for them.
pub fn check_companions(home: &Path, flavour: Flavour) -> Checked {
    match flavour.companions().iter().find(|start| !exists(&home.join(start))) {
        None => Ok(()),
        Some(missing) => Err(format!("has no {missing}")),
    }
}

fn has_library(folder: &Path, name: &str) -> bool {
    ["so", "dylib"].iter().any(|suffix| folder.join(format!("lib/{name}.{suffix}")).is_file())
}

/// Whether some file's path starts like this.
fn exists(start: &Path) -> bool {
    let (Some(folder), Some(name)) = (start.parent(), start.file_name()) else {
        return false;
    };
    let name = name.as_encoded_bytes();
    fs::read_dir(folder)
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().as_encoded_bytes().starts_with(name)))
}

fn version_at(folder: &Path) -> Option<String> {
    let read = |name| fs::read_to_string(folder.join(name)).ok();
    let plain = read("build-version").map(|text| text.trim().to_owned());
    plain.or_else(|| python_version(&read("version.py")?).map(str::to_owned))
}

/// `2.11.0+cu130` from a line like `__version__ = '2.11.0+cu130'`.
fn python_version(source: &str) -> Option<&str> {
    let line = source.lines().find(|line| line.starts_with("__version__"))?;
    let (_, value) = line.split_once('=')?;
    Some(value.trim().trim_matches(['\'', '"']))
}

fn is_needed(version: &str) -> bool {
    version.strip_prefix(MAJOR_MINOR).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_a_wheels_version_py() {
        let source = "from typing import Optional\n\n__all__ = ['__version__']\n\
                      __version__ = '2.11.0+cu130'\ndebug = False\n";
        assert_eq!(python_version(source), Some("2.11.0+cu130"));
        assert_eq!(python_version("__version__: str = \"2.9.1\""), Some("2.9.1"));
        assert_eq!(python_version("debug = False"), None);
    }

    #[test]
    fn every_build_of_the_needed_version_is_accepted() {
        for version in ["2.11.0", "2.11.1", "2.11.0+cu130", "2.11.0+cpu", "2.11"] {
            assert!(is_needed(version), "{version}");
        }
    }

    #[test]
    fn another_version_is_not_accepted() {
        for version in ["2.1.1", "2.10.0", "2.110.0", "2.12.0", "12.11.0", ""] {
            assert!(!is_needed(version), "{version}");
        }
    }
}
