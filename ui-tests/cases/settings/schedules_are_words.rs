//! A schedule other than `1f1b` is written without quotes.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(schedule = "zbv")]
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
