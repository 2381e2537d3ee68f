//! The models, which `xtask/bench/models.py` builds from torch's layers under the same names.

mod decoder;
mod gpt;
mod stack;
mod unet;

use std::ops::Deref;
use std::path::Path;

use anyhow::{Result, bail};
use clap::ValueEnum;
use pipe_runtime::balance::Balance;
use pipe_runtime::{Layer, Pipeline, Vars};
use tch::Tensor;
use tch::nn::VarStore;

use crate::values;
use crate::ways::{Contender, contender};
use crate::{Args, Cut};

/// The name of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// `--layers` times Linear(`--width`) and ReLU
    Mlp,
    /// `--layers` times a product with a vector of `--width` numbers
    Trivial,
    /// U-Net(3, 2, 8), on images of `--width` x `--width`
    Unet,
    /// GPT: width 128, 4 heads, 8 blocks, context 128
    Gpt,
    /// 12 decoder layers, to which a mask and a memory of `--width` positions are lent
    DecoderLent,
    /// The same layers, in stages that have both
    DecoderOwned,
    /// 12 GPT layers, to which a mask is lent
    MaskedGptLent,
    /// The same layers, in stages that have it
    MaskedGptOwned,
}

/// The number of ranks for which settings are advised.
pub const RANKS: usize = 2;

/// A model of one tensor in and one out, with its data.
pub trait Subject: Pipeline<Input = Tensor, Output = Tensor> + Layer<Tensor, Out = Tensor> {
    type Vars: Deref<Target = Vars>;

    /// Makes the model, with all stages on the CPU, of the processes that there are.
    fn make(args: &Args) -> Result<(Self, Self::Vars)>;

    /// The same layers in plain tch, without a pipeline. Their variables are in `store`, under the
    /// same names.
    fn plain(args: &Args, store: &VarStore) -> Vec<PlainStage>;

    /// A mini-batch and its loss, which is a mean over rows.
    fn task(args: &Args) -> Task;
}

/// A stage of a plain model. It maps its inputs (the output of the previous stage, then skips) to
/// its outputs.
pub type PlainStage = Box<dyn Fn(Vec<Tensor>) -> Vec<Tensor> + Send>;

/// Runs all stages one after the other, and returns the output.
pub fn run_plain(stages: &[PlainStage], input: &Tensor) -> Tensor {
    stages.iter().fold(vec![input.shallow_clone()], |values, run| run(values)).remove(0)
}

/// The data and the loss of a training step.
#[derive(Debug)]
pub struct Task {
    pub input: Tensor,
    pub target: Tensor,
    pub loss: fn(&Tensor, &Tensor) -> Tensor,
}

impl Task {
    /// A regression from inputs of one shape to outputs of another.
    fn regression(rows: i64, input: &[i64], output: &[i64]) -> Self {
        let shape = |row: &[i64]| [&[rows], row].concat();
        Self {
            input: values::uniform("input", &shape(input)),
            target: values::uniform("target", &shape(output)),
            loss: |output, target| output.mse_loss(target, tch::Reduction::Mean),
        }
    }
}

/// Finds the settings and the stages with which a step takes least within so many bytes per rank,
/// and writes them to a balance file. Returns what was chosen.
pub fn advise(args: &Args, memory_limit: u64, file: &Path) -> Result<String> {
    match args.model {
        Name::Gpt => advised::<gpt::GptAdvised>(args, memory_limit, file),
        Name::Unet => advised::<unet::UNetAdvised>(args, memory_limit, file),
        model => bail!("nothing is advised for {model:?}"),
    }
}

/// The model is trained without an optimizer, so its parameters count with their gradients alone.
const PARAM_SCALE: f64 = 2.;

fn advised<S: Subject>(args: &Args, memory_limit: u64, file: &Path) -> Result<String> {
    let (model, vars) = S::make(args)?;
    values::set(vars.var_store())?;
    let balance = Balance::of(&model, &vars).chunks(args.chunks).intra_op_threads(1).param_scale(PARAM_SCALE);
    let profile = balance.memory_limit(memory_limit).advise(&S::task(args).input, RANKS)?;
    profile.write(file)?;
    Ok(profile.to_string())
}

/// Makes the contender that the arguments ask for.
pub fn make(args: &Args) -> Result<Contender> {
    match (args.model, args.cut) {
        (_, Cut::Even) => {}
        (Name::Gpt, Cut::Early) => return contender::<gpt::GptCutEarly>(args),
        (Name::Gpt, Cut::Late) => return contender::<gpt::GptCutLate>(args),
        (Name::Gpt, Cut::Advised) => return contender::<gpt::GptAdvised>(args),
        (Name::Unet, Cut::Early) => return contender::<unet::UNetCutEarly>(args),
        (Name::Unet, Cut::Late) => return contender::<unet::UNetCutLate>(args),
        (Name::Unet, Cut::Advised) => return contender::<unet::UNetAdvised>(args),
        (model, cut) => bail!("there is no {model:?} with the cut {cut:?}"),
    }
    match (args.model, args.stages, args.recompute) {
        (Name::Unet, 2, 1) => return contender::<unet::UNet1>(args),
        (Name::Unet, 2, 2) => return contender::<unet::UNet2>(args),
        (Name::Unet, 2, 3) => return contender::<unet::UNet3>(args),
        (Name::Gpt, 2, 1) => return contender::<gpt::Gpt1>(args),
        (Name::Gpt, 2, 2) => return contender::<gpt::Gpt2>(args),
        (Name::Gpt, 2, 3) => return contender::<gpt::Gpt3>(args),
        (Name::Gpt, 2, 4) => return contender::<gpt::Gpt4>(args),
        (_, _, 0) => {}
        _ => bail!("only two stages recompute layers: up to 4 of a GPT, up to 3 of a U-Net"),
    }
    match (args.model, args.stages) {
        (Name::Mlp, 1) => contender::<stack::One<stack::Dense>>(args),
        (Name::Mlp, 2) => contender::<stack::Two<stack::Dense>>(args),
        (Name::Mlp, 4) => contender::<stack::Four<stack::Dense>>(args),
        (Name::Mlp, 8) => contender::<stack::Eight<stack::Dense>>(args),
        (Name::Mlp, 16) => contender::<stack::Sixteen<stack::Dense>>(args),
        (Name::Trivial, 1) => contender::<stack::One<stack::Scale>>(args),
        (Name::Trivial, 2) => contender::<stack::Two<stack::Scale>>(args),
        (Name::Trivial, 4) => contender::<stack::Four<stack::Scale>>(args),
        (Name::Trivial, 8) => contender::<stack::Eight<stack::Scale>>(args),
        (Name::Trivial, 16) => contender::<stack::Sixteen<stack::Scale>>(args),
        (Name::Unet, 1) => contender::<unet::UNetInOne>(args),
        (Name::Unet, 2) => contender::<unet::UNet>(args),
        (Name::Unet, 4) => contender::<unet::UNetInFour>(args),
        (Name::Gpt, 1) => contender::<gpt::GptInOne>(args),
        (Name::Gpt, 2) => contender::<gpt::Gpt>(args),
        (Name::Gpt, 4) => contender::<gpt::GptInFour>(args),
        (Name::DecoderLent, 2) => contender::<decoder::LentInTwo>(args),
        (Name::DecoderLent, 4) => contender::<decoder::LentInFour>(args),
        (Name::DecoderOwned, 2) => contender::<decoder::OwnedInTwo>(args),
        (Name::DecoderOwned, 4) => contender::<decoder::OwnedInFour>(args),
        (Name::MaskedGptLent, 2) => contender::<decoder::GptLentInTwo>(args),
        (Name::MaskedGptLent, 4) => contender::<decoder::GptLentInFour>(args),
        (Name::MaskedGptOwned, 2) => contender::<decoder::GptOwnedInTwo>(args),
        (Name::MaskedGptOwned, 4) => contender::<decoder::GptOwnedInFour>(args),
        (model, stages) => bail!("there is no {model:?} of {stages} stages: 1, 2 or 4, and for the others 8 or 16 too"),
    }
}
