//! A model of four stages, with skips inside a stage, to the next stage, over several stages and
//! across each other, random numbers, running statistics and values that are not tensors.

use pipe_runtime::{Context, Devices, Layer, Result, pipeline};
use pipe_tests::layers::{Fork, Merge, Merge4, Split, Stir, Unite, dropout, linear};
use tch::nn::{self, BatchNorm, FuncT, Linear};
use tch::{Device, Kind, Tensor};

#[pipeline(allow(short_skip))]
pub struct Four {
    #[device("cpu")]
    #[stash(far = output, near = input)]
    first: Linear,
    #[recompute]
    drop1: FuncT<'static>,
    #[device("cpu")]
    #[pop(near)]
    merge_near: Merge,
    #[stash(a, b, inside = output)]
    fork: Fork,
    #[recompute]
    norm: Norm,
    #[pop(inside)]
    merge_inside: Merge,
    split: Split,
    #[device("cpu")]
    stir: Stir,
    unite: Unite,
    drop2: FuncT<'static>,
    #[stash(late = output)]
    fourth: Linear,
    #[device("cpu")]
    #[pop(far, a, b, late)]
    merge_all: Merge4,
    last: Linear,
}

/// Batch norm over rows of vectors, also over a single row.
#[derive(Debug)]
struct Norm(BatchNorm);

impl Layer<Tensor> for Norm {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        x.unsqueeze(-1).repeat([1, 1, 2]).apply_t(&self.0, cx.is_training()).mean_dim(-1, false, Kind::Float)
    }
}

impl Four {
    pub fn make(devices: &Devices) -> Result<(Self, FourVars)> {
        let vars = Self::vars(devices)?;
        let model = Self {
            first: linear(vars.first(), 8, 8),
            drop1: dropout(0.3),
            merge_near: Merge,
            fork: Fork(linear(vars.fork(), 8, 8)),
            norm: Norm(nn::batch_norm1d(vars.norm(), 8, Default::default())),
            merge_inside: Merge,
            split: Split(linear(vars.split(), 8, 8)),
            stir: Stir(linear(vars.stir(), 8, 8)),
            unite: Unite,
            drop2: dropout(0.3),
            fourth: linear(vars.fourth(), 8, 8),
            merge_all: Merge4,
            last: linear(vars.last(), 8, 3),
        };
        Ok((model, vars))
    }
}

/// Random inputs and targets.
pub fn batch(rows: i64) -> (Tensor, Tensor) {
    let random = |width| Tensor::randn([rows, width], (Kind::Float, Device::Cpu));
    (random(8), random(3))
}
