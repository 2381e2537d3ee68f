//! Checks whether pipelining works on this machine's GPUs, and what it costs. Runs the same small
//! models in many ways, and prints a table.
//!
//! `cargo xtask gpu-check` builds and runs it here. With `--bundle DIR`, it makes a folder that
//! runs on a machine with only libtorch. Checks that need a GPU are skipped on a machine without
//! one, and the table says so.

#![forbid(unsafe_code)]

mod memory;
mod nccl;
mod optimizer;
mod races;
mod results;
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
    /// Number of times that the search for races repeats a step, on each placement
    #[arg(long, default_value = "200")]
    repetitions: usize,
    /// Number of steps over which memory must not grow
    #[arg(long, default_value = "1000")]
    steps: usize,
    /// Number of measurements of each time; medians are shown
    #[arg(long, default_value = "20")]
    measurements: usize,
    /// Number of images in a mini-batch of the U-Net
    #[arg(long, default_value = "80")]
    unet_batch: i64,
    /// The file with torchgpipe's results of the same run, written by `unet_torchgpipe.py`
    #[arg(long)]
    torchgpipe: Option<PathBuf>,
    /// The file with PyTorch's times of an iteration with fused AdamW, written by `adamw_torch.py`
    #[arg(long)]
    adamw: Option<PathBuf>,
    /// The file for a timeline of some steps, as Chrome's trace events
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

/// Runs all checks. Returns whether none of them failed.
fn run(args: &Args) -> Result<bool> {
    let here = Devices::here();
    let gpus: Vec<_> = here.as_slice().iter().copied().filter(|&device| device != Device::Cpu).collect();
    println!("devices: {here}");
    if gpus.is_empty() {
        println!("there is no GPU: what needs one is skipped, the rest shows that the program runs");
    }

    let mut table = Table::default();
    // This check comes first, while nothing else holds memory of the device: libtorch keeps a
    // cuBLAS workspace for each stream that has been used.
    unet::check(&gpus, args.unet_batch, args.measurements, args.torchgpipe.as_deref(), &mut table)?;
    transparency::check(&gpus, &mut table)?;
    races::check(&gpus, args.repetitions, &mut table)?;
    optimizer::check(&gpus, args.measurements, args.adamw.as_deref(), &mut table)?;
    memory::check(&gpus, args.steps, &mut table)?;
    speed::check(&gpus, args.measurements, &mut table)?;
    nccl::check(&gpus, &mut table)?;
    timeline::write(&gpus, &args.timeline, &mut table)?;
    println!("{table}");
    Ok(!table.has_failures())
}
