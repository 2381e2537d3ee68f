//! `cargo xtask demo`: runs the digits example, after setting up everything that it needs.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::tools::checkout::Checkout;
use crate::tools::libtorch::Flavour;
use crate::tools::mpi::OPEN_MPI;
use crate::tools::{cargo, digits, libtorch};

pub fn run(checkout: &Checkout, processes: Option<usize>, args: &[OsString]) -> anyhow::Result<ExitCode> {
    libtorch::set_up(checkout, Flavour::Cpu)?;
    digits::set_up(checkout)?;
    let Some(processes) = processes else {
        let status = cargo_run(checkout, args).status().context(cargo::CANNOT_START)?;
        return Ok(cargo::exit_code(status));
    };
    let built = cargo_build(checkout).status().context(cargo::CANNOT_START)?;
    if !built.success() {
        return Ok(cargo::exit_code(built));
    }
    let mut mpiexec = OPEN_MPI.mpiexec(processes, checkout.root.join("target/release/digits"))?;
    let status = mpiexec.args(args).status().context("cannot start `mpiexec`: run `cargo xtask mpi`")?;
    Ok(cargo::exit_code(status))
}

fn cargo_build(checkout: &Checkout) -> Command {
    let mut cargo = cargo::command(checkout);
    cargo.args(["build", "--release", "-p", "pipe-examples", "--bin", "digits"]);
    cargo
}

fn cargo_run(checkout: &Checkout, args: &[OsString]) -> Command {
    let mut cargo = cargo::command(checkout);
    cargo.args(["run", "--release", "-p", "pipe-examples", "--bin", "digits", "--"]).args(args);
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_reach_the_demo() {
        let cargo = cargo_run(&Checkout { root: "/".into() }, &["--epochs".into(), "3".into()]);
        let args: Vec<_> = cargo.get_args().collect();
        assert!(args.ends_with(&["--".as_ref(), "--epochs".as_ref(), "3".as_ref()]), "{args:?}");
    }
}
