//! rustc reports an attribute that does not exist.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devise("cpu")]
    encode: Linear,
}

fn main() {}
