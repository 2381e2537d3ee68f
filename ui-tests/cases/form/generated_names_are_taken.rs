//! A user's own method does not have the name of a generated one.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(allow(single_stage))]
struct Model {
    #[device("cpu")]
    encode: Linear,
}

impl Model {
    const STAGES: usize = 2;

    fn vars() {}
}

fn main() {}
