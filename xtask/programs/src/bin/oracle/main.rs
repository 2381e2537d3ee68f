//! Writes the results of this library to files, for `cargo xtask oracle`, which computes the same
//! in torchgpipe and compares.
//!
//! For each case, the folder gets a safetensors file with the weights, the inputs and all results
//! of a step. The file `oracle.json` lists the cases, and what this library does where torchgpipe
//! is wrong. It also lists trainings by each optimizer, which PyTorch's own optimizers repeat.

#![forbid(unsafe_code)]

mod cases;
mod faults;
mod models;
mod optimizers;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::{Value, json};

use crate::models::{Conv, DropAll, DropInEvaluation, Mlp, Pair};

/// Runs the cases that torchgpipe runs too
#[derive(Debug, Parser)]
struct Args {
    /// The folder for the results
    folder: PathBuf,
    /// Seed of the weights and inputs
    #[arg(long, default_value = "1")]
    seed: i64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oracle: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let folder = &args.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    tch::set_num_threads(1);
    tch::manual_seed(args.seed);

    let mut cases = Vec::new();
    for case in cases::all(true) {
        cases.push(case.run::<Mlp>(folder)?);
        cases.push(case.run::<Conv>(folder)?);
        cases.push(case.run::<Pair>(folder)?);
        cases.push(case.run::<DropAll>(folder)?);
    }
    // Masks differ between any two libraries, so these models can only be compared without masks.
    for case in cases::all(false) {
        cases.push(case.run::<DropInEvaluation>(folder)?);
        cases.push(case.run::<Conv>(folder)?);
    }
    cases.sort_by_key(|case| case["model"].as_str().map(str::to_owned));
    write(
        &folder.join("oracle.json"),
        &json!({ "cases": cases, "faults": faults::all()?, "optimizers": optimizers::all(folder)? }),
    )
}

fn write(file: &Path, value: &Value) -> Result<()> {
    std::fs::write(file, format!("{value:#}\n")).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_well_formed() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn cases_differ() {
        let names: std::collections::BTreeSet<_> = cases::all(true).map(|case| format!("{case:?}")).collect();
        assert_eq!(names.len(), cases::all(true).count());
    }
}
