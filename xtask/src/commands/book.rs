//! `cargo xtask book`: builds the pages of `docs` as a website, with mdBook.

use std::io::ErrorKind;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

use crate::tools::cargo;
use crate::tools::checkout::Checkout;

pub fn run(checkout: &Checkout) -> anyhow::Result<ExitCode> {
    let mut mdbook = Command::new("mdbook");
    mdbook.arg("build").arg(checkout.docs());
    let status = match mdbook.status() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("mdbook is not on the PATH: install it with `cargo install mdbook --locked`")
        }
        status => status.context("cannot start mdbook")?,
    };
    if status.success() {
        println!("the book is in {}", checkout.root.join("book/index.html").display());
    }
    Ok(cargo::exit_code(status))
}
