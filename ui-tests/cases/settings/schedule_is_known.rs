//! `schedule` is a known schedule.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(schedule = gpip)]
struct Model {
    encode: Linear,
}

fn main() {}
