//! Defines which libtorch fits which tch, and what a build against it needs.
//!
//! Build scripts and `cargo xtask` use this crate. It has no dependencies and does not need
//! libtorch. A crate with a program that uses `pipe-runtime` calls [`link`] in its build script.

#![forbid(unsafe_code)]

pub mod compiler;
pub mod fit;
mod lock;
mod version;

pub use lock::Lock;
pub use version::{VERSION_HEADERS, Version};

use std::env;
use std::path::Path;

/// A version of tch and the version of libtorch that it is made for, both as tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    pub tch: &'static str,
    pub libtorch: &'static str,
}

/// The pairs with which the whole test suite passes. The bounds on tch in the workspace's manifest
/// match this list.
pub const PAIRS: [Pair; 2] = [Pair { tch: "0.24.0", libtorch: "2.11.0" }, Pair { tch: "0.26.0", libtorch: "2.13.0" }];

impl Pair {
    /// Finds the pair for this version of tch or torch-sys, which have the same version numbers.
    /// The patch number is ignored.
    pub fn of_tch(tch: &str) -> Option<Self> {
        let wanted = Version::parse(tch)?;
        PAIRS.into_iter().find(|pair| Version::parse(pair.tch) == Some(wanted))
    }

    /// The version of libtorch without the patch number: any patch release fits.
    ///
    /// # Panics
    ///
    /// If `libtorch` is not a version.
    pub fn libtorch_version(self) -> Version {
        Version::parse(self.libtorch).expect("a version")
    }
}

/// Returns the compiler flags for C++ code that uses the libtorch in `folder`. They match those
/// that it was built with, where these affect its headers.
///
/// # Errors
///
/// If `ATen/ATen.h` cannot be read, or does not contain the C++ standard that it needs.
pub fn flags(folder: &Path) -> Result<Vec<String>, String> {
    let include = folder.join("include");
    let standard = compiler::Needs::of(folder)?.standard;
    Ok(vec![
        format!("-std=c++{}", standard.year()),
        "-D_GLIBCXX_USE_CXX11_ABI=1".to_owned(),
        // Without this flag, some of libtorch's classes have more members.
        "-DNDEBUG".to_owned(),
        format!("-isystem{}", include.display()),
        format!("-isystem{}", include.join("torch/csrc/api/include").display()),
    ])
}

/// Returns the compiler flags for C++ code of a crate that depends on `pipe-runtime`, with the
/// libtorch that the runtime is linked to. Call it in the crate's build script. It returns `None`
/// if the feature `doc-only` of `pipe-runtime` is enabled, and after telling Cargo what is wrong.
///
/// # Panics
///
/// If the crate does not depend on `pipe-runtime`, whose build script passes the folder on.
pub fn runtime_flags() -> Option<Vec<String>> {
    let lib = runtime_lib()?;
    let lib = Path::new(&lib);
    flags(lib.parent().unwrap_or(lib)).map_err(|fault| println!("cargo::error={fault}")).ok()
}

/// The folder with the libraries that the runtime is linked to.
fn runtime_lib() -> Option<String> {
    let lib = env::var("DEP_PIPE_RUNTIME_LIBTORCH_LIB").expect("this crate depends on pipe-runtime");
    Some(lib).filter(|lib| !lib.is_empty())
}

/// Makes the programs of a crate find libtorch in the folder where the build found it, without an
/// environment variable. Call it in the crate's build script. It does nothing if the feature
/// `doc-only` of `pipe-runtime` is enabled.
///
/// # Panics
///
/// If the crate does not depend on `pipe-runtime`, whose build script passes the folder on.
pub fn link() {
    if let Some(lib) = runtime_lib() {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_found_by_any_patch_release_of_its_tch() {
        assert_eq!(Pair::of_tch("0.24.0"), Some(PAIRS[0]));
        assert_eq!(Pair::of_tch("0.26.3"), Some(PAIRS[1]));
        assert_eq!(Pair::of_tch("0.25.0"), None);
        assert_eq!(Pair::of_tch(""), None);
    }

    /// The manifest accepts only the versions of tch that were tested.
    #[test]
    fn the_manifests_bounds_are_the_first_and_the_last_pair() {
        let manifest = include_str!("../../../Cargo.toml");
        let minor = |pair: Pair| Version::parse(pair.tch).unwrap().minor;
        let bounds = format!("\">=0.{}, <0.{}\"", minor(PAIRS[0]), minor(PAIRS[PAIRS.len() - 1]) + 1);
        for name in ["tch", "torch-sys"] {
            assert!(manifest.contains(&format!("\n{name} = {bounds}\n")), "{name} = {bounds}");
        }
    }
}
