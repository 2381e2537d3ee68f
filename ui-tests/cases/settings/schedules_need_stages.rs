//! What has no stages has no steps to order.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(schedule = zbv)]
struct Model {
    first: Linear,
    second: Linear,
}

fn main() {}
