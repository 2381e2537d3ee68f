//! `cargo xtask torture`: faults at every op, a long training and killed processes, with counts of
//! what was not as it should be. `docs/reliability.md` has the figures.

use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::tools::checkout::Checkout;
use crate::tools::libtorch::Flavour;
use crate::tools::{cargo, libtorch, mpi};

/// The test that kills processes of a training, whose number is in this variable.
const KILLS: &str = "PIPE_KILLS";
const KILLING: &str = "losses::trainings_that_are_killed_again_and_again_end_as_one_that_is_not";

/// How much is done.
struct Extent {
    stride: &'static str,
    steps: &'static str,
    kills: &'static str,
}

const MINUTES: Extent = Extent { stride: "7", steps: "10000", kills: "20" };
const HOURS: Extent = Extent { stride: "1", steps: "200000", kills: "200" };

pub fn run(checkout: &Checkout, long: bool) -> anyhow::Result<ExitCode> {
    libtorch::set_up(checkout, Flavour::Cpu)?;
    for mpi in [mpi::OPEN_MPI, mpi::MPICH] {
        mpi.set_up()?;
    }
    let Extent { stride, steps, kills } = if long { HOURS } else { MINUTES };
    let mut killing = cargo::command(checkout);
    killing.args(["test", "-p", "pipe-tests", "--test", "processes", "--", "--exact", "--nocapture", KILLING]);
    killing.env(KILLS, kills);
    let mut parts = [
        ("a fault at every op", program(checkout, &["faults", "--stride", stride])),
        ("a long training", program(checkout, &["soak", "--steps", steps])),
        ("processes that are killed", killing),
    ];
    let mut failed = Vec::new();
    for (name, command) in &mut parts {
        println!("\n# {name}\n");
        // Thousands of panics are returned as errors, and need not be printed.
        let status = command.env_remove("RUST_BACKTRACE").status().context(cargo::CANNOT_START)?;
        if !status.success() {
            failed.push(*name);
        }
    }
    match failed.as_slice() {
        [] => println!("\nall parts are done, without a miss"),
        _ => println!("\nfailed: {}", failed.join(", ")),
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn program(checkout: &Checkout, args: &[&str]) -> Command {
    let mut cargo = cargo::command(checkout);
    cargo.args(["run", "--release", "--quiet", "-p", "pipe-programs", "--bin", "torture", "--"]).args(args);
    cargo
}
