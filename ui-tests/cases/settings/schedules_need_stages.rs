//! A model without devices has no stages, so it has no schedule.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(schedule = zbv)]
struct Model {
    first: Linear,
    second: Linear,
}

fn main() {}
