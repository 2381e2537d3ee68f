//! A device is one that torch can have.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda")]
    one: Linear,
    #[device("gpu:0")]
    two: Linear,
    #[device("cuda:O")]
    three: Linear,
    #[devices("cpu", "toaster")]
    four: [Linear; 2],
}

fn main() {}
