//! Pipelines of one to four stages with layers of any kind.

use std::fmt::Debug;
use std::ops::Deref;

use pipe_runtime::{Context, Devices, IntoFlow, Layer, Pipeline, Split, Vars, pipeline};
use tch::nn::Path;
use tch::{Device, Kind, Reduction, Tensor};

use super::creature::Creature;
use super::formulas::{TOKENS, WIDTH};
use super::layer::{Body, body};
use super::plain::Twin;
use super::probe::{Probe, Probed};

/// A pipeline whose layers a probe watches.
pub trait Watchable: Pipeline<Input: IntoFlow<Self::Input>> {
    /// The generated variables.
    type Vars: Deref<Target = Vars>;

    /// Choice of the model's layers, if there is one.
    type Layers: Clone + Debug;

    /// Creates the model on CPU stages. The probe watches each layer, in order.
    fn make(layers: &Self::Layers, probe: &Probe) -> (Self, Self::Vars);

    /// Stage of each layer.
    fn stages(layers: &Self::Layers) -> Vec<usize>;

    /// Name of the layer with this number.
    fn name(number: usize) -> String {
        format!("layers.{number}")
    }

    /// Creates random tensors for an input of `rows` rows. The first one can require a gradient
    /// only if it has floats.
    fn batch(rows: i64) -> Vec<Tensor> {
        vec![Tensor::randn([rows, TOKENS, WIDTH], (Kind::Float, Device::Cpu))]
    }

    /// Makes the input of these tensors.
    fn input(tensors: &[Tensor]) -> Self::Input;

    /// Creates random targets.
    fn target(rows: i64) -> Tensor {
        Tensor::randn([rows, TOKENS, WIDTH], (Kind::Float, Device::Cpu))
    }

    /// What the targets are for.
    fn output(output: &Self::Output) -> &Tensor;

    /// Computes the loss, a mean over rows.
    fn loss(output: &Self::Output, target: &Tensor) -> Tensor {
        Self::output(output).mse_loss(target, Reduction::Mean)
    }
}

/// A pipeline with a twin in plain tch.
pub trait ZooModel: Watchable<Output = Tensor> {
    /// Indices of the input's tensors that each micro-batch gets whole.
    const WHOLE: &[usize] = &[];

    /// The number of its first layers that are recomputed alone.
    const RECOMPUTED: usize = 0;

    /// Runs one micro-batch through the twin.
    fn plain(layers: &Self::Layers, twin: &mut Twin, input: &[Tensor], micro_batch: usize) -> Passed;
}

/// Result of a micro-batch in plain tch.
#[derive(Debug)]
pub struct Passed {
    /// The output.
    pub output: Tensor,
    /// Whether a value that a stage sends requires a gradient, by stage.
    pub carries: Vec<bool>,
}

/// One layer of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSpec {
    /// Kind of the layer.
    pub creature: Creature,
    /// Whether its variables are frozen.
    pub frozen: bool,
}

impl From<Creature> for LayerSpec {
    fn from(creature: Creature) -> Self {
        Self { creature, frozen: false }
    }
}

/// A layer of any kind.
pub struct ZooLayer(Body);

impl ZooLayer {
    pub(super) fn new(spec: LayerSpec, path: &Path<'_>, vars: &Vars) -> Self {
        let body = body(spec.creature, path);
        if spec.frozen {
            let prefix = path.path("");
            let variables = vars.var_store().variables();
            for (_, tensor) in variables.iter().filter(|(name, _)| name.starts_with(&prefix)) {
                let _ = tensor.set_requires_grad(false);
            }
        }
        Self(body)
    }
}

impl Layer<Tensor> for ZooLayer {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        (self.0)(&x, cx)
    }
}

macro_rules! stack {
    ($model:ident, $vars:ident, $stages:literal, $recomputed:literal, #[$place:meta] $(#[$mark:meta])* $(, $allow:ident)?) => {
        /// Layers spread evenly over stages.
        #[pipeline($(allow($allow))?)]
        pub struct $model {
            #[$place]
            $(#[$mark])*
            layers: Vec<Probed<ZooLayer>>,
        }

        impl Watchable for $model {
            type Vars = $vars;
            type Layers = Vec<LayerSpec>;

            fn make(layers: &Vec<LayerSpec>, probe: &Probe) -> (Self, $vars) {
                let vars = $model::vars(&Devices::cpu($stages)).expect("the devices are as many as the stages");
                let paths = vars.layers(layers.len());
                let made = layers.iter().zip(&paths).map(|(&spec, path)| ZooLayer::new(spec, path, &vars));
                let model = $model { layers: made.map(|layer| probe.watch(layer)).collect() };
                drop(paths);
                (model, vars)
            }

            fn stages(layers: &Vec<LayerSpec>) -> Vec<usize> {
                let split = Split::Evenly($stages);
                (0..$stages).flat_map(|stage| split.range(stage, layers.len()).map(move |_| stage)).collect()
            }

            fn input(tensors: &[Tensor]) -> Tensor {
                tensors[0].shallow_clone()
            }

            fn output(output: &Tensor) -> &Tensor {
                output
            }
        }

        impl ZooModel for $model {
            const RECOMPUTED: usize = $recomputed;

            fn plain(layers: &Vec<LayerSpec>, twin: &mut Twin, input: &[Tensor], micro_batch: usize) -> Passed {
                let mut x = input[0].shallow_clone();
                let mut carries = vec![false; $stages];
                for ((number, spec), stage) in layers.iter().enumerate().zip(Self::stages(layers)) {
                    x = twin.layer(&format!("layers.{number}")).run(spec.creature, &x, micro_batch);
                    carries[stage] = x.requires_grad();
                }
                Passed { output: x, carries }
            }
        }
    };
}

stack!(Stack1, Stack1Vars, 1, 0, #[device("cpu")] #[repeat], single_stage);
stack!(Stack2, Stack2Vars, 2, 0, #[devices("cpu", "cpu")]);
stack!(Stack3, Stack3Vars, 3, 0, #[devices("cpu", "cpu", "cpu")]);
stack!(Stack4, Stack4Vars, 4, 0, #[devices("cpu", "cpu", "cpu", "cpu")]);
stack!(Recomputed1, Recomputed1Vars, 1, 9999, #[device("cpu")] #[repeat] #[recompute], single_stage);
stack!(Recomputed2, Recomputed2Vars, 2, 3, #[devices("cpu", "cpu")] #[recompute(3)]);
stack!(Recomputed4, Recomputed4Vars, 4, 9999, #[devices("cpu", "cpu", "cpu", "cpu")] #[recompute]);
