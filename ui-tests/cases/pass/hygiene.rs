//! Names of the user that generated code also uses.
#![deny(warnings)]
#![allow(non_camel_case_types, non_upper_case_globals)]

use pipe_runtime::Mean;
use pipe_runtime::nn::{Concat, Linear, Split};
use pipe_runtime::pipeline as stages;

mod elsewhere {
    pub use pipe_runtime as runtime;
}

type Result = u8;
type Option = u8;
type Vec = u8;
const Some: Result = 0;
const Ok: Option = 0;

#[stages(crate = elsewhere::runtime, sum(sums: Mean))]
pub struct Model {
    #[device("cpu")]
    x: Linear,
    io: Linear,
    cx: Linear,
    #[stage]
    graph: Linear,
    layers: Linear,
    #[lend(a = output)]
    flow_0: Linear,
    #[read(a)]
    lent_a: Concat,
    layers_0: Linear,
    #[recompute]
    #[devices("cpu", "cpu")]
    #[read(a)]
    number: [Concat; 2],
    #[devices("cpu", "cpu")]
    blocks: [Linear; 2],
    #[sum(sums)]
    layer: Split,
    #[repeat]
    #[recompute]
    #[sum(sums)]
    #[stash(element[..] = output)]
    sums: [Split; 2],
    #[repeat]
    #[pop(element[..])]
    element: [Concat; 2],
    sum_0: Linear,
    blocks_0: Linear,
    blocks_1: Linear,
    #[not_a_layer]
    owner: Vec,
    #[not_a_layer]
    __rt: Vec,
}

macro_rules! model {
    ($name:ident, $layer:ty, $field:ident) => {
        #[stages(chunks = 2)]
        pub struct $name {
            #[device("cpu")]
            $field: $layer,
            x: $layer,
            #[devices("cpu", "cpu")]
            repeated: [$layer; 2],
        }
    };
}

model!(Made, Linear, made);

fn main() {
    let _ = |vars: ModelVars| (vars.x(), vars.blocks().len() as u8 + Some + Ok).1;
    let _ = |vars: MadeVars| (vars.x(), vars.made(), vars.repeated()).2.len();
}
