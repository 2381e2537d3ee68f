//! Layers that may be absent, and parts of values.
#![deny(warnings)]

use pipe_runtime::nn::{Concat, Linear, Path};
use pipe_runtime::{Context, Layer, Tensor, pipeline};

#[pipeline]
pub struct Block {
    linear: Option<Linear>,
    #[stash(part = output)]
    again: Option<Linear>,
    #[pop(part)]
    join: Concat,
}

/// Takes what the model takes.
pub struct First;

impl Layer<(Tensor, (Tensor, Tensor))> for First {
    type Out = Named;
    fn run(&self, x: (Tensor, (Tensor, Tensor)), _: &Context) -> Named {
        Named { value: x.0, mask: x.1.0 }
    }
}

pub struct Named {
    value: Tensor,
    mask: Tensor,
}

pub struct Second;

impl Layer<(Named, Tensor)> for Second {
    type Out = Tensor;
    fn run(&self, (x, noise): (Named, Tensor), _: &Context) -> Tensor {
        let _ = (x.mask, noise);
        x.value
    }
}

#[pipeline(input = (Tensor, (Tensor, Tensor)), allow(short_skip))]
pub struct Model {
    #[device("cuda:0")]
    #[stash(noise = input.1.0, mask = output.mask, value = output.value)]
    first: First,
    #[pop(noise)]
    second: Second,
    #[stash(before = input, after = output)]
    block: Option<Block>,
    #[device("cuda:1")]
    linear: std::option::Option<Linear>,
    #[pop(before)]
    one: Concat,
    #[pop(after)]
    two: Concat,
    #[pop(mask)]
    three: Concat,
    #[pop(value)]
    four: Concat,
}

fn main() {
    let _ = |vars: ModelVars| -> Path<'static> { panic!("{:?}", (vars.linear(), vars.block())) };
    let _ = |block: Block| drop(block.unpipelined());
}
