//! A skip between neighbours skips no layer: moving the boundary keeps it in one stage.
#![deny(deprecated)]

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda:0")]
    encode: Linear,
    #[stash(level = output)]
    middle: Linear,
    #[device("cuda:1")]
    #[pop(level)]
    merge: Concat,
    head: Linear,
}

fn main() {}
