//! There are enough micro-batches to fill the pipeline from both ends.

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
