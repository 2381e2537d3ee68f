//! A field that is not said to be plain is a layer. One error, on the type, for both ways to run
//! it.

use pipe_runtime::nn::{self, Linear};
use pipe_runtime::pipeline;

struct Config;

#[pipeline]
struct Model {
    #[device("cuda:0")]
    encode: nn::Linear,
    config: Config,
    #[device("cuda:1")]
    decode: Linear,
}

fn main() {}
