//! Trains a small residual network on handwritten digits, as a pipeline of four stages on the CPU.
//! Then shows that a step is equal, bit by bit, to a step of the same network run unpipelined.
//!
//! Get the data with `cargo xtask data`, then run
//! `cargo run --release -p pipe-examples --bin digits`.
//!
//! The code that is specific to a pipeline is in `model.rs` (the annotated struct), and in `run`
//! below.

#![forbid(unsafe_code)]

mod compare;
mod memory;
mod model;
mod pictures;
mod train;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use pipe_examples::digits;
use pipe_runtime::{Checkpoint, Devices, World};
use tch::{Device, Kind};

use crate::compare::Verdict;
use crate::model::{Digits, DigitsVars};
use crate::train::Course;

/// Trains a pipelined network on handwritten digits
#[derive(Debug, Parser)]
struct Args {
    /// One device for each of the four stages, or one for all of them [default: the annotated ones]
    #[arg(long, value_parser = devices)]
    devices: Option<Devices>,
    /// Maximum number of micro-batches per mini-batch [default: as annotated]
    #[arg(long)]
    chunks: Option<NonZeroUsize>,
    /// Which micro-batches are checkpointed: always, except_last or never [default: as annotated]
    #[arg(long)]
    checkpoint: Option<Checkpoint>,
    /// Bytes that each rank may take, such as `24MiB`: schedule, chunks, checkpoint mode and what
    /// is recomputed are then chosen by measurement
    #[arg(long, value_parser = memory::size, conflicts_with_all = ["chunks", "checkpoint"])]
    memory: Option<u64>,
    /// Number of passes over the training images
    #[arg(long, default_value = "15")]
    epochs: NonZeroUsize,
    /// Images per mini-batch
    #[arg(long, default_value = "128", value_parser = clap::value_parser!(i64).range(1..))]
    batch: i64,
    /// Seed of the weights, the order of the images, and dropout
    #[arg(long, default_value = "1", allow_negative_numbers = true)]
    seed: i64,
    /// Folder for pictures of a training step and its trace [default: target/digits in the
    /// checkout]
    #[arg(long)]
    pictures: Option<PathBuf>,
    /// Folder for a checkpoint after each epoch
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<PathBuf>,
    /// Go on from the newest checkpoint
    #[arg(long, requires = "checkpoint_dir")]
    resume: bool,
    /// End after this epoch
    #[arg(long, value_name = "EPOCH")]
    stop_after: Option<NonZeroUsize>,
    /// File of the digits, as gzipped lines of 64 pixels and a label [default: the file that `cargo
    /// xtask data` writes]
    #[arg(long)]
    data: Option<PathBuf>,
}

/// Parses a list such as `cpu,cpu,cpu,cpu`. A single device stands for all stages.
fn devices(text: &str) -> pipe_runtime::Result<Devices> {
    if text.contains(',') { text.parse() } else { [text; Digits::STAGES].join(",").parse() }
}

fn main() -> ExitCode {
    pipe_runtime::keep_freed_memory();
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("digits: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let (train, test) = digits::split(&digits::load(args.data.as_deref())?)?;
    // The stages run in parallel, so each tensor operation gets a single thread.
    tch::set_num_threads(1);
    tch::manual_seed(args.seed);

    // The processes that `mpiexec` has started; one, without it.
    let world = World::init()?;
    let devices = args.devices.clone().unwrap_or_else(Digits::devices).across(&world)?;
    let vars = Digits::vars(&devices)?;
    let [train, test] = [train, test].map(|set| set.to_device(vars.var_store().device()));
    let mut model = Digits::new(&vars);
    let choice = match args.memory {
        Some(_) if world.size() > 1 => bail!("--memory measures in one process: leave out --processes"),
        Some(limit) => {
            let (same, choice) = memory::choose(model, &vars, &train.first(args.batch), limit)?;
            model = same;
            Some(choice)
        }
        None => None,
    };
    let builder = model.pipe(&vars).chunks(args.chunks.map(NonZeroUsize::get)).checkpoint(args.checkpoint);
    let builder = match &choice {
        Some(choice) => choice.apply(builder),
        None => builder,
    };
    let pipe = builder.intra_op_threads(1).build()?;

    let parameters: usize = vars.var_store().trainable_variables().iter().map(|parameter| parameter.numel()).sum();
    if world.is_first() {
        println!("{}", Digits::PLAN);
        println!(
            "devices {devices}; chunks {}; checkpoint {}; {parameters} parameters\n",
            pipe.chunks(),
            pipe.checkpoint()
        );
    }

    let course = Course {
        epochs: args.epochs.get(),
        batch: args.batch,
        rate: 3e-3,
        stop_after: args.stop_after.map(NonZeroUsize::get),
        checkpoints: args.checkpoint_dir.clone(),
        resume: args.resume,
        prints: world.is_first(),
    };
    let last = vars.devices().pop().unwrap_or(Device::Cpu);
    let (mut pipe, accuracy) = course.run(pipe, last, &train, &test)?;
    let Some(accuracy) = accuracy else {
        if world.is_first() {
            println!("digits: stopped before the last epoch");
        }
        return Ok(ExitCode::SUCCESS);
    };
    let parameters = hash(&vars, &world)?;

    let batch = train.first(args.batch);
    let (stages, micro_batches) = (Digits::STAGES, micro_batches(batch.rows() as usize, pipe.chunks()));
    let verdict = if world.size() == 1 {
        let trace = pictures::record(&mut pipe, &batch, last)?;
        println!("\n{trace}\n{}", pipe.memory()?);
        pictures::draw(&trace, &args.pictures.clone().unwrap_or_else(pictures::default_folder))?;
        // The unpipelined step adds the micro-batches' gradients in GPipe's order.
        let pipe = match &choice {
            Some(choice) => choice.apply_but_schedule(pipe.into_inner().pipe(&vars)).intra_op_threads(1).build()?,
            None => pipe,
        };
        compare::compare(pipe, &vars, &batch, args.seed)?
    } else {
        compare::compare_over(&world, pipe, &vars, &batch, args.seed)?
    };
    if world.is_first() {
        println!(
            "digits: test accuracy {accuracy:.3}, {stages} stages, {micro_batches} micro-batches, identical to unpipelined: {verdict}, parameters {parameters:016x}"
        );
    }
    Ok(if matches!(verdict, Verdict::Different { .. }) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A hash of the hashes of all variables, in the order of their names. Each process has its own.
fn hash(vars: &DigitsVars, world: &World) -> Result<u64> {
    let mut hashes = Vec::new();
    for (name, variable) in vars.select("*")? {
        if !vars.is_here(&name) {
            hashes.extend(0_u64.to_le_bytes());
            continue;
        }
        // Every number of the model's kinds is one of these, with all of its bits.
        let numbers: Vec<f64> =
            variable.detach().to_device(Device::Cpu).to_kind(Kind::Double).flatten(0, -1).try_into()?;
        let bytes = numbers.iter().flat_map(|number| number.to_bits().to_le_bytes());
        hashes.extend(fnv1a(bytes).to_le_bytes());
    }
    let of_processes = world.all_gather(&hashes)?;
    // A variable that is elsewhere counts as 0.
    let together = (0..hashes.len()).map(|place| of_processes.iter().fold(0, |all, own| all | own[place]));
    Ok(fnv1a(together))
}

fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Number of micro-batches of `rows` rows. Each has `rows / chunks` rows, rounded up, except the
/// last one, which has the rest.
fn micro_batches(rows: usize, chunks: usize) -> usize {
    rows.div_ceil(rows.div_ceil(chunks))
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
    fn one_device_stands_for_all_stages() {
        assert_eq!(devices("cpu").unwrap(), Devices::cpu(4));
        assert_eq!(devices("cpu,cuda:0").unwrap(), "cpu,cuda:0".parse().unwrap());
        assert!(devices("gpu").is_err());
    }

    #[test]
    fn fewer_rows_than_chunks_make_fewer_micro_batches() {
        assert_eq!(micro_batches(128, 8), 8);
        assert_eq!(micro_batches(10, 8), 5);
        assert_eq!(micro_batches(3, 8), 3);
    }
}
