//! The pairs of tch and libtorch that go together, and what a build against libtorch needs.
//!
//! Build scripts and `cargo xtask` use this crate. It has no dependencies, and needs no libtorch. A
//! crate with a program that uses `pipe-runtime` calls [`link`] in its build script.

#![forbid(unsafe_code)]

pub mod compiler;
pub mod fit;
mod lock;
mod version;

pub use lock::Lock;
pub use version::{VERSION_HEADERS, Version};

use std::env;
use std::path::Path;

/// A version of tch, and the version of libtorch that it is made for, as they were tested together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    pub tch: &'static str,
    pub libtorch: &'static str,
}

/// The pairs that the whole test suite passes with. The manifest's bounds on tch start at the first
/// pair and end at the last.
pub const PAIRS: [Pair; 2] = [Pair { tch: "0.24.0", libtorch: "2.11.0" }, Pair { tch: "0.26.0", libtorch: "2.13.0" }];

impl Pair {
    /// Finds the pair of a version of tch, or of torch-sys, which is numbered alike.
    pub fn of_tch(tch: &str) -> Option<Self> {
        let wanted = Version::parse(tch)?;
        PAIRS.into_iter().find(|pair| Version::parse(pair.tch) == Some(wanted))
    }

    /// Returns the version of libtorch without the last number, because any patch release will do.
    ///
    /// # Panics
    ///
    /// Panics if `libtorch` does not start with two numbers.
    pub fn libtorch_version(self) -> Version {
        Version::parse(self.libtorch).expect("a version")
    }
}

/// Returns the compiler flags with which C++ can use the libtorch in `folder`: those that it was
/// built with itself, as far as they show in its headers.
///
/// # Errors
///
/// Returns a message if `ATen/ATen.h` cannot be read, or does not say which C++ it needs.
pub fn flags(folder: &Path) -> Result<Vec<String>, String> {
    let include = folder.join("include");
    let standard = compiler::Needs::of(folder)?.standard;
    Ok(vec![
        format!("-std=c++{}", standard.year()),
        "-D_GLIBCXX_USE_CXX11_ABI=1".to_owned(),
        // Without it, some of libtorch's classes have more members.
        "-DNDEBUG".to_owned(),
        format!("-isystem{}", include.display()),
        format!("-isystem{}", include.join("torch/csrc/api/include").display()),
    ])
}

/// Lets the programs of the crate whose build script calls this find libtorch where the build found
/// it, without any environment variable. Does nothing with `pipe-runtime`'s feature `doc-only`.
///
/// # Panics
///
/// Panics if the crate does not depend on `pipe-runtime`, which says where libtorch is.
pub fn link() {
    let lib = env::var("DEP_PIPE_RUNTIME_LIBTORCH_LIB").expect("this crate depends on pipe-runtime");
    if !lib.is_empty() {
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

    /// The manifest's bounds on tch start and end at versions that were tested.
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
