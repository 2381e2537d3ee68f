//! All mistakes in the processes are reported, in source order.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu", process = 0)]
    one: Linear,
    #[device("cpu")]
    two: Linear,
    #[devices("cpu", "cpu", process = [2, 2, 2])]
    three: [Linear; 4],
    #[device("cpu", process = 99999999999999999999)]
    four: Linear,
    #[device("cpu", process)]
    five: Linear,
}

fn main() {}
