//! An attribute that nobody knows is rustc's to report.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devise("cpu")]
    encode: Linear,
}

fn main() {}
