//! A schedule that goes through the micro-batches in rounds needs equal rounds.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(chunks = 5, schedule = interleaved)]
struct Model {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    second: Linear,
    #[device("cpu")]
    third: Linear,
    #[device("cpu")]
    fourth: Linear,
}

fn main() {}
