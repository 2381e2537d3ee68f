//! `allow(..)` names known warnings.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(allow(single_stag, banana))]
struct Model {
    encode: Linear,
}

fn main() {}
