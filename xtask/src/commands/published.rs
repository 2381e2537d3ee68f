//! `cargo xtask published`: measures the models of torchgpipe's benchmarks and simulates their
//! steps.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::tools::checkout::Checkout;
use crate::tools::libtorch::Flavour;
use crate::tools::{cargo, libtorch};

pub fn run(checkout: &Checkout, args: &[OsString]) -> anyhow::Result<ExitCode> {
    libtorch::set_up(checkout, Flavour::Cpu)?;
    let status = cargo_run(checkout, args).status().context(cargo::CANNOT_START)?;
    Ok(cargo::exit_code(status))
}

fn cargo_run(checkout: &Checkout, args: &[OsString]) -> Command {
    let mut cargo = cargo::command(checkout);
    // In release mode: the search simulates many thousands of steps.
    cargo.args(["run", "--release", "--quiet", "-p", "pipe-programs", "--bin", "published", "--"]).args(args);
    cargo
}
