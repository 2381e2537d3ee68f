//! A field that is not said to be plain is a layer. One error, on the type, for both ways to run it.

use pipe_runtime::nn::{self, Linear};
use pipe_runtime::pipeline;

struct Config;

#[pipeline]
struct Model {
    #[device("cpu")]
    encode: nn::Linear,
    config: Config,
    decode: Linear,
}

fn main() {}
