//! The work of a benchmark, and its contenders.

use std::fmt;
use std::path::Path;
use std::process::Command;

use super::Bench;
use super::contender::Contender;
use crate::tools::environment::{self, Environment};
use crate::tools::mpi;

/// A model, its mini-batch, and how both are split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    pub model: Model,
    pub stages: usize,
    /// Rows of the mini-batch.
    pub rows: usize,
    /// Micro-batches.
    pub chunks: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Linear and ReLU, repeated.
    Mlp {
        width: usize,
        layers: usize,
    },
    /// One layer per stage, with almost no work.
    Trivial,
    /// U-Net(3, 2, 8) on square images.
    Unet {
        side: usize,
    },
    Gpt,
    /// Twelve decoder layers with a mask and a memory of so many positions, which are lent to them,
    /// or which each has.
    Decoder {
        lends: bool,
        memory: usize,
    },
    /// Twelve GPT layers with a mask, which is lent to them, or which each has.
    MaskedGpt {
        lends: bool,
    },
}

/// Equal layers with enough work.
pub const MLP: Work = Work { model: Model::Mlp { width: 512, layers: 8 }, stages: 2, rows: 256, chunks: 8 };
/// Layers so small that the overhead around them matters.
pub const SMALL_MLP: Work = Work { model: Model::Mlp { width: 64, layers: 8 }, stages: 2, rows: 64, chunks: 8 };
pub const UNET: Work = Work { model: Model::Unet { side: 96 }, stages: 2, rows: 16, chunks: 8 };
/// Layers whose parameters are large beside their work.
pub const WIDE_MLP: Work = Work { model: Model::Mlp { width: 1024, layers: 8 }, stages: 2, rows: 256, chunks: 8 };
pub const DECODER: Work = Work { model: Model::Decoder { lends: true, memory: 64 }, stages: 2, rows: 16, chunks: 8 };
/// Layers for which the memory is much to hand on: it is eight times as long as what they decode.
pub const LONG_DECODER: Work = Work { model: Model::Decoder { lends: true, memory: 512 }, ..DECODER };
pub const MASKED_GPT: Work = Work { model: Model::MaskedGpt { lends: true }, ..DECODER };
pub const GPT: Work = Work { model: Model::Gpt, stages: 2, rows: 16, chunks: 8 };

impl Model {
    /// The same model, whose layers have what is lent to those of this one.
    pub fn owned(self) -> Self {
        match self {
            Self::Decoder { memory, .. } => Self::Decoder { lends: false, memory },
            Self::MaskedGpt { .. } => Self::MaskedGpt { lends: false },
            lends_nothing => lends_nothing,
        }
    }
}

impl Work {
    fn args(&self) -> Vec<String> {
        let (model, layers, width) = match self.model {
            Model::Mlp { width, layers } => ("mlp", layers, width),
            Model::Trivial => ("trivial", self.stages, 4),
            Model::Unet { side } => ("unet", 0, side),
            Model::Gpt => ("gpt", 0, 0),
            Model::Decoder { lends: true, memory } => ("decoder-lent", 0, memory),
            Model::Decoder { lends: false, memory } => ("decoder-owned", 0, memory),
            Model::MaskedGpt { lends: true } => ("masked-gpt-lent", 0, 0),
            Model::MaskedGpt { lends: false } => ("masked-gpt-owned", 0, 0),
        };
        let numbers = [
            ("--stages", self.stages),
            ("--layers", layers),
            ("--width", width),
            ("--rows", self.rows),
            ("--chunks", self.chunks),
        ];
        let model = ["--model".to_owned(), model.to_owned()];
        let numbers = numbers.into_iter().flat_map(|(name, number)| [name.to_owned(), number.to_string()]);
        model.into_iter().chain(numbers).collect()
    }

    /// The number of forwards and backwards of a schedule.
    pub fn ops(&self) -> f64 {
        (2 * self.stages * self.chunks) as f64
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.model {
            Model::Mlp { width, layers } => write!(f, "{layers} × Linear({width})+ReLU, batch {}", self.rows),
            Model::Trivial => write!(f, "{} stages, {} micro-batches", self.stages, self.chunks),
            Model::Unet { side } => write!(f, "U-Net(3, 2, 8), {} images of {side}×{side}", self.rows),
            Model::Gpt => write!(f, "GPT, {} × 128 tokens", self.rows),
            Model::Decoder { memory, .. } => {
                write!(f, "12 decoder layers, {} × 64 positions, memory of {memory}, {} stages", self.rows, self.stages)
            }
            Model::MaskedGpt { .. } => {
                write!(f, "12 GPT layers, {} × 64 positions, {} stages", self.rows, self.stages)
            }
        }
    }
}

/// What our `forward` and `backward()` keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    pub checkpoint: &'static str,
    /// What is done with cheap outputs: `keep`, `pointwise` or `all`.
    pub cheap_outputs: &'static str,
    /// The layers that are recomputed: blocks of each stage of the GPT; of the U-Net, the first
    /// cell, the first two, or all.
    pub recompute: usize,
}

impl fmt::Display for Keeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { checkpoint, cheap_outputs, recompute } = self;
        f.write_str(checkpoint)?;
        if *cheap_outputs != "keep" {
            write!(f, ", {cheap_outputs} cheap outputs")?;
        }
        if *recompute > 0 {
            write!(f, ", recompute {recompute}")?;
        }
        Ok(())
    }
}

/// What there is to choose of a training step that does not keep the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub schedule: &'static str,
    pub keeping: Keeping,
    /// Where the model is cut into two stages: `even`, `early` or `late`.
    pub cut: &'static str,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { schedule, keeping, cut } = self;
        write!(f, "{schedule}, {keeping}")?;
        if *cut != "even" {
            write!(f, ", {cut} cut")?;
        }
        Ok(())
    }
}

/// A contender, and its way to run. Checkpoint modes and schedules have the same names everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Our `forward` and `backward()` in this checkpoint mode.
    Ours(&'static str),
    /// The same with cheap outputs or layers recomputed.
    OursKeeping(Keeping),
    /// Our training step in this schedule, which keeps the output.
    OurStep(&'static str),
    /// The same without keeping the output.
    OurStepWithoutOutput(&'static str),
    /// The same with these settings, on two ranks.
    OurSetting(Setting),
    /// The same with the stages and settings of the balance file that was built in.
    OurAdvised,
    /// The same on two ranks, each with the same number of stages.
    OurStepOnTwoRanks(&'static str),
    /// Our training step in 1F1B with every micro-batch checkpointed.
    OurCheckpointed,
    /// The same where the last stage recomputes too, which keeps what it is about to need.
    OurCheckpointedEvery,
    /// Our training step over two processes, which Open MPI starts.
    OurProcesses(&'static str),
    /// A whole training iteration of ours in this schedule: step, clipping, AdamW.
    OurIteration(&'static str),
    /// The same with tch's optimizer.
    TchIteration(&'static str),
    /// Our clipping and AdamW alone.
    OurUpdate,
    /// Those of tch.
    TchUpdate,
    /// The same layers in plain tch, on the whole mini-batch.
    PlainTch,
    /// The forward of the same.
    PlainForward,
    /// Unpipelined, micro-batch after micro-batch.
    Unpipelined,
    /// The simulated makespan of the schedule, from measured op times.
    Simulated(&'static str),
    /// The makespan with equal stages.
    Bound,
    /// Libtorch in C++, with one graph per stage and micro-batch.
    BareCut,
    /// The same as one graph.
    BareUncut,
    Torchgpipe(&'static str),
    /// `torch.distributed.pipeline.sync.Pipe` of torch 2.3.
    TorchPipe(&'static str),
    /// `torch.distributed.pipelining` in this schedule, of our libtorch's version.
    Pipelining(&'static str),
    /// The same with the newest torch.
    NewestPipelining(&'static str),
    /// The newest torch's GPipe, with so many blocks of each stage in `torch.utils.checkpoint`.
    TorchCheckpoint(usize),
    /// A whole training iteration of the newest torch: fused AdamW, a norm over all ranks.
    NewestPipeliningIteration(&'static str),
    /// A whole training iteration of torchgpipe: fused AdamW.
    TorchgpipeIteration(&'static str),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(checkpoint) => write!(f, "ours, {checkpoint}"),
            Self::OursKeeping(keeping) => write!(f, "ours, {keeping}"),
            Self::OurStep(schedule) => write!(f, "our train_step, {schedule}"),
            Self::OurStepWithoutOutput(schedule) => write!(f, "our train_step without the output, {schedule}"),
            Self::OurSetting(setting) => write!(f, "ours, {setting}"),
            Self::OurAdvised => f.write_str("ours, advised"),
            Self::OurStepOnTwoRanks(schedule) => write!(f, "our train_step on two ranks, {schedule}"),
            Self::OurCheckpointed => f.write_str("our train_step, 1f1b, always"),
            Self::OurCheckpointedEvery => f.write_str("our train_step, 1f1b, every micro-batch recomputed"),
            Self::OurProcesses(schedule) => write!(f, "our train_step over two processes, {schedule}"),
            Self::OurIteration(schedule) => write!(f, "our iteration, {schedule}"),
            Self::TchIteration(schedule) => write!(f, "iteration with tch's optimizer, {schedule}"),
            Self::OurUpdate => f.write_str("our clipping and AdamW"),
            Self::TchUpdate => f.write_str("tch's clipping and AdamW"),
            Self::PlainTch => f.write_str("plain tch"),
            Self::PlainForward => f.write_str("plain tch forward"),
            Self::Unpipelined => f.write_str("unpipelined"),
            Self::Simulated(schedule) => write!(f, "simulated {schedule}"),
            Self::Bound => f.write_str("bubble bound"),
            Self::BareCut => f.write_str("bare libtorch, cut"),
            Self::BareUncut => f.write_str("bare libtorch, uncut"),
            Self::Torchgpipe(checkpoint) => write!(f, "torchgpipe, {checkpoint}"),
            Self::TorchPipe(checkpoint) => write!(f, "torch 2.3 Pipe, {checkpoint}"),
            Self::Pipelining(schedule) => write!(f, "torch 2.11 pipelining, {schedule}"),
            Self::NewestPipelining(schedule) => write!(f, "torch 2.15 pipelining, {schedule}"),
            Self::TorchCheckpoint(0) => f.write_str("torch 2.15 pipelining"),
            Self::TorchCheckpoint(blocks) => write!(f, "torch 2.15 pipelining, checkpoint by hand of {blocks}"),
            Self::NewestPipeliningIteration(schedule) => write!(f, "iteration of torch 2.15 pipelining, {schedule}"),
            Self::TorchgpipeIteration(checkpoint) => write!(f, "iteration of torchgpipe, {checkpoint}"),
        }
    }
}

impl Bench<'_> {
    /// Starts one contender.
    pub fn contender(&self, who: Who, work: &Work) -> anyhow::Result<Contender> {
        Contender::start(self.checkout, &who.to_string(), self.command(who, work)?)
    }

    /// Starts the contenders of this work.
    pub fn contenders(&self, who: &[Who], work: &Work) -> anyhow::Result<Vec<Contender>> {
        who.iter().map(|&who| self.contender(who, work)).collect()
    }

    fn command(&self, who: Who, work: &Work) -> anyhow::Result<Command> {
        self.command_of(&self.programs.ours, who, work)
    }

    /// The same, with `ours` as our program.
    pub fn command_of(&self, ours: &Path, who: Who, work: &Work) -> anyhow::Result<Command> {
        let program = ours;
        let ours = || Command::new(program);
        let (mut command, way, setting) = match who {
            Who::Ours(checkpoint) => (ours(), "forward-backward", Some(("--checkpoint", checkpoint))),
            Who::OursKeeping(keeping) => {
                let mut ours = ours();
                ours.args(["--cheap-outputs", keeping.cheap_outputs, "--recompute", &keeping.recompute.to_string()]);
                (ours, "forward-backward", Some(("--checkpoint", keeping.checkpoint)))
            }
            Who::OurStep(schedule) => (ours(), "train-step-output", Some(("--schedule", schedule))),
            Who::OurStepWithoutOutput(schedule) => (ours(), "train-step", Some(("--schedule", schedule))),
            Who::OurSetting(Setting { schedule, keeping, cut }) => {
                let mut ours = ours();
                ours.args(["--ranks", "2", "--checkpoint", keeping.checkpoint, "--cut", cut]);
                ours.args(["--cheap-outputs", keeping.cheap_outputs, "--recompute", &keeping.recompute.to_string()]);
                (ours, "train-step", Some(("--schedule", schedule)))
            }
            Who::OurAdvised => (ours(), "train-step", Some(("--cut", "advised"))),
            Who::OurStepOnTwoRanks(schedule) => {
                let mut ours = ours();
                ours.args(["--ranks", "2"]);
                (ours, "train-step", Some(("--schedule", schedule)))
            }
            Who::OurCheckpointed | Who::OurCheckpointedEvery => {
                let mut ours = ours();
                ours.args(["--checkpoint", "always"]);
                if who == Who::OurCheckpointedEvery {
                    ours.arg("--recompute-every");
                }
                (ours, "train-step", Some(("--schedule", "1f1b")))
            }
            Who::OurProcesses(schedule) => {
                (mpi::OPEN_MPI.mpiexec(2, program)?, "train-step", Some(("--schedule", schedule)))
            }
            Who::OurIteration(schedule) => (ours(), "iteration", Some(("--schedule", schedule))),
            Who::TchIteration(schedule) => (ours(), "iteration-tch", Some(("--schedule", schedule))),
            Who::OurUpdate => (ours(), "update", None),
            Who::TchUpdate => (ours(), "update-tch", None),
            Who::PlainTch => (ours(), "plain", None),
            Who::PlainForward => (ours(), "plain-forward", None),
            Who::Unpipelined => (ours(), "unpipelined", None),
            Who::Simulated(schedule) => (ours(), "simulated", Some(("--schedule", schedule))),
            Who::Bound => (ours(), "bound", None),
            Who::BareCut => (Command::new(&self.programs.bare), "cut", None),
            Who::BareUncut => (Command::new(&self.programs.bare), "uncut", None),
            Who::Torchgpipe(checkpoint) => {
                let python = self.python(&environment::TORCHGPIPE, "one_process.py")?;
                (python, "torchgpipe", Some(("--checkpoint", checkpoint)))
            }
            Who::TorchPipe(checkpoint) => {
                let python = self.python(&environment::TORCH_PIPE, "one_process.py")?;
                (python, "pipe", Some(("--checkpoint", checkpoint)))
            }
            Who::Pipelining(schedule) => {
                let python = self.python(&environment::TORCHGPIPE, "pipelining.py")?;
                (python, "pipelining", Some(("--schedule", schedule)))
            }
            Who::NewestPipelining(schedule) => {
                let python = self.python(&environment::NEWEST_TORCH, "pipelining.py")?;
                (python, "pipelining", Some(("--schedule", schedule)))
            }
            Who::TorchCheckpoint(blocks) => {
                let mut python = self.python(&environment::NEWEST_TORCH, "pipelining.py")?;
                python.args(["--recompute", &blocks.to_string()]);
                (python, "pipelining", Some(("--schedule", "gpipe")))
            }
            Who::NewestPipeliningIteration(schedule) => {
                let python = self.python(&environment::NEWEST_TORCH, "pipelining.py")?;
                (python, "iteration", Some(("--schedule", schedule)))
            }
            Who::TorchgpipeIteration(checkpoint) => {
                let python = self.python(&environment::TORCHGPIPE, "one_process.py")?;
                (python, "iteration", Some(("--checkpoint", checkpoint)))
            }
        };
        command.args(["--way", way]).args(work.args());
        if let Some((name, value)) = setting {
            command.args([name, value]);
        }
        // Each stage has one thread.
        command.env("OMP_NUM_THREADS", "1");
        Ok(command)
    }

    fn python(&self, environment: &Environment, script: &str) -> anyhow::Result<Command> {
        let mut python = environment.python()?;
        python.arg(self.checkout.root.join("xtask/bench").join(script));
        Ok(python)
    }
}
