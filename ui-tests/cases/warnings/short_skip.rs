//! A skip from a stage's last layer to the next stage's first layer skips no layer, and makes the
//! boundary between them send a second value.
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
