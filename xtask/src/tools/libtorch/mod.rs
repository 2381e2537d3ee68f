//! Provides a libtorch that the build can use.
//!
//! The tch in the lock file determines the version. The user's own `LIBTORCH` comes first, then the
//! target of `.libtorch`, then the per-user cache, which is filled from PyPI's wheels if necessary.

mod flavour;
mod found;
mod install;
mod link;
mod wheel;

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use pipe_libtorch::compiler::Compiler;
use pipe_libtorch::{Lock, Pair};

use crate::tools::checkout::Checkout;
pub use flavour::Flavour;
pub use install::cached;
pub use wheel::{WHEELS, Wheel};

/// Returns the folder that the build will use. Does nothing if everything is in place.
pub fn set_up(checkout: &Checkout, flavour: Flavour) -> anyhow::Result<PathBuf> {
    set_up_wheel(checkout, wheel(checkout)?, flavour)
}

/// Sets up this libtorch, for any tch; see [`set_up`].
pub fn set_up_wheel(checkout: &Checkout, wheel: &Wheel, flavour: Flavour) -> anyhow::Result<PathBuf> {
    let linked = checkout.linked_libtorch();
    // Cargo passes the value in `.cargo/config.toml` to this process. That value is not the user's
    // setting.
    let configured = [&linked, &Checkout::find().linked_libtorch()].map(Clone::clone);
    let own = env::var_os("LIBTORCH").map(PathBuf::from);
    if let Some(own) = own.filter(|own| !configured.contains(own)) {
        check_own(&own, wheel, flavour)?;
        return Ok(own);
    }
    let compiler = Compiler::find().map_err(|fault| anyhow!(fault))?;
    let fits = found::check(&linked, wheel.minor()).is_ok() && flavour.is_linked_at(&checkout.libtorch_link());
    if !fits {
        // Check this before a download.
        link::check_free(&checkout.libtorch_link())?;
        let home = install::installed(wheel, flavour)?;
        link::point(&checkout.libtorch_link(), &home)?;
    }
    compiler.check(&linked).map_err(|fault| anyhow!(fault))?;
    Ok(linked)
}

/// The libtorch that the checkout's tch is made for.
pub fn wheel(checkout: &Checkout) -> anyhow::Result<&'static Wheel> {
    let root = checkout.root.display();
    let lock = Lock::in_folder(&checkout.root).with_context(|| {
        format!("there is no Cargo.lock with tch in {root}: restore it, or run `cargo update` there")
    })?;
    let pair = Pair::of_tch(&lock.tch)
        .with_context(|| format!("{} has tch {}, which has not been tried", lock.path.display(), lock.tch))?;
    Wheel::of(pair.libtorch).with_context(|| format!("libtorch {} is not among the known wheels", pair.libtorch))
}

fn check_own(own: &Path, wheel: &Wheel, flavour: Flavour) -> anyhow::Result<()> {
    let needed = wheel.minor();
    let fault = if !own.is_absolute() {
        Err("is not an absolute path".to_owned())
    } else {
        found::check(own, needed).and_then(|()| match flavour {
            Flavour::Cuda => found::check_cuda(own),
            Flavour::Cpu => Ok(()),
        })
    };
    if let Err(fault) = fault {
        bail!(
            "LIBTORCH, set to `{}`, {fault}, but libtorch {needed} is needed: point LIBTORCH at one, or \
             unset it and run `cargo xtask libtorch`, which installs one",
            own.display()
        );
    }
    Compiler::find().and_then(|compiler| compiler.check(own)).map_err(|fault| anyhow!(fault))
}
