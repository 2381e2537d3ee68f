//! The models, which `xtask/oracle/compare.py` builds from torch's layers under the same names.

use std::ops::Deref;

use pipe_runtime::nn::{Add, Concat, DeferredBatchNorm};
use pipe_runtime::{Context, Devices, Layer, Pipeline, Result, Vars, pipeline};
use tch::nn::{self, Conv2D, Func, FuncT, Linear};
use tch::{Device, Kind, Tensor};

/// A model that can be made and given inputs.
pub trait Subject: Pipeline {
    type Vars: Deref<Target = Vars>;
    /// Its name in `compare.py`.
    const NAME: &'static str;

    /// Makes the model, with all stages on the CPU.
    fn make() -> Result<(Self, Self::Vars)>;

    /// Makes inputs with this number of rows.
    fn tensors(rows: i64) -> Vec<Tensor>;

    /// Converts the tensors to the model's input.
    fn input(tensors: &[Tensor]) -> Self::Input;

    /// The tensors of the model's output.
    fn outputs(output: Self::Output) -> Vec<Tensor>;
}

/// Implements [`Subject`] for a model of one tensor in and one out.
macro_rules! subject {
    ($model:ident, $vars:ident, $name:literal, $row:expr, |$path:ident| $fields:tt) => {
        impl Subject for $model {
            type Vars = $vars;
            const NAME: &'static str = $name;

            fn make() -> Result<(Self, $vars)> {
                let $path = $model::vars(&Devices::cpu($model::STAGES))?;
                let model = $model $fields;
                Ok((model, $path))
            }

            fn tensors(rows: i64) -> Vec<Tensor> {
                vec![normal(rows, &$row)]
            }

            fn input(tensors: &[Tensor]) -> Tensor {
                tensors[0].shallow_clone()
            }

            fn outputs(output: Tensor) -> Vec<Tensor> {
                vec![output]
            }
        }
    };
}

/// Makes random rows of this shape.
fn normal(rows: i64, row: &[i64]) -> Tensor {
    let shape: Vec<i64> = [rows].iter().chain(row).copied().collect();
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

fn linear(path: nn::Path<'_>, inputs: i64, outputs: i64) -> Linear {
    nn::linear(path, inputs, outputs, Default::default())
}

fn conv(path: nn::Path<'_>, inputs: i64, outputs: i64) -> Conv2D {
    nn::conv2d(path, inputs, outputs, 3, Default::default())
}

/// A model with a skip from the first to the last stage, and one to the next stage.
#[pipeline]
pub struct Mlp {
    #[device("cpu")]
    #[stash(far = input)]
    first: Linear,
    #[stash(near = output)]
    tanh: Func<'static>,
    #[device("cpu")]
    second: Linear,
    #[pop(near)]
    add: Add,
    relu: Func<'static>,
    #[device("cpu")]
    #[pop(far)]
    concat: Concat,
    last: Linear,
}

subject!(Mlp, MlpVars, "mlp", [6], |vars| {
    first: linear(vars.first(), 6, 8),
    tanh: nn::func(Tensor::tanh),
    second: linear(vars.second(), 8, 8),
    add: Add,
    relu: nn::func(Tensor::relu),
    concat: Concat::default(),
    last: linear(vars.last(), 14, 3),
});

/// A model with convolutions and deferred batch norm.
#[pipeline]
pub struct Conv {
    #[device("cpu")]
    first: Conv2D,
    norm1: DeferredBatchNorm,
    relu1: Func<'static>,
    #[device("cpu")]
    second: Conv2D,
    norm2: DeferredBatchNorm,
    #[device("cpu")]
    relu2: Func<'static>,
    flatten: Func<'static>,
    last: Linear,
}

subject!(Conv, ConvVars, "conv", [2, 7, 7], |vars| {
    first: conv(vars.first(), 2, 4),
    norm1: DeferredBatchNorm::new2d(vars.norm1(), 4, Default::default()),
    relu1: nn::func(Tensor::relu),
    second: conv(vars.second(), 4, 4),
    norm2: DeferredBatchNorm::new2d(vars.norm2(), 4, Default::default()),
    relu2: nn::func(Tensor::relu),
    flatten: nn::func(|x| x.flatten(1, -1)),
    last: linear(vars.last(), 36, 3),
});

/// A model whose dropout drops everything, so that only the skipped values remain.
#[pipeline]
pub struct DropAll {
    #[device("cpu")]
    #[stash(early = output)]
    first: Linear,
    drop: FuncT<'static>,
    #[device("cpu")]
    #[pop(early)]
    add: Add,
    last: Linear,
}

subject!(DropAll, DropAllVars, "dropout of everything", [6], |vars| {
    first: linear(vars.first(), 6, 8),
    drop: nn::func_t(|x, train| x.dropout(1., train)),
    add: Add,
    last: linear(vars.last(), 8, 3),
});

/// A model with dropout in every stage, for evaluation.
#[pipeline]
pub struct DropInEvaluation {
    #[device("cpu")]
    first: Linear,
    drop1: FuncT<'static>,
    #[device("cpu")]
    drop2: FuncT<'static>,
    last: Linear,
}

subject!(DropInEvaluation, DropInEvaluationVars, "dropout", [6], |vars| {
    first: linear(vars.first(), 6, 8),
    drop1: nn::func_t(|x, train| x.dropout(0.5, train)),
    drop2: nn::func_t(|x, train| x.dropout(0.3, train)),
    last: linear(vars.last(), 8, 3),
});

type Two = (Tensor, Tensor);

/// A model with two input tensors, two between stages and two outputs.
#[pipeline(input = Two, output = Two)]
pub struct Pair {
    #[device("cpu")]
    mix: Mix,
    #[device("cpu")]
    both: Both,
}

/// `(a, b) -> (linear(a) * b, sin(b))`.
pub struct Mix(Linear);

impl Layer<Two> for Mix {
    type Out = Two;

    fn run(&self, (a, b): Two, _cx: &Context) -> Two {
        (a.apply(&self.0) * &b, b.sin())
    }
}

/// `(a, b) -> (a + b, linear(a))`.
pub struct Both(Linear);

impl Layer<Two> for Both {
    type Out = Two;

    fn run(&self, (a, b): Two, _cx: &Context) -> Two {
        (&a + b, a.apply(&self.0))
    }
}

impl Subject for Pair {
    type Vars = PairVars;
    const NAME: &'static str = "pair";

    fn make() -> Result<(Self, PairVars)> {
        let vars = Pair::vars(&Devices::cpu(Pair::STAGES))?;
        let model = Pair { mix: Mix(linear(vars.mix(), 6, 6)), both: Both(linear(vars.both(), 6, 3)) };
        Ok((model, vars))
    }

    fn tensors(rows: i64) -> Vec<Tensor> {
        vec![normal(rows, &[6]), normal(rows, &[6])]
    }

    fn input(tensors: &[Tensor]) -> Two {
        (tensors[0].shallow_clone(), tensors[1].shallow_clone())
    }

    fn outputs((a, b): Two) -> Vec<Tensor> {
        vec![a, b]
    }
}
