//! The file that places the layers is there.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(balance = "nowhere.toml")]
struct Model {
    one: Linear,
    two: Linear,
}

fn main() {}
