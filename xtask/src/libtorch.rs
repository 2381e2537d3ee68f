//! `cargo xtask libtorch`: a libtorch that the build can use.
//!
//! The user's own `LIBTORCH` comes first, then what `.libtorch` links to, then the per-user cache,
//! which is filled from PyPI's wheels if it has to be.

mod compiler;
mod flavour;
mod found;
mod install;
mod link;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;

use crate::checkout::Checkout;
pub use flavour::Flavour;

/// What `tch`'s locked version is made for.
const VERSION: &str = "2.11.0";
const MAJOR_MINOR: &str = "2.11";

pub fn run(checkout: &Checkout, flavour: Flavour) -> anyhow::Result<ExitCode> {
    let folder = set_up(checkout, flavour)?;
    println!("libtorch {MAJOR_MINOR} is ready: {}", folder.display());
    Ok(ExitCode::SUCCESS)
}

/// Returns the folder that the build will use. Does nothing when all is in place.
pub fn set_up(checkout: &Checkout, flavour: Flavour) -> anyhow::Result<PathBuf> {
    let linked = checkout.linked_libtorch();
    // Cargo passes the value in `.cargo/config.toml` on to this process: that one is not the user's.
    let own = env::var_os("LIBTORCH").map(PathBuf::from);
    if let Some(own) = own.filter(|own| *own != linked) {
        check_own(&own, flavour)?;
        return Ok(own);
    }
    compiler::check()?;
    let fits = found::check(&linked).is_ok() && flavour.is_linked_at(&checkout.libtorch_link());
    if !fits {
        // Before a download, not after it.
        link::check_free(&checkout.libtorch_link())?;
        let home = install::installed(flavour)?;
        link::point(&checkout.libtorch_link(), &home)?;
    }
    Ok(linked)
}

fn check_own(own: &Path, flavour: Flavour) -> anyhow::Result<()> {
    let fault = if !own.is_absolute() {
        Err("is not an absolute path".to_owned())
    } else {
        found::check(own).and_then(|()| match flavour {
            Flavour::Cuda => found::check_cuda(own),
            Flavour::Cpu => Ok(()),
        })
    };
    if let Err(fault) = fault {
        bail!(
            "LIBTORCH, set to `{}`, {fault}, but libtorch {MAJOR_MINOR} is needed: point LIBTORCH \
             at one, or unset it and run `cargo xtask libtorch`, which installs one",
            own.display()
        );
    }
    Ok(())
}
