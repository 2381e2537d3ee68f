//! A field has `#[device(..)]` or `#[devices(..)]`, not both: the second names the first device
//! too.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    #[devices("cpu", "cuda:0")]
    blocks: [Linear; 4],
}

fn main() {}
