//! Models that are written in plain tch, too, and the comparison of their training steps with plain
//! tch on the whole batch: it splits nothing, has no stages, and shares no code with the pipeline.

pub mod lent;
pub mod nested;
pub mod sums;
pub mod uneven;

use std::collections::HashMap;
use std::ops::Deref;

use pipe_runtime::{Devices, Flow, IntoFlow, Pipe, Pipeline, Vars};
use tch::{Device, Kind, Tensor};

use crate::way::{Way, assert_near};

/// Numbers in a row of the models' input.
pub const WIDTH: i64 = 6;

/// A pipelined model that is written in plain tch, too.
pub trait Mirrored: Pipeline<Input: IntoFlow<Self::Input>> {
    /// The generated variables.
    type Vars: Deref<Target = Vars>;

    /// Creates the model on these devices.
    fn make(devices: &Devices) -> (Self, Self::Vars);

    /// Runs the model in plain tch on a mini-batch, of which a pipeline makes up to `chunks`
    /// micro-batches.
    fn plain(vars: &Vars, input: &Self::Input, chunks: usize) -> Self::Output;

    /// A loss that is a mean over the rows.
    fn loss(output: &Self::Output) -> Tensor;

    /// Lists the tensors of an output.
    fn tensors(output: &Self::Output) -> Vec<&Tensor>;
}

/// Builds a model with random weights.
pub fn build<M: Mirrored>(way: Way) -> (Pipe<M>, M::Vars) {
    tch::manual_seed(3);
    let (model, vars) = M::make(&Devices::cpu(way.stages));
    (way.pipe(model, &vars), vars)
}

/// Creates random rows.
pub fn rows(rows: i64) -> Tensor {
    Tensor::rand([rows, WIDTH], (Kind::Float, Device::Cpu))
}

/// The mean square of an output.
pub fn mean_square(output: &Tensor) -> Tensor {
    output.square().mean_dim(1, false, Kind::Float).mean(Kind::Float)
}

/// Variables by name, for a model in plain tch.
struct Weights(HashMap<String, Tensor>);

impl Weights {
    fn of(vars: &Vars) -> Self {
        Self(vars.var_store().variables())
    }

    /// The weight and the bias of a linear layer.
    fn linear(&self, name: &str) -> [&Tensor; 2] {
        ["weight", "bias"].map(|part| &self.0[&format!("{name}.{part}")])
    }

    fn dense(&self, x: &Tensor, name: &str) -> Tensor {
        let [weight, bias] = self.linear(name);
        x.linear(weight, Some(bias))
    }

    /// The names of an array's linear layers.
    fn array(&self, name: &str) -> impl Iterator<Item = String> {
        let names = (0..).map(move |number| format!("{name}.{number}"));
        names.take_while(|name| self.0.contains_key(&format!("{name}.weight")))
    }
}

/// What plain tch makes of some mini-batches.
pub struct Mirror<M: Mirrored> {
    steps: Vec<Step<M>>,
}

/// What plain tch makes of one mini-batch.
struct Step<M: Mirrored> {
    input: M::Input,
    output: M::Output,
    loss: Tensor,
    gradients: HashMap<String, Tensor>,
}

impl<M: Mirrored> Mirror<M> {
    /// Runs the mini-batches in plain tch, for a pipeline of up to `chunks` micro-batches.
    ///
    /// # Panics
    ///
    /// Panics if plain tch fails.
    pub fn of(vars: &Vars, inputs: Vec<M::Input>, chunks: usize) -> Self {
        let (names, variables): (Vec<_>, Vec<_>) = variables(vars).into_iter().unzip();
        let step = |input| {
            let output = M::plain(vars, &input, chunks);
            let loss = M::loss(&output);
            let gradients = Tensor::run_backward(&[&loss], &variables, false, false);
            Step { input, output, loss, gradients: names.iter().cloned().zip(gradients).collect() }
        };
        Self { steps: inputs.into_iter().map(step).collect() }
    }

    /// Trains on the mini-batches one after another, and compares the outputs, the losses and the
    /// gradients of the variables that this process has. Each step starts without gradients: those
    /// of another one may be so large that they hide its mistakes.
    ///
    /// # Panics
    ///
    /// Panics if a step fails or is not that of plain tch.
    pub fn check(&self, pipe: &mut Pipe<M>, vars: &Vars, about: &str) {
        let mut own = variables(vars);
        own.retain(|(name, _)| vars.is_here(name));
        assert!(!own.is_empty(), "{about}: this process has no variables");
        for Step { input, output, loss, gradients } in &self.steps {
            own.iter_mut().for_each(|(_, variable)| variable.zero_grad());
            let step = pipe.step().keep_output();
            let report = step.run(input.share(), (), |output: &M::Output, ()| M::loss(output));
            let report = report.unwrap_or_else(|error| panic!("{about}: {error}"));
            assert_close::<M>(&report.output, output, about);
            assert!(report.loss.allclose(loss, 1e-5, 1e-7, false), "{about}: {:?} {loss:?}", report.loss);
            for (name, variable) in &own {
                assert_near(&variable.grad(), &gradients[name], &format!("{about}, {name}"));
            }
        }
    }

    /// Compares what the pipeline predicts for each of the mini-batches.
    ///
    /// # Panics
    ///
    /// Panics if a call fails or gives what plain tch does not.
    pub fn check_predictions(&self, pipe: &mut Pipe<M>, about: &str) {
        for Step { input, output, .. } in &self.steps {
            let predicted = pipe.predict(input.share()).unwrap_or_else(|error| panic!("{about}: {error}"));
            assert_close::<M>(&predicted, output, about);
        }
    }
}

fn variables(vars: &Vars) -> Vec<(String, Tensor)> {
    vars.select("*").expect("the model has variables")
}

/// The numbers of a tensor may be small where large ones cancel, and are compared by the largest
/// then. A single one has no other beside it.
fn assert_close<M: Mirrored>(found: &M::Output, expected: &M::Output, about: &str) {
    for (found, expected) in M::tensors(found).into_iter().zip(M::tensors(expected)) {
        let largest = if expected.numel() == 1 { 1. } else { expected.abs().max().double_value(&[]).max(1.) };
        assert!(found.allclose(expected, 1e-5, 1e-5 * largest, false), "{about}: {found} {expected}");
    }
}
