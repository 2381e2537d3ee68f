//! The stages that a schedule runs on one rank are in one process.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(schedule = zbv, chunks = 4)]
struct Model {
    #[device("cpu", process = 0)]
    first: Linear,
    #[device("cpu", process = 0)]
    second: Linear,
    #[device("cpu", process = 1)]
    third: Linear,
    #[device("cpu", process = 1)]
    fourth: Linear,
}

fn main() {}
