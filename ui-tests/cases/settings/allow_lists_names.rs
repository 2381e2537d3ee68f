//! `allow(..)` takes a list of names.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(allow = "single_stage")]
struct Model {
    encode: Linear,
}

fn main() {}
