//! A device is one that torch knows.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("toaster")]
    encode: Linear,
    #[devices("cpu", "meta")]
    blocks: [Linear; 2],
}

fn main() {}
