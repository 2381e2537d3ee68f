//! The balance file exists and can be read.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(balance = "nowhere.toml")]
struct Model {
    one: Linear,
    two: [Linear; 2],
}

// The file is the only mistake: the array needs no `#[repeat]`, and the model has devices.
fn main() {
    let _ = (Model::STAGES, Model::devices());
}
