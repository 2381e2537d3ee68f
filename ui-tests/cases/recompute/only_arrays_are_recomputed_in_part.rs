//! Only of repeated layers, some can be recomputed.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    #[recompute(3)]
    encode: Linear,
    #[device("cpu")]
    decode: Linear,
}

fn main() {}
