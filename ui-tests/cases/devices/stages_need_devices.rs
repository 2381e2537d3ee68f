//! `#[stage]` opens a stage on the running device: there has to be one.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    encode: Linear,
    #[stage]
    decode: Linear,
}

fn main() {}
