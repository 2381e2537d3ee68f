//! `cargo xtask oracle`: runs the same steps here and in torchgpipe, and compares them. It is not a
//! test, because it needs some gigabytes more.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::tools::checkout::Checkout;
use crate::tools::libtorch::Flavour;
use crate::tools::{cargo, environment, libtorch};

pub fn run(checkout: &Checkout) -> anyhow::Result<ExitCode> {
    libtorch::set_up(checkout, Flavour::Cpu)?;
    let mut python = environment::TORCHGPIPE.python()?;
    let results = checkout.oracle();
    let status = cargo_run(checkout, &results).status().context(cargo::CANNOT_START)?;
    if !status.success() {
        return Ok(cargo::exit_code(status));
    }
    python.arg(checkout.root.join("xtask/oracle/compare.py")).arg(&results);
    let status = python.status().with_context(|| format!("cannot start {}", python.get_program().display()))?;
    Ok(cargo::exit_code(status))
}

/// Writes the results of our side to files.
fn cargo_run(checkout: &Checkout, results: &Path) -> Command {
    let mut cargo = cargo::command(checkout);
    // Not in release mode, because the tests have built everything except the last step.
    cargo.args(["run", "--quiet", "-p", "pipe-programs", "--bin", "oracle", "--"]).arg(results);
    cargo
}
