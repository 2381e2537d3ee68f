//! `1f1b` is written in quotes, because an identifier does not begin with a digit.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(schedule = 1f1b)]
struct Model {
    #[device("cuda:0")]
    first: Linear,
    #[device("cuda:1")]
    second: Linear,
}

fn main() {}
