//! Compares a pipelined step with the same step unpipelined.

use std::collections::BTreeMap;
use std::ops::Deref;

use pipe_runtime::{Checkpoint, Flow, IntoFlow, Layer, PipeBuilder, Pipeline, Unpipelined, Vars};
use tch::{Device, Kind, Tensor};

/// A pipelined model with a constructor and random inputs.
pub trait Case: Pipeline<Input: IntoFlow<Self::Input>> + Layer<Self::Input, Out = Self::Output> {
    /// The generated variables.
    type Vars: Deref<Target = Vars>;

    /// Creates the model on this many CPU stages.
    fn make(stages: usize) -> (Self, Self::Vars);

    /// Creates an input of `rows` rows. Also returns its leaf tensors that require a gradient.
    fn input(rows: i64) -> (Self::Input, Vec<Tensor>);

    /// Lists the tensors of an output.
    fn tensors(output: Self::Output) -> Vec<Tensor>;
}

/// Settings of a run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Rows of the mini-batch.
    pub rows: i64,
    /// The greatest number of micro-batches.
    pub chunks: usize,
    /// Which micro-batches are checkpointed.
    pub checkpoint: Checkpoint,
    /// Seed of the weights, the input and the layers' random numbers.
    pub seed: i64,
    /// Whether the model is in training mode.
    pub training: bool,
    /// The number of stages on which the pipelined one runs, in parts of those annotated: above 0,
    /// and at most 1.
    pub merged: f64,
}

/// Everything that a step computes or changes.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// Tensors of the output.
    pub outputs: Vec<Tensor>,
    /// Whether each output requires a gradient.
    pub differentiable: Vec<bool>,
    /// Gradients of the inputs.
    pub inputs: Vec<Option<Tensor>>,
    /// Gradients of the parameters, by name.
    pub parameters: BTreeMap<String, Option<Tensor>>,
    /// Variables that are not trained, by name.
    pub buffers: BTreeMap<String, Tensor>,
}

/// Gradients of the trainable variables, in the order in which they were created.
pub fn gradients(vars: &Vars) -> Vec<Tensor> {
    vars.var_store().trainable_variables().iter().map(Tensor::grad).collect()
}

/// The mean squared error as a loss.
pub fn mse(output: &Tensor, target: &Tensor) -> Tensor {
    output.mse_loss(target, tch::Reduction::Mean)
}

/// Asserts that a pipelined step and the same step unpipelined have the same outcome, bit by bit.
pub fn assert_transparent<C: Case>(settings: Settings) {
    let _serial = crate::serial();
    let unpipelined = run::<C>(settings, |model, _, input| {
        let run = Unpipelined::new(&model).chunks(settings.chunks).training(settings.training);
        run.intra_op_threads(1).forward(input).expect("no layer fails")
    });
    let pipelined = run::<C>(settings, |model, vars, input| {
        let builder = PipeBuilder::new(model, vars).chunks(settings.chunks).checkpoint(settings.checkpoint);
        let mut pipe = builder.intra_op_threads(1).build().expect("the settings are valid");
        if !settings.training {
            pipe.eval();
        }
        pipe.forward(input).expect("no layer fails")
    });

    assert_eq!(pipelined.differentiable, unpipelined.differentiable, "which outputs carry a gradient");
    assert_eq!(pipelined.outputs, unpipelined.outputs, "outputs");
    assert_eq!(pipelined.inputs, unpipelined.inputs, "gradients of the inputs");
    assert_eq!(pipelined.parameters, unpipelined.parameters, "gradients of the parameters");
    assert_eq!(pipelined.buffers, unpipelined.buffers, "statistics");
}

/// Runs one step from the seed: the given forward, a loss with a random weight for each element of
/// the outputs that require a gradient, and the backward.
fn run<C: Case>(settings: Settings, forward: impl FnOnce(C, &Vars, C::Input) -> C::Output) -> Outcome {
    tch::manual_seed(settings.seed);
    let annotated = C::PLAN.stages.len();
    let (model, vars) = C::make((annotated as f64 * settings.merged).ceil() as usize);
    let (input, leaves) = C::input(settings.rows);
    let outputs = C::tensors(forward(model, &vars, input.share()));
    let carried: Vec<bool> = outputs.iter().map(Tensor::requires_grad).collect();

    tch::manual_seed(settings.seed + 1);
    let mut loss = Tensor::zeros([1], (Kind::Float, Device::Cpu));
    for (output, _) in outputs.iter().zip(&carried).filter(|(_, wanted)| **wanted) {
        loss += (output * output.randn_like()).sum(Kind::Float);
    }
    if loss.requires_grad() {
        loss.backward();
    }
    let gradient = |tensor: &Tensor| tensor.grad().defined().then(|| tensor.grad());
    let trainable: Vec<_> = vars.var_store().trainable_variables().iter().map(Tensor::data_ptr).collect();
    let (parameters, buffers): (BTreeMap<_, _>, BTreeMap<_, _>) =
        vars.var_store().variables().into_iter().partition(|(_, tensor)| trainable.contains(&tensor.data_ptr()));
    Outcome {
        differentiable: carried,
        outputs: outputs.iter().map(Tensor::detach).collect(),
        inputs: leaves.iter().map(gradient).collect(),
        parameters: parameters.into_iter().map(|(name, tensor)| (name, gradient(&tensor))).collect(),
        buffers: buffers.into_iter().collect(),
    }
}

/// Creates random rows of eight numbers.
pub fn rows(rows: i64) -> Tensor {
    Tensor::randn([rows, 8], (Kind::Float, Device::Cpu))
}

/// Creates random rows of eight numbers that require a gradient.
pub fn leaf(rows: i64) -> Tensor {
    self::rows(rows).set_requires_grad(true)
}
