//! Does pipelining work on this machine's GPUs, and what does it cost? Runs the same small models
//! in many ways, and prints a table.
//!
//! `cargo xtask gpu-check` builds and runs it here; with `--bundle DIR`, it makes a folder that
//! runs on a machine with libtorch alone. What a machine without a GPU cannot tell is skipped, and
//! the table says so.

#![forbid(unsafe_code)]

mod memory;
mod races;
mod small;
mod speed;
mod table;
mod timeline;
mod transparency;
mod unet;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use pipe_runtime::Devices;
use tch::Device;

use crate::table::Table;

/// Checks pipelines on this machine's GPUs
#[derive(Debug, Parser)]
#[command(name = "gpu-check")]
struct Args {
    /// How often the search for races repeats a step, on each placement
    #[arg(long, default_value = "200")]
    repetitions: usize,
    /// Over how many steps memory must not grow
    #[arg(long, default_value = "1000")]
    steps: usize,
    /// How often each time is measured; medians are shown
    #[arg(long, default_value = "20")]
    measurements: usize,
    /// Images in a mini-batch of the U-Net
    #[arg(long, default_value = "80")]
    unet_batch: i64,
    /// What torchgpipe measured in the same run, as `unet_torchgpipe.py` writes it
    #[arg(long)]
    torchgpipe: Option<PathBuf>,
    /// Where a timeline of some steps is written, as Chrome's trace events
    #[arg(long, default_value = "gpu-check.pipe-trace.json")]
    timeline: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("gpu-check: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing failed.
fn run(args: &Args) -> Result<bool> {
    let here = Devices::here();
    let gpus: Vec<_> = here.as_slice().iter().copied().filter(|&device| device != Device::Cpu).collect();
    println!("devices: {here}");
    if gpus.is_empty() {
        println!("there is no GPU: what needs one is skipped, the rest shows that the program runs");
    }

    let mut table = Table::default();
    // First, while nothing else has memory of the device: libtorch keeps a workspace of cuBLAS for
    // each stream that has been used.
    unet::check(&gpus, args.unet_batch, args.measurements, args.torchgpipe.as_deref(), &mut table)?;
    transparency::check(&gpus, &mut table)?;
    races::check(&gpus, args.repetitions, &mut table)?;
    memory::check(&gpus, args.steps, &mut table)?;
    speed::check(&gpus, args.measurements, &mut table)?;
    timeline::write(&gpus, &args.timeline, &mut table)?;
    println!("{table}");
    Ok(!table.has_failures())
}
