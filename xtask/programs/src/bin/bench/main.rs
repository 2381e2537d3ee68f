//! A contender of `cargo xtask bench`: our library, or plain tch, on one of the models.
//!
//! It sets itself up from its arguments and says `ready`. Then each line on its standard input asks
//! for something:
//!
//! * `check`: a step, of which it tells the loss and the norm of all gradients (`nan` if it makes
//!   none);
//! * `turn N`: a step that does not count, and N that do, of which it tells the milliseconds, then
//!   the last one's loss.
//!
//! Between lines it sleeps. It ends with its input.

#![forbid(unsafe_code)]

mod models;
mod op_times;
mod values;
mod ways;

use std::io::{Write, stdin, stdout};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use pipe_runtime::{Checkpoint, ScheduleKind};

use crate::ways::{Contender, Way};

/// Runs a model in one way, step by step, as its standard input says
#[derive(Debug, Parser)]
pub struct Args {
    /// How to run it
    #[arg(long)]
    pub way: Way,
    /// Which model
    #[arg(long)]
    pub model: models::Name,
    /// Into how many stages it is cut
    #[arg(long, default_value = "2")]
    pub stages: usize,
    /// How many layers a stack has
    #[arg(long, default_value = "8")]
    pub layers: usize,
    /// How wide its layers are, or how wide and high images are
    #[arg(long, default_value = "64")]
    pub width: i64,
    /// Rows of a mini-batch
    #[arg(long, default_value = "8")]
    pub rows: i64,
    /// Micro-batches in a mini-batch
    #[arg(long, default_value = "1")]
    pub chunks: usize,
    /// Which micro-batches are checkpointed
    #[arg(long, default_value = "never")]
    pub checkpoint: Checkpoint,
    /// The order of a training step
    #[arg(long, default_value = "gpipe")]
    pub schedule: ScheduleKind,
}

fn main() -> ExitCode {
    // Built without, its tensors lie where what counts the C library's blocks sees them.
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
    let mut contender = models::make(args)?;
    answer("ready")?;
    for line in stdin().lines() {
        let line = line.context("cannot read what to do")?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("check", "") => answer(&check(&mut contender)?)?,
            ("turn", steps) => answer(&turn(&mut contender, steps.parse().context("how many steps?")?)?)?,
            _ => bail!("`{line}` is neither `check` nor `turn N`"),
        }
    }
    Ok(())
}

fn answer(line: &str) -> Result<()> {
    writeln!(stdout(), "{line}").context("nobody listens")
}

fn check(contender: &mut Contender) -> Result<String> {
    let step = contender.step()?;
    Ok(format!("{} {}", step.loss, contender.gradient_norm()?))
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
