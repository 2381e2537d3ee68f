//! A field without `#[not_a_layer]` is a layer: otherwise there is one error, on its type.

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
