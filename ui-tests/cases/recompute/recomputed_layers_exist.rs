//! No more layers are recomputed than an array has.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    encode: Linear,
    #[devices("cpu")]
    #[recompute(5)]
    blocks: [Linear; 4],
}

fn main() {}
