//! All mistakes in recomputed layers are reported, in source order.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    #[recompute(1)]
    one: Linear,
    #[devices("cpu", "cpu")]
    #[recompute(5)]
    two: [Linear; 4],
    #[repeat]
    #[recompute(0)]
    three: Vec<Linear>,
    #[recompute(four)]
    four: Linear,
    #[recompute]
    #[not_a_layer]
    five: u8,
}

fn main() {}
