//! `#[stage]` opens a stage on the current device, so the model needs a device.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    encode: Linear,
    #[stage]
    decode: Linear,
}

fn main() {}
