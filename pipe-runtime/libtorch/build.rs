//! Refuses a libtorch or a compiler that does not fit. It does so with the feature `check`, and
//! without `doc-only`.

#[allow(dead_code, reason = "the parts for other crates")]
#[path = "src/lib.rs"]
mod libtorch;

use std::env;
use std::path::{Path, PathBuf};

use libtorch::{Lock, compiler, fit};

/// The place where torch-sys looks if no variable names another.
const SYSTEM: &str = "/usr/lib/libtorch.so";

fn main() {
    println!("cargo::rerun-if-changed=src");
    for name in ["LIBTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_USE_PYTORCH", fit::BYPASS, "CXX"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if env::var_os("CARGO_FEATURE_CHECK").is_some()
        && env::var_os("CARGO_FEATURE_DOC_ONLY").is_none()
        && let Some(folder) = folder()
        && let Err(fault) = check(&folder)
    {
        println!("cargo::error={fault}");
    }
}

/// Returns the folder that torch-sys will take its headers from, if that is known before torch-sys
/// runs. Otherwise torch-sys asks Python for a libtorch or downloads one, and reports itself what
/// is missing.
fn folder() -> Option<PathBuf> {
    if env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
        return None;
    }
    let named = ["LIBTORCH_INCLUDE", "LIBTORCH"].into_iter().find_map(env::var_os).map(PathBuf::from);
    named.or_else(|| Path::new(SYSTEM).exists().then(|| "/usr".into()))
}

fn check(folder: &Path) -> Result<(), String> {
    println!("cargo::rerun-if-changed={}", folder.join("include").join(libtorch::VERSION_HEADERS[0]).display());
    let out = env::var_os("OUT_DIR").map(PathBuf::from);
    let lock = out.and_then(|out| Lock::above(&out));
    if let Some(lock) = &lock {
        println!("cargo::rerun-if-changed={}", lock.path.display());
    }
    fit::check(folder, lock.as_ref())?;
    compiler::check(folder)
}
