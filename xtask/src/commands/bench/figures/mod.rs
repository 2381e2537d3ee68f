//! The figures: what they compare, and their bars.

mod advise;
mod checkpoint;
mod compile;
mod dispatch;
mod efficiency;
mod growth;
mod iteration;
mod machine;
mod memory;
mod models;
mod one_stage;
mod peaks;
mod pipelining;
mod processes;
mod recompute;
mod spared;
mod split;
mod torchgpipe;

use std::path::PathBuf;

use clap::ValueEnum;

use super::Bench;
use super::contender::Contender;
use super::duel::{Times, duel};
use super::table::Table;
use super::work::{Who, Work};
use crate::tools::checkout::Checkout;

/// A figure, which is one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Figure {
    /// The speed of the machine: one program alone, and two at once
    Machine,
    /// The overhead of an op beyond libtorch's own work
    Dispatch,
    /// The time that is lost to anything but the ops themselves
    Efficiency,
    /// Against torchgpipe and torch 2.3's Pipe
    Torchgpipe,
    /// Against torch.distributed.pipelining
    Pipelining,
    /// Over two processes
    Processes,
    /// Whole training iterations, with clipping and AdamW
    Iteration,
    /// Saving and loading
    Checkpoint,
    /// A backward in two parts beside a whole one
    Split,
    /// Peak memory
    Memory,
    /// Time over memory, with more and more recomputed
    Recompute,
    /// What is advised for a limit of memory, and what was predicted
    Advise,
    /// Values that are lent to all layers
    Models,
    /// A pipeline of one stage and one micro-batch
    OneStage,
    /// More micro-batches, more stages
    Growth,
    /// The time to build a model
    Compile,
}

impl Figure {
    pub const ALL: [Self; 16] = [
        Self::Machine,
        Self::Dispatch,
        Self::Efficiency,
        Self::Torchgpipe,
        Self::Pipelining,
        Self::Processes,
        Self::Iteration,
        Self::Checkpoint,
        Self::Split,
        Self::Memory,
        Self::Recompute,
        Self::Advise,
        Self::Models,
        Self::OneStage,
        Self::Growth,
        Self::Compile,
    ];
    /// The figures that need no peers and take less than three minutes.
    pub const QUICK: [Self; 2] = [Self::Dispatch, Self::Efficiency];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Dispatch => "dispatch",
            Self::Efficiency => "efficiency",
            Self::Torchgpipe => "torchgpipe",
            Self::Pipelining => "pipelining",
            Self::Processes => "processes",
            Self::Iteration => "iteration",
            Self::Checkpoint => "checkpoint",
            Self::Split => "split",
            Self::Memory => "memory",
            Self::Recompute => "recompute",
            Self::Advise => "advise",
            Self::Models => "models",
            Self::OneStage => "one-stage",
            Self::Growth => "growth",
            Self::Compile => "compile",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Machine => "The machine: a program alone, and two at once",
            Self::Dispatch => "Dispatch, µs per op",
            Self::Efficiency => "Efficiency, 2 stages on 2 cores",
            Self::Torchgpipe => "Against torchgpipe 0.0.7 and torch 2.3's Pipe, 2 stages, 8 micro-batches",
            Self::Pipelining => "Against torch.distributed.pipelining over Gloo, 2 stages, 8 micro-batches",
            Self::Processes => "Over two processes, 2 stages, 8 micro-batches",
            Self::Iteration => "Whole training iterations: step, clipping, AdamW, 2 stages, 8 micro-batches",
            Self::Checkpoint => "Saving and loading a checkpoint of 2 GiB",
            Self::Split => "Split backward, in times of the whole backward",
            Self::Memory => "Memory, peak of a step",
            Self::Recompute => "Time over memory, GPipe's order, 2 stages, 8 micro-batches",
            Self::Advise => "Advised for half of the memory, and predicted memory, 2 ranks",
            Self::Models => "Lent values, beside owned ones, and beside torch.distributed.pipelining",
            Self::OneStage => "One stage, one micro-batch",
            Self::Growth => "Growth",
            Self::Compile => "Rebuild of a crate with a model of 12 layers",
        }
    }

    /// The page that has the table.
    pub fn page(self, checkout: &Checkout) -> PathBuf {
        checkout.docs().join(if matches!(self, Self::Recompute | Self::Advise) {
            "memory.md"
        } else {
            "performance.md"
        })
    }

    pub fn measure(self, bench: &Bench<'_>) -> anyhow::Result<Table> {
        match self {
            Self::Machine => machine::measure(bench),
            Self::Dispatch => dispatch::measure(bench),
            Self::Efficiency => efficiency::measure(bench),
            Self::Torchgpipe => torchgpipe::measure(bench),
            Self::Pipelining => pipelining::measure(bench),
            Self::Processes => processes::measure(bench),
            Self::Iteration => iteration::measure(bench),
            Self::Checkpoint => checkpoint::measure(bench),
            Self::Split => split::measure(bench),
            Self::Memory => memory::measure(bench),
            Self::Recompute => recompute::measure(bench),
            Self::Advise => advise::measure(bench),
            Self::Models => models::measure(bench),
            Self::OneStage => one_stage::measure(bench),
            Self::Growth => growth::measure(bench),
            Self::Compile => compile::measure(bench),
        }
    }
}

/// The number of times that the contenders of a comparison are started. Where a process's memory
/// happens to be changes all of its turns by some percent.
pub const STARTS: usize = 3;

impl Bench<'_> {
    /// Runs contenders at the same work, in turns.
    fn duel(&self, who: &[Who], work: &Work) -> anyhow::Result<Times> {
        eprintln!("  {work}: {}", who.iter().map(Who::to_string).collect::<Vec<_>>().join(" | "));
        self.starts(|| self.contenders(who, work))
    }

    /// Runs the contenders that `start` starts, in turns, and restarts them several times.
    pub fn starts(&self, start: impl Fn() -> anyhow::Result<Vec<Contender>>) -> anyhow::Result<Times> {
        self.starts_with(|turns| duel(&mut start()?, turns))
    }

    /// Runs `take_turns` several times, with a part of the turns each.
    pub fn starts_with(&self, take_turns: impl Fn(usize) -> anyhow::Result<Times>) -> anyhow::Result<Times> {
        let mut times = Times::default();
        for number in 0..STARTS {
            let turns = self.turns * (number + 1) / STARTS - self.turns * number / STARTS;
            times.extend(take_turns(turns)?);
        }
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        assert_eq!(Figure::ALL, *Figure::value_variants());
        for figure in Figure::ALL {
            assert_eq!(figure.to_possible_value().unwrap().get_name(), figure.name());
        }
    }
}
