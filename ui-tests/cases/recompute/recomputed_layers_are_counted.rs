//! A number of recomputed layers is a number from 1 on.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    encode: Linear,
    #[devices("cpu")]
    #[recompute(0)]
    blocks: [Linear; 4],
    #[repeat]
    #[recompute(99999999999999999999)]
    others: Vec<Linear>,
}

fn main() {}
