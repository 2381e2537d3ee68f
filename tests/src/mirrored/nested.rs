//! Blocks in blocks, which read what their model lends and add to its sum. What they add is no mean
//! over rows, so it is one of each micro-batch.

use pipe_runtime::{Context, Devices, Layer, Mean, Vars, pipeline};
use tch::nn::{Linear, Path};
use tch::{Kind, Tensor};

use super::{Mirrored, WIDTH, Weights, mean_square};
use crate::layers::linear;

/// Reads the memory, and adds the square of its output's mean.
struct Centre(Linear);

impl Layer<(Tensor, Tensor)> for Centre {
    type Out = (Tensor, Tensor);

    fn run(&self, (x, memory): (Tensor, Tensor), _cx: &Context) -> (Tensor, Tensor) {
        centre(&x.apply(&self.0), &memory)
    }
}

fn centre(x: &Tensor, memory: &Tensor) -> (Tensor, Tensor) {
    let x = x.tanh() * memory;
    let square = x.mean(Kind::Float).square();
    (x, square)
}

#[pipeline(read(memory: Tensor), sum(off: Tensor))]
struct Inner {
    before: Linear,
    #[read(memory)]
    #[sum(off)]
    centre: Centre,
}

#[pipeline(read(memory: Tensor), sum(off: Tensor))]
struct Outer {
    #[read(memory)]
    #[sum(off)]
    one: Inner,
    between: Linear,
    #[read(memory)]
    #[sum(off)]
    two: Inner,
}

impl Outer {
    fn new(path: Path<'_>) -> Self {
        let linear = |path: Path<'_>| linear(path, WIDTH, WIDTH);
        let inner = |name: &str| Inner {
            before: linear(&path / name / "before"),
            centre: Centre(linear(&path / name / "centre")),
        };
        Self { one: inner("one"), between: linear(&path / "between"), two: inner("two") }
    }
}

/// The model.
#[pipeline(sum(off: Mean))]
pub struct Nested {
    #[device("cpu")]
    #[lend(memory = output)]
    first: Linear,
    #[read(memory)]
    #[sum(off)]
    near: Outer,
    #[device("cpu")]
    #[recompute]
    #[read(memory)]
    #[sum(off)]
    again: Outer,
    #[device("cpu")]
    #[read(memory)]
    #[sum(off)]
    far: Outer,
    #[device("cpu")]
    last: Linear,
}

impl Mirrored for Nested {
    type Vars = NestedVars;

    fn make(devices: &Devices) -> (Self, NestedVars) {
        let vars = Self::vars(devices).expect("the devices are as many as the stages, or fewer");
        let model = Self {
            first: linear(vars.first(), WIDTH, WIDTH),
            near: Outer::new(vars.near()),
            again: Outer::new(vars.again()),
            far: Outer::new(vars.far()),
            last: linear(vars.last(), WIDTH, WIDTH),
        };
        (model, vars)
    }

    fn plain(vars: &Vars, x: &Tensor, chunks: usize) -> (Tensor, Mean) {
        let weights = Weights::of(vars);
        let rows = x.size()[0] as f64;
        let (mut outputs, mut off) = (Vec::new(), Vec::new());
        for x in x.chunk(chunks as i64, 0) {
            let share = x.size()[0] as f64 / rows;
            let memory = weights.dense(&x, "first");
            let mut x = memory.shallow_clone();
            for outer in ["near", "again", "far"] {
                for inner in ["one", "two"] {
                    x = weights.dense(&x, &format!("{outer}.{inner}.before"));
                    let (output, square) = centre(&weights.dense(&x, &format!("{outer}.{inner}.centre")), &memory);
                    off.push(square * share);
                    x = if inner == "one" { weights.dense(&output, &format!("{outer}.between")) } else { output };
                }
            }
            outputs.push(weights.dense(&x, "last"));
        }
        (Tensor::cat(&outputs, 0), Mean(off.into_iter().sum()))
    }

    fn loss((output, Mean(off)): &(Tensor, Mean)) -> Tensor {
        mean_square(output) + off * 3.
    }

    fn tensors((output, Mean(off)): &(Tensor, Mean)) -> Vec<&Tensor> {
        vec![output, off]
    }
}
