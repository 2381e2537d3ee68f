//! `cargo xtask libtorch`: sets libtorch up for this checkout, or for a crate outside it.

mod user;

use std::path::Path;
use std::process::ExitCode;

use crate::tools::checkout::Checkout;
use crate::tools::libtorch::{self, Flavour};

/// Sets libtorch up for the checkout, or for the crate in `user`.
pub fn run(checkout: &Checkout, flavour: Flavour, user: Option<&Path>) -> anyhow::Result<ExitCode> {
    let user = user.map(user::workspace).transpose()?;
    let chosen = user.as_ref().unwrap_or(checkout);
    let folder = libtorch::set_up(chosen, flavour)?;
    println!("libtorch {} is ready: {}", libtorch::wheel(chosen)?.minor(), folder.display());
    if let Some(user) = user
        && folder == user.linked_libtorch()
    {
        user::advise(&user);
    }
    Ok(ExitCode::SUCCESS)
}
