//! A struct without devices is one layer of another model.
#![deny(warnings, missing_docs)]

use pipe_runtime::nn::{Concat, Linear, Path};
use pipe_runtime::{Tensor, pipeline};

/// Two layers with a skip around them, and repeated layers after that.
#[pipeline]
pub struct Block<const DEPTH: usize> {
    #[stash(residual = input)]
    first: Linear,
    second: Linear,
    #[pop(residual)]
    #[layer(name = "add")]
    sum: Concat,
    #[repeat]
    tail: [Linear; DEPTH],
    #[repeat]
    rest: Vec<Linear>,
}

impl<const DEPTH: usize> Block<DEPTH> {
    /// Creates the layers below `vars`.
    pub fn new(vars: &BlockVars<'_, DEPTH>) -> Self {
        let _ = (vars.first(), vars.sum(), vars.tail(), vars.rest(3));
        Self { first: Linear, second: Linear, sum: Concat, tail: vars.tail().map(|_| Linear), rest: Vec::new() }
    }
}

/// A model of blocks.
#[pipeline]
pub struct Model {
    #[device("cpu")]
    block: Block<3>,
    #[device("cpu")]
    #[repeat]
    blocks: [Block<2>; 2],
}

fn main() {
    let _ = |path: Path<'_>, model: Model| {
        let _ = Block::<3>::new(&Block::vars_at(&path));
        let _ = Block::<3>::new(&Block::vars_at(path));
        let _ = model.unpipelined().forward(Tensor);
    };
    let _ = |vars: ModelVars| {
        let _ = (vars.block(), vars.blocks());
        let _: &pipe_runtime::__rt::Vars = &vars;
    };
    let _ = |model: Model, vars: &ModelVars| model.pipe(vars).build().is_ok();
    let _ = Model::vars;
    assert_eq!(Model::STAGES, 2);
    assert_eq!(Block::<4>::PLAN.stages[0].layers[3].repeated.unwrap().2, Some(4));
}
