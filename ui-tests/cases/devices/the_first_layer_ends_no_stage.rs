//! Before the first layer there is no stage to end.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    #[stage]
    encode: Linear,
}

fn main() {}
