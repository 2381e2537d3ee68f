//! The first layer has no `#[stage]`: there is no stage before it to end.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    #[stage]
    encode: Linear,
}

fn main() {}
