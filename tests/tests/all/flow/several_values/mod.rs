//! Several values that flow side by side, over three and over four stages, beside plain tch:
//! constants that are used far from where they come in, lent weights, complex numbers, integers
//! that go first, and values that are not used.

use pipe_runtime::{Checkpoint, Context, Devices, Flow, IntoFlow, Layer, Replicate, ScheduleKind, pipeline};
use pipe_tests::compare::{mse, rows};
use pipe_tests::layers::linear;
use pipe_tests::zoo::train::{MODES, calls, train};
use pipe_tests::zoo::{Nearness, Order, Passed, Probe, Probed, Twin, Watchable, ZooModel};
use tch::nn::{self, Embedding, Linear, Path};
use tch::{Device, Kind, Reduction, Tensor};

const TOKENS: i64 = 5;
const WIDTH: i64 = 6;
const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Four layers, their input, and the same model in plain tch.
trait Family {
    type In: Flow + IntoFlow<Self::In>;
    type A;
    type B;
    type C;
    type D;

    /// Indices of the input's tensors that each micro-batch gets whole.
    const WHOLE: &[usize] = &[];

    fn layers(paths: [&Path<'_>; 4]) -> (Self::A, Self::B, Self::C, Self::D);

    fn batch(rows: i64) -> Vec<Tensor> {
        vec![Tensor::randn([rows, TOKENS, WIDTH], FLOAT)]
    }

    fn input(tensors: &[Tensor]) -> Self::In;

    fn target(rows: i64) -> Tensor {
        Tensor::randn([rows, TOKENS, WIDTH], FLOAT)
    }

    fn loss(output: &Tensor, target: &Tensor) -> Tensor {
        output.mse_loss(target, Reduction::Mean)
    }

    /// Computes the output in plain tch. All layers must send a value that requires a gradient.
    fn plain(twin: &mut Twin, input: &[Tensor]) -> Tensor;
}

/// Defines a pipeline of a family's layers. `$stages` has the stage of each layer.
macro_rules! model {
    ($family:ident, $model:ident, $vars:ident, $count:literal, $stages:expr,
     [$($on_a:meta)?] [$($on_c:meta)?] [$($on_d:meta)?]) => {
        #[pipeline(input = <$family as Family>::In)]
        struct $model {
            #[device("cpu")]
            $(#[$on_a])?
            a: Probed<<$family as Family>::A>,
            #[device("cpu")]
            b: Probed<<$family as Family>::B>,
            $(#[$on_c])?
            c: Probed<<$family as Family>::C>,
            #[device("cpu")]
            $(#[$on_d])?
            d: Probed<<$family as Family>::D>,
        }

        impl Watchable for $model {
            type Vars = $vars;
            type Layers = ();

            fn make((): &(), probe: &Probe) -> (Self, $vars) {
                let vars = $model::vars(&Devices::cpu($count)).unwrap();
                let (a, b, c, d) = $family::layers([&vars.a(), &vars.b(), &vars.c(), &vars.d()]);
                let model =
                    $model { a: probe.watch(a), b: probe.watch(b), c: probe.watch(c), d: probe.watch(d) };
                (model, vars)
            }

            fn stages((): &()) -> Vec<usize> {
                $stages.to_vec()
            }

            fn batch(rows: i64) -> Vec<Tensor> {
                $family::batch(rows)
            }

            fn input(tensors: &[Tensor]) -> <$family as Family>::In {
                $family::input(tensors)
            }

            fn target(rows: i64) -> Tensor {
                $family::target(rows)
            }

            fn output(output: &Tensor) -> &Tensor {
                output
            }

            fn loss(output: &Tensor, target: &Tensor) -> Tensor {
                $family::loss(output, target)
            }
        }

        impl ZooModel for $model {
            const WHOLE: &[usize] = <$family as Family>::WHOLE;

            fn plain((): &(), twin: &mut Twin, input: &[Tensor], _micro_batch: usize) -> Passed {
                Passed { output: $family::plain(twin, input), carries: vec![true; $count] }
            }
        }
    };
}

/// Defines a pipeline over three stages, the second with two layers, and one over four.
macro_rules! models {
    ($family:ident: $three:ident, $three_vars:ident, $four:ident, $four_vars:ident) => {
        models!($family: $three, $three_vars, $four, $four_vars, [] []);
    };
    ($family:ident: $three:ident, $three_vars:ident, $four:ident, $four_vars:ident,
     [$($on_a:meta)?] [$($on_d:meta)?]) => {
        model!($family, $three, $three_vars, 3, [0, 1, 1, 2], [$($on_a)?] [] [$($on_d)?]);
        model!($family, $four, $four_vars, 4, [0, 1, 2, 3], [$($on_a)?] [device("cpu")] [$($on_d)?]);
    };
}

/// Trains both models with one to twelve rows.
fn train_both<Three: ZooModel<Layers = ()>, Four: ZooModel<Layers = ()>>(
    gradients: impl Fn(Order, &str) -> Nearness,
    calls_of_inputs: usize,
) {
    // Numbers of rows alternate between low and high, so that micro-batches are ragged in different
    // ways.
    let rows = [1, 12, 2, 11, 3, 10, 4, 9, 5, 8, 6, 7];
    let left_out = 2 - calls_of_inputs;
    for (stages, counts) in [(3, train::<Three>(&(), &rows, &gradients)), (4, train::<Four>(&(), &rows, &gradients))] {
        assert_eq!(counts.len(), MODES.len() * (calls(stages).len() - left_out));
        assert!(counts.values().all(|&count| count == rows.len()), "{counts:?}");
    }
}

fn bits(_: Order, _: &str) -> Nearness {
    Nearness::Bits
}

fn dense(path: &Path<'_>, outputs: i64) -> Linear {
    linear(path.clone(), WIDTH, outputs)
}

/// Applies a linear map and `tanh` in plain tch.
fn plain_dense(twin: &mut Twin, path: &str, x: &Tensor) -> Tensor {
    plain_linear(twin, path, x).tanh()
}

fn plain_linear(twin: &mut Twin, path: &str, x: &Tensor) -> Tensor {
    let layer = twin.layer(path);
    x.linear(&layer.get("weight"), Some(&layer.get("bias")))
}

mod complex;
mod integers;
mod masks;
mod tied;
mod unused;
