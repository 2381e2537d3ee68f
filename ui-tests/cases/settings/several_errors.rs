//! All mistakes in the settings are reported, in source order.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(chunks = 0, chekpoint = never, input = 3, checkpoint = "never", schedule = gpip schedule, chunks = 3, 8, output)]
struct Model {
    encode: Linear,
}

fn main() {}
