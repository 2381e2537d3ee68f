//! The stages go through the devices in the order of the schedule.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(schedule = zbv)]
struct Model {
    #[device("cuda:0")]
    first: Linear,
    #[device("cuda:1")]
    second: Linear,
    #[device("cuda:0")]
    third: Linear,
    #[device("cuda:1")]
    fourth: Linear,
}

#[pipeline(schedule = interleaved)]
struct Folded {
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
