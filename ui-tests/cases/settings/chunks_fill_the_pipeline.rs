//! A schedule that fills the pipeline from both ends has enough micro-batches to do so.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(chunks = 3, schedule = dualpipe_v)]
struct Model {
    #[device("cuda:0")]
    first: Linear,
    #[device("cuda:1")]
    second: Linear,
    #[stage]
    third: Linear,
    #[device("cuda:0")]
    fourth: Linear,
}

fn main() {}
