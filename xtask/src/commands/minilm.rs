//! `cargo xtask minilm`: runs the example with the pretrained encoder, after fetching the model.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::tools::checkout::Checkout;
use crate::tools::libtorch::Flavour;
use crate::tools::{cargo, libtorch, minilm};

pub fn run(checkout: &Checkout, args: &[OsString]) -> anyhow::Result<ExitCode> {
    libtorch::set_up(checkout, Flavour::Cpu)?;
    let model = minilm::set_up()?;
    println!("the model is ready: {}", model.display());
    let status = cargo_run(checkout, &model, args).status().context(cargo::CANNOT_START)?;
    Ok(cargo::exit_code(status))
}

fn cargo_run(checkout: &Checkout, model: &Path, args: &[OsString]) -> Command {
    let mut cargo = cargo::command(checkout);
    // Not in release mode: libtorch does the work, and has been compiled.
    cargo.args(["run", "--quiet", "-p", "pipe-minilm", "--", "--model"]).arg(model).args(args);
    cargo
}
