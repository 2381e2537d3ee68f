//! All ways to stash and pop.
#![deny(warnings)]

use pipe_runtime::nn::{Linear, Split};
use pipe_runtime::{Context, Layer, Tensor, pipeline};

pub struct Merge;

impl Layer<(Tensor, Tensor, Tensor)> for Merge {
    type Out = (Tensor, Tensor);
    fn run(&self, (x, a, _): (Tensor, Tensor, Tensor), _: &Context) -> (Tensor, Tensor) {
        (x, a)
    }
}

pub struct Last;

impl Layer<(Tensor, Tensor, Tensor, Tensor, Tensor)> for Last {
    type Out = Tensor;
    fn run(&self, x: (Tensor, Tensor, Tensor, Tensor, Tensor), _: &Context) -> Tensor {
        x.0
    }
}

#[pipeline(allow(short_skip))]
pub struct Model {
    #[device("cuda:0")]
    #[stash(a, b = output, c = input)]
    split: Split,
    #[stash(first = input, last = output)]
    #[devices("cuda:0", "cuda:1")]
    blocks: Vec<Linear>,
    #[pop(b, a)]
    #[stash(r#type)]
    merge: Merge,
    #[device("mps")]
    #[pop(first, last, r#type, c)]
    r#match: Last,
}

fn main() {
    let _ = |model: Model| model.unpipelined().forward(Tensor);
    let _ = |vars: ModelVars| (vars.r#match(), vars.split(), vars.merge(), vars.blocks(3)).3.len();
    let skips: Vec<_> = Model::PLAN.skips.iter().map(|skip| (skip.name, skip.from, skip.to)).collect();
    assert_eq!(skips, [("a", 0, 1), ("b", 0, 1), ("c", 0, 2), ("first", 0, 2), ("last", 1, 2), ("type", 1, 2)]);
    assert_eq!(Model::PLAN.skips[2].pop, "match");
}
