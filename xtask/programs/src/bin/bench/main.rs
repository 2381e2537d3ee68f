//! A contender of `cargo xtask bench`: our library, or plain tch, on one of the models.
//!
//! It prepares the model that its arguments describe, and prints `ready`. Then each line on its
//! standard input is a request:
//!
//! * `check` runs a step and prints its loss and the norm of all gradients (`nan` if it computes
//!   none). If the steps are whole iterations, it runs 20 of them and prints the last loss and the
//!   norm of all parameters;
//! * `turn N` runs a step that does not count, then N steps, and prints their milliseconds and the
//!   last one's loss;
//! * `memory` runs a training step that does not count, then traces one, and prints for each rank
//!   the bytes of its peak: the measured one, and that of the trace's simulation;
//! * `busy N` runs a training step that does not count, then traces N steps, one by one, and prints
//!   how many milliseconds the last stage was busy in each, and the last one's loss.
//!
//! * `end` ends it, as the end of its input does. (Open MPI's `mpiexec` does not pass that on.)

#![forbid(unsafe_code)]

mod models;
mod op_times;
mod traced;
mod values;
mod ways;

use std::io::{Write, stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use pipe_runtime::{CheapOutputs, Checkpoint, Devices, ScheduleKind, World};

use crate::ways::{Contender, Way};

/// Runs a model in one way, step by step, as requested on its standard input
#[derive(Debug, Parser)]
pub struct Args {
    /// How to run the model
    #[arg(long)]
    pub way: Way,
    /// The model
    #[arg(long)]
    pub model: models::Name,
    /// Number of stages
    #[arg(long, default_value = "2")]
    pub stages: usize,
    /// Number of layers of a stack
    #[arg(long, default_value = "8")]
    pub layers: usize,
    /// Width of a stack's layers, width and height of images, or positions of a decoder's memory
    #[arg(long, default_value = "64")]
    pub width: i64,
    /// Number of rows of a mini-batch
    #[arg(long, default_value = "8")]
    pub rows: i64,
    /// Number of micro-batches of a mini-batch
    #[arg(long, default_value = "1")]
    pub chunks: usize,
    /// The micro-batches that are checkpointed
    #[arg(long, default_value = "never")]
    pub checkpoint: Checkpoint,
    /// The schedule of a training step
    #[arg(long, default_value = "gpipe")]
    pub schedule: ScheduleKind,
    /// The number of ranks, each with the same number of stages; one for each stage by default
    #[arg(long)]
    pub ranks: Option<usize>,
    /// Recomputes every checkpointed micro-batch, those too whose backward comes right after their
    /// forward
    #[arg(long)]
    pub recompute_every: bool,
    /// What the backward recomputes: so many blocks of each stage of a GPT; of a U-Net, the first
    /// cell, the first two, or all
    #[arg(long, default_value = "0")]
    pub recompute: usize,
    /// What is done with the outputs of cheap operators
    #[arg(long, default_value = "keep")]
    pub cheap_outputs: Cheap,
    /// Where a GPT or a U-Net is cut into two stages
    #[arg(long, default_value = "even")]
    pub cut: Cut,
    /// Writes a balance file with the stages and settings that are the fastest within
    /// `--memory-limit`, says what was chosen, and ends
    #[arg(long, value_name = "FILE", requires = "memory_limit")]
    pub advise: Option<PathBuf>,
    /// The bytes that a rank may take
    #[arg(long, value_name = "BYTES")]
    pub memory_limit: Option<u64>,
}

/// Where a model is cut into stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cut {
    /// Stages that take about equally long
    Even,
    /// Two stages, with less in the first one
    Early,
    /// Two stages, with more in the first one
    Late,
    /// As the balance file says that `--advise` has written, with its settings, over two ranks
    Advised,
}

/// What is done with the outputs of cheap operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cheap {
    /// They are kept
    Keep,
    /// Those of pointwise operators are recomputed
    Pointwise,
    /// All are recomputed
    All,
}

impl From<Cheap> for CheapOutputs {
    fn from(cheap: Cheap) -> Self {
        match cheap {
            Cheap::Keep => Self::Keep,
            Cheap::Pointwise => Self::RecomputePointwise,
            Cheap::All => Self::RecomputeAll,
        }
    }
}

impl Args {
    /// Stages on the CPU, dealt out to the processes that `mpiexec` has started.
    fn devices(&self, stages: usize) -> Result<Devices> {
        Ok(Devices::cpu(stages).across(&World::init()?)?)
    }
}

fn main() -> ExitCode {
    // Without the feature, tensors are allocated by the C library, where their blocks can be
    // counted.
    if cfg!(feature = "mimalloc") {
        pipe_runtime::keep_freed_memory();
    }
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    tch::set_num_threads(1);
    if let Some((file, limit)) = args.advise.as_ref().zip(args.memory_limit) {
        println!("{}", models::advise(args, limit, file)?);
        return Ok(());
    }
    let world = World::init()?;
    let mut contender = models::make(args)?;
    answer(&world, "ready")?;
    while let Some(line) = request(&world)? {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("check", "") => answer(&world, &check(&mut contender)?)?,
            ("memory", "") => answer(&world, &memory(&mut contender)?)?,
            ("turn", steps) => answer(&world, &turn(&mut contender, steps.parse().context("how many steps?")?)?)?,
            ("busy", steps) => answer(&world, &busy(&mut contender, steps.parse().context("how many steps?")?)?)?,
            _ => bail!("`{line}` is neither `check`, `turn N`, `memory` nor `busy N`"),
        }
    }
    Ok(())
}

/// Returns the next request, which the first process reads and tells the others; `None` at the end
/// of its input.
fn request(world: &World) -> Result<Option<String>> {
    let mut line = String::new();
    if world.is_first() {
        stdin().read_line(&mut line).context("cannot read what to do")?;
    }
    let line = String::from_utf8(world.all_gather(line.as_bytes())?.swap_remove(0))?;
    Ok(line.strip_suffix('\n').filter(|&line| line != "end").map(str::to_owned))
}

/// Answers a request, in the first process.
fn answer(world: &World, line: &str) -> Result<()> {
    if !world.is_first() {
        return Ok(());
    }
    writeln!(stdout(), "{line}").and_then(|()| stdout().flush()).context("nobody listens")
}

fn check(contender: &mut Contender) -> Result<String> {
    let (loss, norm) = contender.check()?;
    Ok(format!("{loss} {norm}"))
}

fn turn(contender: &mut Contender, steps: usize) -> Result<String> {
    let mut step = contender.step()?;
    let mut times = String::new();
    for _ in 0..steps {
        step = contender.step()?;
        times += &format!("{} ", step.milliseconds);
    }
    Ok(format!("{times}{}", step.loss))
}

fn memory(contender: &mut Contender) -> Result<String> {
    contender.step()?;
    let peaks = contender.traced()?.peaks()?;
    Ok(peaks.iter().map(|(measured, simulated)| format!("{measured} {simulated}")).collect::<Vec<_>>().join(" "))
}

fn busy(contender: &mut Contender, steps: usize) -> Result<String> {
    contender.step()?;
    let mut times = String::new();
    let mut loss = f64::NAN;
    for _ in 0..steps {
        let step = contender.traced()?.busy()?;
        times += &format!("{} ", step.milliseconds);
        loss = step.loss;
    }
    Ok(format!("{times}{loss}"))
}
