//! A process is a number that can count processes.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu", process = 99999999999999999999)]
    encode: Linear,
}

fn main() {}
