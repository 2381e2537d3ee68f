//! Each device has the same number of stages, and the number that the schedule needs.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(schedule = zbv)]
struct Model {
    #[device("cuda:0")]
    first: Linear,
    #[device("cuda:1")]
    second: Linear,
}

#[pipeline(schedule = "1f1b")]
struct Looped {
    #[device("cuda:0")]
    first: Linear,
    #[device("cuda:1")]
    second: Linear,
    #[device("cuda:0")]
    third: Linear,
    #[device("cuda:1")]
    fourth: Linear,
}

#[pipeline(schedule = zbv)]
struct NoTurn {
    #[device("cuda:0")]
    first: Linear,
    #[device("cuda:1")]
    second: Linear,
    #[device("cuda:0")]
    third: Linear,
}

#[pipeline(schedule = interleaved)]
struct Mixed {
    #[device("cuda:0")]
    first: Linear,
    #[device("cpu")]
    second: Linear,
    #[device("cuda:0")]
    third: Linear,
}

fn main() {}
